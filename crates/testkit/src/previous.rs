//! The previous suspension of a simulated machine: a copy of its files, where the real one has second names of them.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::SystemTime;

use colibri_hypervisor::machine::VmmError;
use colibri_hypervisor::manifest::MANIFEST_FILE;

use crate::machine::MEMORY_FILE;
use crate::vmm::read_memory;

const PREVIOUS: &str = "previous";

/// Bytes that the disk of a simulated machine is said to take.
const DISK_BYTES: u64 = 1024 * 1024;

pub(crate) fn keep(directory: &Path, most_bytes: u64) -> Result<bool, VmmError> {
    let kept = directory.join(PREVIOUS);
    let keeps = DISK_BYTES <= most_bytes;
    let made = remove_directory(&kept).and_then(|()| {
        if keeps {
            copy(directory, &kept)?;
        }
        Ok(keeps)
    });
    made.map_err(|error| VmmError::io(format!("keep what is in {}", directory.display()), error))
}

pub(crate) fn check(directory: &Path) -> Result<SystemTime, VmmError> {
    let kept = directory.join(PREVIOUS);
    read_memory(&kept)?;
    let asleep = fs::metadata(kept.join(MANIFEST_FILE)).and_then(|file| file.modified());
    asleep.map_err(|error| VmmError::io(format!("look at {}", kept.display()), error))
}

pub(crate) fn take(directory: &Path) -> Result<(), VmmError> {
    let kept = directory.join(PREVIOUS);
    let taken = copy_files(&kept, directory).and_then(|()| remove_directory(&kept));
    taken.map_err(|error| VmmError::io(format!("go back in {}", directory.display()), error))
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    copy_files(from, to)
}

fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    for name in [MANIFEST_FILE, MEMORY_FILE] {
        fs::copy(from.join(name), to.join(name))?;
    }
    Ok(())
}

fn remove_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

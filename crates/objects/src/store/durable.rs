//! Small files that are either wholly there or not at all, also after a power cut.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

/// Beginning of the name of a file that is still being written.
pub(crate) const UNFINISHED: &str = ".unfinished-";

/// Writes `value` as JSON: temporary file, fsync, rename, fsync of the directory.
pub(crate) fn write_json(directory: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let unfinished = directory.join(format!("{UNFINISHED}{}", Uuid::new_v4().simple()));
    let written = write_new(&unfinished, &serde_json::to_vec(value)?)
        .and_then(|()| fs::rename(&unfinished, directory.join(name)));
    if let Err(error) = written {
        // The file may not exist; the first error is the one worth reporting.
        let _ = fs::remove_file(&unfinished);
        return Err(error);
    }
    sync_directory(directory)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Makes renames, creations and removals in a directory last.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Removes a file; one that is not there is as good as removed.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

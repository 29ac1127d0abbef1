//! Loading kernel modules out of the initramfs. `scripts/pack-guest.py` writes the two lists.

use std::fs::{self, File};
use std::path::Path;

use rustix::io::Errno;
use rustix::system::finit_module;

use crate::console;

/// Files to load at boot, in order, one a line, relative to `/modules`.
const BOOT_LIST: &str = "/modules/load";
const BOOT_DIRECTORY: &str = "/modules";
/// Lines of a module's name and then the files to load for it, in order, relative to [`LATER_DIRECTORY`].
const LATER_LIST: &str = "/modules/lib/index";
const LATER_DIRECTORY: &str = "/modules/lib";

/// Loads what the machine needs to come up. A module that does not load is reported; whether it was
/// needed shows when its device is looked for.
pub(crate) fn load_for_boot() {
    for line in lines(BOOT_LIST) {
        load(BOOT_DIRECTORY, line.trim());
    }
}

/// Loads everything that an application with all capabilities may want (FUSE, bridges, packet
/// filters): its container has no modules of its own to load.
pub(crate) fn load_for_all_capabilities() {
    for line in lines(LATER_LIST) {
        for file in line.split_whitespace().skip(1) {
            load(LATER_DIRECTORY, file);
        }
    }
}

fn lines(list: &str) -> Vec<String> {
    match fs::read_to_string(list) {
        Ok(text) => text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(String::from)
            .collect(),
        Err(missing) => {
            console::warn(&format!("no modules from {list}: {missing}"));
            Vec::new()
        }
    }
}

fn load(directory: &str, file: &str) {
    let path = Path::new(directory).join(file);
    let loaded = match File::open(&path) {
        Ok(module) => finit_module(&module, c"", 0),
        Err(missing) => Err(Errno::from_io_error(&missing).unwrap_or(Errno::IO)),
    };
    match loaded {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(refused) => {
            console::warn(&format!(
                "could not load the kernel module {}: {refused}",
                path.display()
            ));
        }
    }
}

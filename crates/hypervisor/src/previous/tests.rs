//! What is kept is whole or refused, and nothing of it is lost on the way back.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{DISK, NEXT, PREVIOUS, RECORD, carry, check, forget, keep, take};
use crate::delta::{DeltaWriter, PAGE_SIZE};
use crate::machine::VmmError;
use crate::manifest::{FORMAT_VERSION, FileEntry, MANIFEST_FILE, SuspensionManifest};
use crate::snapshot::{DEVICES, MEMORY_DELTA, write_manifest};
use crate::working_set::WORKING_SET;

const BASE: &str = "the base";
const PAGES: u64 = 16;
const MOST: u64 = 1024 * 1024;

struct Machine(tempfile::TempDir);

impl Machine {
    /// A suspended machine whose memory, devices and disk are all of this number.
    fn asleep(number: u8) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("machine")).unwrap();
        let machine = Self(root);
        machine.suspend(number);
        machine
    }

    fn directory(&self) -> PathBuf {
        self.0.path().join("machine")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// As the driver does it: other files than those of the suspension before, and the disk in place.
    fn suspend(&self, number: u8) {
        for name in [MANIFEST_FILE, MEMORY_DELTA, DEVICES, WORKING_SET] {
            let _ = fs::remove_file(self.path(name));
        }
        let file = File::create(self.path(MEMORY_DELTA)).unwrap();
        let mut writer = DeltaWriter::new(file).unwrap();
        let page = [number; PAGE_SIZE];
        writer.add(3, &page, &[0; PAGE_SIZE]).unwrap();
        let memory = writer.finish().unwrap();
        fs::write(self.path(DEVICES), [number; 100]).unwrap();
        fs::write(self.path(WORKING_SET), "1 2\n").unwrap();
        let disk = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.path(DISK))
            .unwrap();
        disk.write_all_at(&[number; 100_000], 0).unwrap();
        disk.write_all_at(&[number; 10], 3_000_000).unwrap();
        disk.set_len(9_000_000).unwrap();
        let entry = |name: &str, blake3: String| FileEntry {
            name: name.to_owned(),
            length: 0,
            stored: 0,
            blake3,
        };
        let devices = blake3::hash(&[number; 100]).to_hex().to_string();
        let manifest = SuspensionManifest {
            format_version: FORMAT_VERSION,
            base: BASE.to_owned(),
            memory: entry(MEMORY_DELTA, memory.blake3),
            pages: memory.pages,
            devices: entry(DEVICES, devices),
        };
        write_manifest(&self.directory(), &manifest).unwrap();
    }

    fn keep(&self) {
        let unrecorded = keep(&self.directory(), MOST).unwrap().unwrap();
        unrecorded.record().unwrap();
    }

    fn check(&self) -> Result<(), VmmError> {
        check(&self.directory(), BASE, PAGES).map(|_| ())
    }

    fn refusal(&self) -> String {
        match self.check() {
            Err(VmmError::BadSnapshot { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    }

    /// The number of its devices and disk.
    fn numbers(&self, of: &str) -> [u8; 3] {
        let directory = self.directory().join(of);
        let disk = File::open(directory.join(DISK)).unwrap();
        let mut far = [0];
        disk.read_exact_at(&mut far, 3_000_000).unwrap();
        [
            fs::read(directory.join(DEVICES)).unwrap()[0],
            fs::read(directory.join(DISK)).unwrap()[0],
            far[0],
        ]
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_later_suspension_changes_nothing_of_what_is_kept_and_it_can_be_taken() {
    let machine = Machine::asleep(1);
    machine.keep();
    machine.suspend(2);
    machine.check().unwrap();
    assert_eq!(machine.numbers(PREVIOUS), [1, 1, 1]);
    assert_eq!(machine.numbers(""), [2, 2, 2]);
    take(&machine.directory()).unwrap();
    assert_eq!(machine.numbers(""), [1, 1, 1]);
    let left = [DEVICES, DISK, MANIFEST_FILE, MEMORY_DELTA, WORKING_SET];
    assert_eq!(names(&machine.directory()), left);
    assert_eq!(names(machine.0.path()), ["machine"]);
    assert!(
        machine.refusal().contains("never completed"),
        "nothing is kept any more"
    );
}

#[test]
fn the_newest_takes_the_place_of_what_was_kept_before() {
    let machine = Machine::asleep(1);
    machine.keep();
    machine.suspend(2);
    // What a daemon left that was killed while it kept one.
    fs::create_dir(machine.path(NEXT)).unwrap();
    fs::write(machine.path(NEXT).join(DISK), "half").unwrap();
    machine.keep();
    machine.suspend(3);
    machine.check().unwrap();
    assert_eq!(machine.numbers(PREVIOUS), [2, 2, 2]);
    assert!(!machine.path(NEXT).exists());
}

#[test]
fn what_has_no_record_or_any_damage_is_refused_with_a_reason() {
    let machine = Machine::asleep(1);
    assert!(machine.refusal().contains("never completed"));
    keep(&machine.directory(), MOST).unwrap();
    assert_eq!(machine.refusal(), "kept.json is missing");
    let flip = |name: &str| {
        let path = machine.path(PREVIOUS).join(name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[50] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    for (name, words) in [
        (DEVICES, "devices.state does not match"),
        (DISK, "disk.qcow2 does not match"),
        (MEMORY_DELTA, "memory.delta"),
    ] {
        machine.suspend(2);
        machine.keep();
        machine.check().unwrap();
        flip(name);
        let reason = machine.refusal();
        assert!(reason.contains(words), "{reason}");
    }
    machine.suspend(3);
    machine.keep();
    fs::remove_file(machine.path(PREVIOUS).join(MEMORY_DELTA)).unwrap();
    assert_eq!(machine.refusal(), "memory.delta is missing");
    machine.suspend(4);
    machine.keep();
    let disk = File::options()
        .write(true)
        .open(machine.path(PREVIOUS).join(DISK))
        .unwrap();
    disk.set_len(5000).unwrap();
    assert_eq!(machine.refusal(), "disk.qcow2 is 5000 bytes, not 9000000");
    assert!(check(&machine.directory(), "another base", PAGES).is_err());
}

#[test]
fn an_overlay_beyond_the_bound_is_not_kept_and_what_was_goes() {
    let machine = Machine::asleep(1);
    let length = fs::metadata(machine.path(DISK)).unwrap().blocks() * 512;
    machine.keep();
    // Where blocks are shared, a bound of the copy binds nothing but reading it.
    if keep(&machine.directory(), length - 1).unwrap().is_none() {
        assert!(!machine.path(PREVIOUS).exists());
    }
    machine.keep();
    assert!(
        keep(&machine.directory(), 0).unwrap().is_none(),
        "turned off"
    );
    assert!(!machine.path(PREVIOUS).exists());
    assert!(!forget(&machine.directory()).unwrap());
}

#[test]
fn a_copy_takes_no_more_than_the_overlay() {
    let machine = Machine::asleep(1);
    machine.keep();
    let blocks = |path: PathBuf| fs::metadata(path).unwrap().blocks();
    assert!(blocks(machine.path(PREVIOUS).join(DISK)) <= blocks(machine.path(DISK)) + 16);
}

#[test]
fn what_is_kept_is_carried_to_the_directory_that_takes_the_machines_place() {
    let machine = Machine::asleep(1);
    let there = machine.0.path().join("spare");
    fs::create_dir(&there).unwrap();
    carry(&machine.directory(), &there).unwrap();
    assert!(names(&there).is_empty());
    keep(&machine.directory(), MOST).unwrap();
    carry(&machine.directory(), &there).unwrap();
    assert!(names(&there).is_empty(), "it has no record");
    machine.keep();
    carry(&machine.directory(), &there).unwrap();
    machine.suspend(2);
    check(&there, BASE, PAGES).unwrap();
    assert!(there.join(PREVIOUS).join(RECORD).is_file());
}

#[test]
fn a_way_back_that_was_cut_off_is_begun_anew() {
    let machine = Machine::asleep(1);
    machine.keep();
    machine.suspend(2);
    let beside = super::beside(&machine.directory());
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join(DISK), "half").unwrap();
    take(&machine.directory()).unwrap();
    assert_eq!(machine.numbers(""), [1, 1, 1]);
    assert!(!beside.exists());
}

//! The last good suspension of a machine that runs again, kept in `previous/` of its directory: what it goes back
//! to when a later one turns out to be damaged. Memory and devices are the suspension's own files, under a second
//! name; the disk's overlay, which is written in place from then on, is a copy of that moment.
//!
//! Nothing here is durable at once: a crash of the host may lose it. It is whole when its record is there, which is
//! written last, and nothing of it is used before every byte has been checked.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{
    CWD, Mode, OFlags, RenameFlags, copy_file_range, ioctl_ficlone, openat, renameat, renameat_with,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::machine::VmmError;
use crate::manifest::{FileEntry, MANIFEST_FILE};
use crate::snapshot::{
    DEVICES, DISK, MEMORY_DELTA, bad, read_suspension, sync_directory, unreadable,
};
use crate::working_set::WORKING_SET;
use crate::{delta, sparse};

/// Where it is kept, in the machine's directory.
pub(crate) const PREVIOUS: &str = "previous";
/// The same while it is made, and what it takes the place of.
const NEXT: &str = "previous.next";
/// What is known of it beside its manifest: with it, it is whole.
const RECORD: &str = "kept.json";
/// Format that this version writes and reads.
const RECORD_VERSION: u32 = 1;

/// Files of a suspension that are never written again: they are replaced. The last need not be there.
const LINKED: [&str; 4] = [MEMORY_DELTA, DEVICES, MANIFEST_FILE, WORKING_SET];

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    format_version: u32,
    /// When the machine fell asleep, milliseconds since the Unix epoch.
    suspended_at_millis: u64,
    /// Length of the overlay's copy, bytes.
    disk_length: u64,
    /// Its checksum ([`sparse::describe`]); none where the copy shares its blocks and is too large to be read at
    /// every wake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disk_blake3: Option<String>,
}

/// A suspension that is kept and has no record yet.
#[derive(Debug)]
pub(crate) struct Unrecorded {
    directory: File,
    disk: File,
    disk_is_read: bool,
    suspended_at: SystemTime,
}

/// Keeps the suspension in a machine's directory, in place of what was kept before. Nothing is kept, and what was
/// goes, when `most` is 0, and where the overlay takes more than `most` bytes and the file system cannot share
/// its blocks. On an error, what was kept before stays.
pub(crate) fn keep(directory: &Path, most: u64) -> io::Result<Option<Unrecorded>> {
    let next = directory.join(NEXT);
    remove_directory(&next)?;
    if most == 0 {
        forget(directory)?;
        return Ok(None);
    }
    make_directory(&next)?;
    let made = make(directory, &next, most);
    match made {
        Ok(Some(unrecorded)) => {
            publish(&next, &directory.join(PREVIOUS))?;
            Ok(Some(unrecorded))
        }
        Ok(None) => {
            remove_directory(&next)?;
            forget(directory)?;
            Ok(None)
        }
        Err(error) => {
            // The first failure is the one to tell of.
            let _ = remove_directory(&next);
            Err(error)
        }
    }
}

/// Removes what is kept; true when there was something.
pub(crate) fn forget(directory: &Path) -> io::Result<bool> {
    let kept = directory.join(PREVIOUS);
    let was_there = kept.exists();
    remove_directory(&kept)?;
    Ok(was_there)
}

fn make(directory: &Path, next: &Path, most: u64) -> io::Result<Option<Unrecorded>> {
    let disk = File::open(directory.join(DISK))?;
    let allocated = disk.metadata()?.blocks() * 512;
    let copy = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(next.join(DISK))?;
    // Whatever the reason that blocks cannot be shared here.
    if ioctl_ficlone(&copy, &disk).is_err() {
        if allocated > most {
            return Ok(None);
        }
        copy_extents(&disk, &copy)?;
    }
    link(directory, next)?;
    Ok(Some(Unrecorded {
        directory: File::open(next)?,
        disk: copy,
        disk_is_read: allocated <= most,
        suspended_at: fs::metadata(next.join(MANIFEST_FILE))?.modified()?,
    }))
}

/// Gives a suspension's files that are never written again a second name.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    for name in LINKED {
        match fs::hard_link(from.join(name), to.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound && name == WORKING_SET => {}
            linked => linked?,
        }
    }
    Ok(())
}

fn copy_extents(from: &File, to: &File) -> io::Result<()> {
    let length = from.metadata()?.len();
    to.set_len(length)?;
    sparse::for_each_extent(from, length, |start, end| {
        let (mut read, mut written) = (start, start);
        while read < end {
            let left = usize::try_from(end - read).map_err(io::Error::other)?;
            if copy_file_range(from, Some(&mut read), to, Some(&mut written), left)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    })
}

/// Puts what was made in place, and removes what was there.
fn publish(next: &Path, previous: &Path) -> io::Result<()> {
    match renameat_with(CWD, next, CWD, previous, RenameFlags::EXCHANGE) {
        Ok(()) => remove_directory(next),
        Err(Errno::NOENT) => fs::rename(next, previous),
        Err(error) => Err(error.into()),
    }
}

impl Unrecorded {
    /// Writes the record: with it, what is kept is whole. It may take as long as reading the overlay's copy, and
    /// goes by descriptors: the machine's directory may have moved.
    pub(crate) fn record(&self) -> io::Result<()> {
        const RECORD_NEXT: &str = "kept.json.next";
        let disk = sparse_entry(&self.disk, self.disk_is_read)?;
        let since = self.suspended_at.duration_since(UNIX_EPOCH);
        let record = Record {
            format_version: RECORD_VERSION,
            suspended_at_millis: u64::try_from(since.unwrap_or_default().as_millis())
                .unwrap_or(u64::MAX),
            disk_length: self.disk.metadata()?.len(),
            disk_blake3: disk.map(|entry| entry.blake3),
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let mut file = File::from(openat(&self.directory, RECORD_NEXT, flags, mode)?);
        file.write_all(&serde_json::to_vec_pretty(&record)?)?;
        renameat(&self.directory, RECORD_NEXT, &self.directory, RECORD)?;
        Ok(())
    }
}

fn sparse_entry(disk: &File, is_read: bool) -> io::Result<Option<FileEntry>> {
    is_read
        .then(|| sparse::describe_open(disk, DISK))
        .transpose()
}

/// Checks what is kept of a machine of a base with this manifest and so many pages of memory, to the last byte;
/// when the machine fell asleep.
pub(crate) fn check(directory: &Path, base_hash: &str, pages: u64) -> Result<SystemTime, VmmError> {
    let kept = directory.join(PREVIOUS);
    let manifest = read_suspension(&kept, base_hash)?;
    let record = read_record(&kept)?;
    let devices = fs::read(kept.join(DEVICES)).map_err(|error| broken(&kept, DEVICES, error))?;
    matches(
        &kept,
        DEVICES,
        blake3::hash(&devices).to_hex().as_str(),
        &manifest.devices.blake3,
    )?;
    let memory = File::open(kept.join(MEMORY_DELTA))
        .and_then(|file| delta::read(file, pages, |_, _| Ok(())))
        .map_err(|error| broken(&kept, MEMORY_DELTA, error))?;
    matches(&kept, MEMORY_DELTA, &memory, &manifest.memory.blake3)?;
    let disk = File::open(kept.join(DISK)).map_err(|error| broken(&kept, DISK, error))?;
    let length = disk
        .metadata()
        .map_err(|error| broken(&kept, DISK, error))?
        .len();
    if length != record.disk_length {
        let reason = format!("{DISK} is {length} bytes, not {}", record.disk_length);
        return Err(bad(&kept, reason));
    }
    if let Some(expected) = &record.disk_blake3 {
        let entry =
            sparse::describe_open(&disk, DISK).map_err(|error| broken(&kept, DISK, error))?;
        matches(&kept, DISK, &entry.blake3, expected)?;
    }
    Ok(UNIX_EPOCH + Duration::from_millis(record.suspended_at_millis))
}

fn read_record(kept: &Path) -> Result<Record, VmmError> {
    let bytes = fs::read(kept.join(RECORD)).map_err(|error| broken(kept, RECORD, error))?;
    let record: Record = serde_json::from_slice(&bytes)
        .map_err(|error| bad(kept, format!("{RECORD} is not understood: {error}")))?;
    if record.format_version == RECORD_VERSION {
        return Ok(record);
    }
    let version = record.format_version;
    Err(bad(
        kept,
        format!("{RECORD} is of the format {version}, not {RECORD_VERSION}"),
    ))
}

fn matches(kept: &Path, name: &str, found: &str, expected: &str) -> Result<(), VmmError> {
    if found == expected {
        return Ok(());
    }
    Err(bad(kept, format!("{name} does not match its checksum")))
}

fn broken(kept: &Path, name: &str, error: io::Error) -> VmmError {
    if error.kind() == ErrorKind::InvalidData {
        return bad(kept, format!("{name}: {error}"));
    }
    unreadable(kept, name, error)
}

/// Gives what is kept of a suspended machine a second name in the directory that takes its place.
pub(crate) fn carry(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (from.join(PREVIOUS), to.join(PREVIOUS));
    // Without a record it is not whole, and never will be.
    if !from.join(RECORD).is_file() {
        return Ok(());
    }
    make_directory(&to)?;
    link(&from, &to)?;
    for name in [DISK, RECORD] {
        fs::hard_link(from.join(name), to.join(name))?;
    }
    Ok(())
}

/// Has what is kept take the place of the suspension in a machine's directory, which nothing uses: that one is gone
/// then, and nothing is kept any more. At every moment one of the two is there, whole, and durable at the end.
pub(crate) fn take(directory: &Path) -> io::Result<()> {
    let beside = beside(directory);
    remove_directory(&beside)?;
    if let Err(error) = furnish(&directory.join(PREVIOUS), &beside) {
        let _ = remove_directory(&beside);
        return Err(error);
    }
    renameat_with(CWD, &beside, CWD, directory, RenameFlags::EXCHANGE)?;
    sync_directory(parent(directory))?;
    remove_directory(&beside)
}

/// Where the directory is made that takes a machine's place: what a crash leaves there belongs to no machine, and
/// is swept as such.
fn beside(directory: &Path) -> PathBuf {
    let mut name = directory.file_name().unwrap_or_default().to_owned();
    name.push(".previous");
    directory.with_file_name(name)
}

fn furnish(kept: &Path, beside: &Path) -> io::Result<()> {
    make_directory(beside)?;
    link(kept, beside)?;
    fs::hard_link(kept.join(DISK), beside.join(DISK))?;
    for name in [DISK, MEMORY_DELTA, DEVICES, MANIFEST_FILE] {
        File::open(beside.join(name))?.sync_all()?;
    }
    sync_directory(beside)?;
    sync_directory(parent(beside))
}

fn parent(directory: &Path) -> &Path {
    directory.parent().unwrap_or(Path::new("/"))
}

fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

fn remove_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "previous/tests.rs"]
mod tests;

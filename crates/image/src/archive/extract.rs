//! Writes an archive's entries below one directory, never following a link, and counts what comes
//! out: the sizes in the headers are the packer's word.

use std::fs::File;
use std::io::{Read, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, fchmod, mkdirat, openat};
use rustix::io::Errno;
use zip::ZipArchive;

use super::listing::Entry;
use super::{ArchiveError, not_zip, shortened};

/// Bytes moved at a time.
const CHUNK: usize = 64 * 1024;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const NEW_FILE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Extracts `entries` into `target`. Returns the bytes written.
///
/// # Errors
/// When more than `limit` bytes come out, an entry is not what it claims, or the disk fails.
pub(super) fn extract(
    zip: &mut ZipArchive<File>,
    entries: &[Entry],
    target: &Path,
    limit: u64,
) -> Result<u64, ArchiveError> {
    let root = openat(CWD, target, DIRECTORY, Mode::empty()).map_err(std::io::Error::from)?;
    let mut buffer = vec![0; CHUNK];
    let mut written = 0;
    for entry in entries {
        if entry.is_directory {
            directory_at(&root, entry.path.split('/'))?;
            continue;
        }
        let (parents, name) = entry.path.rsplit_once('/').unwrap_or(("", &entry.path));
        let parent = directory_at(&root, parents.split('/').filter(|part| !part.is_empty()))?;
        let file = openat(&parent, name, NEW_FILE, Mode::RUSR | Mode::WUSR)
            .map_err(std::io::Error::from)?;
        let mut content = zip.by_index(entry.index).map_err(not_zip)?;
        let mut file = File::from(file);
        written += copy(
            &mut content,
            &mut file,
            entry,
            limit - written,
            limit,
            &mut buffer,
        )?;
        // Only after the content: a read-only file could not be written. Set-user-id bits are dropped.
        let permissions = Mode::from_raw_mode(entry.permissions | 0o600);
        fchmod(&file, permissions).map_err(std::io::Error::from)?;
    }
    Ok(written)
}

/// Opens a directory below `root`, making what is missing.
fn directory_at<'a>(
    root: &OwnedFd,
    parts: impl Iterator<Item = &'a str>,
) -> Result<OwnedFd, ArchiveError> {
    let mut directory = root.try_clone()?;
    for part in parts {
        match mkdirat(&directory, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(std::io::Error::from(error).into()),
        }
        directory =
            openat(&directory, part, DIRECTORY, Mode::empty()).map_err(std::io::Error::from)?;
    }
    Ok(directory)
}

fn copy(
    from: &mut impl Read,
    into: &mut File,
    entry: &Entry,
    room: u64,
    limit: u64,
    buffer: &mut [u8],
) -> Result<u64, ArchiveError> {
    let mut copied = 0;
    loop {
        let count = from.read(buffer).map_err(|source| damaged(entry, source))?;
        if count == 0 {
            break;
        }
        copied += count as u64;
        if copied > room {
            return Err(ArchiveError::TooLarge { limit });
        }
        if copied > entry.size {
            return Err(false_size(entry));
        }
        into.write_all(&buffer[..count])?;
    }
    if copied == entry.size {
        Ok(copied)
    } else {
        Err(false_size(entry))
    }
}

fn false_size(entry: &Entry) -> ArchiveError {
    ArchiveError::Entry {
        name: shortened(&entry.path),
        reason: "has another size than the archive says",
    }
}

/// A read that fails without an operating system's error is the archive's fault (checksum, deflate).
fn damaged(entry: &Entry, source: std::io::Error) -> ArchiveError {
    if source.raw_os_error().is_some() {
        return source.into();
    }
    ArchiveError::Entry {
        name: shortened(&entry.path),
        reason: "is damaged",
    }
}

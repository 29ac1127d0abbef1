//! What an archive claims to hold, and whether that may be unpacked at all.

use std::collections::BTreeMap;
use std::fs::File;

use zip::ZipArchive;

use super::{ArchiveError, ArchiveLimits, not_zip, shortened};

/// Longest path and longest part of one that Linux takes (`PATH_MAX`, `NAME_MAX`), bytes.
const LONGEST_PATH: usize = 4095;
const LONGEST_PART: usize = 255;

/// `S_IFMT` and the types of a Unix mode (inode(7)).
const TYPE_MASK: u32 = 0o170_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_LINK: u32 = 0o120_000;

/// An entry that may be extracted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where it is in the archive.
    pub(super) index: usize,
    /// Path below the root: no empty part, no `.`, no `..`.
    pub(super) path: String,
    /// A directory, or else a file.
    pub(super) is_directory: bool,
    /// Permissions for user, group and others; nothing above.
    pub(super) permissions: u32,
    /// The size that it claims, bytes.
    pub(super) size: u64,
}

/// Checks every entry and the archive as a whole.
///
/// # Errors
/// What the first offence is.
pub(super) fn check(
    zip: &mut ZipArchive<File>,
    packed: u64,
    limits: &ArchiveLimits,
) -> Result<Vec<Entry>, ArchiveError> {
    if zip.len() as u64 > limits.entries {
        return Err(ArchiveError::TooManyEntries {
            limit: limits.entries,
        });
    }
    if zip.has_duplicate_names() {
        return Err(ArchiveError::Duplicate);
    }
    let entries = (0..zip.len())
        .filter_map(|index| entry(zip, index).transpose())
        .collect::<Result<Vec<_>, _>>()?;
    check_total(&entries, limits.bytes_for(packed))?;
    check_conflicts(&entries)?;
    check_dockerfile(&entries)?;
    if zip.has_overlapping_files().map_err(not_zip)? {
        return Err(ArchiveError::Overlapping);
    }
    Ok(entries)
}

/// One entry; `None` for the root itself (`./`).
fn entry(zip: &ZipArchive<File>, index: usize) -> Result<Option<Entry>, ArchiveError> {
    let raw = zip.by_index_data(index).map_err(not_zip)?;
    let name = String::from_utf8_lossy(raw.name_raw()).into_owned();
    let refuse = |reason| {
        Err(ArchiveError::Entry {
            name: shortened(&name),
            reason,
        })
    };
    if std::str::from_utf8(raw.name_raw()).is_err() {
        return refuse("has a name that is not UTF-8");
    }
    if raw.encrypted() {
        return refuse("is encrypted; pack it without a password");
    }
    if !matches!(
        raw.compression(),
        zip::CompressionMethod::Stored | zip::CompressionMethod::Deflated
    ) {
        return refuse("is compressed by a method other than deflate");
    }
    let mode = raw.unix_mode().unwrap_or(0);
    let is_directory = match mode & TYPE_MASK {
        TYPE_LINK => {
            return refuse(
                "is a symbolic link, which an artifact may not hold; make it with RUN ln -s instead",
            );
        }
        TYPE_DIRECTORY => true,
        TYPE_FILE | 0 => name.ends_with('/'),
        _ => return refuse("is neither a file nor a directory"),
    };
    if is_directory && raw.size() > 0 {
        return refuse("is a directory with content");
    }
    let path = match safe_path(&name) {
        Ok(path) => path,
        Err(reason) => return refuse(reason),
    };
    let permissions = match mode & 0o777 {
        0 if is_directory => 0o755,
        0 => 0o644,
        bits => bits,
    };
    Ok(path.map(|path| Entry {
        index,
        path,
        is_directory,
        permissions,
        size: raw.size(),
    }))
}

/// The path below the root that a name means; `None` for the root itself.
fn safe_path(name: &str) -> Result<Option<String>, &'static str> {
    if name.contains('\0') {
        return Err("has a zero byte in its name");
    }
    if name.contains('\\') {
        return Err("has a backslash in its name; pack it with a tool that writes forward slashes");
    }
    if name.starts_with('/') {
        return Err("is an absolute path");
    }
    let mut start = name.chars();
    if matches!((start.next(), start.next()), (Some(letter), Some(':')) if letter.is_ascii_alphabetic())
    {
        return Err("starts with a drive letter");
    }
    if name.len() > LONGEST_PATH {
        return Err("has a path that is too long");
    }
    let trimmed = name.strip_suffix('/').unwrap_or(name);
    let mut parts = Vec::new();
    for part in trimmed.split('/') {
        match part {
            ".." => return Err("climbs out of the archive"),
            "" => return Err("has an empty part in its path"),
            "." => {}
            part if part.len() > LONGEST_PART => {
                return Err("has a part of its path that is too long");
            }
            part => parts.push(part),
        }
    }
    Ok((!parts.is_empty()).then(|| parts.join("/")))
}

fn check_total(entries: &[Entry], limit: u64) -> Result<(), ArchiveError> {
    let total = entries
        .iter()
        .try_fold(0_u64, |sum, entry| sum.checked_add(entry.size));
    match total {
        Some(total) if total <= limit => Ok(()),
        _ => Err(ArchiveError::TooLarge { limit }),
    }
}

/// No path twice (`a` and `./a` are one), no file where a directory must be.
fn check_conflicts(entries: &[Entry]) -> Result<(), ArchiveError> {
    let mut kinds: BTreeMap<&str, bool> = BTreeMap::new();
    for entry in entries {
        if kinds.insert(&entry.path, entry.is_directory).is_some() {
            return Err(ArchiveError::Duplicate);
        }
    }
    for entry in entries {
        let parents = entry
            .path
            .match_indices('/')
            .map(|(at, _)| &entry.path[..at]);
        for parent in parents {
            if kinds.get(parent) == Some(&false) {
                let reason = "is a file, and a directory of other entries too";
                return Err(ArchiveError::Entry {
                    name: shortened(parent),
                    reason,
                });
            }
        }
    }
    Ok(())
}

fn check_dockerfile(entries: &[Entry]) -> Result<(), ArchiveError> {
    if entries
        .iter()
        .any(|entry| entry.path == "Dockerfile" && !entry.is_directory)
    {
        return Ok(());
    }
    let below = entries
        .iter()
        .filter(|entry| !entry.is_directory && entry.path.ends_with("/Dockerfile"));
    match below.min_by_key(|entry| entry.path.matches('/').count()) {
        Some(entry) => Err(ArchiveError::DockerfileBelow {
            place: shortened(&entry.path),
        }),
        None => Err(ArchiveError::NoDockerfile),
    }
}

#[cfg(test)]
mod tests {
    use super::safe_path;

    #[test]
    fn only_paths_below_the_root_are_safe() {
        assert_eq!(
            safe_path("./app/main.py"),
            Ok(Some("app/main.py".to_owned()))
        );
        assert_eq!(safe_path("app/"), Ok(Some("app".to_owned())));
        assert_eq!(safe_path("./"), Ok(None));
        for name in [
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a\\..\\x",
            "C:x",
            "c:/x",
            "a//b",
            "a\0b",
            "",
            "a/..",
        ] {
            assert!(safe_path(name).is_err(), "{name:?}");
        }
        assert!(safe_path(&"x".repeat(256)).is_err());
        assert!(safe_path(&"x/".repeat(2048)).is_err());
    }
}

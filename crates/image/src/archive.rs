//! Unpacks an artifact that nobody vouches for: a zip, checked as a whole before a byte of it is
//! written, then extracted below one directory with every byte counted.
//!
//! The two halves are [`listing`] (what the archive claims) and [`extract`] (what it really holds).

mod directory_end;
mod extract;
mod listing;

use std::fs::File;
use std::path::Path;

use crate::request::{BuildFailure, FailureCode};

/// What an artifact may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ArchiveLimits {
    /// Entries.
    pub(crate) entries: u64,
    /// Bytes of all files together, unpacked.
    pub(crate) unpacked_bytes: u64,
    /// Unpacked bytes for each packed one, beyond [`FREE_BYTES`].
    pub(crate) ratio: u64,
}

/// Unpacked bytes for which no ratio is asked: a short file of zeros is no bomb.
const FREE_BYTES: u64 = 64 * 1024 * 1024;

impl ArchiveLimits {
    /// The bound on unpacked bytes for an artifact of `packed` bytes.
    fn bytes_for(&self, packed: u64) -> u64 {
        self.unpacked_bytes
            .min(packed.saturating_mul(self.ratio).saturating_add(FREE_BYTES))
    }
}

/// Why an artifact is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    /// Not a zip, or a damaged one.
    #[error("the artifact is not a readable zip archive ({reason})")]
    NotZip {
        /// What the reader stumbled over.
        reason: String,
    },
    /// Too many entries.
    #[error("the archive holds more than {limit} entries; leave out what the build does not need")]
    TooManyEntries {
        /// The bound.
        limit: u64,
    },
    /// Too large unpacked, or a bomb.
    #[error("the archive unpacks to more than {limit} bytes, the limit for an archive of its size")]
    TooLarge {
        /// The bound, bytes.
        limit: u64,
    },
    /// One entry is refused.
    #[error("the archive's entry {name:?} {reason}")]
    Entry {
        /// Its name, shortened.
        name: String,
        /// What is wrong with it, as the rest of a sentence.
        reason: &'static str,
    },
    /// Entries share their bytes: a bomb that stays below the ratio of each.
    #[error("the archive's entries overlap; pack it anew")]
    Overlapping,
    /// A name occurs twice.
    #[error("the archive holds the same name twice; pack it anew")]
    Duplicate,
    /// No `Dockerfile`.
    #[error("the archive has no file named Dockerfile at its root")]
    NoDockerfile,
    /// A `Dockerfile`, in the wrong place.
    #[error(
        "the archive has no file named Dockerfile at its root, but one at {place:?}; \
         pack the contents of that folder, not the folder"
    )]
    DockerfileBelow {
        /// Where it is.
        place: String,
    },
    /// The host's disk is full.
    #[error("there is no space left to unpack the archive")]
    StorageFull,
    /// The host failed.
    #[error("the archive could not be unpacked")]
    Io(#[source] std::io::Error),
}

impl From<std::io::Error> for ArchiveError {
    fn from(source: std::io::Error) -> Self {
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::StorageFull
            }
            _ => Self::Io(source),
        }
    }
}

impl From<ArchiveError> for BuildFailure {
    fn from(error: ArchiveError) -> Self {
        let code = match &error {
            ArchiveError::NoDockerfile | ArchiveError::DockerfileBelow { .. } => {
                FailureCode::ArchiveDockerfileNotFound
            }
            ArchiveError::StorageFull => FailureCode::DiskStorageFull,
            ArchiveError::Io(source) => {
                tracing::error!(%source, "unpacking an artifact failed");
                FailureCode::InternalPlatformError
            }
            _ => FailureCode::ArchiveInvalid,
        };
        BuildFailure::sentence(code, &error.to_string())
    }
}

/// Checks the zip at `archive` and extracts it into the existing, empty `target`. Returns the bytes
/// of its files. Blocks.
pub(crate) fn unpack(
    archive: &Path,
    target: &Path,
    limits: &ArchiveLimits,
) -> Result<u64, ArchiveError> {
    let mut file = File::open(archive)?;
    let packed = file.metadata()?.len();
    directory_end::check_entry_count(&mut file, packed, limits.entries)?;
    let mut zip = zip::ZipArchive::new(file).map_err(not_zip)?;
    let entries = listing::check(&mut zip, packed, limits)?;
    extract::extract(&mut zip, &entries, target, limits.bytes_for(packed))
}

/// Tells the archive's faults from the host's.
fn not_zip(error: zip::result::ZipError) -> ArchiveError {
    match error {
        zip::result::ZipError::Io(source) if source.raw_os_error().is_some() => source.into(),
        other => ArchiveError::NotZip {
            reason: shortened(&other.to_string()),
        },
    }
}

/// Text of a stranger, short enough for a sentence.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 200;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST).chain(['…']).collect()
}

#[cfg(test)]
mod tests;

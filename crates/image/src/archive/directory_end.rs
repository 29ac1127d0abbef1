//! How many entries a zip claims, read from its last records alone: the reader of the whole
//! directory holds it in memory, so its length must be known to be bounded before.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};

use super::ArchiveError;

/// End of central directory record (APPNOTE 4.3.16): signature, fixed length, longest comment.
const END_SIGNATURE: [u8; 4] = *b"PK\x05\x06";
const END_LENGTH: usize = 22;
const LONGEST_COMMENT: usize = 65_535;
/// ZIP64 end of central directory locator (APPNOTE 4.3.15), which stands just before that record.
const LOCATOR_SIGNATURE: [u8; 4] = *b"PK\x06\x07";
const LOCATOR_LENGTH: usize = 20;
/// ZIP64 end of central directory record (APPNOTE 4.3.14).
const END64_SIGNATURE: [u8; 4] = *b"PK\x06\x06";
const END64_LENGTH: u64 = 56;

/// Refuses an archive any of whose possible end records claims more than `limit` entries.
///
/// # Errors
/// When it does, or has no end record at all.
pub(super) fn check_entry_count(
    file: &mut File,
    length: u64,
    limit: u64,
) -> Result<(), ArchiveError> {
    let tail_length = length.min((LOCATOR_LENGTH + END_LENGTH + LONGEST_COMMENT) as u64);
    let tail = read_at(file, length - tail_length, tail_length)?;
    let mut found = false;
    for at in (0..tail.len().saturating_sub(END_LENGTH - 1))
        .filter(|at| tail[*at..].starts_with(&END_SIGNATURE))
    {
        found = true;
        let entries = u16::from_le_bytes([tail[at + 10], tail[at + 11]]);
        let locator = at
            .checked_sub(LOCATOR_LENGTH)
            .filter(|at| tail[*at..].starts_with(&LOCATOR_SIGNATURE));
        let entries = match locator {
            Some(locator) => entries64(file, length, &tail[locator..])?.max(u64::from(entries)),
            None => u64::from(entries),
        };
        if entries > limit {
            return Err(ArchiveError::TooManyEntries { limit });
        }
    }
    file.rewind()?;
    if found {
        Ok(())
    } else {
        Err(ArchiveError::NotZip {
            reason: "it has no central directory".to_owned(),
        })
    }
}

/// The count in the ZIP64 record that a locator points at. Bytes before the archive shift the record;
/// such an archive is refused rather than searched.
fn entries64(file: &mut File, length: u64, locator: &[u8]) -> Result<u64, ArchiveError> {
    let misplaced = || ArchiveError::NotZip {
        reason: "its ZIP64 record is not where it says".to_owned(),
    };
    let offset = locator
        .get(8..16)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u64::from_le_bytes);
    let offset = offset.filter(|at| {
        at.checked_add(END64_LENGTH)
            .is_some_and(|end| end <= length)
    });
    let record = read_at(file, offset.ok_or_else(misplaced)?, END64_LENGTH)?;
    if !record.starts_with(&END64_SIGNATURE) {
        return Err(misplaced());
    }
    let number = |at: usize| {
        record[at..at + 8]
            .try_into()
            .map_or(u64::MAX, u64::from_le_bytes)
    };
    // Entries on this disk and in all: whichever the reader believes is bounded.
    Ok(number(24).max(number(32)))
}

fn read_at(file: &mut File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(offset))?;
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

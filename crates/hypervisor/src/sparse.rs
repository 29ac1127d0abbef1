//! Sparse files: their checksum that does not depend on where the holes are, and making holes of
//! zeros.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use crate::delta::{PAGE_SIZE, is_zero};
use crate::manifest::FileEntry;

/// Granule of the checksum, bytes.
const BLOCK: usize = 64 * 1024;

/// Describes a file for a manifest. Its BLAKE3 is taken over the blocks of 64 KiB that are not all
/// zero, each preceded by its offset (u64, little endian): equal content gives an equal checksum,
/// whether its zeros are holes or not, and holes cost no time.
///
/// # Errors
/// When the file cannot be read.
pub fn describe(directory: &Path, name: &str) -> io::Result<FileEntry> {
    describe_open(&File::open(directory.join(name))?, name)
}

/// As [`describe`], of a file that is open.
pub(crate) fn describe_open(file: &File, name: &str) -> io::Result<FileEntry> {
    let metadata = file.metadata()?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0_u8; BLOCK];
    let block = BLOCK as u64;
    let mut next = 0;
    for_each_extent(file, metadata.len(), |start, end| {
        let mut offset = (start / block * block).max(next);
        while offset < end {
            let length =
                usize::try_from(block.min(metadata.len() - offset)).map_err(io::Error::other)?;
            file.read_exact_at(&mut buffer[..length], offset)?;
            if !is_zero(&buffer[..length]) {
                hasher.update(&offset.to_le_bytes());
                hasher.update(&buffer[..length]);
            }
            offset += block;
        }
        next = offset;
        Ok(())
    })?;
    Ok(FileEntry {
        name: name.to_owned(),
        length: metadata.len(),
        stored: metadata.blocks() * 512,
        blake3: hasher.finalize().to_hex().to_string(),
    })
}

/// Makes holes of all pages that are zero.
///
/// # Errors
/// When the file cannot be read, or its file system has no holes.
pub fn punch_zero_pages(file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut buffer = vec![0_u8; 256 * PAGE_SIZE];
    let mut zero_from: Option<u64> = None;
    for_each_extent(file, length, |start, end| {
        let mut offset = start;
        while offset < end {
            let wanted = usize::try_from((end - offset).min(buffer.len() as u64))
                .map_err(io::Error::other)?;
            file.read_exact_at(&mut buffer[..wanted], offset)?;
            for (index, page) in buffer[..wanted].chunks(PAGE_SIZE).enumerate() {
                let at = offset + (index * PAGE_SIZE) as u64;
                match (is_zero(page), zero_from) {
                    (true, None) => zero_from = Some(at),
                    (false, Some(from)) => {
                        punch(file, from, at)?;
                        zero_from = None;
                    }
                    _ => {}
                }
            }
            offset += wanted as u64;
        }
        if let Some(from) = zero_from.take() {
            punch(file, from, end)?;
        }
        Ok(())
    })
}

fn punch(file: &File, from: u64, to: u64) -> io::Result<()> {
    Ok(fallocate(
        file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        from,
        to - from,
    )?)
}

/// Calls `each` for every extent of data, start and end, ascending.
pub(crate) fn for_each_extent(
    file: &File,
    length: u64,
    mut each: impl FnMut(u64, u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut at = 0;
    while at < length {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?.min(length);
        each(start, end)?;
        at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{describe, punch_zero_pages};
    use std::fs::{self, File};
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn holes_do_not_change_a_checksum_and_content_does() {
        let directory = tempfile::tempdir().unwrap();
        let mut content = vec![0_u8; 1024 * 1024];
        content[300_000..300_100].fill(7);
        let path = directory.path().join("memory");
        fs::write(&path, &content).unwrap();
        let full = describe(directory.path(), "memory").unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        punch_zero_pages(&file).unwrap();
        let punched = describe(directory.path(), "memory").unwrap();
        assert_eq!(fs::read(&path).unwrap(), content);
        assert_eq!(full.blake3, punched.blake3);
        assert!(file.metadata().unwrap().blocks() * 512 < 100_000);
        content[0] = 1;
        fs::write(&path, &content).unwrap();
        assert_ne!(
            describe(directory.path(), "memory").unwrap().blake3,
            full.blake3
        );
    }
}

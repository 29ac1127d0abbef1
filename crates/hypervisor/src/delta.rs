//! The file of pages that differ from a base: written in one pass, read in one pass.
//!
//! ```text
//! "COLIDLT1"  page size (u32)  zero (u32)         header, 16 bytes
//! page, page, page ...                            content of the non-zero pages, in order
//! first page (u64)  count (u32)  kind (u32)  ...  index, 16 bytes a run
//! runs (u64)  pages (u64)  "COLIDLTE"             footer, 24 bytes
//! ```
//!
//! All numbers are little endian. A run of kind 0 has its pages in the file, in order; the pages of a
//! run of kind 1 are all zero and not in the file. The whole file's BLAKE3 stands in the
//! suspension's manifest. Guest memory is only ever moved as bytes here.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};

/// Size of a page, bytes: the granule of a delta on every architecture that Colibri runs.
pub const PAGE_SIZE: usize = 4096;

const MAGIC: [u8; 8] = *b"COLIDLT1";
const END_MAGIC: [u8; 8] = *b"COLIDLTE";
const HEADER_LENGTH: u64 = 16;
const RUN_LENGTH: u64 = 16;
const FOOTER_LENGTH: u64 = 24;

/// Pages moved at once: 1 MiB.
pub const CHUNK_PAGES: usize = 256;

/// Whether a run's pages are in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunKind {
    /// In the file.
    Stored,
    /// All zero.
    Zero,
}

/// Consecutive pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Number of the first page, counted from the start of guest memory.
    pub first: u64,
    /// How many.
    pub count: u32,
    /// Whether they are in the file.
    pub kind: RunKind,
}

/// What a finished delta is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaSummary {
    /// Pages in it, zero ones included.
    pub pages: u64,
    /// Length of the file, bytes.
    pub length: u64,
    /// BLAKE3 of the file, hexadecimal.
    pub blake3: String,
}

/// Writes a delta.
#[derive(Debug)]
pub struct DeltaWriter {
    file: File,
    hasher: blake3::Hasher,
    length: u64,
    runs: Vec<Run>,
    pages: u64,
}

impl DeltaWriter {
    /// Starts a delta in an empty file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new(file: File) -> io::Result<Self> {
        let mut writer = Self {
            file,
            hasher: blake3::Hasher::new(),
            length: 0,
            runs: Vec::new(),
            pages: 0,
        };
        writer.put(&MAGIC)?;
        #[expect(clippy::cast_possible_truncation, reason = "4096")]
        writer.put(&(PAGE_SIZE as u32).to_le_bytes())?;
        writer.put(&0_u32.to_le_bytes())?;
        Ok(writer)
    }

    /// Adds the pages of `memory`, whose first has number `first`, that differ from those of `base`.
    /// Calls come in ascending order.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&mut self, first: u64, memory: &[u8], base: &[u8]) -> io::Result<()> {
        debug_assert_eq!(memory.len(), base.len());
        let mut stored_from = None;
        let pages = memory
            .chunks_exact(PAGE_SIZE)
            .zip(base.chunks_exact(PAGE_SIZE));
        for (index, (page, before)) in pages.enumerate() {
            let number = first + index as u64;
            let stored = page != before && !is_zero(page);
            if page != before {
                self.pages += 1;
                self.extend(
                    number,
                    if stored {
                        RunKind::Stored
                    } else {
                        RunKind::Zero
                    },
                );
            }
            match (stored, stored_from) {
                (true, None) => stored_from = Some(index),
                (false, Some(from)) => {
                    self.put(&memory[from * PAGE_SIZE..index * PAGE_SIZE])?;
                    stored_from = None;
                }
                _ => {}
            }
        }
        if let Some(from) = stored_from {
            self.put(&memory[from * PAGE_SIZE..])?;
        }
        Ok(())
    }

    /// Writes the index and syncs the file.
    ///
    /// # Errors
    /// When the file cannot be written or synced.
    pub fn finish(mut self) -> io::Result<DeltaSummary> {
        let mut tail = Vec::with_capacity(self.runs.len() * 16 + 24);
        for run in &self.runs {
            tail.extend_from_slice(&run.first.to_le_bytes());
            tail.extend_from_slice(&run.count.to_le_bytes());
            tail.extend_from_slice(&u32::from(run.kind == RunKind::Zero).to_le_bytes());
        }
        tail.extend_from_slice(&(self.runs.len() as u64).to_le_bytes());
        tail.extend_from_slice(&self.pages.to_le_bytes());
        tail.extend_from_slice(&END_MAGIC);
        self.put(&tail)?;
        self.file.sync_data()?;
        let blake3 = self.hasher.finalize().to_hex().to_string();
        Ok(DeltaSummary {
            pages: self.pages,
            length: self.length,
            blake3,
        })
    }

    fn extend(&mut self, number: u64, kind: RunKind) {
        if let Some(run) = self.runs.last_mut()
            && run.kind == kind
            && run.first + u64::from(run.count) == number
            && run.count < u32::MAX
        {
            run.count += 1;
            return;
        }
        self.runs.push(Run {
            first: number,
            count: 1,
            kind,
        });
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }
}

/// Gives every page of a delta to `place`, in chunks of consecutive pages, and returns the file's
/// BLAKE3: the caller compares it before the pages are used.
///
/// # Errors
/// `InvalidData` when the file is not a delta of at most `memory_pages` pages; else as reading fails,
/// or as `place` fails.
pub fn read(
    mut file: File,
    memory_pages: u64,
    mut place: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<String> {
    let (runs, index_at) = index(&mut file, memory_pages)?;
    file.seek(SeekFrom::Start(0))?;
    let mut reader = Hashing {
        inner: BufReader::with_capacity(64 * 1024, file),
        hasher: blake3::Hasher::new(),
    };
    reader.skip(HEADER_LENGTH)?;
    let mut buffer = vec![0_u8; CHUNK_PAGES * PAGE_SIZE];
    let zeros = vec![0_u8; CHUNK_PAGES * PAGE_SIZE];
    let mut stored = HEADER_LENGTH;
    for run in runs {
        let mut first = run.first;
        let mut left = run.count as usize;
        while left > 0 {
            let pages = left.min(CHUNK_PAGES);
            let bytes = pages * PAGE_SIZE;
            match run.kind {
                RunKind::Zero => place(first, &zeros[..bytes])?,
                RunKind::Stored => {
                    reader.fill(&mut buffer[..bytes])?;
                    stored += bytes as u64;
                    place(first, &buffer[..bytes])?;
                }
            }
            first += pages as u64;
            left -= pages;
        }
    }
    if stored != index_at {
        return Err(damaged("its index does not fit its pages"));
    }
    reader.drain()
}

fn index(file: &mut File, memory_pages: u64) -> io::Result<(Vec<Run>, u64)> {
    let length = file.metadata()?.len();
    if length < HEADER_LENGTH + FOOTER_LENGTH {
        return Err(damaged("it is too short"));
    }
    let mut header = [0_u8; 16];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut header)?;
    let mut footer = [0_u8; 24];
    file.seek(SeekFrom::End(-24))?;
    file.read_exact(&mut footer)?;
    if header[..8] != MAGIC
        || footer[16..] != END_MAGIC
        || number32(&header[8..]) as usize != PAGE_SIZE
    {
        return Err(damaged("it is not a delta of this format"));
    }
    let count = number64(&footer);
    let room = (length - HEADER_LENGTH - FOOTER_LENGTH) / RUN_LENGTH;
    if count > room {
        return Err(damaged("its index is longer than the file"));
    }
    let index_at = length - FOOTER_LENGTH - count * RUN_LENGTH;
    file.seek(SeekFrom::Start(index_at))?;
    let mut bytes = vec![0_u8; usize::try_from(count * RUN_LENGTH).map_err(io::Error::other)?];
    file.read_exact(&mut bytes)?;
    let mut runs = Vec::with_capacity(bytes.len() / 16);
    for entry in bytes.chunks_exact(16) {
        let run = Run {
            first: number64(entry),
            count: number32(&entry[8..]),
            kind: if number32(&entry[12..]) == 0 {
                RunKind::Stored
            } else {
                RunKind::Zero
            },
        };
        if run
            .first
            .checked_add(u64::from(run.count))
            .is_none_or(|end| end > memory_pages)
        {
            return Err(damaged("it names pages beyond the guest's memory"));
        }
        runs.push(run);
    }
    Ok((runs, index_at))
}

struct Hashing<R> {
    inner: R,
    hasher: blake3::Hasher,
}

impl<R: Read> Hashing<R> {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read_exact(buffer)?;
        self.hasher.update(buffer);
        Ok(())
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        let mut header = vec![0_u8; usize::try_from(length).map_err(io::Error::other)?];
        self.fill(&mut header)
    }

    fn drain(mut self) -> io::Result<String> {
        self.hasher.update_reader(&mut self.inner)?;
        Ok(self.hasher.finalize().to_hex().to_string())
    }
}

/// Whether every byte is zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // Folding without an early exit inside a chunk lets the compiler use vector instructions.
    bytes
        .chunks(64)
        .all(|chunk| chunk.iter().fold(0, |seen, byte| seen | byte) == 0)
}

fn number64(bytes: &[u8]) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(number)
}

fn number32(bytes: &[u8]) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[..4]);
    u32::from_le_bytes(number)
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the delta is damaged: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::{DeltaWriter, PAGE_SIZE, is_zero, read};
    use std::io::{Read, Seek, SeekFrom, Write};

    fn pages(content: &[u8]) -> Vec<u8> {
        content
            .iter()
            .flat_map(|byte| vec![*byte; PAGE_SIZE])
            .collect()
    }

    #[test]
    fn only_pages_that_differ_are_kept_and_all_of_them_come_back() {
        let base = pages(&[1, 2, 3, 0, 5, 6]);
        let memory = pages(&[1, 9, 0, 0, 5, 7]);
        let file = tempfile::tempfile().unwrap();
        let mut writer = DeltaWriter::new(file.try_clone().unwrap()).unwrap();
        writer.add(100, &memory, &base).unwrap();
        let summary = writer.finish().unwrap();
        assert_eq!(summary.pages, 3);
        assert_eq!(summary.length, 16 + 2 * PAGE_SIZE as u64 + 3 * 16 + 24);

        let mut restored = base;
        let hash = read(file, 106, |first, bytes| {
            let at = usize::try_from(first - 100).unwrap() * PAGE_SIZE;
            restored[at..at + bytes.len()].copy_from_slice(bytes);
            Ok(())
        })
        .unwrap();
        assert_eq!(hash, summary.blake3);
        assert_eq!(restored, memory);
    }

    #[test]
    fn a_changed_byte_changes_the_checksum_and_a_cut_file_is_refused() {
        let mut file = tempfile::tempfile().unwrap();
        let mut writer = DeltaWriter::new(file.try_clone().unwrap()).unwrap();
        writer.add(0, &pages(&[1, 2]), &pages(&[0, 0])).unwrap();
        let summary = writer.finish().unwrap();
        file.seek(SeekFrom::Start(20)).unwrap();
        file.write_all(&[77]).unwrap();
        let hash = read(file.try_clone().unwrap(), 2, |_, _| Ok(())).unwrap();
        assert_ne!(hash, summary.blake3);
        assert!(
            read(file.try_clone().unwrap(), 1, |_, _| Ok(())).is_err(),
            "pages beyond memory"
        );
        file.set_len(summary.length - 1).unwrap();
        assert!(read(file, 2, |_, _| Ok(())).is_err());
    }

    #[test]
    fn zero_is_told_from_almost_zero() {
        let mut page = vec![0; PAGE_SIZE];
        assert!(is_zero(&page));
        page[PAGE_SIZE - 1] = 1;
        assert!(!is_zero(&page));
    }

    /// Numbers from a fixed seed (xorshift).
    fn numbers() -> impl FnMut(usize) -> usize {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        move |below| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).unwrap()
        }
    }

    #[test]
    fn a_file_damaged_anywhere_is_refused_or_has_another_checksum_and_stays_within_memory() {
        let file = tempfile::tempfile().unwrap();
        let mut writer = DeltaWriter::new(file.try_clone().unwrap()).unwrap();
        let memory = pages(&[1, 0, 3, 4, 0, 6, 7, 7]);
        writer
            .add(0, &memory, &pages(&[0, 1, 3, 0, 2, 2, 7, 0]))
            .unwrap();
        let summary = writer.finish().unwrap();
        let mut whole = Vec::new();
        let mut written = file;
        written.rewind().unwrap();
        written.read_to_end(&mut whole).unwrap();
        let mut number = numbers();
        for round in 0..3000 {
            let mut bytes = whole.clone();
            // Half of the rounds aim at the index and the footer, which say where everything else is.
            let from = if round % 2 == 0 { bytes.len() - 120 } else { 0 };
            for _ in 0..=number(3) {
                let at = from + number(bytes.len() - from);
                bytes[at] = [0, 1, 0x7f, 0xff, u8::try_from(number(256)).unwrap()][number(5)];
            }
            if number(4) == 0 {
                bytes.truncate(number(bytes.len()));
            }
            if bytes == whole {
                continue;
            }
            let mut damaged = tempfile::tempfile().unwrap();
            damaged.write_all(&bytes).unwrap();
            let read = read(damaged, 8, |first, content| {
                assert!(first + (content.len() / PAGE_SIZE) as u64 <= 8);
                Ok(())
            });
            assert!(read.is_err() || read.unwrap() != summary.blake3);
        }
    }
}

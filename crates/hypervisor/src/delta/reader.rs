//! Reading a delta, of this version and of the first.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use super::{
    BLOCK_LENGTH, Block, CHUNK_PAGES, END_MAGIC, FOOTER_LENGTH_1, FOOTER_LENGTH_2, HEADER_LENGTH,
    MAGIC_1, MAGIC_2, PAGE_SIZE, RUN_LENGTH, Run, RunKind,
};

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
    let Index { runs, blocks } = Index::of(&mut file, memory_pages)?;
    file.seek(SeekFrom::Start(0))?;
    let mut reader = Hashing {
        inner: BufReader::with_capacity(256 * 1024, file),
        hasher: blake3::Hasher::new(),
    };
    reader.skip(HEADER_LENGTH)?;
    let zeros = vec![0_u8; CHUNK_PAGES * PAGE_SIZE];
    let mut stored = StoredPages::new(reader, blocks);
    for run in runs {
        let mut first = run.first;
        let mut left = run.count as usize;
        while left > 0 {
            let content = match run.kind {
                RunKind::Zero => &zeros[..left.min(CHUNK_PAGES) * PAGE_SIZE],
                RunKind::Stored => stored.next(left)?,
            };
            place(first, content)?;
            let pages = content.len() / PAGE_SIZE;
            first += pages as u64;
            left -= pages;
        }
    }
    stored.reader.drain()
}

/// The pages of the blocks, one after another.
struct StoredPages {
    reader: Hashing<BufReader<File>>,
    blocks: std::vec::IntoIter<Block>,
    /// Content of the block at hand.
    content: Vec<u8>,
    /// How far it was given out.
    taken: usize,
    compressed: Vec<u8>,
}

impl StoredPages {
    fn new(reader: Hashing<BufReader<File>>, blocks: Vec<Block>) -> Self {
        Self {
            reader,
            blocks: blocks.into_iter(),
            content: Vec::new(),
            taken: 0,
            compressed: Vec::new(),
        }
    }

    /// The next pages, at most `most`.
    fn next(&mut self, most: usize) -> io::Result<&[u8]> {
        if self.taken == self.content.len() {
            self.next_block()?;
        }
        let from = self.taken;
        self.taken = self.content.len().min(from + most * PAGE_SIZE);
        Ok(&self.content[from..self.taken])
    }

    fn next_block(&mut self) -> io::Result<()> {
        // The index was checked to have as many pages in its runs as in its blocks.
        let block = self
            .blocks
            .next()
            .ok_or_else(|| damaged("it has fewer pages than its index"))?;
        self.taken = 0;
        self.content.resize(block.content(), 0);
        let length = block.length as usize;
        if length == block.content() {
            return self.reader.fill(&mut self.content);
        }
        self.compressed.resize(length, 0);
        self.reader.fill(&mut self.compressed)?;
        match lz4_flex::block::decompress_into(&self.compressed, &mut self.content) {
            Ok(written) if written == self.content.len() => Ok(()),
            _ => Err(damaged("a block of it cannot be decompressed")),
        }
    }
}

/// What is where in the file.
struct Index {
    runs: Vec<Run>,
    blocks: Vec<Block>,
}

impl Index {
    fn of(file: &mut File, memory_pages: u64) -> io::Result<Self> {
        let length = file.metadata()?.len();
        if length < HEADER_LENGTH + FOOTER_LENGTH_1 {
            return Err(damaged("it is too short"));
        }
        file.seek(SeekFrom::Start(0))?;
        let mut header = [0; HEADER_LENGTH as usize];
        file.read_exact(&mut header)?;
        if number32(&header[8..]) as usize != PAGE_SIZE {
            return Err(damaged("its header is not understood"));
        }
        let index = match header.first_chunk() {
            Some(&MAGIC_1) => Self::of_version_1(file, length, memory_pages)?,
            Some(&MAGIC_2) => Self::of_version_2(file, length, memory_pages)?,
            _ => return Err(damaged("its header is not understood")),
        };
        index.check()
    }

    /// Pages follow the header as they are; the index, 16 bytes a run, follows them.
    fn of_version_1(file: &mut File, length: u64, memory_pages: u64) -> io::Result<Self> {
        let footer = footer(file, FOOTER_LENGTH_1)?;
        let content = length - HEADER_LENGTH - FOOTER_LENGTH_1;
        let index_length = table(number64(&footer), RUN_LENGTH, content)?;
        let runs = runs(file, FOOTER_LENGTH_1, index_length, memory_pages)?;
        let stored = content - index_length;
        if !stored.is_multiple_of(PAGE_SIZE as u64) {
            return Err(damaged("its index does not fit its pages"));
        }
        let most = (CHUNK_PAGES * PAGE_SIZE) as u64;
        let lengths = (0..stored)
            .step_by(CHUNK_PAGES * PAGE_SIZE)
            .map(|at| (stored - at).min(most));
        #[expect(clippy::cast_possible_truncation, reason = "at most 1 MiB")]
        let blocks = lengths.map(|length| Block {
            pages: (length / PAGE_SIZE as u64) as u32,
            length: length as u32,
        });
        Ok(Self {
            runs,
            blocks: blocks.collect(),
        })
    }

    fn of_version_2(file: &mut File, length: u64, memory_pages: u64) -> io::Result<Self> {
        let content = length
            .checked_sub(HEADER_LENGTH + FOOTER_LENGTH_2)
            .ok_or_else(|| damaged("it is too short"))?;
        let footer = footer(file, FOOTER_LENGTH_2)?;
        let index_length = table(number64(&footer), RUN_LENGTH, content)?;
        let table_length = table(number64(&footer[8..]), BLOCK_LENGTH, content - index_length)?;
        let blocks = blocks(file, table_length)?;
        let tail = FOOTER_LENGTH_2 + table_length;
        let runs = runs(file, tail, index_length, memory_pages)?;
        let stored: u64 = blocks.iter().map(|block| u64::from(block.length)).sum();
        if stored != content - index_length - table_length {
            return Err(damaged("its blocks do not fit its length"));
        }
        Ok(Self { runs, blocks })
    }

    fn check(self) -> io::Result<Self> {
        let stored = self.runs.iter().filter(|run| run.kind == RunKind::Stored);
        let in_runs: u64 = stored.map(|run| u64::from(run.count)).sum();
        let in_blocks: u64 = self.blocks.iter().map(|block| u64::from(block.pages)).sum();
        if in_runs == in_blocks {
            Ok(self)
        } else {
            Err(damaged("its index does not fit its pages"))
        }
    }
}

fn footer(file: &mut File, length: u64) -> io::Result<Vec<u8>> {
    let footer = before_end(file, length, length)?;
    if footer.ends_with(&END_MAGIC) {
        Ok(footer)
    } else {
        Err(damaged("its end is missing"))
    }
}

/// Length of a table of `count` entries, which has to fit into `room` bytes.
fn table(count: u64, entry: u64, room: u64) -> io::Result<u64> {
    count
        .checked_mul(entry)
        .filter(|length| *length <= room)
        .ok_or_else(|| damaged("its index is longer than the file"))
}

fn runs(file: &mut File, before: u64, length: u64, memory_pages: u64) -> io::Result<Vec<Run>> {
    let index = before_end(file, before + length, length)?;
    let entries = index.as_chunks::<{ RUN_LENGTH as usize }>().0.iter();
    entries
        .map(|entry| {
            let run = Run {
                first: number64(entry),
                count: number32(&entry[8..]),
                kind: if number32(&entry[12..]) == 0 {
                    RunKind::Stored
                } else {
                    RunKind::Zero
                },
            };
            let end = run.first.checked_add(u64::from(run.count));
            if end.is_none_or(|end| end > memory_pages) {
                return Err(damaged("it names pages beyond the guest's memory"));
            }
            Ok(run)
        })
        .collect()
}

fn blocks(file: &mut File, length: u64) -> io::Result<Vec<Block>> {
    let table = before_end(file, FOOTER_LENGTH_2 + length, length)?;
    let entries = table.as_chunks::<{ BLOCK_LENGTH as usize }>().0.iter();
    entries
        .map(|entry| {
            let block = Block {
                pages: number32(entry),
                length: number32(&entry[4..]),
            };
            let fits = (1..=CHUNK_PAGES).contains(&(block.pages as usize))
                && block.length as usize <= block.content();
            fits.then_some(block)
                .ok_or_else(|| damaged("a block of it has an impossible length"))
        })
        .collect()
}

/// Some bytes that begin that far before the file's end; the caller knows that it is so long.
fn before_end(file: &mut File, distance: u64, length: u64) -> io::Result<Vec<u8>> {
    let back = i64::try_from(distance).map_err(io::Error::other)?;
    file.seek(SeekFrom::End(-back))?;
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
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

//! Writing a delta.

use std::fs::File;
use std::io::{self, Write};

use lz4_flex::block::{compress_into, get_maximum_output_size};

use super::{Block, CHUNK_PAGES, END_MAGIC, MAGIC_2, PAGE_SIZE, Run, RunKind, is_zero};

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
    blocks: Vec<Block>,
    /// Content of the block that is being filled.
    filling: Vec<u8>,
    /// Where blocks are compressed to.
    compressed: Vec<u8>,
    pages: u64,
}

impl DeltaWriter {
    /// Starts a delta in an empty file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new(file: File) -> io::Result<Self> {
        let most = CHUNK_PAGES * PAGE_SIZE;
        let mut writer = Self {
            file,
            hasher: blake3::Hasher::new(),
            length: 0,
            runs: Vec::new(),
            blocks: Vec::new(),
            filling: Vec::with_capacity(most),
            compressed: vec![0; get_maximum_output_size(most)],
            pages: 0,
        };
        let mut header = MAGIC_2.to_vec();
        #[expect(clippy::cast_possible_truncation, reason = "4096")]
        header.extend_from_slice(&(PAGE_SIZE as u32).to_le_bytes());
        header.extend_from_slice(&0_u32.to_le_bytes());
        writer.put(&header)?;
        Ok(writer)
    }

    /// Adds the pages of `memory`, whose first has number `first`, that differ from those of `base`.
    /// Calls come in ascending order.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&mut self, first: u64, memory: &[u8], base: &[u8]) -> io::Result<()> {
        debug_assert_eq!(memory.len(), base.len());
        let pages = memory
            .chunks_exact(PAGE_SIZE)
            .zip(base.chunks_exact(PAGE_SIZE));
        for (number, (page, before)) in (first..).zip(pages) {
            if page == before {
                continue;
            }
            self.pages += 1;
            if is_zero(page) {
                self.extend(number, RunKind::Zero);
                continue;
            }
            self.extend(number, RunKind::Stored);
            self.filling.extend_from_slice(page);
            if self.filling.len() == CHUNK_PAGES * PAGE_SIZE {
                self.end_block()?;
            }
        }
        Ok(())
    }

    /// Writes the index. Syncing the file is left to the caller, who may have to say first when the last
    /// page had been taken.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(mut self) -> io::Result<DeltaSummary> {
        self.end_block()?;
        let mut tail = Vec::with_capacity(self.runs.len() * 16 + self.blocks.len() * 8 + 32);
        for run in &self.runs {
            tail.extend_from_slice(&run.first.to_le_bytes());
            tail.extend_from_slice(&run.count.to_le_bytes());
            tail.extend_from_slice(&u32::from(run.kind == RunKind::Zero).to_le_bytes());
        }
        for block in &self.blocks {
            tail.extend_from_slice(&block.pages.to_le_bytes());
            tail.extend_from_slice(&block.length.to_le_bytes());
        }
        for count in [self.runs.len() as u64, self.blocks.len() as u64, self.pages] {
            tail.extend_from_slice(&count.to_le_bytes());
        }
        tail.extend_from_slice(&END_MAGIC);
        self.put(&tail)?;
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

    /// Writes the block that is being filled, compressed where that saves an eighth: for less, the
    /// time that a wake takes to undo it is not worth it.
    fn end_block(&mut self) -> io::Result<()> {
        if self.filling.is_empty() {
            return Ok(());
        }
        let mut content = std::mem::take(&mut self.filling);
        let mut compressed = std::mem::take(&mut self.compressed);
        let length = compress_into(&content, &mut compressed).map_err(io::Error::other)?;
        let stored = if length <= content.len() / 8 * 7 {
            &compressed[..length]
        } else {
            &content[..]
        };
        #[expect(clippy::cast_possible_truncation, reason = "at most 1 MiB")]
        self.blocks.push(Block {
            pages: (content.len() / PAGE_SIZE) as u32,
            length: stored.len() as u32,
        });
        self.put(stored)?;
        content.clear();
        (self.filling, self.compressed) = (content, compressed);
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }
}

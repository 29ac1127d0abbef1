//! The file of pages that differ from a base: written in one pass, read in one pass.
//!
//! ```text
//! "COLIDLT2"  page size (u32)  zero (u32)         header, 16 bytes
//! block, block, block ...                         content of the non-zero pages, in order
//! first page (u64)  count (u32)  kind (u32)  ...  index, 16 bytes a run
//! pages (u32)  length (u32)  ...                  table, 8 bytes a block
//! runs (u64)  blocks (u64)  pages (u64)  "COLIDLTE"   footer, 32 bytes
//! ```
//!
//! All numbers are little endian. The pages of a run of kind 0 are in the blocks, in order; those of a
//! run of kind 1 are all zero and not in the file. A block holds up to 256 pages: as they are where its
//! length says so, otherwise as an LZ4 block. The whole file's BLAKE3 stands in the suspension's
//! manifest. Guest memory is only ever moved as bytes here.
//!
//! Version 1, which is still read, is "COLIDLT1" with the pages as they are, no table, and a footer of
//! 24 bytes without the number of blocks.

mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use reader::read;
pub use writer::{DeltaSummary, DeltaWriter};

/// Size of a page, bytes: the granule of a delta on every architecture that Colibri runs.
pub const PAGE_SIZE: usize = 4096;

/// Pages moved at once, and pages of a block at most: 1 MiB.
pub const CHUNK_PAGES: usize = 256;

const MAGIC_1: [u8; 8] = *b"COLIDLT1";
const MAGIC_2: [u8; 8] = *b"COLIDLT2";
const END_MAGIC: [u8; 8] = *b"COLIDLTE";
const HEADER_LENGTH: u64 = 16;
const RUN_LENGTH: u64 = 16;
const BLOCK_LENGTH: u64 = 8;
const FOOTER_LENGTH_1: u64 = 24;
const FOOTER_LENGTH_2: u64 = 32;

/// Whether a run's pages are in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RunKind {
    /// In the file.
    Stored,
    /// All zero.
    Zero,
}

/// Consecutive pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// Number of the first page, counted from the start of guest memory.
    first: u64,
    /// How many.
    count: u32,
    /// Whether they are in the file.
    kind: RunKind,
}

/// Pages that stand together in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    /// How many, at most [`CHUNK_PAGES`].
    pages: u32,
    /// Bytes that they take; fewer than the pages have when they are compressed.
    length: u32,
}

impl Block {
    /// Bytes of its pages.
    fn content(self) -> usize {
        self.pages as usize * PAGE_SIZE
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

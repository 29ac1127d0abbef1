//! Which pages of a base a guest used, so that they can be read ahead of the next one: after a reboot the
//! page cache is empty, and a guest that faults its pages in one by one waits for the disk each time.
//!
//! A hint and nothing more: without it, or with a wrong one, everything works, slower. It is kept beside a
//! base (what `/validate` touched) and beside a suspension (what that machine touched), one run a line:
//! number of the first page, count.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::path::Path;

use rustix::fs::{Advice, fadvise};

use crate::delta::PAGE_SIZE;
use crate::snapshot::remove_if_there;

/// Its file in a snapshot's directory.
pub(crate) const WORKING_SET: &str = "working-set";

/// Pages between two runs that are read with them: asking twice costs as much as reading these.
const GAP: u64 = 16;

/// Longest file that is read, bytes.
const MOST: u64 = 1024 * 1024;

/// Consecutive pages: number of the first, count.
pub(crate) type PageRun = (u64, u64);

/// Writes the pages beside a snapshot, in place of what was there.
pub(crate) fn write(directory: &Path, runs: &[PageRun]) -> io::Result<()> {
    let mut text = String::new();
    for (first, count) in joined(runs) {
        let _ = writeln!(text, "{first} {count}");
    }
    let path = directory.join(WORKING_SET);
    // Never in place: the file may have another name, of a suspension that is kept.
    remove_if_there(&path)?;
    fs::write(path, text)
}

/// Has the kernel read what a machine of `base` will need, and its suspension where it has one. Returns
/// when the reads are on their way, not when they are done.
pub(crate) fn read_ahead(base: &File, base_directory: &Path, suspension: Option<&Path>) {
    let own = suspension.and_then(read);
    for (first, count) in own.or_else(|| read(base_directory)).unwrap_or_default() {
        let page = PAGE_SIZE as u64;
        if let (Some(offset), Some(length)) = (first.checked_mul(page), count.checked_mul(page)) {
            advise(base, offset, NonZeroU64::new(length));
        }
    }
}

/// Has the kernel read a whole file.
pub(crate) fn read_file_ahead(path: &Path) {
    if let Ok(file) = File::open(path) {
        advise(&file, 0, None);
    }
}

fn advise(file: &File, offset: u64, length: Option<NonZeroU64>) {
    // A hint: a file system that does not take it reads later.
    let _ = fadvise(file, offset, length, Advice::WillNeed);
}

fn read(directory: &Path) -> Option<Vec<PageRun>> {
    let mut text = String::new();
    let file = File::open(directory.join(WORKING_SET)).ok()?;
    file.take(MOST).read_to_string(&mut text).ok()?;
    text.lines().map(parse).collect()
}

fn parse(line: &str) -> Option<PageRun> {
    let (first, count) = line.split_once(' ')?;
    Some((first.parse().ok()?, count.parse().ok()?))
}

fn joined(runs: &[PageRun]) -> Vec<PageRun> {
    let mut joined: Vec<PageRun> = Vec::new();
    for &(first, count) in runs {
        match joined.last_mut() {
            Some((start, length)) if first <= *start + *length + GAP => {
                *length = first + count - *start;
            }
            _ => joined.push((first, count)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::{WORKING_SET, read, write};

    #[test]
    fn pages_come_back_with_small_gaps_closed_and_a_broken_file_is_none() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path()), None);
        write(directory.path(), &[(0, 3), (10, 2), (100, 1), (400, 50)]).unwrap();
        let expected = vec![(0, 12), (100, 1), (400, 50)];
        assert_eq!(read(directory.path()), Some(expected));
        std::fs::write(directory.path().join(WORKING_SET), "1 2\nnonsense").unwrap();
        assert_eq!(read(directory.path()), None);
    }
}

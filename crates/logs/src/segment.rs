//! One file of a stream, and reading events out of the middle of it without reading all of it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::event::{Event, Position, read_line};
use crate::line::LARGEST_MESSAGE_BYTES;

const SUFFIX: &str = ".log";

/// Bytes of a first look.
const WINDOW: u64 = 64 * 1024;

/// Bytes that hold a whole line for certain: JSON makes at most six bytes of one (`\u0000`), and the
/// window may begin in the middle of a line.
const LARGEST_WINDOW: u64 = 2 * (6 * LARGEST_MESSAGE_BYTES as u64 + 128);

/// A closed or growing file of events.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    /// Where it begins in the stream; also its name.
    pub(crate) start: Position,
}

impl Segment {
    pub(crate) fn new(directory: &Path, start: Position) -> Self {
        Self {
            path: directory.join(format!("{start:020}{SUFFIX}")),
            start,
        }
    }

    /// The segments of a stream, in order.
    pub(crate) fn list(directory: &Path) -> io::Result<Vec<Self>> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(directory)? {
            let name = entry?.file_name();
            let start = name
                .to_str()
                .and_then(|name| name.strip_suffix(SUFFIX)?.parse().ok());
            segments.extend(start.map(|start| Self::new(directory, start)));
        }
        segments.sort_by_key(|segment| segment.start);
        Ok(segments)
    }

    /// All bytes; none when the segment was dropped meanwhile.
    pub(crate) fn read(&self) -> io::Result<Vec<u8>> {
        self.window(0, u64::MAX)
    }

    pub(crate) fn length(&self) -> u64 {
        self.path.metadata().map_or(0, |found| found.len())
    }

    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn window(&self, offset: u64, bytes: u64) -> io::Result<Vec<u8>> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened?,
        };
        file.seek(SeekFrom::Start(offset))?;
        let mut read = Vec::new();
        file.take(bytes).read_to_end(&mut read)?;
        Ok(read)
    }

    /// Events from a position on that is the beginning of one, or before the segment.
    pub(crate) fn events_from(&self, from: Position) -> io::Result<Vec<Event>> {
        let offset = from.saturating_sub(self.start);
        let mut bytes = self.window(offset, WINDOW)?;
        if whole_lines(&bytes).is_empty() && bytes.len() as u64 == WINDOW {
            bytes = self.window(offset, LARGEST_WINDOW)?;
        }
        Ok(events(&bytes, self.start + offset))
    }

    /// Events before a position that is the beginning of one, or after the segment.
    pub(crate) fn events_until(&self, until: Position) -> io::Result<Vec<Event>> {
        let end = (until - self.start).min(self.length());
        for size in [WINDOW, LARGEST_WINDOW] {
            let offset = end.saturating_sub(size);
            let bytes = self.window(offset, end - offset)?;
            // What comes before the first line's end belongs to a line that began before.
            let skipped = match (offset, bytes.iter().position(|byte| *byte == b'\n')) {
                (0, _) => 0,
                (_, Some(end)) => end + 1,
                (_, None) => bytes.len(),
            };
            let events = events(&bytes[skipped..], self.start + offset + skipped as u64);
            if !events.is_empty() || offset == 0 {
                return Ok(events);
            }
        }
        Ok(Vec::new())
    }

    pub(crate) fn last_event(&self) -> io::Result<Option<Event>> {
        Ok(self.events_until(Position::MAX)?.pop())
    }
}

/// Up to the last line's end: what follows is torn, or still being written.
pub(crate) fn whole_lines(bytes: &[u8]) -> &[u8] {
    let end = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |last| last + 1);
    &bytes[..end]
}

fn events(bytes: &[u8], start: Position) -> Vec<Event> {
    let mut position = start;
    let mut events = Vec::new();
    for line in whole_lines(bytes).split_inclusive(|byte| *byte == b'\n') {
        events.extend(
            line.strip_suffix(b"\n")
                .and_then(|line| read_line(line, position)),
        );
        position += line.len() as u64;
    }
    events
}

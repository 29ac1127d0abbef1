//! The files of one stream: segments, each named after the position at which it begins, the last one
//! growing. Calls wait for the disk.
//!
//! Whole lines are appended in one write and nothing is synced: after a crash of the daemon all is
//! there; after a power cut the end may be missing or torn. A torn end is cut off before the next
//! append and never read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::event::{Event, Position, write_line};
use crate::name::StreamName;
use crate::segment::{Segment, whole_lines};

/// In how many steps the oldest part of a full stream is dropped.
const SEGMENTS: u64 = 8;

/// Largest segment, bytes, whatever the stream's bound: reading one page looks at one segment.
const LARGEST_SEGMENT_BYTES: u64 = 8 * 1024 * 1024;

/// `stream.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StreamRecord {
    pub(crate) name: StreamName,
    /// Milliseconds since 1970.
    pub(crate) created_ms: i64,
}

/// A stream's files.
#[derive(Debug)]
pub(crate) struct StreamFiles {
    directory: PathBuf,
    pub(crate) record: StreamRecord,
    /// Bytes that the stream may have.
    bound: u64,
    tail: Mutex<Option<Tail>>,
}

/// The open end of a stream.
#[derive(Debug)]
struct Tail {
    file: File,
    start: Position,
    length: u64,
    last_ms: i64,
}

impl StreamFiles {
    pub(crate) fn create(directory: PathBuf, record: StreamRecord, bound: u64) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        let unfinished = directory.join(".stream.json");
        fs::write(&unfinished, serde_json::to_vec(&record)?)?;
        fs::rename(&unfinished, directory.join("stream.json"))?;
        Ok(Self {
            directory,
            record,
            bound,
            tail: Mutex::new(None),
        })
    }

    /// `None` when the directory holds no stream.
    pub(crate) fn open(directory: PathBuf, bound: u64) -> Option<Self> {
        let record = serde_json::from_slice(&fs::read(directory.join("stream.json")).ok()?).ok()?;
        Some(Self {
            directory,
            record,
            bound,
            tail: Mutex::new(None),
        })
    }

    fn tail(&self) -> MutexGuard<'_, Option<Tail>> {
        // After a panic the tail is opened anew.
        self.tail.lock().unwrap_or_else(|poisoned: PoisonError<_>| {
            let mut tail = poisoned.into_inner();
            *tail = None;
            tail
        })
    }

    /// Appends events (timestamp, message).
    pub(crate) fn append(&self, events: &[(i64, String)], now_ms: i64) -> io::Result<()> {
        let mut guard = self.tail();
        let tail = match guard.take() {
            Some(tail) => tail,
            None => self.open_tail()?,
        };
        let mut tail = self.rotate(tail)?;
        let mut buffer = Vec::new();
        for (timestamp_ms, message) in events {
            tail.last_ms = tail.last_ms.max(*timestamp_ms);
            write_line(&mut buffer, tail.last_ms, now_ms, message);
            if tail.length + buffer.len() as u64 >= self.segment_bytes() {
                tail = self.write(tail, &buffer)?;
                buffer.clear();
                tail = self.rotate(tail)?;
            }
        }
        *guard = Some(self.write(tail, &buffer)?);
        Ok(())
    }

    /// A write that fails half-way leaves a torn line: the tail is dropped, and opening it again cuts
    /// that line off.
    fn write(&self, mut tail: Tail, buffer: &[u8]) -> io::Result<Tail> {
        tail.file.write_all(buffer)?;
        tail.length += buffer.len() as u64;
        Ok(tail)
    }

    /// Nobody writes for now.
    pub(crate) fn close(&self) {
        *self.tail() = None;
    }

    fn segment_bytes(&self) -> u64 {
        (self.bound / SEGMENTS).clamp(1, LARGEST_SEGMENT_BYTES)
    }

    fn segments(&self) -> io::Result<Vec<Segment>> {
        Segment::list(&self.directory)
    }

    fn open_tail(&self) -> io::Result<Tail> {
        let segments = self.segments()?;
        let last = segments
            .last()
            .cloned()
            .unwrap_or_else(|| Segment::new(&self.directory, 0));
        let bytes = last.read()?;
        let whole = whole_lines(&bytes);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&last.path)?;
        if whole.len() < bytes.len() {
            file.set_len(whole.len() as u64)?;
        }
        let last_ms = self.bounds_ms()?.map_or(i64::MIN, |(_, last)| last);
        Ok(Tail {
            file,
            start: last.start,
            length: whole.len() as u64,
            last_ms,
        })
    }

    /// Begins a new segment when this one is full, and drops the oldest ones when the stream is.
    fn rotate(&self, tail: Tail) -> io::Result<Tail> {
        if tail.length < self.segment_bytes() {
            return Ok(tail);
        }
        let next = Segment::new(&self.directory, tail.start + tail.length);
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(&next.path)?;
        let rotated = Tail {
            file,
            start: next.start,
            length: 0,
            last_ms: tail.last_ms,
        };
        let oldest_kept = next
            .start
            .saturating_sub(self.bound.saturating_sub(self.segment_bytes()));
        let segments = self.segments()?;
        for pair in segments
            .windows(2)
            .filter(|pair| pair[1].start <= oldest_kept)
        {
            pair[0].remove()?;
        }
        Ok(rotated)
    }

    /// Drops segments all of whose events are older. Says whether no event is left.
    pub(crate) fn expire(&self, before_ms: i64) -> io::Result<bool> {
        let guard = self.tail();
        let segments = self.segments()?;
        for (index, segment) in segments.iter().enumerate() {
            let growing = guard
                .as_ref()
                .is_some_and(|tail| tail.start == segment.start);
            let expired = segment
                .last_event()?
                .is_none_or(|last| last.timestamp_ms < before_ms);
            if growing || !expired {
                return Ok(false);
            }
            if index + 1 == segments.len() {
                return self.empty(segment).map(|()| true);
            }
            segment.remove()?;
        }
        Ok(true)
    }

    /// Drops the last segment, and leaves an empty one to remember where it ended: positions are
    /// never used twice.
    fn empty(&self, last: &Segment) -> io::Result<()> {
        let length = last.read()?.len() as u64;
        if length == 0 {
            return Ok(());
        }
        File::create(Segment::new(&self.directory, last.start + length).path)?;
        last.remove()
    }

    /// Bytes on disk.
    pub(crate) fn stored_bytes(&self) -> io::Result<u64> {
        Ok(self.segments()?.iter().map(Segment::length).sum())
    }

    /// Timestamps of the first and the last event.
    pub(crate) fn bounds_ms(&self) -> io::Result<Option<(i64, i64)>> {
        let first = self.read_from(0)?.first().map(|event| event.timestamp_ms);
        let last = self.last_event()?.map(|event| event.timestamp_ms);
        Ok(first.zip(last))
    }

    pub(crate) fn last_event(&self) -> io::Result<Option<Event>> {
        for segment in self.segments()?.iter().rev() {
            if let Some(last) = segment.last_event()? {
                return Ok(Some(last));
            }
        }
        Ok(None)
    }

    /// Where the next event will begin.
    pub(crate) fn end(&self) -> io::Result<Position> {
        let last = self.segments()?.pop();
        last.map_or(Ok(0), |last| {
            Ok(last.start + whole_lines(&last.read()?).len() as u64)
        })
    }

    /// Some events from `from` on. Empty only at the end of the stream.
    pub(crate) fn read_from(&self, from: Position) -> io::Result<Vec<Event>> {
        let segments = self.segments()?;
        let first = segments
            .partition_point(|segment| segment.start <= from)
            .saturating_sub(1);
        for segment in segments.iter().skip(first) {
            let events = segment.events_from(from)?;
            if !events.is_empty() {
                return Ok(events);
            }
        }
        Ok(Vec::new())
    }

    /// Some events before `until`, in the order of time. Empty only at the beginning of the stream.
    pub(crate) fn read_until(&self, until: Position) -> io::Result<Vec<Event>> {
        let segments = self.segments()?;
        let end = segments.partition_point(|segment| segment.start < until);
        for segment in segments[..end].iter().rev() {
            let events = segment.events_until(until)?;
            if !events.is_empty() {
                return Ok(events);
            }
        }
        Ok(Vec::new())
    }

    /// Where the first event at or after a time begins; the end of the stream when there is none.
    pub(crate) fn seek(&self, timestamp_ms: i64) -> io::Result<Position> {
        let mut position = self.seek_segment(timestamp_ms)?;
        loop {
            let events = self.read_from(position)?;
            let Some(last) = events.last() else {
                return self.end();
            };
            if last.timestamp_ms >= timestamp_ms {
                let first = events
                    .iter()
                    .find(|event| event.timestamp_ms >= timestamp_ms);
                return Ok(first.map_or(position, |event| event.position));
            }
            position = last.next;
        }
    }

    fn seek_segment(&self, timestamp_ms: i64) -> io::Result<Position> {
        let segments = self.segments()?;
        for segment in &segments {
            if segment
                .last_event()?
                .is_some_and(|last| last.timestamp_ms >= timestamp_ms)
            {
                return Ok(segment.start);
            }
        }
        self.end()
    }
}

#[cfg(test)]
mod tests;

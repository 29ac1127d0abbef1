//! One log event, in memory and on disk. On disk it is a line of JSON, so that a torn write shows: a
//! line without an end is no event.

use serde::{Deserialize, Serialize};

use crate::name::StreamName;

/// Where an event begins in its stream: bytes since the stream's beginning. It stays the same when
/// older events are dropped.
pub(crate) type Position = u64;

/// A log event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When it happened, milliseconds since 1970 (UTC). Never less than that of the event before it
    /// in the same stream.
    pub timestamp_ms: i64,
    /// When it was taken in, milliseconds since 1970 (UTC).
    pub ingestion_ms: i64,
    /// What was logged.
    pub message: String,
    /// Where it begins.
    pub(crate) position: Position,
    /// Where the next one begins.
    pub(crate) next: Position,
}

impl Event {
    /// An id that is unique in the group of the event's stream and stays: time, stream, position. As
    /// long as CloudWatch's; whoever polls a group tells events apart by it.
    #[must_use]
    pub fn id(&self, stream: &StreamName) -> String {
        let hash = blake3::hash(stream.as_str().as_bytes());
        let mut head = [0; 8];
        head.copy_from_slice(&hash.as_bytes()[..8]);
        let (time, stream) = (self.timestamp_ms.max(0), u64::from_be_bytes(head));
        format!("{time:016}{stream:020}{:020}", self.position)
    }

    /// Bytes that CloudWatch counts for it: the message and 26.
    pub(crate) fn counted_bytes(&self) -> usize {
        self.message.len() + 26
    }
}

/// The line on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Line<'a> {
    /// Timestamp.
    t: i64,
    /// Ingestion time.
    i: i64,
    /// Message.
    #[serde(borrow)]
    m: std::borrow::Cow<'a, str>,
}

/// Appends an event's line to `buffer`.
pub(crate) fn write_line(
    buffer: &mut Vec<u8>,
    timestamp_ms: i64,
    ingestion_ms: i64,
    message: &str,
) {
    let line = Line {
        t: timestamp_ms,
        i: ingestion_ms,
        m: message.into(),
    };
    // Writing to memory cannot fail, and neither can any of the three members.
    if serde_json::to_writer(&mut *buffer, &line).is_ok() {
        buffer.push(b'\n');
    }
}

/// The event of a line without its end; `None` when the line is damaged.
pub(crate) fn read_line(line: &[u8], position: Position) -> Option<Event> {
    let parsed: Line<'_> = serde_json::from_slice(line).ok()?;
    Some(Event {
        timestamp_ms: parsed.t,
        ingestion_ms: parsed.i,
        message: parsed.m.into_owned(),
        position,
        next: position + line.len() as u64 + 1,
    })
}

//! Reading the streams of a group together, in the order of time (FilterLogEvents, `logs tail`).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::error::LogsError;
use crate::event::{Event, Position};
use crate::group::{Group, Stream};
use crate::name::StreamName;
use crate::read::{LARGEST_PAGE, PAGE_BYTES};

/// Events looked at for one page; after that the page ends, perhaps empty, with a token to go on.
const SCANNED: usize = 100_000;

/// What of a group to read.
pub struct Filter<'a> {
    /// Which streams.
    pub streams: Streams,
    /// Only events at or after this time, milliseconds since 1970.
    pub start_ms: Option<i64>,
    /// Only events before this time, milliseconds since 1970.
    pub end_ms: Option<i64>,
    /// Only messages for which this is true.
    pub matches: &'a dyn Fn(&str) -> bool,
    /// The most events; [`LARGEST_PAGE`] at most.
    pub limit: usize,
    /// Where an earlier page ended.
    pub token: Option<FilterToken>,
}

/// Which streams of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Streams {
    /// Every one.
    All,
    /// These, as far as they exist.
    Named(Vec<StreamName>),
    /// Those whose name begins so.
    Prefix(String),
}

impl Streams {
    fn contains(&self, name: &StreamName) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(name),
            Self::Prefix(prefix) => name.as_str().starts_with(prefix.as_str()),
        }
    }
}

/// The event with which the next page begins. As text it is opaque to clients.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FilterToken {
    timestamp_ms: i64,
    stream: StreamName,
    position: Position,
}

impl fmt::Display for FilterToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_vec(self).map_err(|_| fmt::Error)?;
        f.write_str(&URL_SAFE_NO_PAD.encode(json))
    }
}

impl FromStr for FilterToken {
    type Err = LogsError;

    fn from_str(text: &str) -> Result<Self, LogsError> {
        let json = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| LogsError::InvalidToken)?;
        serde_json::from_slice(&json).map_err(|_| LogsError::InvalidToken)
    }
}

/// Part of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterPage {
    /// In the order of time, with the streams that they are of.
    pub events: Vec<(StreamName, Event)>,
    /// For what comes after; `None` when all there is has been looked at.
    pub next: Option<FilterToken>,
}

pub(crate) fn page(group: &Group, filter: &Filter<'_>) -> io::Result<FilterPage> {
    let mut merge = Merge::open(group, filter)?;
    let limit = filter.limit.clamp(1, LARGEST_PAGE);
    let mut events: Vec<(StreamName, Event)> = Vec::new();
    let mut bytes = 0;
    for _ in 0..SCANNED {
        let Some(token) = merge.peek() else {
            return Ok(FilterPage { events, next: None });
        };
        let Some((name, event)) = merge.pop()? else {
            break;
        };
        if !(filter.matches)(&event.message) {
            continue;
        }
        let size = event.counted_bytes();
        if events.len() >= limit || (bytes + size > PAGE_BYTES && !events.is_empty()) {
            return Ok(FilterPage {
                events,
                next: Some(token),
            });
        }
        bytes += size;
        events.push((name, event));
    }
    Ok(FilterPage {
        events,
        next: merge.peek(),
    })
}

/// One stream on the way.
struct Cursor {
    stream: Arc<Stream>,
    held: VecDeque<Event>,
    next: Position,
}

impl Cursor {
    fn name(&self) -> &StreamName {
        &self.stream.files.record.name
    }

    fn refill(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            self.held = self.stream.files.read_from(self.next)?.into();
            self.next = self.held.back().map_or(self.next, |event| event.next);
        }
        Ok(())
    }
}

/// Several streams as one.
struct Merge {
    cursors: Vec<Cursor>,
    heads: BinaryHeap<Reverse<(FilterToken, usize)>>,
    end_ms: i64,
}

impl Merge {
    fn open(group: &Group, filter: &Filter<'_>) -> io::Result<Self> {
        let mut merge = Self {
            cursors: Vec::new(),
            heads: BinaryHeap::new(),
            end_ms: filter.end_ms.unwrap_or(i64::MAX),
        };
        let token_ms = filter
            .token
            .as_ref()
            .map_or(i64::MIN, |token| token.timestamp_ms);
        let start_ms = filter.start_ms.unwrap_or(i64::MIN).max(token_ms);
        for stream in group.streams() {
            if filter.streams.contains(&stream.files.record.name) {
                merge.add(stream, start_ms, filter.token.as_ref())?;
            }
        }
        Ok(merge)
    }

    fn add(
        &mut self,
        stream: Arc<Stream>,
        start_ms: i64,
        token: Option<&FilterToken>,
    ) -> io::Result<()> {
        let last = stream.files.last_event()?;
        if last.is_none_or(|last| last.timestamp_ms < start_ms) {
            return Ok(());
        }
        let next = stream.files.seek(start_ms)?;
        let mut cursor = Cursor {
            stream,
            held: VecDeque::new(),
            next,
        };
        // Of the events of the token's time, those before it have been given.
        loop {
            cursor.refill()?;
            let Some(event) = cursor.held.front() else {
                return Ok(());
            };
            let key = (event.timestamp_ms, cursor.name(), event.position);
            if token.is_none_or(|t| (t.timestamp_ms, &t.stream, t.position) <= key) {
                break;
            }
            cursor.held.pop_front();
        }
        self.cursors.push(cursor);
        self.push_head(self.cursors.len() - 1);
        Ok(())
    }

    fn push_head(&mut self, index: usize) {
        let cursor = &self.cursors[index];
        let Some(event) = cursor.held.front() else {
            return;
        };
        if event.timestamp_ms < self.end_ms {
            let token = FilterToken {
                timestamp_ms: event.timestamp_ms,
                stream: cursor.name().clone(),
                position: event.position,
            };
            self.heads.push(Reverse((token, index)));
        }
    }

    /// What the next event is.
    fn peek(&self) -> Option<FilterToken> {
        self.heads.peek().map(|Reverse((token, _))| token.clone())
    }

    fn pop(&mut self) -> io::Result<Option<(StreamName, Event)>> {
        let Some(Reverse((token, index))) = self.heads.pop() else {
            return Ok(None);
        };
        let cursor = &mut self.cursors[index];
        let event = cursor.held.pop_front();
        cursor.refill()?;
        self.push_head(index);
        Ok(event.map(|event| (token.stream, event)))
    }
}

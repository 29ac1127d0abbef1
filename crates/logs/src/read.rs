//! Reading one stream, page by page (GetLogEvents).

use std::io;
use std::str::FromStr;

use crate::error::LogsError;
use crate::event::{Event, Position};
use crate::stream::StreamFiles;

/// Largest page, bytes. CloudWatch: "as many log events as can fit in a response size of 1 MB".
pub(crate) const PAGE_BYTES: usize = 1024 * 1024;

/// Largest page, events. CloudWatch: "up to 10,000 log events".
pub const LARGEST_PAGE: usize = 10_000;

/// What of a stream to read.
#[derive(Debug, Clone)]
pub struct Query {
    /// Where to begin, and in which direction.
    pub from: From,
    /// Only events at or after this time, milliseconds since 1970.
    pub start_ms: Option<i64>,
    /// Only events before this time, milliseconds since 1970.
    pub end_ms: Option<i64>,
    /// The most events; [`LARGEST_PAGE`] at most.
    pub limit: usize,
}

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// At the oldest event, going forward.
    Oldest,
    /// At the newest event, going back.
    Newest,
    /// Where an earlier page ended.
    Token(Token),
}

/// Where a page ended. It stays good for as long as the stream is there. As text it is opaque to
/// clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// Goes on with newer events.
    Forward(u64),
    /// Goes on with older events.
    Backward(u64),
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Forward(position) => write!(f, "f/{position:056}"),
            Self::Backward(position) => write!(f, "b/{position:056}"),
        }
    }
}

impl FromStr for Token {
    type Err = LogsError;

    fn from_str(text: &str) -> Result<Self, LogsError> {
        let (direction, position) = text.split_once('/').ok_or(LogsError::InvalidToken)?;
        let digits = position.len() == 56 && position.bytes().all(|byte| byte.is_ascii_digit());
        let position = position
            .parse()
            .ok()
            .filter(|_| digits)
            .ok_or(LogsError::InvalidToken)?;
        match direction {
            "f" => Ok(Self::Forward(position)),
            "b" => Ok(Self::Backward(position)),
            _ => Err(LogsError::InvalidToken),
        }
    }
}

/// Part of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In the order of time.
    pub events: Vec<Event>,
    /// For what comes after. The same token as was given means: nothing yet.
    pub forward: Token,
    /// For what came before. The same token as was given means: nothing.
    pub backward: Token,
}

pub(crate) fn page(files: &StreamFiles, query: &Query) -> io::Result<Page> {
    let limit = query.limit.clamp(1, LARGEST_PAGE);
    match query.from {
        From::Oldest => forward(files, query, 0, limit),
        From::Token(Token::Forward(position)) => forward(files, query, position, limit),
        From::Token(Token::Backward(position)) => backward(files, query, position, limit),
        From::Newest => {
            let end = files.end()?;
            backward(files, query, end, limit)
        }
    }
}

fn forward(files: &StreamFiles, query: &Query, given: Position, limit: usize) -> io::Result<Page> {
    let start = query
        .start_ms
        .map(|start| files.seek(start))
        .transpose()?
        .unwrap_or(0);
    let mut position = given.max(start);
    let mut page = Room::new(limit);
    'reading: loop {
        let events = files.read_from(position)?;
        if events.is_empty() {
            break;
        }
        for event in events {
            if query.end_ms.is_some_and(|end| event.timestamp_ms >= end) || !page.fits(&event) {
                break 'reading;
            }
            position = event.next;
            page.take(event);
        }
    }
    Ok(finish(page.events, given))
}

fn backward(files: &StreamFiles, query: &Query, given: Position, limit: usize) -> io::Result<Page> {
    let end = query
        .end_ms
        .map(|end| files.seek(end))
        .transpose()?
        .unwrap_or(Position::MAX);
    let mut position = given.min(end);
    let mut page = Room::new(limit);
    'reading: loop {
        let events = files.read_until(position)?;
        if events.is_empty() {
            break;
        }
        for event in events.into_iter().rev() {
            if query
                .start_ms
                .is_some_and(|start| event.timestamp_ms < start)
                || !page.fits(&event)
            {
                break 'reading;
            }
            position = event.position;
            page.take(event);
        }
    }
    page.events.reverse();
    Ok(finish(page.events, given))
}

fn finish(events: Vec<Event>, given: Position) -> Page {
    let forward = events.last().map_or(given, |event| event.next);
    let backward = events.first().map_or(given, |event| event.position);
    Page {
        events,
        forward: Token::Forward(forward),
        backward: Token::Backward(backward),
    }
}

/// What still fits on a page.
pub(crate) struct Room {
    pub(crate) events: Vec<Event>,
    limit: usize,
    bytes: usize,
}

impl Room {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            events: Vec::new(),
            limit,
            bytes: 0,
        }
    }

    /// One event always does.
    pub(crate) fn fits(&self, event: &Event) -> bool {
        self.events.is_empty()
            || (self.events.len() < self.limit && self.bytes + event.counted_bytes() <= PAGE_BYTES)
    }

    pub(crate) fn take(&mut self, event: Event) {
        self.bytes += event.counted_bytes();
        self.events.push(event);
    }
}

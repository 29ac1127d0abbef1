//! The application's output on its way to the log: bytes into lines, lines into events.

use std::sync::Arc;

use async_trait::async_trait;

use crate::actor::Actor;
use crate::clock::Clock;
use crate::control::Shared;
use crate::documents::LogTarget;

/// Longest line, bytes; a longer one is cut into several (CloudWatch's bound of an event is 256 KiB).
const MAX_LINE: usize = 64 * 1024;

/// Takes lines of output. Failures are the sink's to report: output never holds a MicroVM up.
#[async_trait]
pub trait LogSink: Send + Sync + 'static {
    /// Appends events, each with its time in milliseconds since the Unix epoch, making group and stream as
    /// needed.
    async fn append(&self, group: &str, stream: &str, events: Vec<(i64, String)>);
}

/// One MicroVM's output.
pub(crate) struct Output {
    sink: Arc<dyn LogSink>,
    clock: Clock,
    target: Option<LogTarget>,
    /// The line that has not ended.
    rest: Vec<u8>,
}

impl Actor {
    pub(crate) fn output(&self) -> Output {
        Output {
            sink: Arc::clone(&self.shared.logs),
            clock: self.shared.clock.clone(),
            target: self.settings.log.clone(),
            rest: Vec::new(),
        }
    }
}

impl Output {
    /// Of a machine that is nobody's yet.
    pub(crate) fn nowhere(shared: &Shared) -> Self {
        Self {
            sink: Arc::clone(&shared.logs),
            clock: shared.clock.clone(),
            target: None,
            rest: Vec::new(),
        }
    }

    /// Takes bytes of the application's output.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        if self.target.is_none() {
            return;
        }
        self.rest.extend_from_slice(bytes);
        let lines = whole_lines(&mut self.rest);
        self.append(lines).await;
    }

    /// The output pauses or has ended: a line without an end is one.
    pub(crate) async fn flush(&mut self) {
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() {
            self.append(vec![String::from_utf8_lossy(&rest).into_owned()])
                .await;
        }
    }

    /// Output was lost on the way.
    pub(crate) async fn note_dropped(&mut self, bytes: u64) {
        self.append(vec![format!("[{bytes} bytes of output were dropped]")])
            .await;
    }

    async fn append(&self, lines: Vec<String>) {
        let Some(target) = self.target.as_ref().filter(|_| !lines.is_empty()) else {
            return;
        };
        let now = self.clock.now();
        let events = lines.into_iter().map(|line| (now, line)).collect();
        self.sink
            .append(&target.group, &target.stream, events)
            .await;
    }
}

/// Takes the whole lines out of `bytes`, and as much of an endless one as makes a line.
fn whole_lines(bytes: &mut Vec<u8>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut begin = 0;
    loop {
        let open = &bytes[begin..];
        let end = open.iter().take(MAX_LINE).position(|byte| *byte == b'\n');
        let (length, skipped) = match end {
            Some(end) => (end, 1),
            None if open.len() >= MAX_LINE => (MAX_LINE, 0),
            None => break,
        };
        let line = open[..length]
            .strip_suffix(b"\r")
            .unwrap_or(&open[..length]);
        lines.push(String::from_utf8_lossy(line).into_owned());
        begin += length + skipped;
    }
    bytes.drain(..begin);
    lines
}

#[cfg(test)]
mod tests {
    use super::{MAX_LINE, whole_lines};

    #[test]
    fn lines_are_whole_whatever_the_pieces() {
        let mut bytes = b"one\r\ntwo\nthr".to_vec();
        assert_eq!(whole_lines(&mut bytes), ["one", "two"]);
        bytes.extend_from_slice(b"ee\n");
        assert_eq!(whole_lines(&mut bytes), ["three"]);
        assert!(bytes.is_empty());
    }

    #[test]
    fn an_endless_line_is_cut() {
        let mut bytes = vec![b'x'; MAX_LINE * 2 + 1];
        assert_eq!(whole_lines(&mut bytes).len(), 2);
        assert_eq!(bytes.len(), 1);
    }
}

//! Where a build's lines go, and how bytes become lines. Not how they are stored: the log crate's.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use colibri_logs::{GroupName, LogWriter, Logs, StreamName};

/// Longest line passed on, bytes; a longer one is cut into several. Bounds what a hostile build or
/// application makes the daemon hold.
pub const MAX_LINE: usize = 16 * 1024;

/// One log stream, open for appending. A call neither blocks for long nor fails: a log that cannot
/// be written is the log's own affair and never fails a build.
pub trait BuildLog: Send + Sync {
    /// Appends whole lines, one or more, the last without its end.
    fn append(&self, lines: &str);
}

/// Opens log streams.
pub trait BuildLogs: Send + Sync + 'static {
    /// The stream `stream` of the group `group`; created when missing.
    fn open(&self, group: &str, stream: &str) -> Arc<dyn BuildLog>;
}

/// The daemon's own logs.
impl BuildLogs for Logs {
    fn open(&self, group: &str, stream: &str) -> Arc<dyn BuildLog> {
        match writer(self, group, stream) {
            Ok(writer) => Arc::new(writer),
            Err(error) => {
                tracing::warn!(
                    group,
                    stream,
                    error,
                    "a build goes on without its log stream"
                );
                Arc::new(Discarded)
            }
        }
    }
}

fn writer(logs: &Logs, group: &str, stream: &str) -> Result<LogWriter, String> {
    let group = GroupName::parse(group).map_err(|error| error.to_string())?;
    let stream = StreamName::parse(stream).map_err(|error| error.to_string())?;
    logs.writer(&group, &stream)
        .map_err(|error| error.to_string())
}

/// Never waits: a log that cannot keep up loses lines and says how many.
impl BuildLog for LogWriter {
    fn append(&self, lines: &str) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.offer(i64::try_from(now.as_millis()).unwrap_or(i64::MAX), lines);
    }
}

/// A log that nobody reads: logging is disabled.
#[derive(Debug, Clone, Copy)]
pub struct Discarded;

impl BuildLog for Discarded {
    fn append(&self, _lines: &str) {}
}

impl BuildLogs for Discarded {
    fn open(&self, _group: &str, _stream: &str) -> Arc<dyn BuildLog> {
        Arc::new(Self)
    }
}

/// Lines that arrived together, appended to a log together: its queue counts appends.
#[derive(Debug, Default)]
pub(crate) struct Together {
    lines: String,
}

impl Together {
    /// Adds a line.
    pub(crate) fn add(&mut self, line: &str) {
        if !self.lines.is_empty() {
            self.lines.push('\n');
        }
        self.lines.push_str(line);
    }

    /// Appends what was added, if anything.
    pub(crate) fn append_to(&mut self, log: &dyn BuildLog) {
        if !self.lines.is_empty() {
            log.append(&std::mem::take(&mut self.lines));
        }
    }
}

/// Cuts a byte stream into lines of at most [`MAX_LINE`] bytes.
#[derive(Debug, Default)]
pub(crate) struct LineSplitter {
    pending: Vec<u8>,
}

impl LineSplitter {
    /// Takes bytes and hands each line that they complete to `line`. Bytes that are not UTF-8 become
    /// replacement characters; a carriage return before the end is dropped.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(&str)) {
        while !bytes.is_empty() {
            let room = MAX_LINE - self.pending.len();
            let end = bytes.iter().take(room).position(|byte| *byte == b'\n');
            let taken = end.unwrap_or_else(|| bytes.len().min(room));
            self.pending.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken + usize::from(end.is_some())..];
            if end.is_some() || self.pending.len() == MAX_LINE {
                self.flush(&mut line);
            }
        }
    }

    /// Hands over the unfinished last line, if there is one.
    pub(crate) fn finish(&mut self, mut line: impl FnMut(&str)) {
        if !self.pending.is_empty() {
            self.flush(&mut line);
        }
    }

    fn flush(&mut self, line: &mut impl FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.pending);
        line(text.strip_suffix('\r').unwrap_or(&text));
        self.pending.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{LineSplitter, MAX_LINE};

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let (mut splitter, mut lines) = (LineSplitter::default(), Vec::new());
        for chunk in chunks {
            splitter.push(chunk, |line| lines.push(line.to_owned()));
        }
        splitter.finish(|line| lines.push(line.to_owned()));
        lines
    }

    #[test]
    fn lines_are_whole_however_the_bytes_arrive() {
        assert_eq!(
            lines(&[b"one\ntw", b"o\r\n\nthr", b"ee"]),
            ["one", "two", "", "three"]
        );
    }

    #[test]
    fn a_line_without_end_is_cut_and_never_held_whole() {
        let endless = vec![b'x'; 3 * MAX_LINE + 1];
        let lengths: Vec<usize> = lines(&[&endless]).iter().map(String::len).collect();
        assert_eq!(lengths, [MAX_LINE, MAX_LINE, MAX_LINE, 1]);
    }
}

//! Raw bytes to log messages: one message per line, none larger than CloudWatch takes, always text.

/// Largest message, bytes. CloudWatch Logs quotas: "Event size: 256 KB (maximum)".
pub const LARGEST_MESSAGE_BYTES: usize = 256 * 1024;

/// Cuts a stream of bytes into messages. A line that is too long becomes several; the end of a line
/// (`\n` or `\r\n`) is left out, and so are empty lines, which CloudWatch does not take.
#[derive(Debug, Default)]
pub(crate) struct LineSplitter {
    partial: Vec<u8>,
}

impl LineSplitter {
    /// The messages that `bytes` complete.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Vec<String> {
        let mut messages = Vec::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.fill(&bytes[..end], &mut messages);
            self.end_line(&mut messages);
            bytes = &bytes[end + 1..];
        }
        self.fill(bytes, &mut messages);
        messages
    }

    /// What remains, when nothing more will come.
    pub(crate) fn finish(&mut self) -> Option<String> {
        let mut messages = Vec::new();
        self.end_line(&mut messages);
        messages.pop()
    }

    fn fill(&mut self, mut bytes: &[u8], messages: &mut Vec<String>) {
        while self.partial.len() + bytes.len() > LARGEST_MESSAGE_BYTES {
            let (head, rest) = bytes.split_at(LARGEST_MESSAGE_BYTES - self.partial.len());
            self.partial.extend_from_slice(head);
            bytes = rest;
            let kept = self.partial.split_off(boundary(&self.partial));
            messages.extend(text(&self.partial));
            self.partial = kept;
        }
        self.partial.extend_from_slice(bytes);
    }

    fn end_line(&mut self, messages: &mut Vec<String>) {
        let line = self.partial.strip_suffix(b"\r").unwrap_or(&self.partial);
        messages.extend(text(line));
        self.partial.clear();
    }
}

/// Where to cut so that no character is torn: at most three bytes before the end.
fn boundary(bytes: &[u8]) -> usize {
    let end = bytes.len();
    let start = (end.saturating_sub(3)..end)
        .rev()
        .find(|index| bytes[*index] >= 0xC0);
    match start {
        Some(index) if std::str::from_utf8(&bytes[index..]).is_err() && index > 0 => index,
        _ => end,
    }
}

/// What is not UTF-8 is replaced. That can triple the bytes, so the result is cut again.
fn text(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut rest = text.as_ref();
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let (head, tail) = rest.split_at(rest.floor_char_boundary(LARGEST_MESSAGE_BYTES));
        messages.push(head.to_owned());
        rest = tail;
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_become_lines_wherever_they_are_cut() {
        let all = "one\ntwo\r\n\nthrée\nrest".as_bytes();
        for cut in 0..all.len() {
            let mut splitter = LineSplitter::default();
            let mut lines = splitter.push(&all[..cut]);
            lines.extend(splitter.push(&all[cut..]));
            lines.extend(splitter.finish());
            assert_eq!(lines, ["one", "two", "thrée", "rest"], "cut at {cut}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_cut_at_the_limit_and_not_inside_a_character() {
        let line = "é".repeat(LARGEST_MESSAGE_BYTES) + "x\n";
        let mut splitter = LineSplitter::default();
        let mut messages = Vec::new();
        for chunk in line.as_bytes().chunks(65_537) {
            messages.extend(splitter.push(chunk));
            assert!(splitter.partial.len() <= LARGEST_MESSAGE_BYTES);
        }
        assert!(
            messages
                .iter()
                .all(|message| message.len() <= LARGEST_MESSAGE_BYTES)
        );
        assert_eq!(messages.concat() + "\n", line);
    }

    #[test]
    fn bytes_that_are_not_text_are_replaced_and_still_bounded() {
        let mut splitter = LineSplitter::default();
        assert_eq!(splitter.push(b"a\xffb\n"), ["a\u{fffd}b"]);
        let messages = splitter.push(&vec![0xff; LARGEST_MESSAGE_BYTES + 10]);
        assert!(
            messages
                .iter()
                .all(|message| message.len() <= LARGEST_MESSAGE_BYTES)
        );
    }
}

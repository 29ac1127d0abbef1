//! What a guest's kernel and agent print: QEMU keeps the last of it in memory and gives each byte
//! once, so what was given is kept here.

use serde_json::json;
use tokio::sync::Mutex;

use super::qmp::{Qmp, QmpError};

/// How much is kept, bytes; the ring in QEMU holds as much.
pub(super) const CONSOLE_LENGTH: usize = 64 * 1024;

/// Lines that are worth repeating when a guest has ended.
const LAST_LINES: usize = 12;

/// What a Linux kernel prints first when it gives up.
const PANIC: &str = "Kernel panic - not syncing";

/// The console of one machine, as far as this daemon has read it.
#[derive(Debug, Default)]
pub(super) struct Console {
    seen: Mutex<String>,
}

impl Console {
    /// The last of what was printed, at most [`CONSOLE_LENGTH`] bytes.
    pub(super) async fn read(&self, qmp: &Qmp) -> Result<String, QmpError> {
        let mut seen = self.seen.lock().await;
        let arguments = json!({ "device": "console", "size": CONSOLE_LENGTH, "format": "utf8" });
        let answer = qmp.execute("ringbuf-read", arguments).await?;
        seen.push_str(answer.as_str().unwrap_or_default());
        keep_end(&mut seen, CONSOLE_LENGTH);
        Ok(seen.clone())
    }

    /// What is worth repeating of it when the guest has ended.
    pub(super) async fn last_words(&self, qmp: &Qmp) -> Result<String, QmpError> {
        Ok(last_words(&self.read(qmp).await?))
    }
}

fn keep_end(text: &mut String, length: usize) {
    let mut surplus = text.len().saturating_sub(length);
    while !text.is_char_boundary(surplus) {
        surplus += 1;
    }
    text.drain(..surplus);
}

/// The last lines, or those from a kernel's panic on: its trace is longer than what is kept.
fn last_words(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    let panic = lines.iter().rposition(|line| line.contains(PANIC));
    let from = panic.unwrap_or(lines.len().saturating_sub(LAST_LINES));
    let to = lines.len().min(from + LAST_LINES);
    lines[from..to].join("\n")
}

#[cfg(test)]
mod tests {
    use super::{LAST_LINES, keep_end, last_words};

    #[test]
    fn the_end_is_kept_in_whole_characters() {
        let mut text = "abcé".to_owned();
        keep_end(&mut text, 2);
        assert_eq!(text, "é");
        let mut text = "abcé".to_owned();
        keep_end(&mut text, 1);
        assert_eq!(text, "");
    }

    #[test]
    fn empty_lines_are_no_last_words() {
        assert_eq!(last_words("one\r\n\n\r\ntwo\n"), "one\ntwo");
    }

    #[test]
    fn a_panic_is_told_from_its_beginning() {
        let text = format!(
            "up\nKernel panic - not syncing: why\n{}",
            "trace\n".repeat(50)
        );
        let words = last_words(&text);
        assert!(words.starts_with("Kernel panic - not syncing: why\ntrace"));
        assert_eq!(words.lines().count(), LAST_LINES);
    }
}

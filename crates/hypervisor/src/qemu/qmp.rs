//! QEMU's machine protocol: one JSON object a line, answers told apart from events by their keys.
//!
//! Only what this driver needs: the greeting, commands one at a time, the events that end a machine.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, oneshot, watch};

use super::socket;

/// Longest line that QEMU may send, bytes; `query-*` answers of this driver are far shorter, a
/// console dump is at most 64 KiB before escaping.
const MAX_LINE: u64 = 1024 * 1024;

/// Bound of the greeting and of the commands that QEMU answers at once.
pub(super) const COMMAND_BOUND: Duration = Duration::from_secs(30);

/// Commands that may wait for their turn.
const QUEUE: usize = 16;

/// Why a command brought nothing back.
#[derive(Debug, thiserror::Error)]
pub(super) enum QmpError {
    /// The connection ended: the process is gone, or another client took over.
    #[error("the connection to QEMU ended")]
    Disconnected,
    /// QEMU said no.
    #[error("{0}")]
    Refused(String),
    /// No answer within the bound.
    #[error("QEMU did not answer within {} s", COMMAND_BOUND.as_secs())]
    TimedOut,
}

struct Command {
    text: String,
    /// Goes along with the text.
    descriptor: Option<OwnedFd>,
    reply: oneshot::Sender<Result<Value, QmpError>>,
}

/// A connection to one QEMU.
#[derive(Debug)]
pub(super) struct Qmp {
    commands: mpsc::Sender<Command>,
    /// True once the guest shut down, was reset or panicked.
    guest_ended: watch::Receiver<bool>,
    /// True while the guest is stopped because the host had no room for its write.
    out_of_space: watch::Sender<bool>,
}

impl Qmp {
    /// Connects to the socket `name` in `directory` and negotiates.
    pub(super) async fn connect(directory: &Path, name: &str) -> Result<Self, std::io::Error> {
        let stream = socket::connect(directory, name).await?;
        let (commands, inbox) = mpsc::channel(QUEUE);
        let (ended_sender, guest_ended) = watch::channel(false);
        let out_of_space = watch::Sender::new(false);
        let news = News {
            guest_ended: ended_sender,
            out_of_space: out_of_space.clone(),
        };
        tokio::spawn(serve(stream, inbox, news));
        let qmp = Self {
            commands,
            guest_ended,
            out_of_space,
        };
        qmp.execute("qmp_capabilities", json!({}))
            .await
            .map_err(std::io::Error::other)?;
        Ok(qmp)
    }

    /// Runs a command and waits for its answer.
    pub(super) async fn execute(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.execute_with(command, arguments, None).await
    }

    /// Gives QEMU a descriptor, which it then knows as a set of that number.
    pub(super) async fn give(&self, set: i32, descriptor: OwnedFd) -> Result<(), QmpError> {
        let arguments = json!({ "fdset-id": set });
        let given = self.execute_with("add-fd", arguments, Some(descriptor));
        given.await.map(drop)
    }

    async fn execute_with(
        &self,
        command: &str,
        arguments: Value,
        descriptor: Option<OwnedFd>,
    ) -> Result<Value, QmpError> {
        let mut text = json!({ "execute": command, "arguments": arguments }).to_string();
        text.push('\n');
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(Command {
            text,
            descriptor,
            reply,
        });
        match tokio::time::timeout(COMMAND_BOUND, async move {
            sent.await.map_err(|_| QmpError::Disconnected)?;
            answer.await.map_err(|_| QmpError::Disconnected)?
        })
        .await
        {
            Ok(result) => result,
            Err(_) => Err(QmpError::TimedOut),
        }
    }

    /// The run state: `running`, `paused`, `inmigrate`, `shutdown`, ...
    pub(super) async fn status(&self) -> Result<String, QmpError> {
        let answer = self.execute("query-status", json!({})).await?;
        Ok(answer
            .get("status")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned())
    }

    /// Completes when the guest has ended itself, or the connection is gone.
    pub(super) async fn guest_ended(&self) {
        let mut ended = self.guest_ended.clone();
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Completes when the guest is stopped for want of room on the host's disk.
    pub(super) async fn out_of_space(&self) {
        let mut news = self.out_of_space.subscribe();
        let _ = news.wait_for(|out_of_space| *out_of_space).await;
    }

    /// Remembers whether the guest waits for room; events set it, a new attempt resets it.
    pub(super) fn note_out_of_space(&self, waits: bool) {
        self.out_of_space.send_replace(waits);
    }
}

/// Where the events go that matter.
struct News {
    guest_ended: watch::Sender<bool>,
    out_of_space: watch::Sender<bool>,
}

impl News {
    fn take(&self, event: &str, data: &Value) {
        let text = |key| data.get(key).and_then(Value::as_str).unwrap_or_default();
        match event {
            // Its own `quit`, and signals, end QEMU without the guest.
            "SHUTDOWN" if text("reason").starts_with("guest-") => {
                self.guest_ended.send_replace(true);
            }
            "GUEST_PANICKED" => {
                self.guest_ended.send_replace(true);
            }
            "BLOCK_IO_ERROR" if text("action") == "stop" => {
                self.out_of_space.send_replace(true);
            }
            _ => {}
        }
    }
}

/// Owns the stream: writes commands, hands answers to their askers in order, watches for events.
async fn serve(stream: UnixStream, mut inbox: mpsc::Receiver<Command>, news: News) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut waiting: VecDeque<oneshot::Sender<Result<Value, QmpError>>> = VecDeque::new();
    let mut line = Vec::new();
    loop {
        tokio::select! {
            command = inbox.recv() => {
                let Some(command) = command else { return };
                let sent = send(&mut writer, command.text.as_bytes(), command.descriptor);
                if sent.await.is_err() {
                    return;
                }
                waiting.push_back(command.reply);
            }
            read = read_line(&mut reader, &mut line) => {
                if !matches!(read, Ok(true)) {
                    return;
                }
                let Ok(message) = serde_json::from_slice::<Value>(&line) else { return };
                line.clear();
                if let Some(event) = message.get("event").and_then(Value::as_str) {
                    news.take(event, message.get("data").unwrap_or(&Value::Null));
                } else if let Some(outcome) = outcome(&message)
                    && let Some(reply) = waiting.pop_front()
                {
                    let _ = reply.send(outcome);
                }
            }
        }
    }
}

/// Sends a command, with the descriptor that goes along with its first byte.
async fn send(
    writer: &mut OwnedWriteHalf,
    text: &[u8],
    descriptor: Option<OwnedFd>,
) -> std::io::Result<()> {
    let Some(descriptor) = descriptor else {
        return writer.write_all(text).await;
    };
    let stream: &UnixStream = writer.as_ref();
    let sent = stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut along = SendAncillaryBuffer::new(&mut space);
            let descriptors = [descriptor.as_fd()];
            along.push(SendAncillaryMessage::ScmRights(&descriptors));
            let pieces = [IoSlice::new(text)];
            Ok(sendmsg(stream, &pieces, &mut along, SendFlags::NOSIGNAL)?)
        })
        .await?;
    writer.write_all(&text[sent..]).await
}

/// Reads to the next newline, keeping what a cancelled call already had; false at the end.
async fn read_line<R: tokio::io::AsyncBufRead + Unpin>(
    reader: &mut R,
    line: &mut Vec<u8>,
) -> std::io::Result<bool> {
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            return Ok(false);
        }
        let (taken, complete) = match available.iter().position(|byte| *byte == b'\n') {
            Some(end) => (end + 1, true),
            None => (available.len(), false),
        };
        line.extend_from_slice(&available[..taken]);
        reader.consume(taken);
        if line.len() as u64 > MAX_LINE {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        if complete {
            return Ok(true);
        }
    }
}

/// The answer in a message; `None` for the greeting.
fn outcome(message: &Value) -> Option<Result<Value, QmpError>> {
    if let Some(value) = message.get("return") {
        return Some(Ok(value.clone()));
    }
    let error = message.get("error")?;
    let text = error
        .get("desc")
        .and_then(Value::as_str)
        .unwrap_or("no reason given");
    Some(Err(QmpError::Refused(text.to_owned())))
}

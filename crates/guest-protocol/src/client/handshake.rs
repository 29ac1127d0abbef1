//! Finding this session in a stream that may still carry an earlier one.
//!
//! What the guest had queued comes first, and its output may contain anything, a forged start of a
//! session included. What cannot be forged is this session's random number, so every mark in the
//! stream is tried until one is followed by the answer that holds it.

use rand::random;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frames::FrameReader;
use super::session::tamed;
use super::{ClientError, request_frame};
use crate::frame::{FrameKind, HEADER_LENGTH, MagicFinder, parse_header};
use crate::message::{Answer, Call, Hello, HelloAnswer, Request, Response};
use crate::{PROTOCOL_VERSION, SESSION_MAGIC};

/// Bytes of an earlier session that may precede this one: far more than the queues between hold.
const MAX_LEFTOVER: usize = 8 * 1024 * 1024;
/// Longest answer to a hello, bytes. Short, so that a forged header cannot make the search wait long.
const MAX_HELLO_ANSWER: usize = 4096;
/// Read from the stream at once, bytes.
const READ_SIZE: usize = 32 * 1024;

/// Number of the handshake's request.
const HELLO_ID: u32 = 0;

/// Opens a session: the agent's answer, and a reader for what follows it.
pub(super) async fn open<S>(stream: &mut S) -> Result<(HelloAnswer, FrameReader), ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let session = random();
    let call = Call::Hello(Hello {
        protocol_version: PROTOCOL_VERSION,
        session,
    });
    let request = request_frame(&Request { id: HELLO_ID, call }, "Hello")?;
    let opening = [SESSION_MAGIC.as_slice(), &request].concat();
    stream
        .write_all(&opening)
        .await
        .map_err(|error| broken(&error))?;
    stream.flush().await.map_err(|error| broken(&error))?;

    let (mut hello, rest) = Search::new(session).run(stream).await?;
    hello.agent_version = tamed(&hello.agent_version);
    // Versions after 1 come with the code that speaks them.
    if hello.protocol_version == 0 || hello.protocol_version > PROTOCOL_VERSION {
        return Err(ClientError::UnknownVersion {
            version: hello.protocol_version,
        });
    }
    Ok((hello, FrameReader::starting_with(rest)))
}

fn broken(error: &std::io::Error) -> ClientError {
    ClientError::Disconnected {
        reason: format!("the stream failed: {error}"),
    }
}

/// The search for the session's answer.
struct Search {
    session: u64,
    finder: MagicFinder,
    /// Bytes from the earliest mark on that is still being tried.
    buffer: Vec<u8>,
    /// How much of `buffer` the finder has seen.
    searched: usize,
    /// Where in `buffer` a mark ended, for each that is still being tried.
    candidates: Vec<usize>,
}

/// What a candidate turned out to be.
enum Verdict {
    Unfinished,
    Other,
    Ours(HelloAnswer, usize),
}

impl Search {
    fn new(session: u64) -> Self {
        let finder = MagicFinder::default();
        Self {
            session,
            finder,
            buffer: Vec::new(),
            searched: 0,
            candidates: Vec::new(),
        }
    }

    async fn run<S: AsyncRead + Unpin>(
        mut self,
        stream: &mut S,
    ) -> Result<(HelloAnswer, Vec<u8>), ClientError> {
        let mut total = 0;
        loop {
            self.buffer.reserve(READ_SIZE);
            let count = stream
                .read_buf(&mut self.buffer)
                .await
                .map_err(|error| broken(&error))?;
            if count == 0 {
                let reason = "the stream was closed before the session began".to_owned();
                return Err(ClientError::Disconnected { reason });
            }
            if let Some(found) = self.look() {
                return Ok(found);
            }
            total += count;
            if total > MAX_LEFTOVER {
                let reason = format!("no session began in the first {MAX_LEFTOVER} bytes");
                return Err(ClientError::Disconnected { reason });
            }
        }
    }

    fn look(&mut self) -> Option<(HelloAnswer, Vec<u8>)> {
        for position in self.searched..self.buffer.len() {
            if self.finder.push(self.buffer[position]) {
                self.candidates.push(position + 1);
            }
        }
        self.searched = self.buffer.len();

        let mut unfinished = Vec::new();
        for start in std::mem::take(&mut self.candidates) {
            match self.judge(start) {
                Verdict::Ours(hello, end) => return Some((hello, self.buffer.split_off(end))),
                Verdict::Unfinished => unfinished.push(start),
                Verdict::Other => {}
            }
        }
        self.candidates = unfinished;
        self.forget_before(
            self.candidates
                .first()
                .copied()
                .unwrap_or(self.buffer.len()),
        );
        None
    }

    fn judge(&self, start: usize) -> Verdict {
        let bytes = &self.buffer[start..];
        let Some(&header) = bytes.first_chunk::<HEADER_LENGTH>() else {
            return Verdict::Unfinished;
        };
        let Ok((FrameKind::Response, length @ ..=MAX_HELLO_ANSWER)) = parse_header(header) else {
            return Verdict::Other;
        };
        let Some(payload) = bytes.get(HEADER_LENGTH..HEADER_LENGTH + length) else {
            return Verdict::Unfinished;
        };
        match serde_json::from_slice(payload) {
            Ok(Response {
                id: HELLO_ID,
                result: Ok(Answer::Hello(hello)),
            }) if hello.session == self.session => {
                Verdict::Ours(hello, start + HEADER_LENGTH + length)
            }
            _ => Verdict::Other,
        }
    }

    fn forget_before(&mut self, start: usize) {
        self.buffer.drain(..start);
        self.searched -= start;
        for candidate in &mut self.candidates {
            *candidate -= start;
        }
    }
}

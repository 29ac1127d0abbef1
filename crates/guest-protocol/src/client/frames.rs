//! Frames over an asynchronous stream. Both ends of the channel can be built of it: the client, and
//! a test's simulated guest.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::SESSION_MAGIC;
use crate::frame::{FrameError, FrameKind, HEADER_LENGTH, MagicFinder, header, parse_header};

/// Read from the stream at once, bytes.
const READ_SIZE: usize = 32 * 1024;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is.
    pub kind: FrameKind,
    /// The payload.
    pub payload: Vec<u8>,
}

/// Why no frame could be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The peer closed the stream.
    #[error("the control channel was closed")]
    Closed,
    /// The stream failed.
    #[error("the control channel broke")]
    Io(#[from] std::io::Error),
    /// The peer sent what cannot be a frame.
    #[error(transparent)]
    BadFrame(#[from] FrameError),
    /// The payload to be written exceeds its kind's limit, bytes.
    #[error("a payload of {0} bytes does not fit a frame")]
    TooLong(usize),
}

/// Reads frames, keeping what was read beyond the last one. Holds at most one frame and one read.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
    taken: usize,
}

impl FrameReader {
    /// A reader that starts with bytes that were read already.
    #[must_use]
    pub fn starting_with(buffer: Vec<u8>) -> Self {
        Self { buffer, taken: 0 }
    }

    /// The next frame. Can be dropped while it waits without losing anything.
    ///
    /// # Errors
    /// When the stream ends, fails or carries something that is no frame; it cannot go on then.
    pub async fn next<R: AsyncRead + Unpin>(
        &mut self,
        stream: &mut R,
    ) -> Result<Frame, StreamError> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(frame);
            }
            self.fill(stream).await?;
        }
    }

    /// Passes over everything up to the end of the next [`SESSION_MAGIC`].
    ///
    /// # Errors
    /// When the stream ends or fails.
    pub async fn skip_to_session<R: AsyncRead + Unpin>(
        &mut self,
        stream: &mut R,
    ) -> Result<(), StreamError> {
        let mut finder = MagicFinder::default();
        loop {
            while let Some(byte) = self.buffer.get(self.taken) {
                self.taken += 1;
                if finder.push(*byte) {
                    return Ok(());
                }
            }
            self.fill(stream).await?;
        }
    }

    fn take_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let unread = &self.buffer[self.taken..];
        let Some(&header) = unread.first_chunk::<HEADER_LENGTH>() else {
            return Ok(None);
        };
        let (kind, length) = parse_header(header)?;
        let Some(payload) = unread.get(HEADER_LENGTH..HEADER_LENGTH + length) else {
            return Ok(None);
        };
        let frame = Frame {
            kind,
            payload: payload.to_vec(),
        };
        self.taken += HEADER_LENGTH + length;
        Ok(Some(frame))
    }

    async fn fill<R: AsyncRead + Unpin>(&mut self, stream: &mut R) -> Result<(), StreamError> {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.reserve(READ_SIZE);
        if stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(StreamError::Closed);
        }
        Ok(())
    }
}

/// Passes over everything up to the end of the next [`SESSION_MAGIC`] and gives back a reader for what
/// follows.
///
/// # Errors
/// When the stream ends or fails.
pub async fn await_session<R: AsyncRead + Unpin>(
    stream: &mut R,
) -> Result<FrameReader, StreamError> {
    let mut reader = FrameReader::default();
    reader.skip_to_session(stream).await?;
    Ok(reader)
}

/// Writes [`SESSION_MAGIC`].
///
/// # Errors
/// When the stream fails.
pub async fn write_session_magic<W: AsyncWrite + Unpin>(stream: &mut W) -> Result<(), StreamError> {
    stream.write_all(&SESSION_MAGIC).await?;
    Ok(stream.flush().await?)
}

/// Writes one frame.
///
/// # Errors
/// When the payload exceeds its kind's limit or the stream fails.
pub async fn write_frame<W: AsyncWrite + Unpin>(
    stream: &mut W,
    kind: FrameKind,
    payload: &[u8],
) -> Result<(), StreamError> {
    let frame = framed(kind, payload).ok_or(StreamError::TooLong(payload.len()))?;
    stream.write_all(&frame).await?;
    Ok(stream.flush().await?)
}

/// Header and payload in one; `None` when the payload exceeds its kind's limit.
pub(super) fn framed(kind: FrameKind, payload: &[u8]) -> Option<Vec<u8>> {
    (payload.len() <= kind.limit()).then(|| [&header(kind, payload.len()), payload].concat())
}

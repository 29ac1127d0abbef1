//! Frames of the control channel: a kind, a length, a payload.
//!
//! ```text
//! +--------+----------------------+-----------------+
//! | kind 1 | length 4, big endian | payload, length |
//! +--------+----------------------+-----------------+
//! ```

/// Bytes before the payload.
pub const HEADER_LENGTH: usize = 5;

/// Longest payload that a guest may send, bytes. A hostile one cannot make the host hold more.
pub const MAX_PAYLOAD: usize = 256 * 1024;

/// Longest request, bytes. An application's environment may hold a hundred variables of 4 KiB each,
/// six bytes of JSON for a character at worst, and what the image adds.
pub const MAX_REQUEST: usize = 4 * 1024 * 1024;

/// What a frame's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// JSON [`crate::message::Request`], host to guest.
    Request = 1,
    /// JSON [`crate::message::Response`], guest to host.
    Response = 2,
    /// JSON [`crate::message::Event`], guest to host.
    Event = 3,
    /// Bytes that the application wrote to its standard output, guest to host.
    Stdout = 4,
    /// Bytes that the application wrote to its standard error, guest to host.
    Stderr = 5,
}

/// A frame that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The peer speaks another protocol, or the stream lost its place.
    #[error("unknown frame kind {0} on the control channel")]
    UnknownKind(u8),
    /// The peer announced more than [`FrameKind::limit`].
    #[error("a {0:?} frame of {1} bytes on the control channel exceeds the limit of {limit}", limit = .0.limit())]
    TooLong(FrameKind, u32),
}

impl FrameKind {
    /// Longest payload of the kind, bytes.
    #[must_use]
    pub const fn limit(self) -> usize {
        match self {
            Self::Request => MAX_REQUEST,
            Self::Response | Self::Event | Self::Stdout | Self::Stderr => MAX_PAYLOAD,
        }
    }
}

impl TryFrom<u8> for FrameKind {
    type Error = FrameError;

    fn try_from(byte: u8) -> Result<Self, FrameError> {
        match byte {
            1 => Ok(Self::Request),
            2 => Ok(Self::Response),
            3 => Ok(Self::Event),
            4 => Ok(Self::Stdout),
            5 => Ok(Self::Stderr),
            other => Err(FrameError::UnknownKind(other)),
        }
    }
}

/// A frame's header.
///
/// # Panics
/// When `length` exceeds [`FrameKind::limit`]: the sender splits before it frames.
#[must_use]
pub fn header(kind: FrameKind, length: usize) -> [u8; HEADER_LENGTH] {
    assert!(
        length <= kind.limit(),
        "a frame's sender splits its payload first"
    );
    #[expect(
        clippy::cast_possible_truncation,
        reason = "bounded by the limit above"
    )]
    let [a, b, c, d] = (length as u32).to_be_bytes();
    [kind as u8, a, b, c, d]
}

/// Kind and payload length of a header.
///
/// # Errors
/// When the kind is unknown or the length beyond [`FrameKind::limit`]; the stream cannot go on then.
pub fn parse_header(header: [u8; HEADER_LENGTH]) -> Result<(FrameKind, usize), FrameError> {
    let [kind, a, b, c, d] = header;
    let length = u32::from_be_bytes([a, b, c, d]);
    let kind = FrameKind::try_from(kind)?;
    if length as usize > kind.limit() {
        return Err(FrameError::TooLong(kind, length));
    }
    Ok((kind, length as usize))
}

/// Finds the end of [`crate::SESSION_MAGIC`] in a stream fed byte by byte.
#[derive(Debug, Default)]
pub struct MagicFinder {
    matched: usize,
}

impl MagicFinder {
    /// Takes the next byte; true when it was the magic's last.
    pub fn push(&mut self, byte: u8) -> bool {
        let magic = crate::SESSION_MAGIC;
        // The magic's first byte occurs nowhere else in it, so falling back to the start is exact.
        if byte == magic[self.matched] {
            self.matched += 1;
        } else {
            self.matched = usize::from(byte == magic[0]);
        }
        if self.matched == magic.len() {
            self.matched = 0;
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::{FrameError, FrameKind, MagicFinder, header, parse_header};
    use crate::SESSION_MAGIC;

    #[test]
    fn a_header_survives_the_wire() {
        assert_eq!(
            parse_header(header(FrameKind::Stderr, 70_000)),
            Ok((FrameKind::Stderr, 70_000))
        );
    }

    #[test]
    fn a_payload_of_every_kinds_limit_can_be_framed() {
        for kind in [FrameKind::Request, FrameKind::Response, FrameKind::Stdout] {
            assert_eq!(
                parse_header(header(kind, kind.limit())),
                Ok((kind, kind.limit()))
            );
        }
    }

    #[test]
    fn a_hostile_header_is_refused() {
        let too_long = FrameError::TooLong(FrameKind::Response, 0x0010_0000);
        assert_eq!(parse_header([2, 0, 0x10, 0, 0]), Err(too_long));
        assert_eq!(
            parse_header([1, 0, 0x10, 0, 0]),
            Ok((FrameKind::Request, 0x0010_0000))
        );
        assert_eq!(
            parse_header([9, 0, 0, 0, 0]),
            Err(FrameError::UnknownKind(9))
        );
    }

    #[test]
    fn the_magic_is_found_after_any_leftover() {
        let mut finder = MagicFinder::default();
        let stream = [b"half a frame \0colibri-".as_slice(), &SESSION_MAGIC].concat();
        let found: Vec<usize> = stream
            .iter()
            .enumerate()
            .filter(|(_, b)| finder.push(**b))
            .map(|(i, _)| i)
            .collect();
        assert_eq!(found, [stream.len() - 1]);
    }
}

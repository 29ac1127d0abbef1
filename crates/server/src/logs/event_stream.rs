//! Messages of `application/vnd.amazon.eventstream`: lengths, headers, payload, each with a checksum.
//!
//! Source: Smithy's "Amazon Event Stream Specification" and the AWS SDKs' decoders.

use bytes::{BufMut, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, checksum};

/// Media type of a stream of such messages.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.amazon.eventstream";

/// Bytes of the lengths and their checksum.
const PRELUDE: usize = 12;
/// Bytes of the message's own checksum.
const TRAILER: usize = 4;
/// Header type of a text with a length of two bytes.
const TEXT: u8 = 7;

/// An event of a stream.
pub(crate) fn event(kind: &str, payload: &[u8]) -> Bytes {
    message(
        &[(":message-type", "event"), (":event-type", kind)],
        payload,
    )
}

/// An error that ends a stream.
pub(crate) fn exception(kind: &str, payload: &[u8]) -> Bytes {
    let headers = [(":message-type", "exception"), (":exception-type", kind)];
    message(&headers, payload)
}

fn message(headers: &[(&str, &str)], payload: &[u8]) -> Bytes {
    let mut named = BytesMut::new();
    for (name, value) in headers
        .iter()
        .chain([&(":content-type", "application/json")])
    {
        // All are short names of our own.
        #[expect(clippy::cast_possible_truncation, reason = "texts of this file")]
        {
            named.put_u8(name.len() as u8);
            named.put_slice(name.as_bytes());
            named.put_u8(TEXT);
            named.put_u16(value.len() as u16);
        }
        named.put_slice(value.as_bytes());
    }
    let length = PRELUDE + named.len() + payload.len() + TRAILER;
    let mut message = BytesMut::with_capacity(length);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a payload is a page of a log: megabytes"
    )]
    {
        message.put_u32(length as u32);
        message.put_u32(named.len() as u32);
    }
    message.put_u32(crc32(&message));
    message.put_slice(&named);
    message.put_slice(payload);
    message.put_u32(crc32(&message));
    message.freeze()
}

#[expect(clippy::cast_possible_truncation, reason = "a checksum of 32 bits")]
fn crc32(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32IsoHdlc, bytes) as u32
}

#[cfg(test)]
mod tests {
    use super::{event, exception};

    /// As botocore's `EventStreamMessage` would have it, computed by Python's `binascii.crc32`.
    #[test]
    fn an_event_has_the_bytes_that_the_sdks_decode() {
        let hex: String = event("ping", b"{}")
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, PING);
        assert!(
            exception("Gone", b"{}")
                .windows(9)
                .any(|w| w == b"exception")
        );
    }

    const PING: &str = concat!(
        "0000005c0000004a0ec8552d0d3a6d6573736167652d747970650700056576656e740b3a6576656e",
        "742d7479706507000470696e670d3a636f6e74656e742d747970650700106170706c69636174696f",
        "6e2f6a736f6e7b7d53154a96",
    );
}

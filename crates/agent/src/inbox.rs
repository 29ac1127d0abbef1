//! What the host sends, taken apart: sessions, and the requests in them.
//!
//! A snapshot can cut a session anywhere, and the restored machine need not see its port close. So
//! the session's mark is looked for in every byte, inside frames too: it starts with a NUL, a
//! request is JSON, and JSON has none, so the mark cannot be part of a request.

use colibri_guest_protocol::frame::{FrameKind, HEADER_LENGTH, MagicFinder, parse_header};
use colibri_guest_protocol::message::Request;
use serde::Deserialize;

/// What a piece of the stream brought.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// A session begins; everything before it is void.
    SessionStarted,
    /// A request of this session.
    Request(Request),
    /// A request that this agent does not understand, which a newer host may well send.
    Unreadable {
        /// The request's number.
        id: u32,
        /// What is wrong with it.
        reason: String,
    },
    /// The stream lost its place; nothing is read before the next session.
    Lost {
        /// What was seen.
        reason: String,
    },
}

/// The receiving end of the control channel.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    finder: MagicFinder,
    in_session: bool,
    /// The start of a frame whose rest has not come; at most one frame and one read long.
    partial: Vec<u8>,
}

impl Inbox {
    /// Takes what was read and says what it brought, in order.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        let mut rest = bytes;
        if let Some(start) = self.last_session_start(bytes) {
            self.partial.clear();
            self.in_session = true;
            arrivals.push(Arrival::SessionStarted);
            rest = &bytes[start..];
        }
        if self.in_session {
            self.partial.extend_from_slice(rest);
            self.take_frames(&mut arrivals);
        }
        arrivals
    }

    /// Where the newest session begins; those before it are void already.
    fn last_session_start(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut start = None;
        for (position, byte) in bytes.iter().enumerate() {
            if self.finder.push(*byte) {
                start = Some(position + 1);
            }
        }
        start
    }

    fn take_frames(&mut self, arrivals: &mut Vec<Arrival>) {
        let mut taken = 0;
        while let Some(&header) = self.partial[taken..].first_chunk::<HEADER_LENGTH>() {
            let length = match parse_header(header) {
                Ok((FrameKind::Request, length)) => length,
                Ok((other, _)) => {
                    return self.lose(arrivals, format!("a {other:?} frame from the host"));
                }
                Err(bad) => return self.lose(arrivals, bad.to_string()),
            };
            let start = taken + HEADER_LENGTH;
            let Some(payload) = self.partial.get(start..start + length) else {
                break;
            };
            arrivals.extend(read_request(payload));
            taken = start + length;
        }
        self.partial.drain(..taken);
    }

    fn lose(&mut self, arrivals: &mut Vec<Arrival>, reason: String) {
        *self = Self::default();
        arrivals.push(Arrival::Lost { reason });
    }
}

/// The number alone, for a request whose rest is not understood.
#[derive(Deserialize)]
struct Numbered {
    id: u32,
}

fn read_request(payload: &[u8]) -> Option<Arrival> {
    match serde_json::from_slice(payload) {
        Ok(request) => Some(Arrival::Request(request)),
        // Without a number there is nobody to answer; the host's own bound ends the call.
        Err(bad) => {
            serde_json::from_slice(payload)
                .ok()
                .map(|Numbered { id }| Arrival::Unreadable {
                    id,
                    reason: bad.to_string(),
                })
        }
    }
}

#[cfg(test)]
mod tests {
    use colibri_guest_protocol::SESSION_MAGIC;
    use colibri_guest_protocol::frame::{FrameKind, header};
    use colibri_guest_protocol::message::Call;

    use super::{Arrival, Inbox};

    fn framed(json: &str) -> Vec<u8> {
        [&header(FrameKind::Request, json.len()), json.as_bytes()].concat()
    }

    fn ping(id: u32) -> Vec<u8> {
        framed(&format!(r#"{{"id":{id},"call":"ping"}}"#))
    }

    fn ids(arrivals: &[Arrival]) -> Vec<u32> {
        arrivals
            .iter()
            .filter_map(|arrival| match arrival {
                Arrival::Request(request) if matches!(request.call, Call::Ping) => Some(request.id),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn requests_arrive_whole_however_the_stream_is_cut() {
        let stream = [b"left over".as_slice(), &SESSION_MAGIC, &ping(1), &ping(2)].concat();
        for size in 1..stream.len() {
            let mut inbox = Inbox::default();
            let arrivals: Vec<_> = stream
                .chunks(size)
                .flat_map(|piece| inbox.take(piece))
                .collect();
            assert!(matches!(arrivals[0], Arrival::SessionStarted));
            assert_eq!(ids(&arrivals), [1, 2], "in pieces of {size}");
        }
    }

    #[test]
    fn a_new_session_inside_a_cut_frame_is_seen() {
        let mut inbox = Inbox::default();
        inbox.take(&SESSION_MAGIC);
        assert!(inbox.take(&ping(1)[..9]).is_empty());
        let arrivals = inbox.take(&[SESSION_MAGIC.as_slice(), &ping(2)].concat());
        assert!(matches!(arrivals[0], Arrival::SessionStarted));
        assert_eq!(ids(&arrivals), [2]);
    }

    #[test]
    fn an_unknown_call_keeps_its_number_and_the_session() {
        let mut inbox = Inbox::default();
        inbox.take(&SESSION_MAGIC);
        let arrivals = inbox.take(&[framed(r#"{"id":5,"call":"fly"}"#), ping(6)].concat());
        assert!(matches!(&arrivals[0], Arrival::Unreadable { id: 5, .. }));
        assert_eq!(ids(&arrivals), [6]);
    }

    #[test]
    fn a_lost_stream_is_picked_up_at_the_next_session() {
        let mut inbox = Inbox::default();
        inbox.take(&SESSION_MAGIC);
        assert!(matches!(
            inbox.take(&[9, 0, 0, 0, 1])[..],
            [Arrival::Lost { .. }]
        ));
        assert!(inbox.take(&ping(1)).is_empty());
        assert_eq!(
            ids(&inbox.take(&[SESSION_MAGIC.as_slice(), &ping(2)].concat())),
            [2]
        );
    }
}

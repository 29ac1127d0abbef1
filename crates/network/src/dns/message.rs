//! As much of a DNS message (RFC 1035 4.1) as a relay must read: header and question. Records stay
//! opaque.

use std::io;

/// Longest query that is relayed, bytes; a question and EDNS options fit many times over.
pub(super) const MAX_QUERY: usize = 4096;

const HEADER: usize = 12;
const MAX_NAME: usize = 255;
const MAX_LABEL: u8 = 63;
/// Question type and class.
const TYPE_AND_CLASS: usize = 4;
const RESPONSE_BIT: u8 = 0x80;
const OPCODE_BITS: u8 = 0x78;
const TRUNCATED_BIT: u8 = 0x02;
/// Opcode and recursion desired: what an answer repeats of its query's third byte.
const REPEATED_BITS: u8 = 0x79;
const QTYPE_IXFR: u16 = 251;
const QTYPE_AXFR: u16 = 252;

/// The response codes that the relay itself gives or looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum ResponseCode {
    FormatError = 1,
    ServerFailure = 2,
    NotImplemented = 4,
    Refused = 5,
}

/// Why a message is not relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is no query at all.
    Ignore,
    /// It is one, of a kind that is not served.
    Answer(ResponseCode),
}

/// An ordinary query: one question, no zone transfer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Query<'a> {
    bytes: &'a [u8],
    question_end: usize,
}

impl<'a> Query<'a> {
    /// Reads a guest's message, which is at most [`MAX_QUERY`] long.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Refusal> {
        if bytes.len() < HEADER || bytes[2] & RESPONSE_BIT != 0 {
            return Err(Refusal::Ignore);
        }
        if bytes[2] & OPCODE_BITS != 0 {
            return Err(Refusal::Answer(ResponseCode::NotImplemented));
        }
        let malformed = Refusal::Answer(ResponseCode::FormatError);
        if question_count(bytes) != 1 {
            return Err(malformed);
        }
        let question_end = question_end(bytes).ok_or(malformed)?;
        let question_type = u16::from_be_bytes([bytes[question_end - 4], bytes[question_end - 3]]);
        if matches!(question_type, QTYPE_AXFR | QTYPE_IXFR) {
            return Err(Refusal::Answer(ResponseCode::Refused));
        }
        Ok(Self {
            bytes,
            question_end,
        })
    }

    /// The query under another id: the guest's own may be guessable, and the relay's socket faces
    /// whoever can forge an answer.
    pub(super) fn with_id(&self, id: u16) -> Vec<u8> {
        with_id(self.bytes.to_vec(), id)
    }

    /// An upstream's answer under the guest's id; `None` when it does not answer this query.
    pub(super) fn accept(&self, answer: &[u8], id: u16) -> Option<Vec<u8>> {
        if answer.len() < HEADER
            || answer[2] & RESPONSE_BIT == 0
            || answer[2] & OPCODE_BITS != 0
            || answer[..2] != id.to_be_bytes()
        {
            return None;
        }
        let repeats_question = question_count(answer) == 1
            && answer
                .get(HEADER..self.question_end)
                .is_some_and(|question| {
                    question.eq_ignore_ascii_case(&self.bytes[HEADER..self.question_end])
                });
        // A server that could not read the question does not repeat it.
        let refuses_without = question_count(answer) == 0 && response_code(answer) != 0;
        (repeats_question || refuses_without).then(|| {
            with_id(
                answer.to_vec(),
                u16::from_be_bytes([self.bytes[0], self.bytes[1]]),
            )
        })
    }

    /// The answer that all upstreams failed.
    pub(super) fn server_failure(&self) -> Vec<u8> {
        reply(
            &self.bytes[..self.question_end],
            1,
            ResponseCode::ServerFailure as u8,
        )
    }

    /// The answer that the real one is too long for UDP: the guest asks again over TCP.
    pub(super) fn truncated(&self) -> Vec<u8> {
        let mut answer = reply(&self.bytes[..self.question_end], 1, 0);
        answer[2] |= TRUNCATED_BIT;
        answer
    }
}

/// Whether another upstream may know better.
pub(super) fn is_failure(answer: &[u8]) -> bool {
    let failures = [
        ResponseCode::ServerFailure,
        ResponseCode::NotImplemented,
        ResponseCode::Refused,
    ];
    failures
        .iter()
        .any(|code| *code as u8 == response_code(answer))
}

/// The answer to a query that is not relayed: its header and nothing more.
pub(super) fn refusal(query: &[u8], code: ResponseCode) -> Vec<u8> {
    reply(&query[..HEADER], 0, code as u8)
}

/// A message with its length before it, as TCP carries it.
pub(super) fn framed(message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    Ok([&length.to_be_bytes(), message].concat())
}

fn reply(header_and_question: &[u8], questions: u8, code: u8) -> Vec<u8> {
    let mut answer = header_and_question.to_vec();
    answer[2] = RESPONSE_BIT | (answer[2] & REPEATED_BITS);
    answer[3] = code;
    answer[4..HEADER].copy_from_slice(&[0, questions, 0, 0, 0, 0, 0, 0]);
    answer
}

fn with_id(mut message: Vec<u8>, id: u16) -> Vec<u8> {
    message[..2].copy_from_slice(&id.to_be_bytes());
    message
}

fn question_count(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[4], message[5]])
}

fn response_code(message: &[u8]) -> u8 {
    message[3] & 0x0f
}

/// Where the first question ends; `None` when it is cut off, too long, or compressed, which the
/// first name of a message cannot be.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match *message.get(at)? {
            0 => break,
            label if label <= MAX_LABEL => at += 1 + usize::from(label),
            _ => return None,
        }
        if at - HEADER >= MAX_NAME {
            return None;
        }
    }
    let end = at + 1 + TYPE_AND_CLASS;
    (message.len() >= end).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::{Query, Refusal, ResponseCode, is_failure, refusal};

    const A: u8 = 1;
    const AXFR: u8 = 252;

    fn query(question_type: u8) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend(b"\x07example\x04test\0\0");
        bytes.extend([question_type, 0, 1]);
        bytes
    }

    fn answer_to(query: &[u8], id: u16) -> Vec<u8> {
        let mut bytes = query.to_vec();
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        bytes[2] |= 0x80;
        bytes.extend(b"records");
        bytes
    }

    #[test]
    fn an_answer_comes_back_under_the_guests_id() {
        let bytes = query(A);
        let parsed = Query::parse(&bytes).unwrap();
        assert_eq!(parsed.with_id(7)[..2], [0, 7]);
        let accepted = parsed.accept(&answer_to(&bytes, 7), 7).unwrap();
        assert_eq!(accepted, answer_to(&bytes, 0xabcd));
    }

    #[test]
    fn an_answer_to_another_id_or_question_is_not_accepted() {
        let bytes = query(A);
        let parsed = Query::parse(&bytes).unwrap();
        assert_eq!(parsed.accept(&answer_to(&bytes, 8), 7), None);
        let mut other = answer_to(&bytes, 7);
        other[14] = b'E' ^ 1;
        assert_eq!(parsed.accept(&other, 7), None);
        assert_eq!(parsed.accept(&parsed.with_id(7), 7), None);
    }

    #[test]
    fn what_is_no_ordinary_query_is_not_relayed() {
        let refused = |bytes: &[u8]| Query::parse(bytes).unwrap_err();
        assert_eq!(refused(b"short"), Refusal::Ignore);
        assert_eq!(refused(&answer_to(&query(A), 1)), Refusal::Ignore);
        assert_eq!(
            refused(&query(AXFR)),
            Refusal::Answer(ResponseCode::Refused)
        );
        assert_eq!(
            refused(&query(A)[..20]),
            Refusal::Answer(ResponseCode::FormatError)
        );
        let mut compressed = query(A);
        compressed[12] = 0xc0;
        assert_eq!(
            refused(&compressed),
            Refusal::Answer(ResponseCode::FormatError)
        );
        let mut update = query(A);
        update[2] |= 5 << 3;
        assert_eq!(
            refused(&update),
            Refusal::Answer(ResponseCode::NotImplemented)
        );
    }

    #[test]
    fn the_relays_own_answers_are_answers() {
        let bytes = query(A);
        let failure = Query::parse(&bytes).unwrap().server_failure();
        assert!(is_failure(&failure) && failure[2] & 0x80 != 0 && failure.len() == bytes.len());
        assert_eq!(refusal(&bytes, ResponseCode::Refused).len(), 12);
        assert_eq!(Query::parse(&bytes).unwrap().truncated()[2], 0x83);
    }
}

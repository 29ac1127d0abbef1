//! What waits to be sent to the host: answers first, then events and the application's output in the
//! order in which they came about. No I/O happens here.

use std::collections::VecDeque;

use colibri_guest_protocol::SESSION_MAGIC;
use colibri_guest_protocol::frame::{FrameKind, header};
use colibri_guest_protocol::message::{Event, Response};
use serde::Serialize;

/// Longest output in one frame, bytes: what an answer may have to wait for.
const OUTPUT_FRAME: usize = 16 * 1024;
/// Output held for a host that is not there, bytes; beyond it the oldest is dropped.
const BACKLOG_WITHOUT_HOST: usize = 1024 * 1024;
/// Output held while a session is open, bytes; beyond it the application waits in its `write`.
const BACKLOG_IN_SESSION: usize = 64 * 1024;

/// Something unasked, in its place among the output.
#[derive(Debug)]
enum Item {
    Output { stream: FrameKind, bytes: Vec<u8> },
    Event(Event),
}

/// The sending end of the control channel.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    in_session: bool,
    /// The host was seen to be away since its last sign of life. Answers still go out, output and
    /// events wait: what is sent to a new host before its session begins is lost.
    holding: bool,
    /// The frame being written, and how much of it is.
    writing: Vec<u8>,
    written: usize,
    /// What `writing` holds, where it is to be sent again if the session ends before it is out.
    written_item: Option<Item>,
    answers: VecDeque<Vec<u8>>,
    backlog: VecDeque<Item>,
    backlog_bytes: usize,
    dropped: u64,
}

impl Outbox {
    /// A session begins: its mark goes out first, what belonged to the earlier one does not.
    pub(crate) fn session_started(&mut self) {
        self.session_ended();
        self.in_session = true;
        self.holding = false;
        self.writing.extend_from_slice(&SESSION_MAGIC);
    }

    /// The host was not there. That does not end the session: the driver hands out what a host has sent
    /// before it says that there is one, so this may be the host that has just begun it.
    pub(crate) fn host_away(&mut self) {
        self.holding = true;
    }

    /// The host of this session is there: it has sent a request.
    pub(crate) fn host_there(&mut self) {
        self.holding = false;
    }

    /// Whether output waits for a sign of life.
    pub(crate) fn is_holding(&self) -> bool {
        self.in_session && self.holding
    }

    /// The session cannot go on.
    pub(crate) fn session_ended(&mut self) {
        self.in_session = false;
        self.answers.clear();
        self.writing.clear();
        self.written = 0;
        if let Some(item) = self.written_item.take() {
            self.backlog_bytes += item.length();
            self.backlog.push_front(item);
        }
    }

    /// Adds an answer to a request of this session.
    pub(crate) fn answer(&mut self, response: &Response) {
        if self.in_session {
            self.answers
                .push_back(framed_json(FrameKind::Response, response));
        }
    }

    /// Adds an event behind the output that came before it.
    pub(crate) fn event(&mut self, event: Event) {
        self.backlog.push_back(Item::Event(event));
    }

    /// Adds output of the application.
    pub(crate) fn output(&mut self, stream: FrameKind, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.output_piece(stream, bytes);
            bytes = &bytes[taken..];
        }
        if !self.flowing() {
            self.drop_oldest();
        }
    }

    /// Whether more output should be read from the application.
    pub(crate) fn wants_output(&self) -> bool {
        !self.flowing() || self.backlog_bytes < BACKLOG_IN_SESSION
    }

    fn flowing(&self) -> bool {
        self.in_session && !self.holding
    }

    /// The bytes to write next; none while there is nothing to say or nobody to say it to.
    pub(crate) fn next(&mut self) -> Option<&[u8]> {
        if self.written == self.writing.len() {
            self.writing.clear();
            self.written = 0;
            self.written_item = None;
            if self.in_session {
                self.start_frame();
            }
        }
        if self.holding && self.written_item.is_some() {
            return None;
        }
        Some(&self.writing[self.written..]).filter(|rest| !rest.is_empty())
    }

    /// So many of the bytes of [`Self::next`] were written.
    pub(crate) fn wrote(&mut self, count: usize) {
        self.written += count;
    }

    /// Fills up the last piece, so that single bytes do not cost a frame each.
    fn output_piece(&mut self, stream: FrameKind, bytes: &[u8]) -> usize {
        let room = match self.backlog.back_mut() {
            Some(Item::Output {
                stream: last,
                bytes: piece,
            }) if *last == stream => {
                let taken = bytes.len().min(OUTPUT_FRAME - piece.len());
                piece.extend_from_slice(&bytes[..taken]);
                taken
            }
            _ => 0,
        };
        let taken = if room > 0 {
            room
        } else {
            bytes.len().min(OUTPUT_FRAME)
        };
        if room == 0 {
            self.backlog.push_back(Item::Output {
                stream,
                bytes: bytes[..taken].to_vec(),
            });
        }
        self.backlog_bytes += taken;
        taken
    }

    fn drop_oldest(&mut self) {
        while self.backlog_bytes > BACKLOG_WITHOUT_HOST {
            let Some(oldest) = self.backlog.iter().position(|item| item.length() > 0) else {
                return;
            };
            let length = self.backlog.remove(oldest).map_or(0, |item| item.length());
            self.backlog_bytes -= length;
            self.dropped += length as u64;
        }
    }

    fn start_frame(&mut self) {
        if let Some(answer) = self.answers.pop_front() {
            self.writing = answer;
        } else if self.holding {
            // Nothing else goes out now.
        } else if self.dropped > 0 {
            // What was dropped is older than all that is left. Said again if this session ends first.
            self.write_item(Item::Event(Event::OutputDropped {
                bytes: self.dropped,
            }));
            self.dropped = 0;
        } else if let Some(item) = self.backlog.pop_front() {
            self.backlog_bytes -= item.length();
            self.write_item(item);
        }
    }

    fn write_item(&mut self, item: Item) {
        self.writing = match &item {
            Item::Output { stream, bytes } => framed(*stream, bytes),
            Item::Event(event) => framed_json(FrameKind::Event, event),
        };
        self.written_item = Some(item);
    }
}

impl Item {
    fn length(&self) -> usize {
        match self {
            Self::Output { bytes, .. } => bytes.len(),
            Self::Event(_) => 0,
        }
    }
}

fn framed(kind: FrameKind, payload: &[u8]) -> Vec<u8> {
    [&header(kind, payload.len()), payload].concat()
}

fn framed_json(kind: FrameKind, message: &impl Serialize) -> Vec<u8> {
    // The messages hold strings, numbers and lists, which JSON can always say.
    framed(kind, &serde_json::to_vec(message).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use colibri_guest_protocol::SESSION_MAGIC;
    use colibri_guest_protocol::frame::{FrameKind, HEADER_LENGTH, parse_header};
    use colibri_guest_protocol::message::{Answer, ApplicationExit, Event, Response};

    use super::{BACKLOG_IN_SESSION, BACKLOG_WITHOUT_HOST, OUTPUT_FRAME, Outbox};

    fn sent(outbox: &mut Outbox) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(bytes) = outbox.next() {
            all.extend_from_slice(bytes);
            let count = bytes.len();
            outbox.wrote(count);
        }
        all
    }

    fn frames(mut bytes: &[u8]) -> Vec<(FrameKind, Vec<u8>)> {
        let mut frames = Vec::new();
        while let Some(&header) = bytes.first_chunk::<HEADER_LENGTH>() {
            let (kind, length) = parse_header(header).unwrap();
            frames.push((kind, bytes[HEADER_LENGTH..HEADER_LENGTH + length].to_vec()));
            bytes = &bytes[HEADER_LENGTH + length..];
        }
        frames
    }

    fn done(id: u32) -> Response {
        Response {
            id,
            result: Ok(Answer::Done),
        }
    }

    #[test]
    fn nothing_is_sent_before_a_session_and_its_mark_comes_first() {
        let mut outbox = Outbox::default();
        outbox.output(FrameKind::Stdout, b"early");
        assert_eq!(outbox.next(), None);
        outbox.session_started();
        let all = sent(&mut outbox);
        assert_eq!(all[..16], SESSION_MAGIC);
        assert_eq!(frames(&all[16..]), [(FrameKind::Stdout, b"early".to_vec())]);
    }

    #[test]
    fn an_answer_overtakes_all_output_but_the_frame_being_written() {
        let mut outbox = Outbox::default();
        outbox.session_started();
        sent(&mut outbox);
        outbox.output(FrameKind::Stdout, &vec![b'x'; 3 * OUTPUT_FRAME]);
        outbox.next().unwrap();
        outbox.wrote(7);
        outbox.answer(&done(1));
        let kinds: Vec<_> = frames(&[vec![4, 0, 0, 0x40, 0, 0, 0], sent(&mut outbox)].concat())
            .into_iter()
            .map(|(kind, _)| kind)
            .collect();
        assert_eq!(
            kinds,
            [
                FrameKind::Stdout,
                FrameKind::Response,
                FrameKind::Stdout,
                FrameKind::Stdout
            ]
        );
    }

    #[test]
    fn output_cut_by_the_end_of_a_session_is_sent_again_whole() {
        let mut outbox = Outbox::default();
        outbox.session_started();
        sent(&mut outbox);
        outbox.output(FrameKind::Stderr, b"whole");
        outbox.next().unwrap();
        outbox.wrote(6);
        outbox.answer(&done(1));
        outbox.session_ended();
        outbox.session_started();
        assert_eq!(
            frames(&sent(&mut outbox)[16..]),
            [(FrameKind::Stderr, b"whole".to_vec())]
        );
    }

    #[test]
    fn without_a_host_the_oldest_output_goes_and_its_loss_is_told() {
        let mut outbox = Outbox::default();
        outbox.output(FrameKind::Stdout, &vec![b'a'; OUTPUT_FRAME]);
        outbox.output(FrameKind::Stdout, &vec![b'b'; BACKLOG_WITHOUT_HOST]);
        outbox.event(Event::ApplicationExited(ApplicationExit { code: 3 }));
        outbox.session_started();
        let all = frames(&sent(&mut outbox)[16..]);
        let lost: Event = serde_json::from_slice(&all[0].1).unwrap();
        assert_eq!(
            lost,
            Event::OutputDropped {
                bytes: OUTPUT_FRAME as u64
            }
        );
        assert!(all[1].1.iter().all(|byte| *byte == b'b'));
        assert_eq!(all.last().unwrap().0, FrameKind::Event);
    }

    #[test]
    fn while_the_host_may_be_another_only_answers_go_out() {
        let mut outbox = Outbox::default();
        outbox.session_started();
        outbox.host_away();
        outbox.answer(&done(1));
        outbox.output(FrameKind::Stdout, b"later");
        let early = sent(&mut outbox);
        let kinds: Vec<_> = frames(&early[16..])
            .into_iter()
            .map(|(kind, _)| kind)
            .collect();
        assert_eq!(kinds, [FrameKind::Response]);
        outbox.host_there();
        assert_eq!(
            frames(&sent(&mut outbox)),
            [(FrameKind::Stdout, b"later".to_vec())]
        );
    }

    #[test]
    fn output_cut_by_the_hosts_absence_is_kept_for_the_next_session() {
        let mut outbox = Outbox::default();
        outbox.session_started();
        sent(&mut outbox);
        outbox.output(FrameKind::Stderr, b"whole");
        outbox.next().unwrap();
        outbox.wrote(6);
        outbox.host_away();
        assert_eq!(outbox.next(), None);
        outbox.session_started();
        assert_eq!(
            frames(&sent(&mut outbox)[16..]),
            [(FrameKind::Stderr, b"whole".to_vec())]
        );
    }

    #[test]
    fn in_a_session_the_application_is_held_back_instead() {
        let mut outbox = Outbox::default();
        outbox.session_started();
        outbox.output(FrameKind::Stdout, &vec![b'x'; BACKLOG_IN_SESSION]);
        assert!(!outbox.wants_output());
        sent(&mut outbox);
        assert!(outbox.wants_output());
        outbox.output(FrameKind::Stdout, &vec![b'x'; BACKLOG_IN_SESSION]);
        outbox.session_ended();
        assert!(outbox.wants_output());
    }
}

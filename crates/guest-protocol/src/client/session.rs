//! The two tasks of a session: one reads and hands out, one writes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tracing::debug;

use super::frames::{Frame, FrameReader, StreamError};
use super::{ClientError, GuestEvent, MAX_CALLS};
use crate::frame::FrameKind;
use crate::message::{AgentFailure, Answer, Event, HookOutcome, Response};

/// Output held for a reader that is busy, bytes. Beyond it the stream is left unread, or, while a
/// call waits for its answer, output is dropped.
const MAX_HELD: usize = 1024 * 1024;
/// Events held likewise; each is a few dozen bytes.
const MAX_HELD_EVENTS: usize = 4096;

type AnswerSender = oneshot::Sender<Result<Answer, AgentFailure>>;

/// What the client and its tasks share.
#[derive(Debug)]
pub(super) struct Shared {
    calls: Mutex<Calls>,
    /// Rings when a call begins to wait.
    called: Notify,
    ended: watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct Calls {
    waiting: HashMap<u32, AnswerSender>,
    over: Option<String>,
}

impl Shared {
    pub(super) fn new(ended: watch::Sender<Option<String>>) -> Self {
        Self {
            calls: Mutex::default(),
            called: Notify::new(),
            ended,
        }
    }

    /// Puts a call on the list.
    pub(super) fn expect_answer(
        &self,
        id: u32,
    ) -> Result<oneshot::Receiver<Result<Answer, AgentFailure>>, ClientError> {
        let mut calls = self.lock();
        if let Some(reason) = &calls.over {
            return Err(ClientError::Disconnected {
                reason: reason.clone(),
            });
        }
        if calls.waiting.len() >= MAX_CALLS {
            return Err(ClientError::TooManyCalls);
        }
        let (sender, receiver) = oneshot::channel();
        calls.waiting.insert(id, sender);
        drop(calls);
        self.called.notify_one();
        Ok(receiver)
    }

    /// Takes a call off the list.
    pub(super) fn forget(&self, id: u32) {
        self.lock().waiting.remove(&id);
    }

    /// The error of a call in a session that is over.
    pub(super) fn disconnected(&self) -> ClientError {
        let reason = self
            .lock()
            .over
            .clone()
            .unwrap_or_else(|| "its tasks have ended".to_owned());
        ClientError::Disconnected { reason }
    }

    fn answer(&self, response: Response) {
        match self.lock().waiting.remove(&response.id) {
            // The call may have been given up just now.
            Some(waiting) => drop(waiting.send(response.result)),
            None => debug!(
                id = response.id,
                "the guest's agent answered a call that nobody waits for"
            ),
        }
    }

    fn has_waiting(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// Ends the session: every waiting call fails, and every later one. The first reason counts.
    fn end(&self, reason: &str) {
        let mut calls = self.lock();
        if calls.over.is_none() {
            calls.over = Some(reason.to_owned());
            self.ended.send_replace(Some(reason.to_owned()));
        }
        calls.waiting.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes requests until the client is dropped or the stream fails.
pub(super) async fn write<S: AsyncWrite>(
    shared: Arc<Shared>,
    mut stream: WriteHalf<S>,
    mut requests: mpsc::Receiver<Vec<u8>>,
) {
    while let Some(frame) = requests.recv().await {
        let written = async {
            stream.write_all(&frame).await?;
            stream.flush().await
        };
        if let Err(error) = written.await {
            shared.end(&format!("a request could not be written: {error}"));
            return;
        }
    }
}

/// Reads frames until the stream ends or carries something that no agent sends.
pub(super) async fn read<S: AsyncRead>(
    shared: Arc<Shared>,
    mut stream: ReadHalf<S>,
    mut frames: FrameReader,
    events: mpsc::Sender<GuestEvent>,
) {
    let mut held = Held::default();
    let reason = loop {
        if !held.is_empty() && events.is_closed() {
            // Nobody wants them; answers go on.
            held = Held::default();
        }
        let may_read = !held.is_full() || shared.has_waiting();
        tokio::select! {
            biased;
            Ok(permit) = events.reserve(), if !held.is_empty() => {
                if let Some(event) = held.take() {
                    permit.send(event);
                }
            }
            frame = frames.next(&mut stream), if may_read => match frame {
                Ok(frame) => match take(&shared, frame) {
                    Ok(Some(event)) => held.put(event),
                    Ok(None) => {}
                    Err(reason) => break reason,
                },
                Err(error) => break in_words(&error),
            },
            // A call has begun to wait: its answer is read for, even if output must go.
            () = shared.called.notified() => {}
        }
    };
    shared.end(&reason);
    while let Some(event) = held.take() {
        if events.send(event).await.is_err() {
            return;
        }
    }
    let _ = events.send(GuestEvent::Disconnected(reason)).await;
}

fn in_words(error: &StreamError) -> String {
    match error {
        StreamError::Io(cause) => format!("{error}: {cause}"),
        StreamError::Closed | StreamError::BadFrame(_) | StreamError::TooLong(_) => {
            error.to_string()
        }
    }
}

/// Hands an answer out; gives back an event; or says why the session cannot go on.
fn take(shared: &Shared, frame: Frame) -> Result<Option<GuestEvent>, String> {
    match frame.kind {
        FrameKind::Response => {
            let mut response: Response = serde_json::from_slice(&frame.payload).map_err(|bad| {
                let bad = tamed(&bad.to_string());
                format!("the guest sent an answer that cannot be read: {bad}")
            })?;
            tame(&mut response);
            shared.answer(response);
            Ok(None)
        }
        FrameKind::Event => match serde_json::from_slice(&frame.payload) {
            Ok(event) => Ok(Some(GuestEvent::Event(event))),
            Err(bad) => {
                let bad = tamed(&bad.to_string());
                debug!(
                    bad,
                    "the guest's agent sent an event that this host does not know"
                );
                Ok(None)
            }
        },
        FrameKind::Stdout => Ok(Some(GuestEvent::Stdout(frame.payload))),
        FrameKind::Stderr => Ok(Some(GuestEvent::Stderr(frame.payload))),
        FrameKind::Request => Err("the guest sent a request, which only a host does".to_owned()),
    }
}

/// Longest text of a guest that is repeated, characters.
const MAX_TEXT: usize = 2000;

/// Bounds the words that a guest puts into an answer: they end up in states' reasons and in logs.
fn tame(response: &mut Response) {
    match &mut response.result {
        Err(AgentFailure { attempted, reason }) => {
            *attempted = tamed(attempted);
            *reason = tamed(reason);
        }
        Ok(Answer::Hook(HookOutcome::Broken { reason })) => *reason = tamed(reason),
        Ok(_) => {}
    }
}

/// A guest's text in one line, without control characters, and not too long.
pub(super) fn tamed(text: &str) -> String {
    let plain = text.chars().take(MAX_TEXT);
    plain
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}

/// What waits for the reader of the events.
#[derive(Debug, Default)]
struct Held {
    events: VecDeque<GuestEvent>,
    bytes: usize,
    dropped: u64,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.dropped == 0
    }

    fn is_full(&self) -> bool {
        self.bytes >= MAX_HELD || self.events.len() >= MAX_HELD_EVENTS
    }

    fn put(&mut self, event: GuestEvent) {
        let length = output_length(&event);
        // Once something was dropped, what comes after it waits for that to be told.
        if self.is_full() || self.dropped > 0 {
            self.dropped += length as u64;
            if length == 0 && self.events.len() < 2 * MAX_HELD_EVENTS {
                self.events.push_back(event);
            }
            return;
        }
        self.bytes += length;
        self.events.push_back(event);
    }

    fn take(&mut self) -> Option<GuestEvent> {
        let event = self.events.pop_front();
        if let Some(event) = event {
            self.bytes -= output_length(&event);
            return Some(event);
        }
        let bytes = std::mem::take(&mut self.dropped);
        (bytes > 0).then_some(GuestEvent::Event(Event::OutputDropped { bytes }))
    }
}

fn output_length(event: &GuestEvent) -> usize {
    match event {
        GuestEvent::Stdout(bytes) | GuestEvent::Stderr(bytes) => bytes.len(),
        GuestEvent::Event(_) | GuestEvent::Disconnected(_) => 0,
    }
}

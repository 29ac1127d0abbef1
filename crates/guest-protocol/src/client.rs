//! The host's end of the control channel: one session with one guest's agent.
//!
//! The guest is hostile. Whatever it sends, or does not, ends in an error that says what was seen;
//! nothing here waits without a bound, holds more than its constants allow, or panics.
//!
//! Not here: opening the stream (the hypervisor's), and what is done with events and output.

mod frames;
mod handshake;
mod session;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub use self::frames::{
    Frame, FrameReader, StreamError, await_session, write_frame, write_session_magic,
};
use self::session::Shared;
use crate::frame::{FrameKind, MAX_REQUEST};
use crate::message::{
    AgentFailure, Answer, ApplicationSpec, Call, Event, HelloAnswer, HookCall, HookOutcome,
    Identity, Request, Stop, WallClock,
};

/// Calls that may wait for their answers at once.
pub const MAX_CALLS: usize = 64;
/// Requests that may wait to be written.
const MAX_UNSENT: usize = 16;

/// What a guest sends unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestEvent {
    /// Something happened.
    Event(Event),
    /// The application wrote this to its standard output.
    Stdout(Vec<u8>),
    /// The application wrote this to its standard error.
    Stderr(Vec<u8>),
    /// The session is over, for the reason given; nothing comes after it.
    Disconnected(String),
}

/// Why a call brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The agent did not open the session.
    #[error("the guest's agent did not open the control session within {millis} ms")]
    NoSession {
        /// The bound, milliseconds.
        millis: u128,
    },
    /// The agent speaks a version that this host does not.
    #[error(
        "the guest's agent speaks version {version} of the control protocol, which this host does not know"
    )]
    UnknownVersion {
        /// The version.
        version: u16,
    },
    /// The agent did not answer in time. A late answer is dropped.
    #[error("the guest's agent did not answer {call} within {millis} ms")]
    TimedOut {
        /// The call.
        call: &'static str,
        /// The bound, milliseconds.
        millis: u128,
    },
    /// The session is over.
    #[error("the control session with the guest is over: {reason}")]
    Disconnected {
        /// What ended it.
        reason: String,
    },
    /// The agent answered with something else than the call's answer.
    #[error("the guest's agent answered {call} with something else")]
    WrongAnswer {
        /// The call.
        call: &'static str,
    },
    /// Too many calls are waiting.
    #[error("{MAX_CALLS} calls are waiting for the guest's agent already")]
    TooManyCalls,
    /// The request does not fit a frame.
    #[error("the request {call} of {length} bytes exceeds the limit of {MAX_REQUEST}")]
    TooLong {
        /// The call.
        call: &'static str,
        /// Its length as JSON.
        length: usize,
    },
    /// The agent could not carry the request out.
    #[error(transparent)]
    Failed(#[from] AgentFailure),
}

/// A session with a guest's agent. Dropping it closes the stream.
#[derive(Debug)]
pub struct GuestClient {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Vec<u8>>,
    next_id: AtomicU32,
    hello: HelloAnswer,
    over: watch::Receiver<Option<String>>,
    tasks: [JoinHandle<()>; 2],
}

impl GuestClient {
    /// Opens a session on `stream`, within `timeout`. What the guest sends unasked goes to `events`.
    ///
    /// A slow reader of `events` holds the guest's output back, but never an answer: while a call
    /// waits, output beyond a megabyte is dropped, and an [`Event::OutputDropped`] says how much.
    ///
    /// # Errors
    /// When the agent does not open the session, in time or at all, or speaks another version.
    pub async fn connect<S>(
        mut stream: S,
        events: mpsc::Sender<GuestEvent>,
        timeout: Duration,
    ) -> Result<Self, ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (hello, reader) = tokio::time::timeout(timeout, handshake::open(&mut stream))
            .await
            .map_err(|_| ClientError::NoSession {
                millis: timeout.as_millis(),
            })??;
        let (read_half, write_half) = tokio::io::split(stream);
        let (requests, unsent) = mpsc::channel(MAX_UNSENT);
        let (ended, over) = watch::channel(None);
        let shared = Arc::new(Shared::new(ended));
        let tasks = [
            tokio::spawn(session::read(
                Arc::clone(&shared),
                read_half,
                reader,
                events,
            )),
            tokio::spawn(session::write(Arc::clone(&shared), write_half, unsent)),
        ];
        // 0 was the handshake's.
        Ok(Self {
            shared,
            requests,
            next_id: AtomicU32::new(1),
            hello,
            over,
            tasks,
        })
    }

    /// What the agent said of itself when the session opened.
    #[must_use]
    pub fn hello(&self) -> &HelloAnswer {
        &self.hello
    }

    /// Returns why the session ended, when it has.
    pub async fn disconnected(&self) -> String {
        let mut over = self.over.clone();
        let reason = over
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|reason| reason.clone());
        reason.unwrap_or_else(|| "the client was dropped".to_owned())
    }

    /// Makes a call and waits for its answer. Calls may be made at the same time.
    ///
    /// # Errors
    /// When the agent fails, does not answer within `timeout`, or the session is over.
    pub async fn call(&self, call: Call, timeout: Duration) -> Result<Answer, ClientError> {
        let name = name_of(&call);
        tokio::time::timeout(timeout, self.exchange(call, name))
            .await
            .unwrap_or(Err(ClientError::TimedOut {
                call: name,
                millis: timeout.as_millis(),
            }))
    }

    /// Starts the application; its process id in the guest.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn start_application(
        &self,
        spec: ApplicationSpec,
        timeout: Duration,
    ) -> Result<u32, ClientError> {
        match self.call(Call::StartApplication(spec), timeout).await? {
            Answer::Started { pid } => Ok(pid),
            _ => Err(ClientError::WrongAnswer {
                call: "StartApplication",
            }),
        }
    }

    /// Makes the machine its own; in force when this returns. An agent of version 2 tells its clock.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn assume_identity(
        &self,
        identity: Identity,
        timeout: Duration,
    ) -> Result<Option<WallClock>, ClientError> {
        match self.call(Call::AssumeIdentity(identity), timeout).await? {
            Answer::Clock(clock) => Ok(Some(clock)),
            Answer::Done => Ok(None),
            _ => Err(ClientError::WrongAnswer {
                call: "AssumeIdentity",
            }),
        }
    }

    /// Sets the guest's wall clock; what it showed when the agent answered. For agents of version 2.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn set_clock(
        &self,
        now: WallClock,
        timeout: Duration,
    ) -> Result<WallClock, ClientError> {
        match self.call(Call::SetClock(now), timeout).await? {
            Answer::Clock(clock) => Ok(clock),
            _ => Err(ClientError::WrongAnswer { call: "SetClock" }),
        }
    }

    /// Calls a lifecycle hook. The hook's own bound is in `hook`; `slack` is what the way there and
    /// back may take beyond it.
    ///
    /// # Errors
    /// As [`Self::call`]; how the hook itself ended is no error.
    pub async fn call_hook(
        &self,
        hook: HookCall,
        slack: Duration,
    ) -> Result<HookOutcome, ClientError> {
        let timeout = Duration::from_millis(hook.timeout_ms).saturating_add(slack);
        match self.call(Call::CallHook(hook), timeout).await? {
            Answer::Hook(outcome) => Ok(outcome),
            _ => Err(ClientError::WrongAnswer { call: "CallHook" }),
        }
    }

    /// Stops the application in order and writes the guest's disk out. `slack` is what the kill and
    /// the disk may take beyond the grace time.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn stop(&self, stop: Stop, slack: Duration) -> Result<(), ClientError> {
        let timeout = Duration::from_millis(stop.grace_ms).saturating_add(slack);
        self.done(Call::Stop(stop), timeout).await
    }

    /// Proves that the agent runs.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn ping(&self, timeout: Duration) -> Result<(), ClientError> {
        self.done(Call::Ping, timeout).await
    }

    async fn done(&self, call: Call, timeout: Duration) -> Result<(), ClientError> {
        let name = name_of(&call);
        match self.call(call, timeout).await? {
            Answer::Done => Ok(()),
            _ => Err(ClientError::WrongAnswer { call: name }),
        }
    }

    async fn exchange(&self, call: Call, name: &'static str) -> Result<Answer, ClientError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let frame = request_frame(&Request { id, call }, name)?;
        let answer = self.shared.expect_answer(id)?;
        let _forgotten_when_dropped = Expectation {
            shared: &self.shared,
            id,
        };
        self.requests
            .send(frame)
            .await
            .map_err(|_| self.shared.disconnected())?;
        receive(answer)
            .await
            .unwrap_or_else(|| Err(self.shared.disconnected()))
    }
}

impl Drop for GuestClient {
    fn drop(&mut self) {
        // Each holds a half of the stream; the last one's end closes it.
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Takes an unanswered call off the list, however its wait ends.
struct Expectation<'a> {
    shared: &'a Shared,
    id: u32,
}

impl Drop for Expectation<'_> {
    fn drop(&mut self) {
        self.shared.forget(self.id);
    }
}

async fn receive(
    answer: oneshot::Receiver<Result<Answer, AgentFailure>>,
) -> Option<Result<Answer, ClientError>> {
    answer
        .await
        .ok()
        .map(|result| result.map_err(ClientError::Failed))
}

fn request_frame(request: &Request, call: &'static str) -> Result<Vec<u8>, ClientError> {
    // Strings, numbers and lists only: there is nothing in a request that JSON cannot say.
    let payload = serde_json::to_vec(request).unwrap_or_default();
    let length = payload.len();
    frames::framed(FrameKind::Request, &payload).ok_or(ClientError::TooLong { call, length })
}

/// The call's name, without what is in it: some of that is secret.
fn name_of(call: &Call) -> &'static str {
    match call {
        Call::Hello(_) => "Hello",
        Call::StartApplication(_) => "StartApplication",
        Call::AssumeIdentity(_) => "AssumeIdentity",
        Call::SetClock(_) => "SetClock",
        Call::CallHook(_) => "CallHook",
        Call::Stop(_) => "Stop",
        Call::Ping => "Ping",
    }
}

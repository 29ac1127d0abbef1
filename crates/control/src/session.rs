//! An open control session with a guest: calls, its application's exit, and its output, which a task
//! of its own carries to the log so that a slow log never holds an answer back.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use colibri_guest_protocol::client::{ClientError, GuestClient, GuestEvent};
use colibri_guest_protocol::message::{
    ApplicationExit, Event, HookCall, HookOutcome, Identity, Stop, WallClock,
};
use colibri_hypervisor::machine::VmmError;
use colibri_hypervisor::{ControlStream, Machine};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use crate::actor::{Actor, process_reason};
use crate::clock::Clock;
use crate::flow::{Step, Stopped};
use crate::output::Output;

/// Events that wait for the log; the guest is held back beyond that.
const EVENTS: usize = 16;
/// What an answer may take beyond what was asked for; a loaded host under emulation is slow.
const SLACK: Duration = Duration::from_secs(5);
/// Bound of the agent's own work on an identity.
const IDENTITY_BOUND: Duration = Duration::from_secs(15);
/// What a guest's clock may be behind when it is given traffic; the promise is 50 ms.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(20);
/// Times that a clock is set again. On a host that is too busy to do better, the last one counts.
const CLOCK_ATTEMPTS: u32 = 5;
/// Pause before a lost session is opened again: the process may be ending, or the guest playing games.
const LOSS_PAUSE: Duration = Duration::from_secs(1);
/// How long an agent has to take a session up before it is opened anew; twice as long each time, within the bound.
/// What made a guest deaf to a session is known and kept from happening (hypervisor: `qemu/control_port.rs`); a
/// session that is opened anew costs the agent nothing, and heals a port that was left throttled all the same.
const FIRST_PATIENCE: Duration = Duration::from_secs(2);
/// Bound of closing a session: two aborted tasks drop a stream.
const CLOSE_BOUND: Duration = Duration::from_secs(5);

/// Why no session could be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionFailure {
    #[error("could not open the control channel or run the guest")]
    Machine(#[from] VmmError),
    #[error("the guest's agent did not take up the session")]
    Client(#[from] ClientError),
}

/// What a session has told unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Nothing,
    Exited(i32),
    Lost,
}

/// The agent, as the flows speak to it.
pub(crate) struct Client {
    guest: GuestClient,
}

impl Client {
    /// Makes the guest itself. Its clock is behind by the time that the message took to it, so a guest
    /// that shows more than [`CLOCK_TOLERANCE`] is told again: once its ways have run, that takes a
    /// millisecond or two.
    pub(crate) async fn assume_identity(
        &self,
        identity: Identity,
        clock: &Clock,
    ) -> Result<(), ClientError> {
        let assumed = self.guest.assume_identity(identity, IDENTITY_BOUND).await?;
        let Some(mut shown) = assumed else {
            return Ok(());
        };
        let mut behind = clock.passed_since(shown.unix_nanos);
        for _ in 0..CLOCK_ATTEMPTS {
            if behind <= CLOCK_TOLERANCE {
                break;
            }
            let unix_nanos = clock.now_nanos();
            shown = self
                .guest
                .set_clock(WallClock { unix_nanos }, IDENTITY_BOUND)
                .await?;
            behind = clock.passed_since(shown.unix_nanos);
        }
        tracing::debug!(
            behind_micros = behind.as_micros(),
            "the guest's clock is set; it is behind by this at most"
        );
        Ok(())
    }

    /// How a hook ended; an agent that does not answer counts as a hook that does not.
    pub(crate) async fn call_hook(&self, call: HookCall) -> HookOutcome {
        self.guest
            .call_hook(call, SLACK)
            .await
            .unwrap_or_else(|error| match error {
                ClientError::TimedOut { .. } => HookOutcome::TimedOut,
                other => HookOutcome::Broken {
                    reason: other.to_string(),
                },
            })
    }

    /// Proves that the agent runs, and that what it said before has arrived.
    pub(crate) async fn ping(&self) -> Result<(), ClientError> {
        self.guest.ping(SLACK).await
    }

    pub(crate) async fn stop(&self, grace: Duration) -> Result<(), ClientError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.guest.stop(Stop { grace_ms }, SLACK).await
    }
}

/// An open session.
pub(crate) struct Session {
    client: Arc<Client>,
    heard: watch::Receiver<Heard>,
    /// Cancelled when the stream is gone.
    stream_gone: CancellationToken,
    listener: AbortOnDropHandle<()>,
}

impl Session {
    /// Opens the session, letting the guest run first where it does not yet (`start`).
    pub(crate) async fn open(
        machine: Arc<dyn Machine>,
        start: bool,
        output: Output,
        bound: Duration,
    ) -> Result<Self, SessionFailure> {
        // The channel is there before the guest runs: its agent finds the session waiting.
        let mut stream = machine.control().await?;
        if start {
            machine.resume().await?;
        }
        let (events, unasked) = mpsc::channel(EVENTS);
        let end = Instant::now() + bound;
        let mut patience = FIRST_PATIENCE;
        let (guest, stream_gone) = loop {
            let left = end.saturating_duration_since(Instant::now());
            let gone = CancellationToken::new();
            let tracked = Tracked {
                stream,
                _gone: gone.clone().drop_guard(),
            };
            let connected = GuestClient::connect(tracked, events.clone(), patience.min(left));
            match connected.await {
                Ok(guest) => break (guest, gone),
                Err(ClientError::NoSession { .. }) if patience < left => {
                    tracing::info!(?patience, "no answer to a control session; opening it anew");
                    patience *= 2;
                    stream = machine.control().await?;
                }
                Err(error) => return Err(error.into()),
            }
        };
        // Its end is the client's.
        drop(events);
        let exit = guest
            .hello()
            .application_exit
            .map_or(Heard::Nothing, |exit| Heard::Exited(exit.code));
        let (tell, heard) = watch::channel(exit);
        let listener = AbortOnDropHandle::new(tokio::spawn(listen(unasked, tell, output)));
        Ok(Self {
            client: Arc::new(Client { guest }),
            heard,
            stream_gone,
            listener,
        })
    }

    pub(crate) fn client(&self) -> Arc<Client> {
        Arc::clone(&self.client)
    }

    /// The application's exit code, if it is known to have ended.
    pub(crate) fn exit_seen(&self) -> Option<i32> {
        match *self.heard.borrow() {
            Heard::Exited(code) => Some(code),
            _ => None,
        }
    }

    /// Returns the application's exit code when it ends, nothing when the session is lost.
    pub(crate) async fn application_exit(&mut self) -> Option<i32> {
        match self
            .heard
            .wait_for(|heard| *heard != Heard::Nothing)
            .await
            .map(|heard| *heard)
        {
            Ok(Heard::Exited(code)) => Some(code),
            _ => None,
        }
    }

    /// Closes the session; the stream is gone when this returns.
    pub(crate) async fn close(self) {
        let Self {
            client,
            stream_gone,
            listener,
            ..
        } = self;
        drop(client);
        // The listener carries what it has to the log first.
        let closed = async { tokio::join!(stream_gone.cancelled(), listener) };
        if timeout(CLOSE_BOUND, closed).await.is_err() {
            tracing::warn!("a control session did not close in time");
        }
    }
}

impl Actor {
    pub(crate) fn client(&self) -> Step<Arc<Client>> {
        let session = self.session.as_ref().map(Session::client);
        session.ok_or_else(|| Stopped::Failed("The MicroVM's guest did not answer.".into()))
    }

    pub(crate) async fn close_session(&mut self) {
        if let Some(session) = self.session.take() {
            self.attend(session.close()).await;
        }
    }

    /// The session of a running MicroVM broke: another is had, or the MicroVM ends.
    pub(crate) async fn reopen_session(&mut self) {
        if let Err(stopped) = self.try_reopen_session().await {
            self.stopped(stopped).await;
        }
    }

    async fn try_reopen_session(&mut self) -> Step<()> {
        self.close_session().await;
        if let Some(machine) = self.machine.clone()
            && let Ok(cause) = self
                .attend(timeout(LOSS_PAUSE, async move { machine.exited().await }))
                .await
        {
            return Err(Stopped::Failed(process_reason(&cause)));
        }
        let opened = self.opening(false)?;
        self.session = Some(self.attend_unless_ending(opened).await??);
        Ok(())
    }
}

async fn listen(
    mut unasked: mpsc::Receiver<GuestEvent>,
    tell: watch::Sender<Heard>,
    mut output: Output,
) {
    while let Some(event) = unasked.recv().await {
        match event {
            GuestEvent::Stdout(bytes) | GuestEvent::Stderr(bytes) => output.write(&bytes).await,
            GuestEvent::Event(Event::ApplicationExited(ApplicationExit { code })) => {
                output.flush().await;
                tell.send_replace(Heard::Exited(code));
            }
            GuestEvent::Event(Event::OutputDropped { bytes }) => output.note_dropped(bytes).await,
            GuestEvent::Disconnected(reason) => {
                tracing::debug!(reason, "a control session ended");
                break;
            }
        }
    }
    output.flush().await;
    tell.send_if_modified(|heard| {
        let listening = *heard == Heard::Nothing;
        if listening {
            *heard = Heard::Lost;
        }
        listening
    });
}

/// A control stream whose end can be waited for.
struct Tracked {
    stream: Box<dyn ControlStream>,
    _gone: DropGuard,
}

impl AsyncRead for Tracked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tracked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

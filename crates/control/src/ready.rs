//! Making a MicroVM ready for traffic, and what traffic holds while it flows.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use colibri_network::{GuestStream, Slot};
use colibri_store::Phase;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::control::Control;
use crate::open_work::Counted;
use crate::registry::{Handle, Status};

/// A MicroVM between the moment when it may be given traffic and the moment when it may not any more.
pub(crate) struct Running {
    slot: Arc<dyn Slot>,
    since: Instant,
    /// Milliseconds from `since` to the last byte that crossed the endpoint.
    active: AtomicU64,
    /// The same to the last other activity that counts.
    worked: AtomicU64,
    /// Whether open connections are counted, and how many there are.
    counts_connections: bool,
    open: AtomicUsize,
    /// What CPU time the machine had taken when it was looked at last.
    cpu: Mutex<Option<(Instant, Duration)>>,
    closed: CancellationToken,
}

impl Running {
    pub(crate) fn new(slot: Arc<dyn Slot>, counts_connections: bool) -> Arc<Self> {
        Arc::new(Self {
            slot,
            since: Instant::now(),
            active: AtomicU64::new(0),
            worked: AtomicU64::new(0),
            counts_connections,
            open: AtomicUsize::new(0),
            cpu: Mutex::default(),
            closed: CancellationToken::new(),
        })
    }

    /// When the last byte crossed the endpoint, or it was seen to work; when it became ready, if neither.
    pub(crate) fn last_activity(&self) -> Instant {
        let worked = self.worked.load(Ordering::Relaxed);
        let active = self.active.load(Ordering::Relaxed).max(worked);
        self.since + Duration::from_millis(active)
    }

    /// It works, although no byte tells of it.
    pub(crate) fn worked(&self) {
        self.worked.store(self.age(), Ordering::Relaxed);
    }

    fn age(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A connection to it was opened.
    pub(crate) fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection to it ended: it was at work until now.
    pub(crate) fn ended(&self) {
        self.worked();
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether connections are open that count.
    pub(crate) fn has_open_work(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// How much of `total`, the CPU time that the machine has taken by now, came in how long since it was
    /// looked at last; nothing before `sample` has passed.
    pub(crate) fn cpu_since(
        &self,
        total: Duration,
        sample: Duration,
    ) -> Option<(Duration, Duration)> {
        // A single value: a panic leaves nothing half done.
        let mut last = self.cpu.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, before) = *last.get_or_insert_with(|| (Instant::now(), total));
        let elapsed = at.elapsed();
        if elapsed < sample {
            return None;
        }
        *last = Some((Instant::now(), total));
        Some((elapsed, total.saturating_sub(before)))
    }

    /// No traffic from now on.
    pub(crate) fn close(&self) {
        self.closed.cancel();
    }
}

/// A running MicroVM's application. Holding one does not keep the MicroVM awake: bytes do.
#[derive(Clone)]
pub struct ReadyMachine {
    running: Arc<Running>,
}

impl std::fmt::Debug for ReadyMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadyMachine")
            .field("slot", &self.running.slot.index())
            .finish_non_exhaustive()
    }
}

impl ReadyMachine {
    /// Connects to a loopback port of the guest.
    ///
    /// # Errors
    /// When nothing listens there, or the guest cannot be reached (any more).
    pub async fn connect(&self, port: u16) -> Result<Box<dyn GuestStream>, PortFailure> {
        if self.running.closed.is_cancelled() {
            return Err(PortFailure::Unreachable(
                io::ErrorKind::ConnectionAborted.into(),
            ));
        }
        let connected = self.running.slot.connect(port).await;
        let stream = connected.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => PortFailure::Refused(port),
            _ => PortFailure::Unreachable(error),
        })?;
        if !self.running.counts_connections {
            return Ok(stream);
        }
        Ok(Box::new(Counted::new(stream, Arc::clone(&self.running))))
    }

    /// Bytes crossed the endpoint now: the idle timer starts anew. Costs a clock reading and a store.
    pub fn active(&self) {
        let running = &self.running;
        running.active.store(running.age(), Ordering::Relaxed);
    }

    /// Completes when the MicroVM stops being ready: connections to it are to be cut.
    pub async fn closed(&self) {
        self.running.closed.cancelled().await;
    }
}

/// Why an application's port could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum PortFailure {
    /// Nothing listens there.
    #[error("nothing listens on port {0} of the guest")]
    Refused(u16),
    /// The guest itself cannot be reached.
    #[error("the guest cannot be reached")]
    Unreachable(#[source] io::Error),
}

/// Why a MicroVM cannot take a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// It is suspended and must be resumed explicitly.
    #[error("the MicroVM is suspended and its idle policy does not resume it on traffic")]
    Suspended,
    /// It has ended, or ended while the request waited, or there is none of this id.
    #[error("the MicroVM has ended")]
    Ended,
    /// It could not be made ready in time, or waking it failed.
    #[error("the MicroVM did not become ready: {0}")]
    Failed(String),
    /// Too many requests wait for it already.
    #[error("too many requests wait for the MicroVM to wake")]
    TooMany,
    /// Its connectors forbid inbound traffic.
    #[error("the MicroVM takes no inbound traffic")]
    Closed,
}

impl Control {
    /// Waits until a MicroVM runs and may be given traffic, waking it when it is suspended and its idle
    /// policy allows. Bounded by `ready_bound` in time and by `max_waiting` in number.
    ///
    /// # Errors
    /// As [`NotReady`] says.
    pub async fn ready(&self, microvm_id: &str) -> Result<ReadyMachine, NotReady> {
        let handle = self
            .shared
            .registry
            .by_id(microvm_id)
            .ok_or(NotReady::Ended)?;
        if handle.closed {
            return Err(NotReady::Closed);
        }
        if let Some(running) = handle.status.borrow().running.clone() {
            return Ok(ReadyMachine { running });
        }
        let settings = &self.shared.settings;
        let _place = Place::take(&handle.waiting, settings.max_waiting).ok_or(NotReady::TooMany)?;
        match timeout(settings.ready_bound, wait(&handle, handle.status.clone())).await {
            Ok(outcome) => outcome,
            Err(_) => Err(NotReady::Failed(format!(
                "it took longer than {} s",
                settings.ready_bound.as_secs()
            ))),
        }
    }
}

/// A place among the requests that wait.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, limit: usize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < limit).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn wait(
    handle: &Handle,
    mut status: watch::Receiver<Status>,
) -> Result<ReadyMachine, NotReady> {
    let failures = status.borrow_and_update().failures;
    loop {
        let now = status.borrow_and_update().clone();
        if let Some(running) = now.running {
            return Ok(ReadyMachine { running });
        }
        if now.failures != failures {
            return Err(NotReady::Failed(now.failure.unwrap_or_default()));
        }
        match now.phase {
            Phase::Terminating | Phase::Terminated => return Err(NotReady::Ended),
            Phase::Suspended if !handle.auto_resume => return Err(NotReady::Suspended),
            Phase::Suspended | Phase::Suspending | Phase::Captured if handle.auto_resume => {
                handle.wanted.notify_one();
            }
            _ => {}
        }
        status.changed().await.map_err(|_| NotReady::Ended)?;
    }
}

//! The actor of one MicroVM: the only one who changes its state. It goes from phase to phase; each
//! phase's flow is in a file of its own.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use colibri_hypervisor::{ExitCause, Machine};
use colibri_network::Slot;
use colibri_store::{Microvm, Phase, StoreError, Transition};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::changes::{Cause, cause_of, current_request};
use crate::clock::Clock;
use crate::control::Shared;
use crate::documents::{self, LaunchSettings, MachineIdentity};
use crate::flow::Stopped;
use crate::idle::Watched;
use crate::lease::Lease;
use crate::ready::Running;
use crate::registry::{Command, Endpoint, Handle, IfDamaged, MAILBOX, Reply, Status};
use crate::roles::KeptCredentials;
use crate::run::ingress_of;
use crate::session::Session;

/// A reason of section 5.6: the lifetime is over.
pub(crate) const LIFETIME_OVER: &str = "MicroVM exceeded maximum lifetime.";
/// A reason of section 5.6: the suspended window is over. The service writes it without a full stop.
pub(crate) const WINDOW_OVER: &str = "MicroVM exceeded maximum lifetime";

/// What was asked for and cannot be done at once.
#[derive(Debug, Default)]
pub(crate) struct Intents {
    /// Traffic or a caller wants the machine back.
    pub(crate) wake: bool,
    /// A caller wants it to go back to its previous suspension, should this one be damaged.
    pub(crate) go_back: bool,
    /// Callers who want a running machine suspended that is not being served yet.
    pub(crate) suspend: Vec<Reply>,
    /// Callers who want a suspended machine back whose kept process is just being given up.
    pub(crate) resume: Vec<Reply>,
}

impl Intents {
    pub(crate) fn go_back_if(&mut self, if_damaged: IfDamaged) {
        self.go_back |= if_damaged == IfDamaged::GoBack;
    }
}

/// One MicroVM.
pub(crate) struct Actor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: String,
    pub(crate) image_name: String,
    pub(crate) version: u32,
    pub(crate) build_id: Option<String>,
    pub(crate) settings: LaunchSettings,
    pub(crate) memory_mib: u32,
    pub(crate) created_at: i64,
    pub(crate) suspended_at: Option<i64>,
    /// When its lifetime ends, on the steady clock.
    pub(crate) lifetime_end: i64,
    /// Since when it sleeps, on the steady clock.
    pub(crate) asleep_since: i64,
    pub(crate) run_payload: Option<String>,
    pub(crate) identity: Option<MachineIdentity>,
    pub(crate) phase: Phase,
    pub(crate) intents: Intents,
    pub(crate) mailbox: mpsc::Receiver<Command>,
    pub(crate) wanted: Arc<Notify>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) slot: Option<Arc<dyn Slot>>,
    pub(crate) machine: Option<Arc<dyn Machine>>,
    pub(crate) session: Option<Session>,
    /// Its own entry in the registry.
    pub(crate) handle: Arc<Handle>,
    /// While it has a slot: the task that answers its guest at the metadata address.
    pub(crate) served_guest: Option<AbortOnDropHandle<()>>,
    pub(crate) running: Option<Arc<Running>>,
    /// What an earlier daemon recorded and this one has not taken over yet.
    pub(crate) recorded: Recorded,
    /// The MicroVM was running well when its end began: its application is told.
    pub(crate) orderly: bool,
    /// Why an attempt to make it ready failed: told to who waits, with the phase that follows.
    pub(crate) failure: Option<String>,
    /// Why it is in its phase.
    pub(crate) cause: Cause,
    /// Who asked for the next change.
    pub(crate) requested: Option<Cause>,
    /// The phase that was last told of.
    told: Phase,
    /// Why it ends, once it does.
    pub(crate) end_reason: Option<String>,
    /// That it went back to an earlier suspension, in words for its owner, until it runs.
    pub(crate) went_back: Option<String>,
    /// The guest of a machine that was taken over runs already.
    pub(crate) guest_runs: bool,
    /// Size of the memory in the suspension that was just written, bytes.
    pub(crate) delta_bytes: Option<u64>,
    /// While a suspended MicroVM's process is kept: told when it has to go.
    pub(crate) leave: Option<Arc<Notify>>,
    /// The machine wrote the suspension that it is about to make void, and may still hold it.
    pub(crate) holds_suspension: bool,
}

/// A slot and a process of an earlier daemon.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    pub(crate) slot: Option<u32>,
    pub(crate) machine: Option<colibri_hypervisor::MachineRecord>,
}

/// Why a running MicroVM stops running.
enum Next {
    Command(Command),
    ApplicationExited(i32),
    SessionLost,
    ProcessEnded(ExitCause),
    IdleOver,
    LifetimeOver,
}

impl Actor {
    /// An actor for a row, and its entry in the registry.
    ///
    /// # Errors
    /// When the row's documents cannot be read.
    pub(crate) fn of(
        shared: &Arc<Shared>,
        row: Microvm,
    ) -> Result<(Self, Arc<Handle>), StoreError> {
        let settings: LaunchSettings = documents::read("microvms", &row.id, &row.settings)?;
        let machine = row
            .machine
            .as_ref()
            .map(|value| documents::read("microvms", &row.id, value))
            .transpose()?;
        let identity = row
            .identity
            .as_ref()
            .map(|value| documents::read("microvms", &row.id, value))
            .transpose()?;
        let (sender, mailbox) = mpsc::channel(MAILBOX);
        let (status, seen) = watch::channel(Status::of(row.phase));
        let wanted = Arc::new(Notify::new());
        let ingress = ingress_of(&settings.ingress);
        let handle = Arc::new(Handle {
            endpoint: Endpoint {
                microvm_id: row.id.clone(),
                label: row.label,
                memory_mib: row.memory_mib,
            },
            mailbox: sender,
            status: seen,
            lease: Lease::default(),
            waiting: AtomicUsize::new(0),
            wanted: Arc::clone(&wanted),
            auto_resume: settings
                .idle_policy
                .is_some_and(|policy| policy.auto_resume_enabled),
            credentials: KeptCredentials::default(),
            closed: ingress.closed,
            shell: ingress.shell,
        });
        let lifetime_end = lifetime_end(&shared.clock, row.created_at, &settings);
        let actor = Self {
            shared: Arc::clone(shared),
            id: row.id,
            image_name: row.image_name,
            version: row.version,
            build_id: row.build_id,
            settings,
            memory_mib: row.memory_mib,
            created_at: row.created_at,
            suspended_at: row.suspended_at,
            lifetime_end,
            asleep_since: asleep_since(&shared.clock, row.suspended_at),
            run_payload: row.run_payload,
            identity,
            phase: row.phase,
            intents: Intents::default(),
            mailbox,
            wanted,
            status,
            slot: None,
            machine: None,
            session: None,
            handle: Arc::clone(&handle),
            served_guest: None,
            running: None,
            recorded: Recorded {
                slot: row.slot,
                machine,
            },
            orderly: false,
            failure: None,
            cause: cause_of(current_request()),
            requested: None,
            told: row.phase,
            end_reason: None,
            went_back: None,
            guest_runs: false,
            delta_bytes: None,
            leave: None,
            holds_suspension: false,
        };
        Ok((actor, handle))
    }

    /// Lives until the MicroVM has ended.
    pub(crate) async fn run(mut self) {
        if self.recorded.machine.is_some() {
            self.take_over().await;
        }
        while self.phase != Phase::Terminated {
            match self.phase {
                Phase::Launching => self.launch().await,
                Phase::Running => self.serve().await,
                Phase::Suspending => self.suspend().await,
                Phase::Captured => self.put_away().await,
                Phase::Suspended => self.sleep().await,
                Phase::Resuming => self.resume().await,
                Phase::Continuing => self.finish_resume().await,
                Phase::Terminating | Phase::Terminated => self.end().await,
            }
        }
    }

    /// Waits for what ends a running MicroVM's run.
    async fn serve(&mut self) {
        // Whoever gave up waiting does not want it any more.
        self.intents.suspend.retain(|reply| !reply.is_closed());
        if let Some(first) = self.intents.suspend.first() {
            self.requested.clone_from(&first.cause);
            self.begin_suspend().await;
            return;
        }
        match self.next().await {
            Next::Command(Command::Suspend(reply)) => {
                self.requested.clone_from(&reply.cause);
                self.begin_suspend().await;
                // Whoever asked may have gone.
                let _ = reply.send(Ok(()));
            }
            Next::Command(command) => self.answer(command).await,
            Next::ApplicationExited(code) => self.begin_end(exit_reason(code)).await,
            Next::ProcessEnded(cause) => self.begin_end(process_reason(&cause)).await,
            Next::SessionLost => self.reopen_session().await,
            Next::LifetimeOver => self.begin_end(LIFETIME_OVER.into()).await,
            Next::IdleOver => self.idle_is_over().await,
        }
    }

    async fn next(&mut self) -> Next {
        let (Some(machine), Some(session), Some(running)) =
            (&self.machine, &mut self.session, &self.running)
        else {
            return Next::SessionLost;
        };
        let idle_limit = self
            .settings
            .idle_policy
            .map(|policy| policy.max_idle_duration_seconds);
        let lifetime = self.lifetime_end;
        let watched = Watched {
            running,
            lease: &self.handle.lease,
            machine: machine.as_ref(),
            signals: self.settings.idle_signals,
        };
        tokio::select! {
            biased;
            Some(command) = self.mailbox.recv() => Next::Command(command),
            code = session.application_exit() => code.map_or(Next::SessionLost, Next::ApplicationExited),
            cause = machine.exited() => Next::ProcessEnded(cause),
            () = self.shared.clock.reached(lifetime) => Next::LifetimeOver,
            () = watched.idle_for(idle_limit) => Next::IdleOver,
        }
    }

    async fn idle_is_over(&mut self) {
        let window = self
            .settings
            .idle_policy
            .map_or(0, |policy| policy.suspended_duration_seconds);
        if window == 0 {
            self.begin_end(LIFETIME_OVER.into()).await;
        } else {
            self.begin_suspend().await;
        }
    }

    /// Waits until a suspended MicroVM is wanted or over.
    async fn sleep(&mut self) {
        let is_kept = self.machine.is_some();
        let _asleep = (!is_kept).then(|| self.shared.pool.asleep(&self.source()));
        let lifetime = self.lifetime_end;
        let window = self.window_end();
        let clock = self.shared.clock.clone();
        let wants_traffic = self
            .settings
            .idle_policy
            .is_some_and(|policy| policy.auto_resume_enabled);
        if std::mem::take(&mut self.intents.wake) {
            let first = self.intents.resume.first();
            self.requested = first.and_then(|reply| reply.cause.clone());
            self.begin_resume().await;
            return;
        }
        tokio::select! {
            biased;
            Some(command) = self.mailbox.recv() => match command {
                Command::Resume(reply, if_damaged) => {
                    self.intents.go_back_if(if_damaged);
                    self.requested.clone_from(&reply.cause);
                    self.begin_resume().await;
                    // Whoever asked may have gone.
                    let _ = reply.send(Ok(()));
                }
                other => self.answer(other).await,
            },
            () = self.wanted.notified(), if wants_traffic => self.begin_resume().await,
            () = clock.reached(lifetime) => self.begin_end(LIFETIME_OVER.into()).await,
            () = clock.reached(window.unwrap_or(i64::MAX)) => self.begin_end(WINDOW_OVER.into()).await,
            () = kept_process_must_go(self.leave.as_deref(), self.machine.as_deref()) => self.give_up_process().await,
        }
    }

    /// When the suspended window ends, on the steady clock. A window of nothing means that an
    /// idle MicroVM is ended at once; one that was suspended on request has no window then.
    fn window_end(&self) -> Option<i64> {
        let window = self.settings.idle_policy?.suspended_duration_seconds;
        (window > 0).then(|| self.asleep_since.saturating_add(i64::from(window) * 1000))
    }

    /// It sleeps from now on; the time of day.
    pub(crate) fn fell_asleep(&mut self) -> i64 {
        let now = self.shared.clock.now();
        self.suspended_at = Some(now);
        self.asleep_since = self.shared.clock.steady();
        now
    }

    /// The MicroVM is to end, for this reason: written (where the state can be), published, no more traffic.
    pub(crate) async fn begin_end(&mut self, reason: String) {
        let requested = self.requested.take();
        if self.is_ending() {
            return;
        }
        self.cause = requested.unwrap_or(Cause::Service);
        self.orderly = self.phase == Phase::Running;
        let transition = Transition::to(Phase::Terminating)
            .reason(Some(reason.clone()))
            .payload_spent();
        if let Err(error) = self
            .shared
            .store
            .change_microvm(self.id.clone(), transition)
            .await
        {
            // A full disk must not keep a MicroVM alive: its end frees some.
            tracing::error!(microvm_id = %self.id, error = %crate::failure::chain(&error), "could not record its end");
        }
        tracing::info!(microvm_id = %self.id, reason, "ending");
        self.end_reason = Some(reason);
        self.phase = Phase::Terminating;
        self.publish();
    }

    /// A flow stopped before its goal.
    pub(crate) async fn stopped(&mut self, stopped: Stopped) {
        if let Stopped::Failed(reason) = stopped {
            self.failure = Some(reason.clone());
            self.begin_end(reason).await;
        }
    }

    /// Tells the observer of a phase that is new.
    fn tell(&mut self) {
        if self.told == self.phase {
            return;
        }
        self.told = self.phase;
        let reason = self.end_reason.clone().or_else(|| self.went_back.clone());
        let image = (self.image_name.as_str(), self.version);
        self.shared
            .tell_of_microvm(&self.id, image, self.phase, reason, self.cause.clone());
    }

    /// Says where the MicroVM is, and opens or closes it to traffic accordingly.
    pub(crate) fn publish(&mut self) {
        if self.phase == Phase::Running {
            let counts = self.settings.idle_signals.connections;
            self.running = self.slot.clone().map(|slot| Running::new(slot, counts));
        } else if let Some(running) = self.running.take() {
            running.close();
        }
        let (phase, running, failure) = (self.phase, self.running.clone(), self.failure.take());
        self.status.send_modify(|status| {
            status.phase = phase;
            status.running = running;
            // The last failure stays: who waits may look only when the next phase has been entered.
            if failure.is_some() {
                status.failures += 1;
                status.failure = failure;
            }
        });
        tracing::info!(microvm_id = %self.id, phase = phase.as_str(), "entered a phase");
        self.tell();
    }
}

/// Returns when a suspended MicroVM's process is to go, or has ended by itself; never when none is kept.
async fn kept_process_must_go(leave: Option<&Notify>, machine: Option<&dyn Machine>) {
    let (Some(leave), Some(machine)) = (leave, machine) else {
        return std::future::pending().await;
    };
    tokio::select! {
        () = leave.notified() => {}
        _ = machine.exited() => {}
    }
}

/// Tells everybody who asked that it is done.
pub(crate) fn accept_all(replies: &mut Vec<Reply>) {
    for reply in replies.drain(..) {
        // Whoever asked may have gone.
        let _ = reply.send(Ok(()));
    }
}

/// When a MicroVM's lifetime is over, milliseconds since the Unix epoch.
/// When a lifetime ends, on the steady clock.
fn lifetime_end(clock: &Clock, created_at: i64, settings: &LaunchSettings) -> i64 {
    let whole = i64::from(settings.maximum_duration_seconds) * 1000;
    let begun = settings.began.as_ref();
    let passed = begun
        .and_then(|began| clock.since(began))
        .unwrap_or_else(|| clock.now().saturating_sub(created_at));
    clock
        .steady()
        .saturating_add(whole - passed.clamp(0, whole))
}

/// Since when a MicroVM sleeps that an earlier daemon suspended, on the steady clock: by the wall clock, and
/// never in the future.
fn asleep_since(clock: &Clock, suspended_at: Option<i64>) -> i64 {
    let now = clock.now();
    let passed = now.saturating_sub(suspended_at.unwrap_or(now)).max(0);
    clock.steady().saturating_sub(passed)
}

/// The reason of section 5.6 for an application that ended.
pub(crate) fn exit_reason(code: i32) -> String {
    format!("Container Stopped with Exit Code: {code}")
}

/// The reason for a machine whose process is gone. What the VMM printed is the host's and stays in its log.
pub(crate) fn process_reason(cause: &ExitCause) -> String {
    if let ExitCause::Ended(output) = cause {
        tracing::warn!(output, "a machine's process ended on its own");
    }
    "The MicroVM stopped unexpectedly.".into()
}

//! From nothing to running: slot, process, identity, `/run`.
//!
//! What can happen at the same time does: a launch's latency is what a caller waits for.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use colibri_guest_protocol::message::Identity;
use colibri_hypervisor::machine::VmmError;
use colibri_hypervisor::{Isolation, LaunchSpec, Machine, NetworkAttachment};
use colibri_network::{Egress, NetworkError, Slot};
use colibri_store::{Phase, StoreError, Transition};
use rand::RngCore as _;
use uuid::Uuid;

use crate::actor::{Actor, exit_reason};
use crate::clock::Clock;
use crate::documents::{self, MachineIdentity};
use crate::egress;
use crate::failure::chain;
use crate::flow::{Step, Stopped};
use crate::hooks::{Hook, run_body, slept_header};
use crate::pool::Source;
use crate::session::{Session, SessionFailure};

/// Fresh entropy for the guest's random pool, bytes: twice what a reseed of the kernel's takes.
const ENTROPY: usize = 64;
/// Lines of a silent guest's console that go to the log.
const LAST_WORDS: usize = 8;

/// Where a guest that assumes its identity comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Its connections to the outside are of another time: it was launched or resumed.
    Snapshot,
    /// It was stopped for a moment, and its network stayed.
    Pause,
}

/// Why a machine could not be started; the host's fault in every case.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchFailure {
    #[error("could not learn what its network connectors allow")]
    Egress(#[source] StoreError),
    #[error("could not have a network slot")]
    Slot(#[source] NetworkError),
    #[error("could not prepare the MicroVM's directory")]
    Directory(#[source] io::Error),
    #[error("could not start the machine")]
    Machine(#[source] VmmError),
}

impl LaunchFailure {
    /// What the MicroVM's owner may know.
    pub(crate) fn for_owner(&self) -> String {
        match self {
            Self::Slot(NetworkError::Exhausted { .. }) => {
                "No capacity: every network slot is in use.".into()
            }
            Self::Slot(_) | Self::Egress(_) => "The MicroVM's network could not be set up.".into(),
            Self::Directory(_) | Self::Machine(VmmError::StorageFull { .. }) => {
                "The MicroVM could not be started: no storage.".into()
            }
            Self::Machine(VmmError::ForeignSnapshot {
                frozen_on, here, ..
            }) => format!(
                "The MicroVM's state is of {frozen_on}; this host runs {here}. Bring that back, or build the \
                 image again for new MicroVMs."
            ),
            Self::Machine(VmmError::BadSnapshot { reason, .. }) => format!(
                "The MicroVM's state cannot be used: {reason}. Put the files right, or terminate it."
            ),
            Self::Machine(_) => "The MicroVM could not be started.".into(),
        }
    }

    /// Whether what was to be continued is itself of no use here: another process would not help.
    pub(crate) fn is_of_the_snapshot(&self) -> bool {
        matches!(
            self,
            Self::Machine(VmmError::BadSnapshot { .. } | VmmError::ForeignSnapshot { .. })
        )
    }
}

impl Actor {
    pub(crate) async fn launch(&mut self) {
        if let Err(stopped) = self.try_launch().await {
            self.stopped(stopped).await;
        }
    }

    async fn try_launch(&mut self) -> Step<()> {
        let identity = self.own_identity();
        let _under_way = self.shared.pool.under_way();
        if !self.launch_from_pool(&identity).await? {
            self.start_machine(false)
                .await
                .map_err(|failure| self.launch_failed(&failure))?;
            self.unless_ending()?;
            self.begin_guest(&identity).await?;
        }
        self.become_itself(Origin::Snapshot, Some(Hook::Run))
            .await?;
        let transition = Transition::to(Phase::Running).reason(None).payload_spent();
        self.run_payload = None;
        self.enter(Phase::Running, transition).await
    }

    /// Lets the guest of a machine that waited in the pool go on, where there is one; false when the launch
    /// is to begin from the base.
    async fn launch_from_pool(&mut self, identity: &MachineIdentity) -> Step<bool> {
        if !self.move_in().await {
            return Ok(false);
        }
        self.unless_ending()?;
        match self.begin_guest(identity).await {
            Ok(()) if self.session.as_ref().and_then(Session::exit_seen).is_none() => {
                return Ok(true);
            }
            Err(Stopped::Ending) => return Err(Stopped::Ending),
            // It has not heard of `/run` yet, nor has anybody heard of it.
            _ => {
                tracing::warn!(microvm_id = %self.id, "a machine of the pool is of no use; launching from the base");
            }
        }
        self.let_go().await;
        self.unless_ending()?;
        Ok(false)
    }

    /// Makes a machine of the pool this MicroVM's, where one waits.
    async fn move_in(&mut self) -> bool {
        let source = self.source();
        let pool = Arc::clone(&self.shared.pool);
        let reach = match self.own_egress().await {
            Ok(reach) => reach,
            Err(failure) => {
                tracing::warn!(microvm_id = %self.id, error = %chain(&failure), "could not look into the pool");
                return false;
            }
        };
        let wanted = reach.clone();
        let claimed = async move { pool.claim(&source, &wanted).await };
        let Some(waiting) = self.attend(claimed).await else {
            return false;
        };
        let slot = waiting.slot();
        let directory = self.shared.settings.microvm_directory(&self.id);
        let machine = Arc::clone(&waiting.machine);
        let moved = self
            .attend(async move {
                // What the machine's network was granted was its image's, of the time when it was made.
                egress::grant(slot.as_ref(), &reach).await?;
                remove_directory(&directory)
                    .await
                    .map_err(LaunchFailure::Directory)?;
                let moved = machine.relocate(&directory).await;
                moved.map_err(LaunchFailure::Machine)
            })
            .await;
        if let Err(failure) = moved {
            tracing::warn!(microvm_id = %self.id, machine = waiting.id, error = %chain(&failure), "could not take a machine out of the pool");
            self.attend(waiting.discard()).await;
            return false;
        }
        tracing::info!(microvm_id = %self.id, machine = waiting.id, "took a machine out of the pool");
        let (slot, machine) = waiting.into_parts();
        (self.slot, self.machine) = (Some(slot), Some(machine));
        true
    }

    /// What its machines are made from.
    pub(crate) fn source(&self) -> Source {
        Source {
            image_name: self.image_name.clone(),
            version: self.version,
            build_id: self.build_id.clone().unwrap_or_default(),
        }
    }

    /// Records the machine and lets its guest go on, up to the open session.
    async fn begin_guest(&mut self, identity: &MachineIdentity) -> Step<()> {
        let transition = self
            .machine_recorded(Transition::within())
            .identity(&documents::write(identity));
        let (store, id) = (self.shared.store.clone(), self.id.clone());
        // A crash before the record is made leaves a process that the next daemon sweeps, so the guest
        // need not wait for the disk.
        let recorded = async move { store.change_microvm(id, transition).await };
        let opened = self.opening(true)?;
        let (recorded, session) = self
            .attend_unless_ending(async { tokio::join!(recorded, opened) })
            .await?;
        recorded.map_err(|error| {
            Stopped::Failed(self.host_failed("record the MicroVM's machine", &error))
        })?;
        self.session = Some(session?);
        Ok(())
    }

    fn launch_failed(&self, failure: &LaunchFailure) -> Stopped {
        tracing::warn!(microvm_id = %self.id, error = %chain(failure), "could not launch");
        Stopped::Failed(failure.for_owner())
    }

    /// What the owner may know of a failure of the host: what was attempted, not why.
    pub(crate) fn host_failed(&self, attempted: &str, error: &dyn std::error::Error) -> String {
        tracing::error!(microvm_id = %self.id, error = %chain(error), "could not {attempted}");
        format!("The host could not {attempted}.")
    }

    /// Has a stopped machine, from the base or from the suspension: in a spare that waits, or in a process of
    /// its own.
    pub(crate) async fn start_machine(&mut self, resume: bool) -> Result<(), LaunchFailure> {
        let reach = self.own_egress().await?;
        match self.take_up_in_spare(resume, &reach).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(failure) if failure.is_of_the_snapshot() => return Err(failure),
            Err(failure) => {
                tracing::warn!(microvm_id = %self.id, error = %chain(&failure), "a spare is of no use; starting a process");
            }
        }
        self.start_process(resume, reach).await
    }

    /// False where no spare waits.
    async fn take_up_in_spare(
        &mut self,
        resume: bool,
        reach: &Egress,
    ) -> Result<bool, LaunchFailure> {
        let claimed = self.shared.pool.claim_spare(&self.source(), reach);
        let Some(spare) = claimed else {
            return Ok(false);
        };
        let directory = self.shared.settings.microvm_directory(&self.id);
        let machine = Arc::clone(&spare.machine);
        let (slot, reach) = (spare.slot(), reach.clone());
        let taken_up = self
            .attend(async move {
                egress::grant(slot.as_ref(), &reach).await?;
                if !resume {
                    let removed = remove_directory(&directory).await;
                    removed.map_err(LaunchFailure::Directory)?;
                }
                let taken_up = machine.take_up(&directory, resume).await;
                taken_up.map_err(LaunchFailure::Machine)
            })
            .await;
        if let Err(failure) = taken_up {
            self.attend(spare.discard()).await;
            return Err(failure);
        }
        let (slot, machine) = spare.into_parts();
        (self.slot, self.machine) = (Some(slot), Some(machine));
        Ok(true)
    }

    /// Takes a slot and starts a process on it.
    async fn start_process(&mut self, resume: bool, reach: Egress) -> Result<(), LaunchFailure> {
        let directory = self.shared.settings.microvm_directory(&self.id);
        let shared = Arc::clone(&self.shared);
        let fresh = directory.clone();
        let prepared = async move {
            if resume {
                Ok(())
            } else {
                fresh_directory(&fresh).await
            }
        };
        let (slot, prepared) = self
            .attend(async { tokio::join!(shared.acquire_slot(reach), prepared) })
            .await;
        let slot = slot.map_err(LaunchFailure::Slot)?;
        self.slot = Some(Arc::clone(&slot));
        prepared.map_err(LaunchFailure::Directory)?;
        let base = self.shared.settings.base_directory(
            &self.image_name,
            self.version,
            self.build_id.as_deref().unwrap_or_default(),
        );
        let spec = |network| LaunchSpec {
            id: self.id.clone(),
            directory,
            base,
            resume,
            rewindable: false,
            network,
            isolation: Isolation { uid: slot.uid() },
        };
        let attached = slot.attach().await.map_err(LaunchFailure::Slot)?;
        let spec = spec(attached.map(|(tap, namespace)| NetworkAttachment { tap, namespace }));
        let vmm = Arc::clone(&self.shared.vmm);
        let machine = self
            .attend(async move { vmm.launch(spec).await })
            .await
            .map_err(LaunchFailure::Machine)?;
        self.machine = Some(machine);
        Ok(())
    }

    /// A transition that records the slot and the process.
    pub(crate) fn machine_recorded(&self, transition: Transition) -> Transition {
        let record = self
            .machine
            .as_ref()
            .map(|machine| documents::write(&machine.record()));
        transition
            .slot(self.slot.as_ref().map(|slot| slot.index()))
            .machine(record.as_ref())
    }

    /// Opens the control session, letting the guest run first where it does not (`start`).
    pub(crate) fn opening(&self, start: bool) -> Step<impl Future<Output = Step<Session>> + use<>> {
        let machine = self
            .machine
            .clone()
            .ok_or_else(|| Stopped::Failed("The MicroVM has no machine.".into()))?;
        let output = self.output();
        let bound = self.shared.settings.session_bound;
        let id = self.id.clone();
        Ok(async move {
            let opened = Session::open(Arc::clone(&machine), start, output, bound).await;
            let Err(failure) = opened else {
                return opened.map_err(unanswered);
            };
            let (runs, console) = tokio::join!(machine.is_running(), machine.console());
            let console = console.unwrap_or_default();
            let words: Vec<&str> = console.lines().rev().take(LAST_WORDS).collect();
            tracing::warn!(
                microvm_id = %id, error = %chain(&failure), runs = ?runs.ok(), console = ?words,
                "could not open the control session; the console's last lines, the newest first"
            );
            Err(unanswered(failure))
        })
    }

    /// Gives the guest its identity, and calls a hook behind it. Both go out at once: the agent carries
    /// requests out in order, so the hook never sees another's identity, and a round trip is saved.
    pub(crate) async fn become_itself(&mut self, origin: Origin, hook: Option<Hook>) -> Step<()> {
        // Whichever way it came by its slot: before the hook, which may ask already.
        if self.served_guest.is_none() {
            self.serve_guest().await;
        }
        let identity = self.own_identity();
        let clock = self.shared.clock.clone();
        let message = identity_message(&self.id, identity, origin, &clock);
        let client = self.client()?;
        let call = hook.and_then(|hook| self.hook_call(hook));
        let told = {
            let client = Arc::clone(&client);
            async move { client.assume_identity(message, &clock).await }
        };
        let called = async move {
            match call {
                Some((hook, call)) => hook.failure(&client.call_hook(call).await),
                None => None,
            }
        };
        let (told, failure) = self
            .attend_unless_ending(async { tokio::join!(told, called) })
            .await?;
        if let Err(error) = told {
            tracing::warn!(microvm_id = %self.id, error = %chain(&error), "the guest did not assume its identity");
            return Err(
                self.unless_exited("The MicroVM's guest did not assume its identity.".into())
            );
        }
        failure.map_or(Ok(()), |reason| Err(self.unless_exited(reason)))
    }

    /// A failed step, or the application's exit where that explains it.
    pub(crate) fn unless_exited(&self, reason: String) -> Stopped {
        let exit = self.session.as_ref().and_then(Session::exit_seen);
        Stopped::Failed(exit.map_or(reason, exit_reason))
    }

    /// The call of a hook, where it is enabled.
    pub(crate) fn hook_call(
        &self,
        hook: Hook,
    ) -> Option<(Hook, colibri_guest_protocol::message::HookCall)> {
        let hooks = self.settings.hooks;
        let (bound, body) = match hook {
            Hook::Run => (
                hooks.run_ms?,
                Some(run_body(&self.id, self.run_payload.as_deref())),
            ),
            Hook::Resume => (hooks.resume_ms?, None),
            Hook::Suspend => (hooks.suspend_ms?, None),
            Hook::Terminate => (hooks.terminate_ms?, None),
        };
        let mut call = hook.call(hooks.port?, bound, body);
        if hook == Hook::Resume {
            call.headers.push(slept_header(self.slept()));
        }
        Some((hook, call))
    }

    /// How long it has been suspended; nothing where that was given up before it was.
    fn slept(&self) -> Duration {
        let now = self.shared.clock.now();
        let millis = self
            .suspended_at
            .map_or(0, |since| now.saturating_sub(since));
        Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }

    /// What makes this MicroVM itself, made up at its launch and kept.
    fn own_identity(&mut self) -> MachineIdentity {
        let hostname = self.id.clone();
        self.identity
            .get_or_insert_with(|| MachineIdentity {
                hostname,
                machine_id: Uuid::new_v4().simple().to_string(),
                boot_id: Uuid::new_v4().to_string(),
            })
            .clone()
    }
}

/// What the owner may know of a guest that does not take up a session.
fn unanswered(_: SessionFailure) -> Stopped {
    Stopped::Failed("The MicroVM's guest did not answer.".into())
}

/// What the agent is told of who it is from now on.
pub(crate) fn identity_message(
    id: &str,
    identity: MachineIdentity,
    origin: Origin,
    clock: &Clock,
) -> Identity {
    Identity {
        microvm_id: id.to_owned(),
        hostname: identity.hostname,
        machine_id: identity.machine_id,
        boot_id: identity.boot_id,
        entropy: STANDARD.encode(random::<ENTROPY>()),
        wall_clock_unix_nanos: clock.now_nanos(),
        reset_connections: origin == Origin::Snapshot,
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

/// An empty directory of the MicroVM's own; what an interrupted launch left in it goes.
async fn fresh_directory(path: &Path) -> io::Result<()> {
    remove_directory(path).await?;
    tokio::fs::create_dir_all(path).await
}

/// Removes a directory with all in it; one that is not there is fine.
pub(crate) async fn remove_directory(path: &Path) -> io::Result<()> {
    match tokio::fs::remove_dir_all(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Ends a machine's process.
pub(crate) async fn kill(machine: &Arc<dyn Machine>) -> Result<(), VmmError> {
    machine.kill().await
}

/// Gives a slot back.
pub(crate) async fn release(slot: &Arc<dyn Slot>) -> Result<(), NetworkError> {
    slot.release().await
}

//! One machine of the warm pool: launched from a base, run until the agent's paths and the
//! application's warm-up have run, paused; one spare, started on a base and no more; and their end, where
//! nobody wants them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use colibri_guest_protocol::client::ClientError;
use colibri_guest_protocol::message::HookCall;
use colibri_hypervisor::machine::VmmError;
use colibri_hypervisor::{Isolation, LaunchSpec, Machine, NetworkAttachment, SpareSpec};
use colibri_network::{Egress, NetworkError, Slot};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::control::Shared;
use crate::documents::MachineIdentity;
use crate::failure::chain;
use crate::launch::{Origin, identity_message, remove_directory};
use crate::output::Output;
use crate::pool::Kind;
use crate::session::{Session, SessionFailure};
use crate::warm_up;

/// Host name of a machine that is nobody's yet; the build's own.
const NOBODY: &str = "localhost";
/// Bound of a call where no hook is, milliseconds.
const NO_HOOK_MILLIS: u64 = 1000;
/// Times that the end of a machine is tried; what is left then goes with the next daemon's start.
const ATTEMPTS: u32 = 8;
/// Pause between them; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// What a machine is made of.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    /// Directory of the base.
    pub(crate) base: PathBuf,
    /// What its network lets out: the version's own connector.
    pub(crate) reach: Egress,
    /// Whether launches use it: it is what its image's newest active version is made from.
    pub(crate) is_launched: bool,
}

/// Why a machine could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MakeFailure {
    #[error("could not have a network slot")]
    Slot(#[source] NetworkError),
    #[error("could not make its directory")]
    Directory(#[source] io::Error),
    #[error("could not launch, run or pause the machine")]
    Machine(#[from] VmmError),
    #[error("could not open a session with its guest")]
    Session(#[from] SessionFailure),
    #[error("its guest's agent did not answer")]
    Agent(#[from] ClientError),
    #[error("its application ended with exit code {0}")]
    ApplicationExited(i32),
    #[error("it is not wanted any more")]
    Abandoned,
}

/// What exists of a machine.
struct Parts {
    id: String,
    directory: PathBuf,
    slot: Option<Arc<dyn Slot>>,
    machine: Option<Arc<dyn Machine>>,
}

/// A machine that waits, paused.
pub(crate) struct PoolMachine {
    /// `pool-<uuid>`: the name that its process keeps for life.
    pub(crate) id: String,
    /// What its network let out when it was made.
    reach: Egress,
    slot: Arc<dyn Slot>,
    pub(crate) machine: Arc<dyn Machine>,
    directory: PathBuf,
    /// Tells the pool of the process's end.
    _watcher: AbortOnDropHandle<()>,
}

impl PoolMachine {
    /// Its network.
    pub(crate) fn slot(&self) -> Arc<dyn Slot> {
        Arc::clone(&self.slot)
    }

    /// Whether its network can let out this: what is granted is changed when it becomes somebody's, the kind
    /// of its egress never.
    pub(crate) fn fits(&self, reach: &Egress) -> bool {
        std::mem::discriminant(&self.reach) == std::mem::discriminant(reach)
    }

    /// It becomes somebody's: who relocates it and lets it go.
    pub(crate) fn into_parts(self) -> (Arc<dyn Slot>, Arc<dyn Machine>) {
        (self.slot, self.machine)
    }

    /// Ends it: nothing is left.
    pub(crate) async fn discard(self) {
        let parts = Parts {
            id: self.id,
            directory: self.directory,
            slot: Some(self.slot),
            machine: Some(self.machine),
        };
        parts.discard().await;
    }
}

/// Makes one, or leaves nothing of it.
///
/// # Errors
/// When a step failed, or `abandon` was cancelled meanwhile.
pub(crate) async fn make(
    shared: &Arc<Shared>,
    recipe: &Recipe,
    kind: Kind,
    abandon: &CancellationToken,
) -> Result<PoolMachine, MakeFailure> {
    match kind {
        Kind::Machine => make_as(shared, recipe, Way::Run, abandon).await,
        Kind::Spare if shared.vmm.rewinds(Some(&recipe.base)) => {
            match make_as(shared, recipe, Way::RunAndRewind, abandon).await {
                Err(failure) if !matches!(failure, MakeFailure::Abandoned) => {
                    tracing::warn!(base = %recipe.base.display(), error = %chain(&failure), "a spare waits without having run");
                    make_as(shared, recipe, Way::Prepare, abandon).await
                }
                made => made,
            }
        }
        Kind::Spare => make_as(shared, recipe, Way::Prepare, abandon).await,
    }
}

/// How one comes to wait.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Launched from its base, and run.
    Run,
    /// The same, and then back to its base: a spare that has learnt what its next machine will run.
    RunAndRewind,
    /// A process that has run nothing.
    Prepare,
}

async fn make_as(
    shared: &Arc<Shared>,
    recipe: &Recipe,
    way: Way,
    abandon: &CancellationToken,
) -> Result<PoolMachine, MakeFailure> {
    let name = match way {
        Way::Run => "pool",
        Way::RunAndRewind | Way::Prepare => "spare",
    };
    let id = format!("{name}-{}", Uuid::new_v4());
    let mut parts = Parts {
        directory: shared.settings.pool_directory(&id),
        id,
        slot: None,
        machine: None,
    };
    let made = match way {
        Way::Run => parts.launch_and_warm(shared, recipe, false, abandon).await,
        Way::RunAndRewind => parts.launch_and_warm(shared, recipe, true, abandon).await,
        Way::Prepare => parts.prepare(shared, recipe).await,
    };
    match made {
        Ok((slot, machine)) => {
            let reach = recipe.reach.clone();
            Ok(watched(shared, parts, reach, slot, machine))
        }
        Err(failure) => {
            parts.discard().await;
            Err(failure)
        }
    }
}

fn watched(
    shared: &Arc<Shared>,
    parts: Parts,
    reach: Egress,
    slot: Arc<dyn Slot>,
    machine: Arc<dyn Machine>,
) -> PoolMachine {
    let (pool, process, id) = (
        Arc::clone(&shared.pool),
        Arc::clone(&machine),
        parts.id.clone(),
    );
    let watcher = tokio::spawn(async move {
        process.exited().await;
        tracing::info!(machine = id, "a machine of the pool ended by itself");
        pool.lost(&id);
    });
    PoolMachine {
        id: parts.id,
        reach,
        slot,
        machine,
        directory: parts.directory,
        _watcher: AbortOnDropHandle::new(watcher),
    }
}

impl Parts {
    async fn launch_and_warm(
        &mut self,
        shared: &Shared,
        recipe: &Recipe,
        rewind: bool,
        abandon: &CancellationToken,
    ) -> Result<(Arc<dyn Slot>, Arc<dyn Machine>), MakeFailure> {
        // Carried through: a launch that is dropped half-way would leave a process that nobody knows of.
        let (slot, machine) = self.launch(shared, recipe, rewind).await?;
        let warmed = warm(shared, recipe, &self.id, &slot, &machine);
        abandon
            .run_until_cancelled(warmed)
            .await
            .unwrap_or(Err(MakeFailure::Abandoned))?;
        machine.pause().await?;
        if rewind {
            machine.rewind().await?;
        }
        Ok((slot, machine))
    }

    async fn launch(
        &mut self,
        shared: &Shared,
        recipe: &Recipe,
        rewindable: bool,
    ) -> Result<(Arc<dyn Slot>, Arc<dyn Machine>), MakeFailure> {
        let (slot, network) = self.place(shared, recipe).await?;
        let spec = LaunchSpec {
            id: self.id.clone(),
            directory: self.directory.clone(),
            base: recipe.base.clone(),
            resume: false,
            rewindable,
            network,
            isolation: Isolation { uid: slot.uid() },
        };
        let machine = shared.vmm.launch(spec).await?;
        self.machine = Some(Arc::clone(&machine));
        Ok((slot, machine))
    }

    async fn prepare(
        &mut self,
        shared: &Shared,
        recipe: &Recipe,
    ) -> Result<(Arc<dyn Slot>, Arc<dyn Machine>), MakeFailure> {
        let (slot, network) = self.place(shared, recipe).await?;
        let spec = SpareSpec {
            id: self.id.clone(),
            directory: self.directory.clone(),
            base: recipe.base.clone(),
            network,
            isolation: Isolation { uid: slot.uid() },
        };
        let machine = shared.vmm.prepare(spec).await?;
        self.machine = Some(Arc::clone(&machine));
        Ok((slot, machine))
    }

    /// Its directory, and a slot of its own.
    async fn place(
        &mut self,
        shared: &Shared,
        recipe: &Recipe,
    ) -> Result<(Arc<dyn Slot>, Option<NetworkAttachment>), MakeFailure> {
        tokio::fs::create_dir_all(&self.directory)
            .await
            .map_err(MakeFailure::Directory)?;
        let slot = shared.network.acquire(recipe.reach.clone()).await;
        let slot = slot.map_err(MakeFailure::Slot)?;
        self.slot = Some(Arc::clone(&slot));
        let attached = slot.attach().await.map_err(MakeFailure::Slot)?;
        let network = attached.map(|(tap, namespace)| NetworkAttachment { tap, namespace });
        Ok((slot, network))
    }

    async fn discard(self) {
        let mut pause = FIRST_PAUSE;
        for _ in 0..ATTEMPTS {
            match self.try_discard().await {
                Ok(()) => return,
                Err(failure) => {
                    tracing::error!(machine = self.id, error = %chain(&failure), "could not end a machine of the pool");
                }
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    async fn try_discard(&self) -> Result<(), MakeFailure> {
        if let Some(machine) = &self.machine {
            machine.kill().await?;
        }
        if let Some(slot) = &self.slot {
            slot.release().await.map_err(MakeFailure::Slot)?;
        }
        remove_directory(&self.directory)
            .await
            .map_err(MakeFailure::Directory)
    }
}

/// Lets a launched machine run what a MicroVM runs first.
async fn warm(
    shared: &Shared,
    recipe: &Recipe,
    id: &str,
    slot: &Arc<dyn Slot>,
    machine: &Arc<dyn Machine>,
) -> Result<(), MakeFailure> {
    let output = Output::nowhere(shared);
    let bound = shared.settings.session_bound;
    let session = Session::open(Arc::clone(machine), true, output, bound).await?;
    let client = session.client();
    let nobody = MachineIdentity {
        hostname: NOBODY.into(),
        machine_id: Uuid::new_v4().simple().to_string(),
        boot_id: Uuid::new_v4().to_string(),
    };
    let message = identity_message(id, nobody, Origin::Snapshot, &shared.clock);
    client.assume_identity(message, &shared.clock).await?;
    if let Err(failure) = warm_up::carry_out(&recipe.base, slot.as_ref()).await {
        tracing::warn!(base = %recipe.base.display(), error = %chain(&failure), "an image's warm-up failed; its machines wait without it");
    }
    // Nobody answers there, but the agent's way to a hook has run.
    let hook = HookCall {
        port: warm_up::IDLE_PORT,
        path: "/".into(),
        body: Some("{}".into()),
        headers: Vec::new(),
        timeout_ms: NO_HOOK_MILLIS,
    };
    client.call_hook(hook).await;
    // What the application said or did because of it is before this answer.
    client.ping().await?;
    let exit = session.exit_seen();
    drop(client);
    session.close().await;
    exit.map_or(Ok(()), |code| Err(MakeFailure::ApplicationExited(code)))
}

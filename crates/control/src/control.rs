//! The control plane as a whole: what it is made of, its start, its tasks, its housekeeping.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use colibri_hypervisor::Vmm;
use colibri_image::ImageBuilder;
use colibri_metadata::Metadata;
use colibri_network::Network;
use colibri_store::Store;
use colibri_wire::ApiError;
use colibri_wire::shape::common::Architecture;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use crate::changes::{continued, current_request};
use crate::clock::Clock;
use crate::failure::{StartFailure, chain};
use crate::hot::{self, HotTier};
use crate::output::LogSink;
use crate::pool::Pool;
use crate::recovery;
use crate::registry::{Endpoint, Registry};
use crate::roles::RoleKeys;
use crate::settings::Settings;
use crate::stocking;
use crate::tokens::TokenMint;

/// How often rows of the past are removed.
const HOUSEKEEPING: Duration = Duration::from_secs(600);
/// Bound of the end of a machine that is being made for the pool: a launch, and a kill.
const CLOSE_BOUND: Duration = Duration::from_secs(60);

/// What a control plane is made of.
pub struct Parts {
    /// The owner's choices.
    pub settings: Settings,
    /// The state.
    pub store: Store,
    /// Starts and suspends machines.
    pub vmm: Arc<dyn Vmm>,
    /// Hands out network slots.
    pub network: Arc<dyn Network>,
    /// Builds images.
    pub builder: Arc<dyn ImageBuilder>,
    /// Takes the applications' output.
    pub logs: Arc<dyn LogSink>,
    /// Mints endpoint tokens.
    pub tokens: Arc<dyn TokenMint>,
    /// Makes credentials of the roles that MicroVMs run with.
    pub roles: Arc<dyn RoleKeys>,
    /// Tells the time.
    pub clock: Clock,
}

/// What operations and actors share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) store: Store,
    pub(crate) vmm: Arc<dyn Vmm>,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) builder: Arc<dyn ImageBuilder>,
    pub(crate) logs: Arc<dyn LogSink>,
    pub(crate) tokens: Arc<dyn TokenMint>,
    pub(crate) roles: Arc<dyn RoleKeys>,
    pub(crate) clock: Clock,
    pub(crate) registry: Registry,
    pub(crate) host: HostClass,
    pub(crate) build_turns: Arc<Semaphore>,
    /// Machines that wait for launches.
    pub(crate) pool: Arc<Pool>,
    /// Processes of suspended MicroVMs that are kept.
    pub(crate) hot: HotTier,
    /// What guests find at their metadata addresses.
    pub(crate) metadata: Arc<Metadata>,
    /// Changes whenever a build or a removal ends.
    pub(crate) images_changed: watch::Sender<u64>,
    /// Changes whenever a network connector is settled or removed.
    pub(crate) connectors_changed: watch::Sender<u64>,
}

/// What builds are made for: the class of this host's (virtual) processors. A base runs on no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostClass {
    pub(crate) architecture: Architecture,
    /// As the API spells it; its enumeration has one name for each architecture.
    pub(crate) chipset: &'static str,
    /// Accelerator and CPU model, which is what a snapshot depends on: `tcg-max`, `kvm-host`.
    pub(crate) generation: String,
}

impl HostClass {
    fn of(vmm: &dyn Vmm) -> Self {
        let description = vmm.description();
        let (architecture, chipset) = match description.architecture {
            colibri_hypervisor::machine::Architecture::X86_64 => (Architecture::X86_64, "INTEL"),
            colibri_hypervisor::machine::Architecture::Aarch64 => (Architecture::Arm64, "GRAVITON"),
        };
        let generation = format!("{}-{}", description.accelerator, description.cpu_model);
        Self {
            architecture,
            chipset,
            generation,
        }
    }
}

/// The control plane. Dropping it ends its tasks and leaves the machines alone, as a crash would: the next
/// one takes them over.
pub struct Control {
    pub(crate) shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("place", &self.shared.settings.place)
            .finish_non_exhaustive()
    }
}

impl Control {
    /// Recovers what an earlier daemon left, then serves. MicroVMs that were running are taken over by
    /// their actors after this returns; requests for them wait.
    ///
    /// # Errors
    /// When the state cannot be read or leftovers cannot be removed.
    pub async fn start(parts: Parts) -> Result<Arc<Self>, StartFailure> {
        let host = HostClass::of(parts.vmm.as_ref());
        let build_turns = Arc::new(Semaphore::new(parts.settings.concurrent_builds.max(1)));
        let pool = Pool::new(
            parts.settings.pool.clone(),
            parts.settings.spares.clone(),
            parts.vmm.rewinds(None),
        );
        let hot = HotTier::new(parts.settings.hot.clone());
        let shared = Arc::new(Shared {
            settings: parts.settings,
            store: parts.store,
            vmm: parts.vmm,
            network: parts.network,
            builder: parts.builder,
            logs: parts.logs,
            tokens: parts.tokens,
            roles: parts.roles,
            clock: parts.clock,
            registry: Registry::default(),
            host,
            build_turns,
            pool,
            hot,
            metadata: Arc::new(Metadata::new()),
            images_changed: watch::channel(0).0,
            connectors_changed: watch::channel(0).0,
        });
        let control = Arc::new(Self {
            shared,
            tasks: Mutex::default(),
        });
        recovery::recover(&control).await?;
        control.spawn(stocking::keep(Arc::clone(&control.shared)));
        control.spawn(keep_house(Arc::clone(&control.shared)));
        control.spawn(hot::keep(Arc::clone(&control.shared)));
        Ok(control)
    }

    /// Ends this control plane in order. MicroVMs keep running; what was kept for speed goes; builds are
    /// interrupted and start again with the next daemon.
    pub async fn shutdown(&self) {
        for machine in self.shared.pool.close() {
            machine.discard().await;
        }
        self.shared.hot.close().await;
        let ended = self.shared.pool.ended.cancelled();
        if timeout(CLOSE_BOUND, ended).await.is_err() {
            tracing::warn!("a machine of the pool is left for the next start to end");
        }
        self.abort().await;
    }

    /// Ends this control plane's tasks where they are and waits for their end: what a crash does.
    pub async fn abort(&self) {
        let mut tasks =
            std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }

    /// The MicroVM behind an endpoint's label. Cheap.
    #[must_use]
    pub fn by_label(&self, label: &str) -> Option<Endpoint> {
        self.shared
            .registry
            .by_label(label)
            .map(|handle| handle.endpoint.clone())
    }

    /// The MicroVM of an id. Cheap.
    #[must_use]
    pub fn by_id(&self, microvm_id: &str) -> Option<Endpoint> {
        self.shared
            .registry
            .by_id(microvm_id)
            .map(|handle| handle.endpoint.clone())
    }

    /// Carries work through to its end even when who waits for it goes: what is admitted must get its actor,
    /// what is queued its build.
    pub(crate) async fn whole<T, W>(&self, work: W) -> Result<T, ApiError>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, ApiError>> + Send + 'static,
    {
        let (outcome, told) = oneshot::channel();
        let request = current_request();
        self.spawn(async move {
            // Who waited may have gone.
            let _ = outcome.send(continued(request, work).await);
        });
        told.await
            .unwrap_or_else(|_| Err(ApiError::internal("The service is shutting down")))
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(error = %chain(&error), "a task panicked");
            }
        }
        tasks.spawn(task);
    }
}

/// Removes rows of the past, for as long as the control plane lives.
async fn keep_house(shared: Arc<Shared>) {
    let mut turns = interval(HOUSEKEEPING);
    loop {
        turns.tick().await;
        let retention = i64::try_from(shared.settings.retention.as_millis()).unwrap_or(i64::MAX);
        let before = shared.clock.now().saturating_sub(retention);
        match shared.store.forget_microvms(before).await {
            Ok(forgotten) => forgotten.iter().for_each(|id| shared.registry.remove(id)),
            Err(error) => {
                tracing::error!(error = %chain(&error), "could not forget ended MicroVMs");
            }
        }
        if let Err(error) = shared.store.forget_tokens(before).await {
            tracing::error!(error = %chain(&error), "could not forget old client tokens");
        }
    }
}

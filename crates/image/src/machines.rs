//! The machines of a build: the one that boots and is frozen, and the clone that is validated and
//! thrown away.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use colibri_guest_protocol::GATEWAY_ADDRESS;
use colibri_guest_protocol::message::ApplicationSpec;
use colibri_hypervisor::manifest::BaseManifest;
use colibri_hypervisor::{
    BootSpec, Isolation, LaunchSpec, Machine, NetworkAttachment, Vmm, machine::VmmError,
};
use colibri_network::{Egress, Network, Slot};
use tokio::time::{Instant, sleep, timeout};

use crate::container::with_sources;
use crate::container_config::ContainerConfig;
use crate::environment::application_environment;
use crate::guest::Guest;
use crate::hooks::{HookedGuest as _, stopped};
use crate::leftovers::Leftovers;
use crate::output::BuildLog;
use crate::request::{BuildFailure, BuildRequest, FailureCode};
use crate::settings::GuestFiles;

/// Port that the endpoint uses where a request names none (specification, section 10.2).
const DEFAULT_PORT: u16 = 8080;

/// Without a ready hook the moment of the snapshot is undefined (specification, section 7). Colibri
/// waits until a port of the application's listens, for at most this long where the image exposes one…
const EXPOSED_PORT_TIME: Duration = Duration::from_secs(60);
/// … and for at most this long where it exposes none and may never listen.
const DEFAULT_PORT_TIME: Duration = Duration::from_secs(5);
/// Between two looks at the ports.
const PORT_INTERVAL: Duration = Duration::from_millis(250);
/// Bound of one look.
const PORT_LOOK: Duration = Duration::from_secs(2);

/// What machines of one build are made with.
pub(crate) struct Machines<'a> {
    pub(crate) vmm: &'a Arc<dyn Vmm>,
    pub(crate) network: &'a Arc<dyn Network>,
    pub(crate) leftovers: &'a Arc<Leftovers>,
    pub(crate) request: &'a BuildRequest,
    /// The build's own directory.
    pub(crate) work: &'a Path,
    pub(crate) agent_time: Duration,
}

/// A machine with its network and an open session with its agent.
pub(crate) struct BuildMachine {
    pub(crate) machine: Arc<dyn Machine>,
    pub(crate) slot: Arc<dyn Slot>,
    pub(crate) guest: Guest,
}

impl Machines<'_> {
    /// A slot with the build's egress, given back at the build's end.
    pub(crate) async fn slot(&self) -> Result<Arc<dyn Slot>, BuildFailure> {
        acquire(
            Arc::clone(self.network),
            Arc::clone(self.leftovers),
            self.request.egress.clone(),
        )
        .await
    }

    /// Boots a machine on the root disk and makes it itself.
    pub(crate) async fn boot(
        &self,
        files: &GuestFiles,
        root_disk: PathBuf,
        log: Arc<dyn BuildLog>,
    ) -> Result<BuildMachine, BuildFailure> {
        let slot = self.slot().await?;
        let directory = self.machine_directory("machine").await?;
        let (vmm, leftovers) = (Arc::clone(self.vmm), Arc::clone(self.leftovers));
        let id = format!("build-{}", self.request.build_id);
        let shape = self.request.shape;
        let files = files.clone();
        let held = Arc::clone(&slot);
        let machine = self.leftovers.step(async move {
            let spec = BootSpec {
                id,
                directory,
                shape,
                kernel: files.kernel,
                initramfs: files.initramfs,
                kernel_arguments: files.kernel_arguments,
                root_disk,
                network: attachment(&*held).await?,
                isolation: Isolation { uid: held.uid() },
            };
            let machine = vmm
                .boot(spec)
                .await
                .map_err(|error| vmm_failure("start the build's machine", &error))?;
            leftovers
                .add_machine(Arc::clone(&machine), held.index())
                .await;
            Ok(machine)
        });
        let machine = machine.await?;
        self.session(machine, slot, log).await
    }

    /// Starts a throw-away clone of the frozen machine.
    pub(crate) async fn clone_of_base(
        &self,
        log: Arc<dyn BuildLog>,
    ) -> Result<BuildMachine, BuildFailure> {
        let slot = self.slot().await?;
        let directory = self.machine_directory("clone").await?;
        let (vmm, leftovers) = (Arc::clone(self.vmm), Arc::clone(self.leftovers));
        let id = format!("validate-{}", self.request.build_id);
        let base = self.request.directory.clone();
        let held = Arc::clone(&slot);
        let machine = self.leftovers.step(async move {
            let network = attachment(&*held).await?;
            let isolation = Isolation { uid: held.uid() };
            let spec = LaunchSpec {
                id,
                directory,
                base,
                resume: false,
                rewindable: false,
                network,
                isolation,
            };
            let failed = |error| vmm_failure("start the machine to be validated", &error);
            let machine = vmm.launch(spec).await.map_err(failed)?;
            leftovers
                .add_machine(Arc::clone(&machine), held.index())
                .await;
            machine.resume().await.map_err(failed)?;
            Ok(machine)
        });
        let machine = machine.await?;
        self.session(machine, slot, log).await
    }

    /// Freezes the machine into the build's directory. Its process is gone afterwards.
    pub(crate) async fn freeze(
        &self,
        build_machine: BuildMachine,
    ) -> Result<BaseManifest, BuildFailure> {
        let BuildMachine { machine, guest, .. } = build_machine;
        // The channel must be closed in the frozen state: a session cannot outlive its host side.
        guest.close().await;
        let directory = self.request.directory.clone();
        let frozen = self.leftovers.step(async move {
            machine.freeze(&directory).await.map_err(|error| match error {
                VmmError::Ended { .. } | VmmError::Gone { .. } => {
                    tracing::error!(error = %with_sources(&error), "a build's machine ended while it was frozen");
                    BuildFailure::application("MicroVM terminated while its snapshot was being taken")
                }
                error => vmm_failure("take the snapshot", &error),
            })
        });
        let manifest = frozen.await?;
        self.leftovers.end_machines().await;
        Ok(manifest)
    }

    /// Opens the agent's session and makes the machine itself, before anything reaches the application.
    async fn session(
        &self,
        machine: Arc<dyn Machine>,
        slot: Arc<dyn Slot>,
        log: Arc<dyn BuildLog>,
    ) -> Result<BuildMachine, BuildFailure> {
        let guest = Guest::connect(&machine, log, self.agent_time).await?;
        guest.assume_fresh_identity().await?;
        Ok(BuildMachine {
            machine,
            slot,
            guest,
        })
    }

    async fn machine_directory(&self, name: &str) -> Result<PathBuf, BuildFailure> {
        let directory = self.work.join(name);
        let made = tokio::fs::create_dir(&directory).await;
        made.map_err(|error| BuildFailure::io("make a machine's directory", &error))?;
        Ok(directory)
    }
}

impl BuildMachine {
    /// Waits until a port of the application's listens, or its bound; see [`EXPOSED_PORT_TIME`].
    /// Returns the port that does.
    ///
    /// # Errors
    /// An application that ends meanwhile.
    pub(crate) async fn settle(
        &self,
        config: &ContainerConfig,
    ) -> Result<Option<u16>, BuildFailure> {
        let (ports, bound) = match config.exposed_ports.as_slice() {
            [] => ([DEFAULT_PORT].as_slice(), DEFAULT_PORT_TIME),
            exposed => (exposed, EXPOSED_PORT_TIME),
        };
        tokio::select! {
            biased;
            exit = self.guest.application_exit() => Err(stopped(exit)),
            listening = timeout(bound, first_listening(&*self.slot, ports)) => Ok(listening.ok()),
        }
    }
}

async fn first_listening(slot: &dyn Slot, ports: &[u16]) -> u16 {
    loop {
        let next = Instant::now() + PORT_INTERVAL;
        for port in ports {
            if matches!(timeout(PORT_LOOK, slot.connect(*port)).await, Ok(Ok(_))) {
                return *port;
            }
        }
        sleep(next.saturating_duration_since(Instant::now())).await;
    }
}

/// The application as the image and the request describe it.
pub(crate) fn application(config: &ContainerConfig, request: &BuildRequest) -> ApplicationSpec {
    ApplicationSpec {
        arguments: config.arguments.clone(),
        environment: application_environment(&config.environment, request),
        working_directory: config.working_directory.clone(),
        user: config.user.clone(),
        all_capabilities: request.all_capabilities,
        stop_signal: config.stop_signal,
        name_servers: vec![GATEWAY_ADDRESS.to_string()],
    }
}

async fn acquire(
    network: Arc<dyn Network>,
    leftovers: Arc<Leftovers>,
    egress: Egress,
) -> Result<Arc<dyn Slot>, BuildFailure> {
    let noted = Arc::clone(&leftovers);
    let acquired = leftovers.step(async move {
        let slot = network.acquire(egress).await;
        let slot = slot.map_err(|error| {
            BuildFailure::internal("give the build a network", &with_sources(&error))
        })?;
        noted.add_slot(Arc::clone(&slot));
        Ok(slot)
    });
    acquired.await
}

async fn attachment(slot: &dyn Slot) -> Result<Option<NetworkAttachment>, BuildFailure> {
    let attached = slot.attach().await;
    let attached = attached.map_err(|error| {
        BuildFailure::internal("give the build's machine a network", &with_sources(&error))
    })?;
    Ok(attached.map(|(tap, namespace)| NetworkAttachment { tap, namespace }))
}

fn vmm_failure(attempted: &str, error: &VmmError) -> BuildFailure {
    if matches!(error, VmmError::StorageFull { .. }) {
        return BuildFailure::sentence(
            FailureCode::DiskStorageFull,
            &format!("no space was left to {attempted}"),
        );
    }
    BuildFailure::internal(attempted, &with_sources(error))
}

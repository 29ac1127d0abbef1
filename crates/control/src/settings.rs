//! What the control plane's owner may choose, with the defaults.

use std::num::NonZeroU8;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use colibri_wire::check::run::LifetimeBound;
use colibri_wire::id::place::Place;
use colibri_wire::page::PageKey;

use crate::base_versions::BaseVersion;
use crate::changes::{Nobody, Observer};
use crate::host_disk::{HostDisk, default_disk_reserve_mib};
use crate::host_memory::{HostMemory, host_memory_mib};
use crate::idle::IdleSignals;
use crate::vpc::Vpc;

/// What is given out as a MicroVM's endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointForm {
    /// The label under this domain, with its port where that is not 443: `microvm.localhost:8443`.
    UnderDomain(String),
    /// This address for all of them: requests are told apart by their token.
    Plain(String),
}

/// What is done with an explicit request for `ARM_64` on a host of another architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Arm64Requests {
    /// Refused, naming this setting.
    #[default]
    Refuse,
    /// Built for the host's own architecture, which the build record says.
    Native,
}

/// What becomes of a MicroVM whose `/suspend` hook fails: the live service and its guide differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SuspendHookFailure {
    /// It ends, as on the live service.
    #[default]
    Terminate,
    /// It runs on, as the guide says.
    KeepRunning,
}

/// The choices.
#[derive(Clone)]
pub struct Settings {
    /// Region and account.
    pub place: Place,
    /// Directory of all data; MicroVMs and bases live below it.
    pub data_directory: PathBuf,
    /// What is given out as endpoint.
    pub endpoint: EndpointForm,
    /// Key of the tokens that continue a list.
    pub page_key: PageKey,
    /// What an explicit `ARM_64` means here.
    pub arm64_requests: Arm64Requests,
    /// Versions of the managed base image, in ascending order.
    pub base_versions: Vec<BaseVersion>,
    /// Whether oddities of the live service are reproduced: docs/aws-quirks.md has them.
    pub aws_quirks: bool,
    /// Most MicroVMs with a process at a time (suspended ones have none).
    pub max_running: u32,
    /// Most baseline memory of those, with what is built and kept for speed, MiB.
    pub max_memory_mib: u64,
    /// Most baseline memory of all MicroVMs that have not ended, the suspended ones included, MiB: the
    /// account's quota, where the two above are the host's bounds.
    pub max_kept_memory_mib: u64,
    /// Memory of the host that one more machine leaves available, MiB.
    pub reserve_mib: u64,
    /// Room on the disk that what is begun leaves free, MiB, beside what MicroVMs that run need to be suspended.
    pub disk_reserve_mib: u64,
    /// Most MicroVMs that have not ended, the suspended ones included.
    pub max_microvms: u32,
    /// Most images.
    pub max_images: usize,
    /// Most versions of an image.
    pub max_versions: usize,
    /// Most network connectors.
    pub max_connectors: usize,
    /// Most versions of a network connector.
    pub max_connector_versions: usize,
    /// Subnets and security groups that connectors may name.
    pub vpc: Vpc,
    /// Most vCPUs that a guest sees, whatever its image's size; decided when a version is built.
    pub vcpus_at_most: Option<NonZeroU8>,
    /// Builds at a time.
    pub concurrent_builds: usize,
    /// Most builds that run or wait.
    pub max_builds: usize,
    /// Bound of one build, all stages together.
    pub build_bound: Duration,
    /// How long ended MicroVMs stay readable, and how long client tokens are honoured.
    pub retention: Duration,
    /// Bound of opening a control session with a guest, under emulation on a loaded host too.
    pub session_bound: Duration,
    /// Bound of a MicroVM's hook whose image names none. The service's is a second; a slow host may need more.
    pub hook_bound: Duration,
    /// Lifetimes of MicroVMs.
    pub lifetime: LifetimeBound,
    /// What counts as activity of a MicroVM whose image does not say.
    pub idle_signals: IdleSignals,
    /// What becomes of a MicroVM whose `/suspend` hook fails.
    pub suspend_hook_failure: SuspendHookFailure,
    /// Most of a suspended MicroVM's disk that is copied at its wake, so that the suspension is kept as its last good
    /// one, MiB; 0 keeps none.
    pub keep_last_good_mib: u64,
    /// Time between an application's stop signal and its kill.
    pub stop_grace: Duration,
    /// Most requests that wait for one MicroVM to become ready.
    pub max_waiting: usize,
    /// Bound of that wait.
    pub ready_bound: Duration,
    /// Machines that wait for launches.
    pub pool: PoolSettings,
    /// Processes that wait without a machine in them.
    pub spares: SpareSettings,
    /// Processes of suspended MicroVMs that are kept.
    pub hot: HotSettings,
    /// Who is told of every change of state.
    pub observer: Arc<dyn Observer>,
    /// What tells the host's memory.
    pub host_memory: HostMemory,
    /// What tells the room on its disk.
    pub host_disk: HostDisk,
}

/// Machines that were launched from an image version, have run, and wait, paused, for the next launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSettings {
    /// Whether there are any.
    pub enabled: bool,
    /// Most of one image version; how many there are follows its launches.
    pub machines_per_version: usize,
    /// Memory that all of them together may take, MiB; 96 are counted for each.
    pub memory_mib: u64,
}

/// Processes that were started on an image version's base and wait, without a machine in them, to become
/// a suspended MicroVM that wakes from the disk, or one that the pool has no machine for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpareSettings {
    /// Whether there are any.
    pub enabled: bool,
    /// Most of one image version.
    pub processes_per_version: usize,
    /// Memory that all of them together may take, MiB; 32 are counted for each.
    pub memory_mib: u64,
}

/// Stopped processes of suspended MicroVMs, kept beside their suspensions for a faster way back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HotSettings {
    /// Whether there are any.
    pub enabled: bool,
    /// Most of them; never more than half of the network slots.
    pub machines: usize,
    /// Memory that all of them together may take, MiB.
    pub memory_mib: u64,
    /// Longest time that one is kept.
    pub longest: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            machines_per_version: 4,
            memory_mib: tenth_of_memory_mib(),
        }
    }
}

impl Default for SpareSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            processes_per_version: 2,
            memory_mib: tenth_of_memory_mib() / 4,
        }
    }
}

impl Default for HotSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            machines: usize::MAX,
            memory_mib: tenth_of_memory_mib(),
            longest: Duration::from_secs(600),
        }
    }
}

/// Baseline memory that MicroVMs may have together, as a multiple of the host's: a guest takes what it touches,
/// not its baseline, and the service itself lets an account burst to four times its memory quota
/// (specification, section 19).
pub const MEMORY_OVERCOMMIT: f64 = 4.0;

/// Memory of this host that one more machine leaves available, MiB: a twentieth.
#[must_use]
pub fn default_reserve_mib() -> u64 {
    host_memory_mib().map_or(0, |mib| mib / 20)
}

/// Most baseline memory under an overcommitment of what is not in reserve, MiB; none where the host does not
/// tell its memory.
#[must_use]
pub fn memory_limit_mib(overcommit: f64, reserve_mib: u64) -> u64 {
    let Some(mib) = host_memory_mib() else {
        return u64::MAX;
    };
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float's cast saturates, and a MiB more or less decides nothing"
    )]
    let limit = (mib.saturating_sub(reserve_mib) as f64 * overcommit) as u64;
    limit
}

fn tenth_of_memory_mib() -> u64 {
    host_memory_mib().map_or(0, |mib| mib / 10)
}

impl Settings {
    /// The defaults for a place, a data directory and an endpoint form.
    #[must_use]
    pub fn new(
        place: Place,
        data_directory: PathBuf,
        endpoint: EndpointForm,
        page_key: PageKey,
    ) -> Self {
        let disk_reserve_mib = default_disk_reserve_mib(&data_directory);
        Self {
            place,
            data_directory,
            endpoint,
            page_key,
            arm64_requests: Arm64Requests::default(),
            base_versions: vec![BaseVersion::first()],
            aws_quirks: false,
            max_running: 1000,
            max_memory_mib: memory_limit_mib(MEMORY_OVERCOMMIT, default_reserve_mib()),
            reserve_mib: default_reserve_mib(),
            disk_reserve_mib,
            max_microvms: 10_000,
            // The largest that AWS gives by default, with its burst: 1024 GB, four times.
            max_kept_memory_mib: 4 * 1024 * 1024,
            max_images: 1000,
            max_versions: 500,
            max_connectors: 1000,
            max_connector_versions: 100,
            vpc: Vpc::default(),
            vcpus_at_most: None,
            concurrent_builds: 2,
            max_builds: 32,
            build_bound: Duration::from_secs(2 * 3600),
            retention: Duration::from_secs(24 * 3600),
            session_bound: Duration::from_secs(30),
            hook_bound: Duration::from_secs(1),
            lifetime: LifetimeBound::default(),
            idle_signals: IdleSignals::default(),
            suspend_hook_failure: SuspendHookFailure::default(),
            keep_last_good_mib: 64,
            stop_grace: Duration::from_secs(1),
            max_waiting: 1024,
            ready_bound: Duration::from_secs(60),
            pool: PoolSettings::default(),
            spares: SpareSettings::default(),
            hot: HotSettings::default(),
            observer: Arc::new(Nobody),
            host_memory: HostMemory::system(),
            host_disk: HostDisk::system(),
        }
    }

    /// Directory of a MicroVM's files.
    #[must_use]
    pub fn microvm_directory(&self, id: &str) -> PathBuf {
        self.microvms().join(id)
    }

    /// Directory of a build's base.
    #[must_use]
    pub fn base_directory(&self, image: &str, version: u32, build: &str) -> PathBuf {
        self.images()
            .join(image)
            .join(format!("{version}.0"))
            .join(build)
    }

    /// Directory of a machine that waits in the pool: on the file system of the MicroVMs' directories,
    /// where it moves.
    pub(crate) fn pool_directory(&self, id: &str) -> PathBuf {
        self.pool_directories().join(id)
    }

    pub(crate) fn pool_directories(&self) -> PathBuf {
        self.data_directory.join("pool")
    }

    pub(crate) fn microvms(&self) -> PathBuf {
        self.data_directory.join("microvms")
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.data_directory.join("images")
    }

    pub(crate) fn endpoint_of(&self, label: &str) -> String {
        match &self.endpoint {
            EndpointForm::UnderDomain(domain) => format!("{label}.{domain}"),
            EndpointForm::Plain(address) => address.clone(),
        }
    }
}

//! The traits that a hypervisor driver implements, and what goes in and out of them.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::manifest::{BaseManifest, SuspensionManifest};

/// Architecture of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// 64-bit x86.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

impl Architecture {
    /// The architecture of this host; `None` where Colibri has no guests for it.
    #[must_use]
    pub fn of_host() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::X86_64),
            "aarch64" => Some(Self::Aarch64),
            _ => None,
        }
    }
}

/// What a guest sees of hardware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineShape {
    /// Architecture of the guest.
    pub architecture: Architecture,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// Memory, MiB.
    pub memory_mib: u32,
}

/// What a driver runs machines on. A snapshot belongs to all of it and is never restored elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmmDescription {
    /// Driver: `qemu`, `simulated`.
    pub driver: String,
    /// Version of the VMM program: `10.0.2`.
    pub version: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// Architecture of the guests that it starts.
    pub architecture: Architecture,
    /// CPU model given to the VMM: `host`, `max`.
    pub cpu_model: String,
    /// Versioned machine type: `pc-i440fx-7.2`.
    pub machine_type: String,
}

/// How a VMM process is kept apart from everything else on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// User and group id of the VMM process, used by no other process on the host; `None` keeps the
    /// daemon's own (an unprivileged daemon cannot change it).
    pub uid: Option<u32>,
}

/// A machine's network card on the host's side.
#[derive(Debug)]
pub struct NetworkAttachment {
    /// The tap, opened for one queue with a virtio-net header.
    pub tap: OwnedFd,
    /// The namespace that the VMM process is to live in.
    pub namespace: OwnedFd,
}

/// What a first boot needs (image builds).
#[derive(Debug)]
pub struct BootSpec {
    /// Name of the machine: letters, digits and `-`; names the cgroup and appears in `ps`.
    pub id: String,
    /// Directory of the machine, existing and its own: sockets, memory and disk overlay go here.
    pub directory: PathBuf,
    /// What the guest sees.
    pub shape: MachineShape,
    /// Kernel, in the form that the VMM boots directly.
    pub kernel: PathBuf,
    /// Initial RAM file system with the agent as `/init`.
    pub initramfs: PathBuf,
    /// More of the kernel's command line.
    pub kernel_arguments: Vec<String>,
    /// Raw root file system; opened read-only, writes go to an overlay in `directory`.
    pub root_disk: PathBuf,
    /// The network card; none for a machine without one.
    pub network: Option<NetworkAttachment>,
    /// How the process is kept apart.
    pub isolation: Isolation,
}

/// What a launch from a base, or a resume of a suspended machine, needs.
#[derive(Debug)]
pub struct LaunchSpec {
    /// Name of the machine, as in [`BootSpec::id`].
    pub id: String,
    /// Directory of the machine. A launch creates its disk overlay there; a resume finds the
    /// overlay and the suspension there.
    pub directory: PathBuf,
    /// Directory of the base, holding its `manifest.json`.
    pub base: PathBuf,
    /// True to continue the suspension in `directory`, false to start from the base alone.
    pub resume: bool,
    /// Whether the process is to be rewound later ([`Machine::rewind`]), where the driver [can](Vmm::rewinds).
    pub rewindable: bool,
    /// The network card; a machine whose base had one must have one.
    pub network: Option<NetworkAttachment>,
    /// How the process is kept apart.
    pub isolation: Isolation,
}

/// What a spare needs: a process without a machine in it yet.
#[derive(Debug)]
pub struct SpareSpec {
    /// Name of the process, as in [`BootSpec::id`]; it keeps it whatever machine it becomes.
    pub id: String,
    /// Directory of the process, existing and its own.
    pub directory: PathBuf,
    /// Directory of the base whose machines it can become.
    pub base: PathBuf,
    /// The network card; a base that has one must be given one.
    pub network: Option<NetworkAttachment>,
    /// How the process is kept apart.
    pub isolation: Isolation,
}

/// Enough to find a running machine again after a restart of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRecord {
    /// Name of the machine.
    pub id: String,
    /// Directory of the machine.
    pub directory: PathBuf,
    /// Directory of the base that its memory maps; `None` for a first boot.
    pub base: Option<PathBuf>,
    /// Process id of the VMM.
    pub pid: u32,
    /// Start time of that process in clock ticks since boot (`/proc/PID/stat`, field 22), which
    /// tells it from another process under a reused id.
    pub start_ticks: u64,
}

/// What a suspend wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspension {
    /// The manifest, as written.
    pub manifest: SuspensionManifest,
    /// How long the guest was stopped until the state was captured, microseconds.
    pub stopped_micros: u64,
}

/// Why a machine's process is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitCause {
    /// [`Machine::kill`] was called.
    Killed,
    /// The guest powered off, rebooted or panicked, or the VMM failed: the process ended on its own.
    /// Holds the last lines of the VMM's error output and of the guest's console.
    Ended(String),
}

/// A byte stream to the guest's agent.
pub trait ControlStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ControlStream for T {}

/// Why a driver could not do something.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// A file, socket or process operation failed.
    #[error("could not {attempted}")]
    Io {
        /// What was attempted, on what.
        attempted: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// There is no room left for a snapshot, disk or memory file.
    #[error("no space left while trying to {attempted}")]
    StorageFull {
        /// What was attempted, on what.
        attempted: String,
    },
    /// The VMM program on this host will not do.
    #[error(
        "QEMU {version} is too old: {oldest} or newer is needed (Debian 13, Ubuntu 24.04, or Debian 12's backports)"
    )]
    TooOld {
        /// What is installed.
        version: String,
        /// What is needed.
        oldest: String,
    },
    /// The VMM process refused a command or did not answer as expected.
    #[error("the VMM of machine {id} refused to {attempted}: {reason}")]
    Refused {
        /// Name of the machine.
        id: String,
        /// What was asked.
        attempted: String,
        /// The VMM's own words.
        reason: String,
    },
    /// The VMM process ended while it was needed.
    #[error("the VMM of machine {id} ended while it was asked to {attempted}: {output}")]
    Ended {
        /// Name of the machine.
        id: String,
        /// What was asked.
        attempted: String,
        /// Tail of its error output.
        output: String,
    },
    /// A wait reached its bound.
    #[error("machine {id} did not {attempted} within {seconds} s")]
    TimedOut {
        /// Name of the machine.
        id: String,
        /// What was waited for.
        attempted: String,
        /// The bound, seconds.
        seconds: u64,
    },
    /// A snapshot is good, and of no use on this host: what it was frozen on would continue it.
    #[error("the snapshot in {path} was frozen on {frozen_on} and this host runs {here}")]
    ForeignSnapshot {
        /// Its directory.
        path: PathBuf,
        /// Driver, version, accelerator, CPU model and machine type that it was frozen on.
        frozen_on: String,
        /// The same of this host.
        here: String,
    },
    /// A snapshot is incomplete, damaged, or of another format.
    #[error("the snapshot in {path} cannot be used: {reason}")]
    BadSnapshot {
        /// Its directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A recorded machine no longer runs.
    #[error("machine {id} no longer runs")]
    Gone {
        /// Name of the machine.
        id: String,
    },
}

impl VmmError {
    /// Wraps an I/O error, telling a full disk from the rest.
    pub fn io(attempted: impl Into<String>, source: std::io::Error) -> Self {
        let attempted = attempted.into();
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::StorageFull { attempted }
            }
            _ => Self::Io { attempted, source },
        }
    }
}

/// A hypervisor driver.
#[async_trait]
pub trait Vmm: Send + Sync + 'static {
    /// What machines of this driver run on.
    fn description(&self) -> &VmmDescription;

    /// Whether a process that has run learns what its base's next machine would have to learn again, and can be
    /// rewound to become that ([`Machine::rewind`]): of this base, or of any.
    fn rewinds(&self, _base: Option<&std::path::Path>) -> bool {
        false
    }

    /// Starts a machine from its kernel. It runs when this returns.
    async fn boot(&self, spec: BootSpec) -> Result<Arc<dyn Machine>, VmmError>;

    /// Starts a machine from a base, or from its suspension. It is **stopped** when this returns,
    /// all state in place; [`Machine::resume`] lets it run.
    async fn launch(&self, spec: LaunchSpec) -> Result<Arc<dyn Machine>, VmmError>;

    /// Starts a process that waits to become a machine of a base: the first half of a launch, done before
    /// anybody waits for it. Of what it returns, only [`Machine::take_up`], [`Machine::kill`] and
    /// [`Machine::exited`] are of use until it has taken up a machine.
    async fn prepare(&self, spec: SpareSpec) -> Result<Arc<dyn Machine>, VmmError>;

    /// Takes over a machine that an earlier daemon started, in whatever run state it is.
    ///
    /// # Errors
    /// [`VmmError::Gone`] when its process has ended.
    async fn adopt(&self, record: MachineRecord) -> Result<Arc<dyn Machine>, VmmError>;

    /// Whether the process of a machine that an earlier daemon started is still there.
    fn lives(&self, record: &MachineRecord) -> bool;

    /// Ends what an earlier daemon left of a machine that is wanted no more: its process, if it
    /// still runs, and its cgroup. Knows by the record that the process is Colibri's own. Returns
    /// when it is gone; a machine that is gone already is no error.
    async fn discard(&self, record: &MachineRecord) -> Result<(), VmmError>;

    /// Checks, to the last byte, the suspension that is kept as the previous one of the suspended machine in
    /// `directory` ([`Machine::keep_suspension`]), and tells when that fell asleep.
    ///
    /// # Errors
    /// [`VmmError::BadSnapshot`] when there is none or it is damaged, or its base is.
    async fn previous(
        &self,
        directory: &std::path::Path,
        base: &std::path::Path,
    ) -> Result<SystemTime, VmmError>;

    /// Has the previous suspension, once checked, take the place of the one in `directory`, which is gone then: for
    /// a machine without a process whose suspension is damaged. At every moment one of the two is there, whole.
    /// Tells when it fell asleep.
    ///
    /// # Errors
    /// As [`Vmm::previous`]; the directory is what it was then.
    async fn go_back(
        &self,
        directory: &std::path::Path,
        base: &std::path::Path,
    ) -> Result<SystemTime, VmmError>;

    /// Ends every VMM process of this driver whose directory lies below `root`, unless `keep` names its
    /// machine or is the last part of its directory's path (a machine that was relocated keeps its own
    /// name): the orphans of a crash between a start and its record.
    async fn sweep(&self, root: &std::path::Path, keep: &[String])
    -> Result<Vec<String>, VmmError>;
}

/// One machine's VMM process.
#[async_trait]
pub trait Machine: Send + Sync + 'static {
    /// What finds it again after a restart of the daemon.
    fn record(&self) -> MachineRecord;

    /// Moves the machine's directory to `directory`, which must not exist yet, on the same file system.
    /// The process notices nothing; the record says the new place from then on. The machine's name
    /// stays.
    async fn relocate(&self, directory: &std::path::Path) -> Result<(), VmmError>;

    /// Has a process that [`Vmm::prepare`] started become a machine, **stopped**, all state in place. With
    /// `resume`, the suspended one in `directory`, whose place the process's own directory takes, its
    /// files in it; at every moment there is a whole suspension in `directory`. Otherwise a new one of the
    /// base; `directory` must not exist yet. On an error the suspension is what it was, and the process is
    /// of no use any more.
    async fn take_up(&self, directory: &std::path::Path, resume: bool) -> Result<(), VmmError>;

    /// Has a machine that was launched from its base to be [rewindable](LaunchSpec::rewindable), has run and is
    /// paused, become a process as [`Vmm::prepare`] starts one: it holds nothing of the guest's memory, disk and
    /// devices any more. What it keeps is of the base's code alone. On an error it is of no use any more.
    ///
    /// # Errors
    /// [`VmmError::Refused`] from a machine that was not started for it.
    async fn rewind(&self) -> Result<(), VmmError> {
        let MachineRecord { id, .. } = self.record();
        Err(VmmError::Refused {
            id,
            attempted: "go back to its base".to_owned(),
            reason: "this driver does not do that".to_owned(),
        })
    }

    /// Lets the guest run (again).
    async fn resume(&self) -> Result<(), VmmError>;

    /// Stops the guest's CPUs; its devices' state stays.
    async fn pause(&self) -> Result<(), VmmError>;

    /// Whether the guest's CPUs run.
    async fn is_running(&self) -> Result<bool, VmmError>;

    /// CPU time that the machine's process has taken in its life: the guest's, and what emulating its
    /// devices took.
    async fn cpu_time(&self) -> Result<Duration, VmmError>;

    /// Opens the control channel. One at a time: an earlier one must have been dropped. The guest
    /// sees the port open.
    async fn control(&self) -> Result<Box<dyn ControlStream>, VmmError>;

    /// The last of what the guest's kernel and agent printed on its console, at most 64 KiB.
    async fn console(&self) -> Result<String, VmmError> {
        Ok(String::new())
    }

    /// Turns a first-booted machine into a base in `directory` (existing, empty): stops it, saves
    /// its devices, ends its process, takes its memory and disk. Nothing of the machine is left.
    async fn freeze(&self, directory: &std::path::Path) -> Result<BaseManifest, VmmError>;

    /// Stops a launched machine and writes its suspension into its own directory, complete and
    /// synced when this returns. The process stays, stopped: [`Machine::kill`] releases it,
    /// [`Machine::resume`] cancels the suspend (the suspension is then void and must be dropped
    /// with [`Machine::forget_suspension`] first). On an error the guest is running again and
    /// nothing of the suspension is left.
    async fn suspend(&self) -> Result<Suspension, VmmError>;

    /// Notes beside the machine's base which of the base's pages the guest has used, so that they are read
    /// ahead for the next one. A hint: drivers without it do nothing.
    async fn note_working_set(&self) -> Result<(), VmmError> {
        Ok(())
    }

    /// Keeps the suspension in the machine's directory as its previous one, in place of what was kept before: for a
    /// machine that is stopped, has been found good and is about to go on. Nothing is kept, and what was goes, where
    /// that would copy more than `most_bytes` of its disk, or that is 0. Tells whether it is kept.
    async fn keep_suspension(&self, most_bytes: u64) -> Result<bool, VmmError>;

    /// Removes the suspension from the machine's directory, if there is one. The previous one stays.
    async fn forget_suspension(&self) -> Result<(), VmmError>;

    /// Ends the process and removes its cgroup and sockets; returns when it is gone. Safe to repeat.
    async fn kill(&self) -> Result<(), VmmError>;

    /// Returns when the process has ended, however that came about.
    async fn exited(&self) -> ExitCause;
}

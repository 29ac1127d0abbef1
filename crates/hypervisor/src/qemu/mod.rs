//! The driver for stock QEMU, on KVM or in software (TCG) by the same code.
//!
//! A QEMU process is given everything by descriptor and needs no path on the host: it runs under its
//! own user, in its own network namespace and cgroup, in QEMU's seccomp sandbox. How snapshots work
//! on a QEMU without patches is told in `ARCHITECTURE.md`, "Snapshots".

mod arguments;
mod capture;
mod code_buffer;
mod console;
mod control_port;
mod cpu_state;
mod disk;
mod installation;
mod launch;
mod machine;
mod memory;
mod pagemap;
mod previous;
mod process;
mod qmp;
mod rewind;
mod socket;
mod spare;
mod state_image;

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use rustix::fs::MetadataExt;
use tracing::{info, warn};

use self::arguments::{Start, command_line, fd};
pub use self::installation::{Installation, version};
use self::machine::QemuMachine;
use self::process::{Process, Surroundings};
use crate::accelerator::Accelerator;
use crate::cgroup::{Cgroup, CpuBound};
use crate::machine::{
    Architecture, BootSpec, Isolation, LaunchSpec, Machine, MachineRecord, MachineShape,
    NetworkAttachment, SpareSpec, Vmm, VmmDescription, VmmError,
};
use crate::snapshot::{DEVICES_NEXT, DISK, MEMORY_BASE, read_base_of_any_host, remove_if_there};

/// Machine protocol socket in a machine's directory.
pub(crate) const QMP_SOCKET: &str = "qmp.sock";
/// Control channel socket in a machine's directory.
pub(crate) const CONTROL_SOCKET: &str = "control.sock";

/// The driver.
#[derive(Debug)]
pub struct Qemu {
    installation: Installation,
    cpu: CpuBound,
}

impl Qemu {
    /// A driver on an installed QEMU.
    #[must_use]
    pub fn new(installation: Installation) -> Self {
        Self {
            installation,
            cpu: CpuBound::default(),
        }
    }

    /// This driver, whose machines take no more of the host's processors than this.
    #[must_use]
    pub fn bounded(self, cpu: CpuBound) -> Self {
        Self { cpu, ..self }
    }

    /// Starts a machine, or leaves nothing of it.
    async fn start(&self, plan: Plan<'_>) -> Result<Arc<QemuMachine>, VmmError> {
        let (id, directory) = (plan.id.to_owned(), plan.directory.to_owned());
        let started = self.try_start(plan).await;
        if started.is_err() {
            Cgroup::existing(&id).remove().await;
            let _ = remove_sockets(&directory);
        }
        started
    }

    async fn try_start(&self, plan: Plan<'_>) -> Result<Arc<QemuMachine>, VmmError> {
        let Plan {
            id,
            directory,
            base,
            shape,
            network,
            isolation,
            start,
            mut descriptors,
        } = plan;
        let has_network = network.is_some();
        let arguments = command_line(&self.installation, id, shape, has_network, &start);
        let attempted = || format!("start QEMU for machine {id}");
        // The process works in it: open to its user, it would be the way to the machines beside it.
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
            .map_err(|source| VmmError::io(attempted(), source))?;
        for (number, name) in [(fd::QMP, QMP_SOCKET), (fd::CONTROL, CONTROL_SOCKET)] {
            let socket = socket::bind(directory, name)
                .map_err(|source| VmmError::io(attempted(), source))?;
            descriptors.push((number, socket));
        }
        let devices_out = owned_file(&directory.join(DEVICES_NEXT), isolation);
        descriptors.push((
            fd::DEVICES_OUT,
            devices_out
                .map_err(|source| VmmError::io(attempted(), source))?
                .into(),
        ));
        let namespace = network.map(|NetworkAttachment { tap, namespace }| {
            descriptors.push((fd::TAP, tap));
            namespace
        });
        let kvm_group = self
            .open_kvm(&mut descriptors)
            .map_err(|source| VmmError::io(attempted(), source))?;
        let cgroup = Cgroup::create(id, shape, self.cpu);
        let surroundings = Surroundings {
            directory,
            cgroup: &cgroup,
            namespace,
            uid: isolation.uid,
            kvm_group,
        };
        let process = Process::spawn(
            &self.installation.program,
            &arguments,
            descriptors,
            surroundings,
        )
        .map_err(|source| VmmError::io(attempted(), source))?;
        let record = MachineRecord {
            id: id.to_owned(),
            directory: directory.to_owned(),
            base: base.map(Path::to_owned),
            pid: process.pid,
            start_ticks: process.start_ticks,
        };
        QemuMachine::connect(
            record,
            process,
            cgroup,
            &self.installation,
            shape,
            has_network,
            true,
        )
        .await
    }

    /// Gives QEMU `/dev/kvm` by descriptor, or the group that may open it.
    fn open_kvm(&self, descriptors: &mut Vec<(i32, OwnedFd)>) -> std::io::Result<Option<u32>> {
        if self.installation.accelerator == Accelerator::Tcg {
            return Ok(None);
        }
        if self.installation.has_kvm_by_descriptor() {
            let kvm = File::options().read(true).write(true).open("/dev/kvm")?;
            descriptors.push((fd::KVM, kvm.into()));
            return Ok(None);
        }
        Ok(Some(MetadataExt::gid(&fs::metadata("/dev/kvm")?)))
    }
}

/// Everything that a start needs, of whatever kind.
struct Plan<'a> {
    id: &'a str,
    directory: &'a Path,
    base: Option<&'a Path>,
    shape: MachineShape,
    network: Option<NetworkAttachment>,
    isolation: Isolation,
    start: Start<'a>,
    descriptors: Vec<(i32, OwnedFd)>,
}

#[async_trait]
impl Vmm for Qemu {
    fn description(&self) -> &VmmDescription {
        &self.installation.description
    }

    fn rewinds(&self, base: Option<&Path>) -> bool {
        let keeps_code =
            |base| read_base_of_any_host(base).is_ok_and(|base| rewind::keeps_code(base.shape));
        self.installation.rewinds() && base.is_none_or(keeps_code)
    }

    async fn boot(&self, spec: BootSpec) -> Result<Arc<dyn Machine>, VmmError> {
        let attempted = || format!("prepare machine {}", spec.id);
        let io = |source| VmmError::io(attempted(), source);
        let root_size = fs::metadata(&spec.root_disk).map_err(io)?.len();
        disk::create_overlay(&spec.directory.join(DISK), root_size).await?;
        let memory_path = spec.directory.join(MEMORY_BASE);
        let memory = owned_file(&memory_path, spec.isolation).map_err(io)?;
        memory
            .set_len(u64::from(spec.shape.memory_mib) * 1024 * 1024)
            .map_err(io)?;
        let open = |path: &Path| File::open(path).map(OwnedFd::from).map_err(io);
        let descriptors = vec![
            (fd::MEMORY, memory.into()),
            (fd::ROOT, open(&spec.root_disk)?),
            (
                fd::OVERLAY,
                open_for_writing(&spec.directory.join(DISK)).map_err(io)?,
            ),
            (fd::KERNEL, open(&spec.kernel)?),
            (fd::INITRAMFS, open(&spec.initramfs)?),
        ];
        // `no_timer_check`: on a busy host an emulated timer's ticks come too late for the kernel's test of
        // it, which then panics ("IO-APIC + timer doesn't work"). On KVM the kernel leaves it out by itself.
        let console = match spec.shape.architecture {
            Architecture::X86_64 => "ttyS0 no_timer_check",
            Architecture::Aarch64 => "ttyAMA0",
        };
        let mut kernel_arguments = format!("console={console} quiet panic=-1 reboot=t");
        for argument in &spec.kernel_arguments {
            kernel_arguments.push(' ');
            kernel_arguments.push_str(argument);
        }
        let machine = self
            .start(Plan {
                id: &spec.id,
                directory: &spec.directory,
                base: None,
                shape: spec.shape,
                network: spec.network,
                isolation: spec.isolation,
                start: Start::Boot {
                    kernel_arguments: &kernel_arguments,
                },
                descriptors,
            })
            .await?;
        machine.remember_root_disk(spec.root_disk);
        if let Err(error) = machine.resume().await {
            remove(&machine).await;
            return Err(error);
        }
        Ok(machine)
    }

    async fn launch(&self, spec: LaunchSpec) -> Result<Arc<dyn Machine>, VmmError> {
        Ok(self.launch_machine(spec).await?)
    }

    async fn prepare(&self, spec: SpareSpec) -> Result<Arc<dyn Machine>, VmmError> {
        Ok(self.prepare_machine(spec).await?)
    }

    async fn adopt(&self, record: MachineRecord) -> Result<Arc<dyn Machine>, VmmError> {
        let gone = || VmmError::Gone {
            id: record.id.clone(),
        };
        let process =
            Process::find(record.pid, record.start_ticks, &record.directory).map_err(|_| gone())?;
        let (shape, has_network) = match &record.base {
            Some(base) => {
                // Whatever QEMU it was started by: it runs. A suspend asks again, and is refused
                // where this host's QEMU could not load what it writes.
                let manifest = read_base_of_any_host(base)?;
                (manifest.shape, manifest.has_network)
            }
            // Only launched machines are adopted: an interrupted build starts again.
            None => return Err(gone()),
        };
        let cgroup = Cgroup::existing(&record.id);
        info!(id = record.id, pid = record.pid, "adopting machine");
        Ok(QemuMachine::connect(
            record,
            process,
            cgroup,
            &self.installation,
            shape,
            has_network,
            false,
        )
        .await?)
    }

    fn lives(&self, record: &MachineRecord) -> bool {
        process::start_ticks(record.pid).is_ok_and(|ticks| ticks == record.start_ticks)
    }

    async fn discard(&self, record: &MachineRecord) -> Result<(), VmmError> {
        if let Ok(process) = Process::find(record.pid, record.start_ticks, &record.directory) {
            process.kill();
            process.ended().await;
        }
        Cgroup::existing(&record.id).remove().await;
        remove_sockets(&record.directory).map_err(|source| {
            VmmError::io(
                format!("remove the sockets of machine {}", record.id),
                source,
            )
        })
    }

    async fn previous(&self, directory: &Path, base: &Path) -> Result<SystemTime, VmmError> {
        self.check_previous(directory, base).await
    }

    async fn go_back(&self, directory: &Path, base: &Path) -> Result<SystemTime, VmmError> {
        self.take_previous(directory, base).await
    }

    async fn sweep(&self, root: &Path, keep: &[String]) -> Result<Vec<String>, VmmError> {
        let io = |source| {
            VmmError::io(
                format!("look for machines below {}", root.display()),
                source,
            )
        };
        // Processes' working directories are told without symbolic links.
        let root = &root.canonicalize().map_err(io)?;
        let found = process::below(root).map_err(io)?;
        let mut ended = Vec::new();
        for process::Found {
            pid,
            name,
            directory,
        } in found
        {
            let is_kept = |wanted: &String| {
                *wanted == name
                    || directory
                        .file_name()
                        .is_some_and(|last| last == wanted.as_str())
            };
            if keep.iter().any(is_kept) {
                continue;
            }
            let Ok(start_ticks) = process::start_ticks(pid) else {
                continue;
            };
            warn!(id = name, pid, "ending a machine that nothing knows of");
            let record = MachineRecord {
                id: name.clone(),
                directory,
                base: None,
                pid,
                start_ticks,
            };
            self.discard(&record).await?;
            ended.push(name);
        }
        Ok(ended)
    }
}

/// An empty file that a machine's own user may open anew through its descriptor, and nobody else.
fn owned_file(path: &Path, isolation: Isolation) -> std::io::Result<File> {
    remove_if_there(path)?;
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    if let Some(uid) = isolation.uid {
        std::os::unix::fs::fchown(&file, Some(uid), Some(uid))?;
    }
    Ok(file)
}

/// Ends a machine that did not get as far as its caller.
async fn remove(machine: &QemuMachine) {
    if let Err(cleanup) = machine.kill().await {
        warn!(id = machine.record().id, %cleanup, "machine that failed to start was not removed");
    }
}

/// Removes the sockets of a machine's directory.
fn remove_sockets(directory: &Path) -> std::io::Result<()> {
    remove_if_there(&directory.join(QMP_SOCKET))?;
    remove_if_there(&directory.join(CONTROL_SOCKET))
}

fn open_for_writing(path: &Path) -> std::io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open(path)?.into())
}

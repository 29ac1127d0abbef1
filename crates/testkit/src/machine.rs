//! A simulated machine: a process that can be paused, suspended into its directory and killed.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use colibri_guest_protocol::message::WallClock;
use colibri_hypervisor::machine::VmmError;
use colibri_hypervisor::manifest::{
    BaseManifest, FORMAT_VERSION, FileEntry, MANIFEST_FILE, SuspensionManifest,
};
use colibri_hypervisor::{ControlStream, ExitCause, Machine, MachineRecord, Suspension};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::agent;
use crate::faults::{Operation, lock};
use crate::guest::GuestMemory;
use crate::previous;
use crate::vmm::read_memory;
use crate::world::WorldState;

/// Bytes that the control channel holds before a writer waits.
const CONTROL_BUFFER: usize = 64 * 1024;

/// File that a suspension keeps the guest's memory in.
pub(crate) const MEMORY_FILE: &str = "memory.delta";

/// What an agent says unasked.
pub(crate) enum ToHost {
    Event(colibri_guest_protocol::message::Event),
    Stdout(Vec<u8>),
}

pub(crate) struct MachineState {
    started_as: MachineRecord,
    /// Where it is by now.
    directory: Mutex<PathBuf>,
    pub(crate) uid: Option<u32>,
    pub(crate) running: watch::Sender<bool>,
    pub(crate) exit: watch::Sender<Option<ExitCause>>,
    pub(crate) memory: Mutex<GuestMemory>,
    /// Since when the guest computes, and the CPU time that it took before.
    pub(crate) computing: Mutex<(Option<Instant>, Duration)>,
    /// What the wall clock was set to, and when.
    pub(crate) clock: Mutex<Option<(WallClock, Instant)>>,
    /// Whether a control session is open.
    pub(crate) controlled: watch::Sender<bool>,
    pub(crate) to_host: Mutex<Option<mpsc::UnboundedSender<ToHost>>>,
    suspension_held: AtomicBool,
    /// It waits to become a machine.
    pub(crate) empty: AtomicBool,
}

impl MachineState {
    pub(crate) fn new(
        record: MachineRecord,
        uid: Option<u32>,
        memory: GuestMemory,
        running: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            directory: Mutex::new(record.directory.clone()),
            started_as: record,
            uid,
            running: watch::channel(running).0,
            exit: watch::channel(None).0,
            memory: Mutex::new(memory),
            computing: Mutex::default(),
            clock: Mutex::default(),
            controlled: watch::channel(false).0,
            to_host: Mutex::default(),
            suspension_held: AtomicBool::new(false),
            empty: AtomicBool::new(false),
        })
    }

    pub(crate) fn id(&self) -> &str {
        &self.started_as.id
    }

    pub(crate) fn directory(&self) -> PathBuf {
        lock(&self.directory).clone()
    }

    pub(crate) fn record(&self) -> MachineRecord {
        MachineRecord {
            directory: self.directory(),
            ..self.started_as.clone()
        }
    }

    /// Whether it has this name, or lives in a directory of this name.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.id() == name
            || self
                .directory()
                .file_name()
                .is_some_and(|last| last == name)
    }

    pub(crate) fn end(&self, cause: ExitCause) {
        self.exit.send_if_modified(|exit| {
            let first = exit.is_none();
            exit.get_or_insert(cause);
            first
        });
        self.running.send_replace(false);
    }

    pub(crate) fn cpu_time(&self) -> Duration {
        let (since, before) = *lock(&self.computing);
        before + since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.exit.borrow().is_none()
    }

    /// Returns when the guest's CPUs run; false when they never will again.
    pub(crate) async fn runs(&self) -> bool {
        let mut running = self.running.subscribe();
        let mut exit = self.exit.subscribe();
        tokio::select! {
            runs = running.wait_for(|running| *running) => runs.is_ok(),
            _ = exit.wait_for(Option::is_some) => false,
        }
    }

    /// Returns when no control session is open.
    pub(crate) async fn let_alone(&self) {
        // The sender lives as long as this.
        let _ = self.controlled.subscribe().wait_for(|open| !open).await;
    }

    pub(crate) async fn ended(&self) -> ExitCause {
        let mut exit = self.exit.subscribe();
        match exit.wait_for(Option::is_some).await {
            Ok(cause) => cause.clone().unwrap_or(ExitCause::Killed),
            Err(_) => ExitCause::Killed,
        }
    }

    /// Says something on the control channel; lost when nobody listens, as the real agent's buffer may.
    pub(crate) fn tell_host(&self, what: ToHost) {
        if let Some(to_host) = lock(&self.to_host).as_ref() {
            // A closed channel is a session that has ended.
            let _ = to_host.send(what);
        }
    }
}

/// The driver's view of a machine.
pub(crate) struct SimulatedMachine {
    pub(crate) world: Arc<WorldState>,
    pub(crate) state: Arc<MachineState>,
}

impl SimulatedMachine {
    fn id(&self) -> &str {
        self.state.id()
    }

    fn directory(&self) -> PathBuf {
        self.state.directory()
    }

    async fn meet(&self, operation: Operation, attempted: &str) -> Result<bool, VmmError> {
        let after = self
            .world
            .faults
            .meet(operation)
            .await
            .or_vmm_error(self.id(), attempted)?;
        if !self.state.is_alive() && operation != Operation::Kill {
            return Err(VmmError::Ended {
                id: self.id().into(),
                attempted: attempted.into(),
                output: "the simulated process has ended".into(),
            });
        }
        Ok(after)
    }

    async fn settle(&self, operation: Operation, hangs: bool) {
        self.world.faults.done(operation, hangs).await;
    }

    /// The own directory takes the other's place, its files in it.
    fn move_into(&self, directory: &Path) -> io::Result<()> {
        let own = self.directory();
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            std::fs::rename(entry.path(), own.join(entry.file_name()))?;
        }
        std::fs::remove_dir(directory)?;
        std::fs::rename(own, directory)
    }

    fn forbid(&self, attempted: &str, breach: bool, what: &str) -> Result<(), VmmError> {
        if !breach {
            return Ok(());
        }
        let reason = self
            .world
            .breach(format!("{attempted} of {}: {what}", self.id()));
        Err(VmmError::Refused {
            id: self.id().into(),
            attempted: attempted.into(),
            reason,
        })
    }
}

#[async_trait]
impl Machine for SimulatedMachine {
    fn record(&self) -> MachineRecord {
        self.state.record()
    }

    async fn relocate(&self, directory: &Path) -> Result<(), VmmError> {
        let hangs = self.meet(Operation::Relocate, "relocate").await?;
        let there = directory.exists();
        self.forbid("relocate", there, "its new directory exists already")?;
        let attempted = || format!("move to {}", directory.display());
        let renamed = std::fs::rename(self.directory(), directory);
        renamed.map_err(|error| VmmError::io(attempted(), error))?;
        directory.clone_into(&mut lock(&self.state.directory));
        self.settle(Operation::Relocate, hangs).await;
        Ok(())
    }

    async fn take_up(&self, directory: &Path, resume: bool) -> Result<(), VmmError> {
        let hangs = self.meet(Operation::TakeUp, "take up a machine").await?;
        let empty = self.state.empty.load(Ordering::SeqCst);
        self.forbid("take up", !empty, "it is a machine already")?;
        let base = self.state.record().base.unwrap_or_default();
        let memory = read_memory(if resume { directory } else { &base })?;
        let moved = if resume {
            self.move_into(directory)
        } else {
            std::fs::rename(self.directory(), directory)
        };
        moved.map_err(|error| VmmError::io(format!("move to {}", directory.display()), error))?;
        directory.clone_into(&mut lock(&self.state.directory));
        *lock(&self.state.memory) = memory;
        self.state.empty.store(false, Ordering::SeqCst);
        self.settle(Operation::TakeUp, hangs).await;
        Ok(())
    }

    async fn resume(&self) -> Result<(), VmmError> {
        let hangs = self.meet(Operation::Resume, "resume").await?;
        let empty = self.state.empty.load(Ordering::SeqCst);
        self.forbid("resume", empty, "there is no machine in it")?;
        let held = self.state.suspension_held.load(Ordering::SeqCst);
        self.forbid("resume", held, "its suspension was not forgotten first")?;
        self.state.running.send_replace(true);
        self.settle(Operation::Resume, hangs).await;
        Ok(())
    }

    async fn pause(&self) -> Result<(), VmmError> {
        let hangs = self.meet(Operation::Pause, "pause").await?;
        self.state.running.send_replace(false);
        self.settle(Operation::Pause, hangs).await;
        Ok(())
    }

    async fn is_running(&self) -> Result<bool, VmmError> {
        if !self.state.is_alive() {
            return Err(VmmError::Gone {
                id: self.id().into(),
            });
        }
        Ok(*self.state.running.borrow())
    }

    async fn cpu_time(&self) -> Result<Duration, VmmError> {
        Ok(self.state.cpu_time())
    }

    async fn control(&self) -> Result<Box<dyn ControlStream>, VmmError> {
        let hangs = self
            .meet(Operation::Control, "open the control channel")
            .await?;
        let open = self.state.controlled.send_replace(true);
        self.forbid("control", open, "an earlier session is still open")?;
        let (host, guest) = tokio::io::duplex(CONTROL_BUFFER);
        agent::start(Arc::clone(&self.world), Arc::clone(&self.state), guest);
        let stream = HostEnd {
            stream: host,
            controlled: self.state.controlled.clone(),
        };
        self.settle(Operation::Control, hangs).await;
        Ok(Box::new(stream))
    }

    async fn freeze(&self, directory: &Path) -> Result<BaseManifest, VmmError> {
        let hangs = self.meet(Operation::Freeze, "freeze").await?;
        self.forbid(
            "freeze",
            self.state.record().base.is_some(),
            "it was not booted",
        )?;
        self.state.running.send_replace(false);
        let memory = lock(&self.state.memory).clone();
        write_json(&directory.join(MEMORY_FILE), &memory)?;
        let manifest = base_manifest(&self.world);
        write_json(&directory.join(MANIFEST_FILE), &manifest)?;
        lock(&self.world.machines).remove(self.id());
        self.state.end(ExitCause::Killed);
        self.settle(Operation::Freeze, hangs).await;
        Ok(manifest)
    }

    async fn suspend(&self) -> Result<Suspension, VmmError> {
        let hangs = self.meet(Operation::Suspend, "suspend").await?;
        let open = *self.state.controlled.borrow();
        self.forbid("suspend", open, "its control session is open")?;
        self.state.running.send_replace(false);
        let memory = lock(&self.state.memory).clone();
        write_json(&self.directory().join(MEMORY_FILE), &memory)?;
        let manifest = SuspensionManifest {
            format_version: FORMAT_VERSION,
            base: "simulated".into(),
            memory: file(MEMORY_FILE),
            pages: 1,
            devices: file("devices.state"),
        };
        write_json(&self.directory().join(MANIFEST_FILE), &manifest)?;
        self.state.suspension_held.store(true, Ordering::SeqCst);
        self.settle(Operation::Suspend, hangs).await;
        Ok(Suspension {
            manifest,
            stopped_micros: 1,
        })
    }

    async fn keep_suspension(&self, most_bytes: u64) -> Result<bool, VmmError> {
        let hangs = self
            .meet(Operation::KeepSuspension, "keep the suspension")
            .await?;
        let runs = *self.state.running.borrow();
        self.forbid("keep", runs, "its guest has run since")?;
        let is_kept = previous::keep(&self.directory(), most_bytes)?;
        self.settle(Operation::KeepSuspension, hangs).await;
        Ok(is_kept)
    }

    async fn forget_suspension(&self) -> Result<(), VmmError> {
        let hangs = self
            .meet(Operation::ForgetSuspension, "forget the suspension")
            .await?;
        // The manifest goes first: without it the directory holds no suspension.
        for name in [MANIFEST_FILE, MEMORY_FILE] {
            remove(&self.directory().join(name))?;
        }
        self.state.suspension_held.store(false, Ordering::SeqCst);
        self.settle(Operation::ForgetSuspension, hangs).await;
        Ok(())
    }

    async fn kill(&self) -> Result<(), VmmError> {
        let hangs = self.meet(Operation::Kill, "kill").await?;
        self.world.forget(&self.state);
        self.state.end(ExitCause::Killed);
        self.settle(Operation::Kill, hangs).await;
        Ok(())
    }

    async fn exited(&self) -> ExitCause {
        self.state.ended().await
    }
}

pub(crate) fn base_manifest(world: &WorldState) -> BaseManifest {
    BaseManifest {
        format_version: FORMAT_VERSION,
        vmm: world.description.clone(),
        shape: world.shape,
        has_network: true,
        memory: file("memory.base"),
        devices: file("devices.state"),
        root_disk: file("root.raw"),
        disk: file("disk.qcow2"),
    }
}

fn file(name: &str) -> FileEntry {
    FileEntry {
        name: name.into(),
        length: 4096,
        stored: 4096,
        blake3: "0".repeat(64),
    }
}

pub(crate) fn write_json<T: serde::Serialize>(path: &PathBuf, value: &T) -> Result<(), VmmError> {
    let attempted = || format!("write {}", path.display());
    let bytes =
        serde_json::to_vec(value).map_err(|error| VmmError::io(attempted(), error.into()))?;
    std::fs::write(path, bytes).map_err(|error| VmmError::io(attempted(), error))
}

fn remove(path: &Path) -> Result<(), VmmError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(VmmError::io(format!("remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// The host's end of a control channel; dropping it ends the session at once.
struct HostEnd {
    stream: DuplexStream,
    controlled: watch::Sender<bool>,
}

impl Drop for HostEnd {
    fn drop(&mut self) {
        self.controlled.send_replace(false);
    }
}

impl AsyncRead for HostEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for HostEnd {
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

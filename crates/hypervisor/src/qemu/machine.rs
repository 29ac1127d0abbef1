//! One QEMU process as a [`Machine`].

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tracing::warn;

use super::arguments::set;
use super::capture::{blocking, gather};
use super::console::Console;
use super::control_port::ControlPort;
use super::process::Process;
use super::qmp::{Qmp, QmpError};
use super::rewind::TranslatedCode;
use super::{Installation, QMP_SOCKET, disk, remove_sockets};
use crate::cgroup::Cgroup;
use crate::machine::{
    ControlStream, ExitCause, Machine, MachineRecord, MachineShape, Suspension, VmmDescription,
    VmmError,
};
use crate::manifest::{BaseManifest, FORMAT_VERSION};
use crate::snapshot::{DEVICES, DISK, EMPTY_OVERLAY, MEMORY_BASE, ROOT_DISK, write_manifest};
use crate::sparse;

/// Bound of loading devices' state; it takes 10 ms.
pub(super) const LOAD_BOUND: Duration = Duration::from_secs(30);

/// Bound of an ordered end of the process; it is killed then.
const QUIT_BOUND: Duration = Duration::from_secs(10);

/// How long a guest that the host had no room for waits until it tries its write again.
const SPACE_RETRY: Duration = Duration::from_secs(2);

/// How often the length of the process's error output is looked at: a guest that provokes its devices
/// can make QEMU complain without end.
const LOG_CHECK: Duration = Duration::from_secs(60);

/// How the process's life ends, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Life {
    Running,
    /// `kill` or `freeze` was called.
    Ending,
    Over(ExitCause),
}

/// A machine.
#[derive(Debug)]
pub(super) struct QemuMachine {
    record: MachineRecord,
    process: Arc<Process>,
    qmp: Arc<Qmp>,
    console: Arc<Console>,
    control_port: ControlPort,
    /// Whether the guest is meant to run. Held while that changes.
    meant_to_run: Arc<tokio::sync::Mutex<bool>>,
    cgroup: Cgroup,
    description: VmmDescription,
    shape: MachineShape,
    has_network: bool,
    root_disk: Mutex<Option<PathBuf>>,
    /// The record of its previous suspension, while it is written.
    recording: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    /// The way to its translated code, and whether it was rewound.
    code: Mutex<Option<(TranslatedCode, bool)>>,
    life: watch::Sender<Life>,
    watcher: OnceLock<AbortHandle>,
}

impl Drop for QemuMachine {
    /// The process goes on without us; only the connection to it is let go.
    fn drop(&mut self) {
        if let Some(watcher) = self.watcher.get() {
            watcher.abort();
        }
    }
}

impl QemuMachine {
    /// Connects to a process that was just started or found. One that was just started (`is_new`) and does not
    /// answer is of no use and ended; one that was found may answer the next time, and is somebody's.
    pub(super) async fn connect(
        record: MachineRecord,
        process: Process,
        cgroup: Cgroup,
        installation: &Installation,
        shape: MachineShape,
        has_network: bool,
        is_new: bool,
    ) -> Result<Arc<Self>, VmmError> {
        let connected = async {
            let qmp = Qmp::connect(&record.directory, QMP_SOCKET).await?;
            let status = qmp.status().await.map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>((qmp, status))
        };
        let (qmp, status) = match connected.await {
            Ok(connected) => connected,
            Err(source) if !is_new => {
                return Err(VmmError::io(
                    format!("connect to the VMM of machine {}", record.id),
                    source,
                ));
            }
            Err(source) => {
                process.kill();
                process.ended().await;
                cgroup.remove().await;
                let _ = remove_sockets(&record.directory);
                let output = format!("{source}; QEMU said: {}", process.log_tail());
                return Err(VmmError::Ended {
                    id: record.id,
                    attempted: "start".to_owned(),
                    output,
                });
            }
        };
        let waits_for_space = status == OUT_OF_SPACE;
        qmp.note_out_of_space(waits_for_space);
        let machine = Arc::new(Self {
            record,
            process: Arc::new(process),
            qmp: Arc::new(qmp),
            console: Arc::default(),
            control_port: ControlPort::default(),
            meant_to_run: Arc::new(tokio::sync::Mutex::new(
                waits_for_space || status == "running",
            )),
            cgroup,
            description: installation.description.clone(),
            shape,
            has_network,
            root_disk: Mutex::new(None),
            recording: tokio::sync::Mutex::default(),
            code: Mutex::new(None),
            life: watch::Sender::new(Life::Running),
            watcher: OnceLock::new(),
        });
        machine.watch();
        Ok(machine)
    }

    /// Notices the end of the guest and of the process, and lets a guest that waits for room on the
    /// host's disk try again.
    fn watch(&self) {
        let (process, qmp, life) = (
            Arc::clone(&self.process),
            Arc::clone(&self.qmp),
            self.life.clone(),
        );
        let console = Arc::clone(&self.console);
        let meant_to_run = Arc::clone(&self.meant_to_run);
        let watcher = tokio::spawn(async move {
            let mut last_words = String::new();
            let mut log_check = tokio::time::interval(LOG_CHECK);
            loop {
                tokio::select! {
                    () = process.ended() => break,
                    () = qmp.guest_ended() => {
                        if let Ok(words) = console.last_words(&qmp).await {
                            last_words = format!("the guest shut down; its console ends with: {words}");
                        }
                        process.kill();
                        process.ended().await;
                        break;
                    }
                    () = out_of_space(&qmp) => try_again(&qmp, &meant_to_run).await,
                    _ = log_check.tick() => process.bound_log(),
                }
            }
            life.send_modify(|life| {
                *life = Life::Over(match life {
                    Life::Ending => ExitCause::Killed,
                    _ if last_words.is_empty() => ExitCause::Ended(process.log_tail()),
                    _ => ExitCause::Ended(std::mem::take(&mut last_words)),
                });
            });
        });
        let _ = self.watcher.set(watcher.abort_handle());
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.process.directory()
    }

    /// As it was started: its directory may be another by now.
    pub(super) fn record_ref(&self) -> &MachineRecord {
        &self.record
    }

    pub(super) fn shape(&self) -> MachineShape {
        self.shape
    }

    pub(super) fn description(&self) -> &VmmDescription {
        &self.description
    }

    pub(super) async fn recording(&self) -> tokio::sync::MutexGuard<'_, Option<JoinHandle<()>>> {
        self.recording.lock().await
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid
    }

    pub(super) fn remember_root_disk(&self, path: PathBuf) {
        *self
            .root_disk
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(path);
    }

    /// Loads devices and CPUs from a descriptor that it was given.
    pub(super) async fn load_devices(&self, descriptor: i32) -> Result<(), VmmError> {
        let attempted = "load its devices";
        self.execute(
            attempted,
            "migrate-incoming",
            json!({ "uri": format!("file:{}", set(descriptor)) }),
        )
        .await?;
        let started = Instant::now();
        loop {
            let status = self
                .qmp
                .status()
                .await
                .map_err(|error| self.qmp_error(attempted, error))?;
            match status.as_str() {
                "inmigrate" if started.elapsed() > LOAD_BOUND => {
                    return Err(VmmError::TimedOut {
                        id: self.record.id.clone(),
                        attempted: attempted.to_owned(),
                        seconds: LOAD_BOUND.as_secs(),
                    });
                }
                "inmigrate" => tokio::time::sleep(Duration::from_millis(1)).await,
                "paused" | "prelaunch" => return Ok(()),
                other => {
                    return Err(VmmError::Refused {
                        id: self.record.id.clone(),
                        attempted: attempted.to_owned(),
                        reason: format!("it is in state {other}: {}", self.process.log_tail()),
                    });
                }
            }
        }
    }

    pub(super) async fn execute(
        &self,
        attempted: &str,
        command: &str,
        arguments: serde_json::Value,
    ) -> Result<(), VmmError> {
        self.ask(attempted, command, arguments).await.map(drop)
    }

    pub(super) async fn ask(
        &self,
        attempted: &str,
        command: &str,
        arguments: serde_json::Value,
    ) -> Result<serde_json::Value, VmmError> {
        let answer = self.qmp.execute(command, arguments).await;
        answer.map_err(|error| self.qmp_error(attempted, error))
    }

    pub(super) fn code(&self) -> &Mutex<Option<(TranslatedCode, bool)>> {
        &self.code
    }

    /// Gives the process a descriptor, under the number of a set.
    pub(super) async fn give(
        &self,
        attempted: &str,
        number: i32,
        descriptor: OwnedFd,
    ) -> Result<(), VmmError> {
        let given = self.qmp.give(number, descriptor).await;
        given.map_err(|error| self.qmp_error(attempted, error))
    }

    /// Moves the machine's directory to a place where nothing is.
    pub(super) fn move_to(&self, directory: &Path) -> Result<(), VmmError> {
        self.process
            .relocate(directory)
            .map_err(|source| self.io(&format!("move to {}", directory.display()), source))
    }

    /// Exchanges the machine's directory with another.
    pub(super) fn exchange_with(&self, directory: &Path) -> std::io::Result<()> {
        self.process.exchange(directory)
    }

    fn qmp_error(&self, attempted: &str, error: QmpError) -> VmmError {
        let (id, attempted) = (self.record.id.clone(), attempted.to_owned());
        match error {
            QmpError::Disconnected => VmmError::Ended {
                id,
                attempted,
                output: self.process.log_tail(),
            },
            QmpError::Refused(reason) if reason.contains("No space left") => {
                VmmError::StorageFull { attempted }
            }
            QmpError::Refused(reason) => VmmError::Refused {
                id,
                attempted,
                reason,
            },
            QmpError::TimedOut => VmmError::TimedOut {
                id,
                attempted,
                seconds: super::qmp::COMMAND_BOUND.as_secs(),
            },
        }
    }

    pub(super) fn io(&self, attempted: &str, source: std::io::Error) -> VmmError {
        VmmError::io(format!("{attempted} (machine {})", self.record.id), source)
    }

    /// Ends the process in order, so that its files are complete.
    async fn quit(&self) {
        self.life.send_if_modified(|life| {
            let running = *life == Life::Running;
            if running {
                *life = Life::Ending;
            }
            running
        });
        // QEMU may end before it answers.
        let _ = self.qmp.execute("quit", json!({})).await;
        if tokio::time::timeout(QUIT_BOUND, self.process.ended())
            .await
            .is_err()
        {
            warn!(id = self.record.id, "QEMU did not quit and is killed");
            self.process.kill();
            self.process.ended().await;
        }
    }
}

#[async_trait]
impl Machine for QemuMachine {
    fn record(&self) -> MachineRecord {
        MachineRecord {
            directory: self.directory(),
            ..self.record.clone()
        }
    }

    async fn relocate(&self, directory: &Path) -> Result<(), VmmError> {
        self.move_to(directory)
    }

    async fn take_up(&self, directory: &Path, resume: bool) -> Result<(), VmmError> {
        self.become_machine(directory, resume).await
    }

    async fn rewind(&self) -> Result<(), VmmError> {
        self.go_back_to_base().await
    }

    async fn resume(&self) -> Result<(), VmmError> {
        let mut meant_to_run = self.meant_to_run.lock().await;
        self.execute("continue", "cont", json!({})).await?;
        *meant_to_run = true;
        Ok(())
    }

    async fn pause(&self) -> Result<(), VmmError> {
        self.control_port.closed().await;
        let mut meant_to_run = self.meant_to_run.lock().await;
        self.execute("stop", "stop", json!({})).await?;
        *meant_to_run = false;
        Ok(())
    }

    async fn is_running(&self) -> Result<bool, VmmError> {
        let status = self
            .qmp
            .status()
            .await
            .map_err(|error| self.qmp_error("tell its state", error))?;
        Ok(status == "running")
    }

    async fn cpu_time(&self) -> Result<Duration, VmmError> {
        self.process.cpu_time().map_err(|error| {
            VmmError::io(
                format!("read the CPU time of machine {}", self.record.id),
                error,
            )
        })
    }

    async fn control(&self) -> Result<Box<dyn ControlStream>, VmmError> {
        let end = self.control_port.open(&self.directory()).await;
        Ok(Box::new(end.map_err(|source| {
            self.io("open its control channel", source)
        })?))
    }

    async fn console(&self) -> Result<String, VmmError> {
        self.console
            .read(&self.qmp)
            .await
            .map_err(|error| self.qmp_error("show its console", error))
    }

    async fn freeze(&self, directory: &Path) -> Result<BaseManifest, VmmError> {
        let remembered = self
            .root_disk
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(root_disk) = remembered else {
            return Err(VmmError::Refused {
                id: self.record.id.clone(),
                attempted: "freeze".to_owned(),
                reason: "only a machine at its first boot can become a base".to_owned(),
            });
        };
        let captured = async {
            self.pause().await?;
            self.save_devices().await
        };
        let captured = captured.await;
        self.quit().await;
        self.kill().await?;
        captured?;
        let failed = |source| self.io("gather its base", source);
        let root_size = fs::metadata(&root_disk).map_err(failed)?.len();
        let (own, to) = (self.directory(), directory.to_owned());
        let gathered = blocking(move || gather(&own, &to, &root_disk));
        gathered.await.map_err(failed)?;
        disk::create_overlay(&directory.join(EMPTY_OVERLAY), root_size).await?;
        let (vmm, shape, has_network) = (self.description.clone(), self.shape, self.has_network);
        let directory = directory.to_owned();
        let manifest = blocking(move || {
            File::open(directory.join(EMPTY_OVERLAY))?.sync_all()?;
            let manifest = BaseManifest {
                format_version: FORMAT_VERSION,
                vmm,
                shape,
                has_network,
                memory: sparse::describe(&directory, MEMORY_BASE)?,
                devices: sparse::describe(&directory, DEVICES)?,
                root_disk: sparse::describe(&directory, ROOT_DISK)?,
                disk: sparse::describe(&directory, DISK)?,
            };
            write_manifest(&directory, &manifest)?;
            Ok(manifest)
        });
        manifest.await.map_err(failed)
    }

    async fn suspend(&self) -> Result<Suspension, VmmError> {
        match self.write_suspension().await {
            // This one is worth more than the one before.
            Err(VmmError::StorageFull { .. }) if self.give_up_previous().await => {
                self.write_suspension().await
            }
            outcome => outcome,
        }
    }

    async fn note_working_set(&self) -> Result<(), VmmError> {
        self.describe_working_set().await
    }

    async fn keep_suspension(&self, most_bytes: u64) -> Result<bool, VmmError> {
        self.keep_previous(most_bytes).await
    }

    async fn forget_suspension(&self) -> Result<(), VmmError> {
        self.drop_suspension()
            .await
            .map_err(|source| self.io("drop its suspension", source))
    }

    async fn kill(&self) -> Result<(), VmmError> {
        self.life.send_if_modified(|life| {
            let running = *life == Life::Running;
            if running {
                *life = Life::Ending;
            }
            running
        });
        self.process.kill();
        self.process.ended().await;
        self.cgroup.remove().await;
        remove_sockets(&self.directory()).map_err(|source| self.io("remove its sockets", source))
    }

    async fn exited(&self) -> ExitCause {
        let mut life = self.life.subscribe();
        let over = life.wait_for(|life| matches!(life, Life::Over(_))).await;
        match over.as_deref() {
            Ok(Life::Over(cause)) => cause.clone(),
            // The sender lives in `self`.
            _ => ExitCause::Killed,
        }
    }
}

/// QEMU's name for the state of a machine that stopped because the host's disk is full.
const OUT_OF_SPACE: &str = "io-error";

/// Completes when a guest that was stopped for want of room has waited long enough.
async fn out_of_space(qmp: &Qmp) {
    qmp.out_of_space().await;
    tokio::time::sleep(SPACE_RETRY).await;
}

/// Lets the guest's write be tried again, unless the machine was stopped on purpose meanwhile.
async fn try_again(qmp: &Qmp, meant_to_run: &tokio::sync::Mutex<bool>) {
    let meant_to_run = meant_to_run.lock().await;
    qmp.note_out_of_space(false);
    if *meant_to_run
        && qmp
            .status()
            .await
            .is_ok_and(|status| status == OUT_OF_SPACE)
    {
        // A failure is told by the next event.
        let _ = qmp.execute("cont", json!({})).await;
    }
}

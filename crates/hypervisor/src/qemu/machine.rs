//! One QEMU process as a [`Machine`].

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::{debug, warn};

use super::arguments::{fd, reopened};
use super::memory::GuestMemory;
use super::process::Process;
use super::qmp::{Qmp, QmpError};
use super::{CONTROL_SOCKET, Installation, QMP_SOCKET, disk, socket};
use crate::cgroup::Cgroup;
use crate::machine::{
    ControlStream, ExitCause, Machine, MachineRecord, MachineShape, Suspension, VmmDescription,
    VmmError,
};
use crate::manifest::{BaseManifest, FORMAT_VERSION, FileEntry, MANIFEST_FILE, SuspensionManifest};
use crate::snapshot::{
    DEVICES, DEVICES_NEXT, DISK, EMPTY_OVERLAY, MEMORY_BASE, MEMORY_DELTA, ROOT_DISK, bad,
    read_base, remove_if_there, sync_directory, write_manifest,
};
use crate::sparse;

/// Bound of loading devices' state; it takes 10 ms.
const LOAD_BOUND: Duration = Duration::from_secs(30);

/// Bound of an ordered end of the process; it is killed then.
const QUIT_BOUND: Duration = Duration::from_secs(10);

/// Delta file while it is written.
const MEMORY_DELTA_NEXT: &str = "memory.next";

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
    cgroup: Cgroup,
    description: VmmDescription,
    shape: MachineShape,
    has_network: bool,
    /// Where devices' state is loaded from, as QEMU names it.
    devices_uri: String,
    root_disk: Mutex<Option<PathBuf>>,
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
    /// Connects to a process that was just started or found.
    pub(super) async fn connect(
        record: MachineRecord,
        process: Process,
        cgroup: Cgroup,
        installation: &Installation,
        shape: MachineShape,
        has_network: bool,
    ) -> Result<Arc<Self>, VmmError> {
        let qmp = match Qmp::connect(&record.directory, QMP_SOCKET).await {
            Ok(qmp) => qmp,
            Err(source) => {
                process.kill();
                process.ended().await;
                cgroup.remove().await;
                let output = format!("{source}; QEMU said: {}", process.log_tail());
                return Err(VmmError::Ended {
                    id: record.id,
                    attempted: "start".to_owned(),
                    output,
                });
            }
        };
        let machine = Arc::new(Self {
            record,
            process: Arc::new(process),
            qmp: Arc::new(qmp),
            cgroup,
            description: installation.description.clone(),
            shape,
            has_network,
            devices_uri: installation.devices_uri(),
            root_disk: Mutex::new(None),
            life: watch::Sender::new(Life::Running),
            watcher: OnceLock::new(),
        });
        machine.watch();
        Ok(machine)
    }

    /// Notices the end of the guest and of the process.
    fn watch(&self) {
        let (process, qmp, life) = (
            Arc::clone(&self.process),
            Arc::clone(&self.qmp),
            self.life.clone(),
        );
        let watcher = tokio::spawn(async move {
            let mut last_words = String::new();
            tokio::select! {
                () = process.ended() => {}
                () = qmp.guest_ended() => {
                    if let Ok(console) = console(&qmp).await {
                        last_words = format!("the guest shut down; its console ends with: {}", tail(&console));
                    }
                    process.kill();
                    process.ended().await;
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

    pub(super) fn remember_root_disk(&self, path: PathBuf) {
        *self
            .root_disk
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(path);
    }

    /// Puts the pages of a suspension in place, checking them.
    pub(super) async fn inject(
        &self,
        delta: &Path,
        suspension: SuspensionManifest,
    ) -> Result<(), VmmError> {
        let memory = self.memory()?;
        let pages = u64::from(self.shape.memory_mib) * 256;
        let path = delta.to_owned();
        let directory = self.record.directory.clone();
        let devices = directory.join(DEVICES);
        let result = blocking(move || {
            if blake3::hash(&fs::read(devices)?).to_hex().to_string() != suspension.devices.blake3 {
                return Ok(Some("its devices' state does not match its checksum"));
            }
            let hash = crate::delta::read(File::open(path)?, pages, |first, bytes| {
                memory.write(first, bytes)
            })?;
            Ok((hash != suspension.memory.blake3)
                .then_some("its memory does not match its checksum"))
        });
        match result.await {
            Ok(None) => Ok(()),
            Ok(Some(reason)) => Err(bad(&directory, reason.to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Err(bad(&directory, error.to_string()))
            }
            Err(source) => Err(self.io("put its memory in place", source)),
        }
    }

    /// Loads devices and CPUs from the descriptor given at the start.
    pub(super) async fn load_devices(&self) -> Result<(), VmmError> {
        let attempted = "load its devices";
        self.execute(
            attempted,
            "migrate-incoming",
            json!({ "uri": self.devices_uri }),
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

    /// Saves devices and CPUs into `devices.next`.
    async fn save_devices(&self) -> Result<(), VmmError> {
        let arguments = json!({ "filename": reopened(fd::DEVICES_OUT), "live": false });
        self.execute("save its devices", "xen-save-devices-state", arguments)
            .await
    }

    async fn execute(
        &self,
        attempted: &str,
        command: &str,
        arguments: serde_json::Value,
    ) -> Result<(), VmmError> {
        self.qmp
            .execute(command, arguments)
            .await
            .map(drop)
            .map_err(|error| self.qmp_error(attempted, error))
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

    fn io(&self, attempted: &str, source: std::io::Error) -> VmmError {
        VmmError::io(format!("{attempted} (machine {})", self.record.id), source)
    }

    fn memory(&self) -> Result<GuestMemory, VmmError> {
        let file = self
            .record
            .base
            .as_ref()
            .unwrap_or(&self.record.directory)
            .join(MEMORY_BASE);
        GuestMemory::of(self.process.pid, &file)
            .map_err(|source| self.io("find its memory", source))
    }

    fn base(&self) -> Result<&Path, VmmError> {
        self.record
            .base
            .as_deref()
            .ok_or_else(|| VmmError::Refused {
                id: self.record.id.clone(),
                attempted: "suspend".to_owned(),
                reason: "it was not launched from a base".to_owned(),
            })
    }

    /// Writes the suspension of the stopped machine.
    async fn capture(&self) -> Result<(SuspensionManifest, Instant), VmmError> {
        let base = self.base()?.to_owned();
        let (_, base_hash) = read_base(&base, &self.description)?;
        self.save_devices().await?;
        let memory = self.memory()?;
        let directory = self.record.directory.clone();
        let written = blocking(move || {
            let delta = File::create(directory.join(MEMORY_DELTA_NEXT))?;
            let summary = memory.write_delta(&File::open(base.join(MEMORY_BASE))?, delta)?;
            let captured = Instant::now();
            let state = fs::read(directory.join(DEVICES_NEXT))?;
            File::open(directory.join(DEVICES_NEXT))?.sync_data()?;
            let manifest = SuspensionManifest {
                format_version: FORMAT_VERSION,
                base: base_hash,
                memory: entry(MEMORY_DELTA, summary.length, summary.blake3),
                pages: summary.pages,
                devices: entry(
                    DEVICES,
                    state.len() as u64,
                    blake3::hash(&state).to_hex().to_string(),
                ),
            };
            // A copy, not a rename: QEMU keeps its descriptor, and a machine whose suspend is
            // cancelled saves through it again.
            fs::rename(
                directory.join(MEMORY_DELTA_NEXT),
                directory.join(MEMORY_DELTA),
            )?;
            remove_if_there(&directory.join(DEVICES))?;
            fs::write(directory.join(DEVICES), &state)?;
            File::open(directory.join(DEVICES))?.sync_data()?;
            write_manifest(&directory, &manifest)?;
            Ok((manifest, captured))
        });
        written
            .await
            .map_err(|source| self.io("write its suspension", source))
    }

    /// Removes every trace of a suspension, complete or not.
    async fn drop_suspension(&self) -> std::io::Result<()> {
        let directory = self.record.directory.clone();
        blocking(move || {
            // The manifest first: without it the rest is not a suspension.
            remove_if_there(&directory.join(MANIFEST_FILE))?;
            sync_directory(&directory)?;
            for name in [
                MEMORY_DELTA,
                MEMORY_DELTA_NEXT,
                DEVICES,
                "manifest.json.next",
            ] {
                remove_if_there(&directory.join(name))?;
            }
            Ok(())
        })
        .await
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

    /// Moves what the ended process left into a base.
    fn gather(&self, directory: &Path, root_disk: &Path) -> std::io::Result<()> {
        let own = &self.record.directory;
        let memory = own.join(MEMORY_BASE);
        sparse::punch_zero_pages(&File::options().read(true).write(true).open(&memory)?)?;
        for (from, to) in [
            (memory.as_path(), MEMORY_BASE),
            (&own.join(DEVICES_NEXT), DEVICES),
            (&own.join(DISK), DISK),
            (root_disk, ROOT_DISK),
        ] {
            let to = directory.join(to);
            if from != to {
                fs::rename(from, &to)?;
            }
            let file = File::open(&to)?;
            // Directories keep other users out; the mode lets a machine's own user open what it is
            // given a descriptor of, for reading.
            file.set_permissions(fs::Permissions::from_mode(0o444))?;
            if rustix::process::geteuid().is_root() {
                std::os::unix::fs::fchown(&file, Some(0), Some(0))?;
            }
            file.sync_all()?;
        }
        Ok(())
    }
}

#[async_trait]
impl Machine for QemuMachine {
    fn record(&self) -> MachineRecord {
        self.record.clone()
    }

    async fn resume(&self) -> Result<(), VmmError> {
        self.execute("continue", "cont", json!({})).await
    }

    async fn pause(&self) -> Result<(), VmmError> {
        self.execute("stop", "stop", json!({})).await
    }

    async fn is_running(&self) -> Result<bool, VmmError> {
        let status = self
            .qmp
            .status()
            .await
            .map_err(|error| self.qmp_error("tell its state", error))?;
        Ok(status == "running")
    }

    async fn control(&self) -> Result<Box<dyn ControlStream>, VmmError> {
        let stream = socket::connect(&self.record.directory, CONTROL_SOCKET).await;
        Ok(Box::new(stream.map_err(|source| {
            self.io("open its control channel", source)
        })?))
    }

    async fn console(&self) -> Result<String, VmmError> {
        console(&self.qmp)
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
        tokio::task::block_in_place(|| self.gather(directory, &root_disk)).map_err(failed)?;
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
        self.base()?;
        let stopped = Instant::now();
        self.pause().await?;
        match self.capture().await {
            Ok((manifest, captured)) => {
                let stopped_micros =
                    u64::try_from((captured - stopped).as_micros()).unwrap_or(u64::MAX);
                debug!(
                    id = self.record.id,
                    pages = manifest.pages,
                    stopped_micros,
                    "suspended"
                );
                Ok(Suspension {
                    manifest,
                    stopped_micros,
                })
            }
            Err(error) => {
                if let Err(cleanup) = self.drop_suspension().await {
                    warn!(id = self.record.id, %cleanup, "what a failed suspend wrote was not removed");
                }
                self.resume().await?;
                Err(error)
            }
        }
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
        for name in [QMP_SOCKET, CONTROL_SOCKET] {
            remove_if_there(&self.record.directory.join(name))
                .map_err(|source| self.io("remove its sockets", source))?;
        }
        Ok(())
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

async fn console(qmp: &Qmp) -> Result<String, QmpError> {
    let arguments = json!({ "device": "console", "size": 65536, "format": "utf8" });
    let answer = qmp.execute("ringbuf-read", arguments).await?;
    Ok(answer.as_str().unwrap_or_default().to_owned())
}

/// The last lines of a text.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

fn entry(name: &str, length: u64, blake3: String) -> FileEntry {
    FileEntry {
        name: name.to_owned(),
        length,
        stored: length,
        blake3,
    }
}

/// Runs file work away from the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(std::io::Error::other)?
}

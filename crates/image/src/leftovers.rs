//! What a build has made and must not leave behind, however it ends: with a success, with a failure,
//! or because nobody waits for it any more.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use colibri_hypervisor::{Machine, MachineRecord};
use colibri_network::Slot;
use tokio_util::task::TaskTracker;

use crate::request::{BuildFailure, Progress};

/// A machine of the build.
struct RunningMachine {
    machine: Arc<dyn Machine>,
    record: MachineRecord,
}

/// The build's machines and slots. Steps that make one run to their end even when the build is
/// dropped meanwhile, so that there is no moment in which something exists that nobody knows of.
pub(crate) struct Leftovers {
    progress: Arc<dyn Progress>,
    steps: TaskTracker,
    machines: Mutex<Vec<RunningMachine>>,
    slots: Mutex<Vec<Arc<dyn Slot>>>,
}

impl Leftovers {
    pub(crate) fn new(progress: Arc<dyn Progress>) -> Arc<Self> {
        Arc::new(Self {
            progress,
            steps: TaskTracker::new(),
            machines: Mutex::default(),
            slots: Mutex::default(),
        })
    }

    /// Runs a step that makes something, to its end whatever happens to the caller.
    pub(crate) async fn step<T, F>(&self, step: F) -> Result<T, BuildFailure>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, BuildFailure>> + Send + 'static,
    {
        match self.steps.spawn(step).await {
            Ok(result) => result,
            Err(error) => Err(BuildFailure::internal("finish a step of the build", &error)),
        }
    }

    /// Notes a slot.
    pub(crate) fn add_slot(&self, slot: Arc<dyn Slot>) {
        self.slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(slot);
    }

    /// Notes a machine and tells of it.
    pub(crate) async fn add_machine(&self, machine: Arc<dyn Machine>, slot: u32) {
        let record = machine.record();
        let running = RunningMachine {
            machine,
            record: record.clone(),
        };
        self.machines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(running);
        self.progress.machine_started(&record, slot).await;
    }

    /// Ends every machine and gives every slot back.
    pub(crate) async fn end_machines(&self) {
        let machines =
            std::mem::take(&mut *self.machines.lock().unwrap_or_else(PoisonError::into_inner));
        for running in machines {
            match running.machine.kill().await {
                Ok(()) => self.progress.machine_ended(&running.record).await,
                // Not told as ended: whoever recorded it discards it later.
                Err(error) => {
                    tracing::error!(%error, machine = running.record.id, "could not end a build's machine");
                }
            }
        }
        let slots = std::mem::take(&mut *self.slots.lock().unwrap_or_else(PoisonError::into_inner));
        for slot in slots {
            if let Err(error) = slot.release().await {
                tracing::error!(%error, slot = slot.index(), "could not give a build's network slot back");
            }
        }
    }

    /// Waits for steps that still run, then ends what there is.
    pub(crate) async fn clear(&self) {
        self.steps.close();
        self.steps.wait().await;
        self.end_machines().await;
    }
}

/// Removes directories and what is in them; those that are gone are no error.
pub(crate) async fn remove_directory(path: PathBuf) {
    if let Err(error) = tokio::fs::remove_dir_all(&path).await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %path.display(), "could not remove a build's directory");
    }
}

/// Empties a directory and keeps it.
pub(crate) async fn empty_directory(path: PathBuf) {
    let emptied = tokio::task::spawn_blocking(move || {
        for entry in std::fs::read_dir(&path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok::<(), std::io::Error>(())
    });
    match emptied.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "could not empty the directory of a failed build"),
        Err(error) => tracing::error!(%error, "emptying the directory of a failed build failed"),
    }
}

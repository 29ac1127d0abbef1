//! What a build has made and must not leave behind, however it ends: with a success, with a failure,
//! or because nobody waits for it any more.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use colibri_hypervisor::{Machine, MachineRecord};
use colibri_network::Slot;
use tokio_util::task::TaskTracker;

use crate::command::{CommandError, HostCommand};
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

/// Bound for removing a tree.
const REMOVAL_TIME: Duration = Duration::from_secs(600);

/// Removes a directory and what is in it; one that is gone is no error.
pub(crate) async fn remove_directory(path: PathBuf) {
    if let Err(error) = remove(std::slice::from_ref(&path)).await {
        tracing::warn!(%error, path = %path.display(), "could not remove a build's directory");
    }
}

/// Empties a directory and keeps it.
pub(crate) async fn empty_directory(path: PathBuf) {
    let listed = std::fs::read_dir(&path).map(|entries| {
        let paths = entries.flatten().map(|entry| entry.path());
        paths.collect::<Vec<_>>()
    });
    let failed = match listed {
        Ok(paths) if paths.is_empty() => return,
        Ok(paths) => remove(&paths).await.err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(error) = failed {
        tracing::warn!(error, "could not empty the directory of a failed build");
    }
}

/// By `rm`, which takes trees of any depth: a build's steps can make them deeper than this process has
/// descriptors, or room on its stack.
async fn remove(paths: &[PathBuf]) -> Result<(), CommandError> {
    let removed = HostCommand::new("rm", Path::new("/"))
        .args(["-rf", "--one-file-system", "--"])
        .args(paths);
    removed.output(REMOVAL_TIME).await.map(drop)
}

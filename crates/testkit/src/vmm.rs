//! The simulated driver.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use async_trait::async_trait;
use colibri_hypervisor::machine::VmmError;
use colibri_hypervisor::manifest::MANIFEST_FILE;
use colibri_hypervisor::{
    BootSpec, ExitCause, LaunchSpec, Machine, MachineRecord, SpareSpec, Vmm, VmmDescription,
};

use crate::faults::{Operation, lock};
use crate::guest::GuestMemory;
use crate::machine::{MEMORY_FILE, MachineState, SimulatedMachine};
use crate::previous;
use crate::world::WorldState;

pub(crate) struct SimulatedVmm {
    pub(crate) world: Arc<WorldState>,
}

impl SimulatedVmm {
    fn start(
        &self,
        record: MachineRecord,
        uid: Option<u32>,
        memory: GuestMemory,
        running: bool,
    ) -> Arc<MachineState> {
        let state = MachineState::new(record.clone(), uid, memory, running);
        lock(&self.world.machines).insert(record.id, Arc::clone(&state));
        state
    }

    fn record(&self, id: &str, directory: &Path, base: Option<&Path>) -> MachineRecord {
        let pid = self.world.next_pid.fetch_add(1, Ordering::Relaxed);
        MachineRecord {
            id: id.into(),
            directory: directory.into(),
            base: base.map(Path::to_path_buf),
            pid,
            start_ticks: u64::from(pid) * 10,
        }
    }

    fn view(&self, state: Arc<MachineState>) -> Arc<dyn Machine> {
        Arc::new(SimulatedMachine {
            world: Arc::clone(&self.world),
            state,
        })
    }

    fn find(&self, record: &MachineRecord) -> Option<Arc<MachineState>> {
        lock(&self.world.machines)
            .get(&record.id)
            .filter(|machine| machine.record() == *record)
            .cloned()
    }

    fn refuse_second(&self, id: &str, attempted: &str) -> Result<(), VmmError> {
        if lock(&self.world.machines).contains_key(id) {
            let reason = self
                .world
                .breach(format!("{attempted} of {id}: its process lives already"));
            return Err(VmmError::Refused {
                id: id.into(),
                attempted: attempted.into(),
                reason,
            });
        }
        Ok(())
    }
}

#[async_trait]
impl Vmm for SimulatedVmm {
    fn description(&self) -> &VmmDescription {
        &self.world.description
    }

    async fn boot(&self, spec: BootSpec) -> Result<Arc<dyn Machine>, VmmError> {
        let hangs = self
            .world
            .faults
            .meet(Operation::Boot)
            .await
            .or_vmm_error(&spec.id, "boot")?;
        self.refuse_second(&spec.id, "boot")?;
        let record = self.record(&spec.id, &spec.directory, None);
        let state = self.start(record, spec.isolation.uid, GuestMemory::default(), true);
        self.world.faults.done(Operation::Boot, hangs).await;
        Ok(self.view(state))
    }

    async fn launch(&self, spec: LaunchSpec) -> Result<Arc<dyn Machine>, VmmError> {
        let hangs = self
            .world
            .faults
            .meet(Operation::Launch)
            .await
            .or_vmm_error(&spec.id, "launch")?;
        self.refuse_second(&spec.id, "launch")?;
        if !spec.directory.is_dir() {
            let attempted = format!("open {}", spec.directory.display());
            return Err(VmmError::io(attempted, std::io::ErrorKind::NotFound.into()));
        }
        let snapshot = if spec.resume {
            &spec.directory
        } else {
            &spec.base
        };
        let memory = read_memory(snapshot)?;
        if !spec.base.join(MANIFEST_FILE).is_file() {
            return Err(VmmError::BadSnapshot {
                path: spec.base,
                reason: "it has no manifest".into(),
            });
        }
        let record = self.record(&spec.id, &spec.directory, Some(&spec.base));
        let state = self.start(record, spec.isolation.uid, memory, false);
        self.world.faults.done(Operation::Launch, hangs).await;
        Ok(self.view(state))
    }

    async fn prepare(&self, spec: SpareSpec) -> Result<Arc<dyn Machine>, VmmError> {
        let hangs = self
            .world
            .faults
            .meet(Operation::Prepare)
            .await
            .or_vmm_error(&spec.id, "prepare")?;
        self.refuse_second(&spec.id, "prepare")?;
        // Fails where there is no base.
        read_memory(&spec.base)?;
        let record = self.record(&spec.id, &spec.directory, Some(&spec.base));
        let state = self.start(record, spec.isolation.uid, GuestMemory::default(), false);
        state.empty.store(true, Ordering::SeqCst);
        if hangs {
            self.world.faults.hang(Operation::Prepare).await;
        }
        Ok(self.view(state))
    }

    async fn adopt(&self, record: MachineRecord) -> Result<Arc<dyn Machine>, VmmError> {
        let hangs = self
            .world
            .faults
            .meet(Operation::AdoptMachine)
            .await
            .or_vmm_error(&record.id, "adopt")?;
        let found = self.find(&record);
        self.world.faults.done(Operation::AdoptMachine, hangs).await;
        found
            .map(|state| self.view(state))
            .ok_or(VmmError::Gone { id: record.id })
    }

    fn lives(&self, record: &MachineRecord) -> bool {
        self.find(record).is_some()
    }

    async fn discard(&self, record: &MachineRecord) -> Result<(), VmmError> {
        let hangs = self
            .world
            .faults
            .meet(Operation::Discard)
            .await
            .or_vmm_error(&record.id, "discard")?;
        if let Some(machine) = self.find(record) {
            self.world.forget(&machine);
            machine.end(ExitCause::Killed);
        }
        self.world.faults.done(Operation::Discard, hangs).await;
        Ok(())
    }

    async fn previous(&self, directory: &Path, base: &Path) -> Result<SystemTime, VmmError> {
        let faults = &self.world.faults;
        let met = faults.meet(Operation::Previous).await;
        let hangs = met.or_vmm_error("*", "check what is kept")?;
        read_memory(base)?;
        let suspended_at = previous::check(directory)?;
        faults.done(Operation::Previous, hangs).await;
        Ok(suspended_at)
    }

    async fn go_back(&self, directory: &Path, base: &Path) -> Result<SystemTime, VmmError> {
        let faults = &self.world.faults;
        let met = faults.meet(Operation::GoBack).await;
        let hangs = met.or_vmm_error("*", "go back")?;
        read_memory(base)?;
        let suspended_at = previous::check(directory)?;
        let is_used = lock(&self.world.machines)
            .values()
            .any(|machine| machine.directory() == directory);
        if is_used {
            self.world
                .breach(format!("{} is in use and went back", directory.display()));
        }
        previous::take(directory)?;
        faults.done(Operation::GoBack, hangs).await;
        Ok(suspended_at)
    }

    async fn sweep(&self, root: &Path, keep: &[String]) -> Result<Vec<String>, VmmError> {
        let hangs = self
            .world
            .faults
            .meet(Operation::SweepMachines)
            .await
            .or_vmm_error("*", "sweep")?;
        let mut ended = Vec::new();
        lock(&self.world.machines).retain(|id, machine| {
            let is_kept = keep.iter().any(|wanted| machine.is_called(wanted));
            if !machine.directory().starts_with(root) || is_kept {
                return true;
            }
            machine.end(ExitCause::Killed);
            ended.push(id.clone());
            false
        });
        self.world
            .faults
            .done(Operation::SweepMachines, hangs)
            .await;
        Ok(ended)
    }
}

pub(crate) fn read_memory(snapshot: &Path) -> Result<GuestMemory, VmmError> {
    let bad = |reason: String| VmmError::BadSnapshot {
        path: snapshot.into(),
        reason,
    };
    if !snapshot.join(MANIFEST_FILE).is_file() {
        return Err(bad("it has no manifest".into()));
    }
    let bytes =
        std::fs::read(snapshot.join(MEMORY_FILE)).map_err(|error| bad(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))
}

//! What exists in the simulation: machines, slots, and how guests behave.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use colibri_hypervisor::machine::{Architecture, VmmDescription};
use colibri_hypervisor::{ExitCause, MachineShape, Vmm};
use colibri_image::{BuildFailure, BuildRequest, ImageBuilder};
use colibri_network::{Egress, Network};
use colibri_store::WriteObserver;

use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use crate::builder::SimulatedBuilder;
use crate::faults::{Faults, lock};
use crate::guest::{GuestHandle, HookPlan};
use crate::journal::Journal;
use crate::machine::MachineState;
use crate::network::SimulatedNetwork;
use crate::points::Points;
use crate::vmm::SimulatedVmm;

/// Bytes that a connection to the metadata address holds before a writer waits.
const METADATA_BUFFER: usize = 64 * 1024;
/// Slots of a new world.
const SLOTS: u32 = 64;

/// A simulated host with everything on it.
#[derive(Clone)]
pub struct World {
    pub(crate) state: Arc<WorldState>,
}

pub(crate) struct WorldState {
    pub(crate) description: VmmDescription,
    pub(crate) shape: MachineShape,
    pub(crate) machines: Mutex<BTreeMap<String, Arc<MachineState>>>,
    pub(crate) slots: Mutex<BTreeMap<u32, Egress>>,
    /// The slots that the daemon of now took or took over: nobody else in it gets them.
    pub(crate) own_slots: Mutex<BTreeSet<u32>>,
    /// Who listens on a slot's metadata address, by the user id of the slot.
    pub(crate) listeners: Mutex<HashMap<u32, mpsc::UnboundedSender<DuplexStream>>>,
    pub(crate) withdrawn: Mutex<BTreeSet<String>>,
    pub(crate) capacity: AtomicU32,
    pub(crate) faults: Faults,
    pub(crate) hooks: Mutex<HashMap<String, HookPlan>>,
    /// How long the next identity takes to its guest.
    pub(crate) identity_delay: Mutex<Duration>,
    /// Sessions that no agent will hear of.
    pub(crate) deaf_sessions: AtomicU32,
    pub(crate) next_pid: AtomicU32,
    pub(crate) crashing: AtomicBool,
    pub(crate) build_failure: Mutex<Option<BuildFailure>>,
    pub(crate) builds: Mutex<Vec<BuildRequest>>,
    pub(crate) contract_breaches: Mutex<Vec<String>>,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// An empty world.
    #[must_use]
    pub fn new() -> Self {
        let architecture = Architecture::of_host().unwrap_or(Architecture::X86_64);
        Self {
            state: Arc::new(WorldState {
                description: VmmDescription {
                    driver: "simulated".into(),
                    version: "1".into(),
                    accelerator: "none".into(),
                    architecture,
                    cpu_model: "simulated".into(),
                    machine_type: "simulated".into(),
                },
                shape: MachineShape {
                    architecture,
                    vcpus: 1,
                    memory_mib: 512,
                },
                machines: Mutex::default(),
                slots: Mutex::default(),
                own_slots: Mutex::default(),
                listeners: Mutex::default(),
                withdrawn: Mutex::default(),
                capacity: AtomicU32::new(SLOTS),
                faults: Faults::default(),
                hooks: Mutex::default(),
                identity_delay: Mutex::default(),
                deaf_sessions: AtomicU32::new(0),
                next_pid: AtomicU32::new(1000),
                crashing: AtomicBool::new(false),
                build_failure: Mutex::default(),
                builds: Mutex::default(),
                contract_breaches: Mutex::default(),
            }),
        }
    }

    /// Its hypervisor.
    #[must_use]
    pub fn vmm(&self) -> Arc<dyn Vmm> {
        Arc::new(SimulatedVmm {
            world: Arc::clone(&self.state),
        })
    }

    /// Its network, for the next daemon: the slots that there are were an earlier one's.
    #[must_use]
    pub fn network(&self) -> Arc<dyn Network> {
        lock(&self.state.own_slots).clear();
        Arc::new(SimulatedNetwork {
            world: Arc::clone(&self.state),
        })
    }

    /// Its image builder.
    #[must_use]
    pub fn builder(&self) -> Arc<dyn ImageBuilder> {
        Arc::new(SimulatedBuilder {
            world: Arc::clone(&self.state),
        })
    }

    /// What is planned to go wrong.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.state.faults
    }

    /// Where it can be killed, or a call be made to fail.
    #[must_use]
    pub fn points(&self) -> &Points {
        &self.state.faults.points
    }

    /// What makes a store's writes points too.
    #[must_use]
    pub fn journal(&self) -> Arc<dyn WriteObserver> {
        Arc::new(Journal {
            world: Arc::clone(&self.state),
        })
    }

    /// How the applications answer the hook whose path ends in `hook` (`run`, `suspend`, ...); 200 unless
    /// this says otherwise.
    pub fn plan_hook(&self, hook: &str, plan: HookPlan) {
        lock(&self.state.hooks).insert(hook.to_owned(), plan);
    }

    /// The next identity takes this long to its guest, as to one that has just been restored.
    pub fn delay_next_identity(&self, delay: Duration) {
        *lock(&self.state.identity_delay) = delay;
    }

    /// The next sessions, so many, are opened and never taken up: the port has stopped carrying anything.
    pub fn deafen_sessions(&self, count: u32) {
        self.state.deaf_sessions.store(count, Ordering::SeqCst);
    }

    /// The next build fails so.
    pub fn fail_next_build(&self, failure: BuildFailure) {
        *lock(&self.state.build_failure) = Some(failure);
    }

    /// The builds that were asked for.
    #[must_use]
    pub fn builds(&self) -> Vec<BuildRequest> {
        lock(&self.state.builds).clone()
    }

    /// How many slots there are.
    pub fn set_slots(&self, capacity: u32) {
        self.state.capacity.store(capacity, Ordering::Relaxed);
    }

    /// Ids of the machines whose process lives.
    #[must_use]
    pub fn machines(&self) -> Vec<String> {
        lock(&self.state.machines).keys().cloned().collect()
    }

    /// Numbers of the slots that are taken.
    #[must_use]
    pub fn slots(&self) -> BTreeSet<u32> {
        lock(&self.state.slots).keys().copied().collect()
    }

    /// What the slots that are taken let out.
    #[must_use]
    pub fn egress(&self) -> Vec<Egress> {
        lock(&self.state.slots).values().cloned().collect()
    }

    /// The guest in a machine whose process lives; `id` names the machine, or its directory: a machine of the
    /// pool keeps its own name when it becomes a MicroVM.
    #[must_use]
    pub fn guest(&self, id: &str) -> Option<GuestHandle> {
        self.state.called(id).map(GuestHandle::new)
    }

    /// A connection of that guest's to the metadata address; none where nobody listens.
    #[must_use]
    pub fn dial_metadata(&self, id: &str) -> Option<DuplexStream> {
        let uid = self.state.called(id)?.uid?;
        let (near, far) = tokio::io::duplex(METADATA_BUFFER);
        let listener = lock(&self.state.listeners).get(&uid).cloned()?;
        listener.send(far).ok().map(|()| near)
    }

    /// Ends a machine's process from outside, as the kernel would.
    pub fn kill_process(&self, id: &str) {
        if let Some(machine) = self.state.called(id) {
            self.state.forget(&machine);
            machine.end(ExitCause::Ended("killed by the test".into()));
        }
    }

    /// The host goes down: every process ends, every slot is gone, files stay.
    pub fn reboot(&self) {
        for id in self.machines() {
            self.kill_process(&id);
        }
        lock(&self.state.slots).clear();
    }

    /// From now on until [`World::daemon_restarts`], dropping a future cleans nothing up: what is dropped
    /// is a daemon that was killed.
    pub fn daemon_is_killed(&self) {
        self.state.crashing.store(true, Ordering::SeqCst);
    }

    /// Returns when the control sessions of a daemon that was killed are closed. The kernel closes those of a
    /// process before anybody sees its end; those of an aborted task close when the runtime gets to it.
    pub async fn sessions_closed(&self) {
        let machines: Vec<_> = lock(&self.state.machines).values().cloned().collect();
        for machine in machines {
            machine.let_alone().await;
        }
    }

    /// The next daemon starts: faults that were not met are forgotten.
    pub fn daemon_restarts(&self) {
        self.state.crashing.store(false, Ordering::SeqCst);
        self.state.faults.clear();
        self.state.faults.points.restart();
    }

    /// Contracts of the traits that were broken, in words; a test ends by asserting that there are none.
    #[must_use]
    pub fn contract_breaches(&self) -> Vec<String> {
        lock(&self.state.contract_breaches).clone()
    }
}

impl WorldState {
    /// What is left of an egress when what was withdrawn is taken out.
    pub(crate) fn without_withdrawn(&self, egress: Egress) -> Egress {
        match egress {
            Egress::Granted(mut grants) => {
                let withdrawn = lock(&self.withdrawn);
                grants.retain(|grant| !withdrawn.contains(&grant.name));
                Egress::Granted(grants)
            }
            other => other,
        }
    }

    pub(crate) fn breach(&self, what: String) -> String {
        lock(&self.contract_breaches).push(what.clone());
        what
    }

    /// Takes a machine out of the world, unless another has its name by now.
    pub(crate) fn forget(&self, state: &Arc<MachineState>) {
        let mut machines = lock(&self.machines);
        if machines
            .get(state.id())
            .is_some_and(|machine| Arc::ptr_eq(machine, state))
        {
            machines.remove(state.id());
        }
    }

    pub(crate) fn called(&self, name: &str) -> Option<Arc<MachineState>> {
        lock(&self.machines)
            .values()
            .find(|machine| machine.is_called(name))
            .cloned()
    }

    pub(crate) fn machine_on(&self, uid: u32) -> Option<Arc<MachineState>> {
        lock(&self.machines)
            .values()
            .find(|machine| machine.uid == Some(uid))
            .cloned()
    }
}

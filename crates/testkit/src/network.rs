//! Simulated slots: numbers, and a way to the application of the machine that runs under a slot's user.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use colibri_network::{
    Egress, Grant, GuestListener, GuestStream, Network, NetworkError, Slot, SlotUsage,
};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use crate::application;
use crate::faults::{Operation, lock};
use crate::world::WorldState;

/// User id of slot 0; slot n has this plus n.
const FIRST_UID: u32 = 700_000;

pub(crate) struct SimulatedNetwork {
    pub(crate) world: Arc<WorldState>,
}

pub(crate) struct SimulatedSlot {
    world: Arc<WorldState>,
    index: u32,
}

impl SimulatedNetwork {
    fn slot(&self, index: u32) -> Arc<dyn Slot> {
        Arc::new(SimulatedSlot {
            world: Arc::clone(&self.world),
            index,
        })
    }
}

impl WorldState {
    fn take_slot(&self, capacity: u32, egress: Egress) -> Result<u32, NetworkError> {
        let mut slots = lock(&self.slots);
        let free = (0..capacity).find(|index| !slots.contains_key(index));
        let index = free.ok_or(NetworkError::Exhausted { capacity })?;
        slots.insert(index, self.without_withdrawn(egress));
        lock(&self.own_slots).insert(index);
        Ok(index)
    }

    pub(crate) fn give_slot_back(&self, index: u32) {
        lock(&self.slots).remove(&index);
        lock(&self.own_slots).remove(&index);
    }

    /// Whether the call hangs when it has been carried out; the network's error where it fails.
    async fn meet(&self, operation: Operation, attempted: &str) -> Result<bool, NetworkError> {
        let met = self.faults.meet(operation).await;
        if met.fails() {
            return Err(planned(attempted));
        }
        Ok(met.hangs_after())
    }
}

fn planned(attempted: &str) -> NetworkError {
    NetworkError::Command {
        attempted: attempted.into(),
        output: "the test planned it".into(),
    }
}

#[async_trait]
impl Network for SimulatedNetwork {
    async fn acquire(&self, egress: Egress) -> Result<Arc<dyn Slot>, NetworkError> {
        let hangs = self
            .world
            .meet(Operation::AcquireSlot, "make a slot")
            .await?;
        let capacity = self.world.capacity.load(Ordering::Relaxed);
        let index = self.world.take_slot(capacity, egress)?;
        self.world.faults.done(Operation::AcquireSlot, hangs).await;
        Ok(self.slot(index))
    }

    async fn adopt(&self, index: u32) -> Result<Arc<dyn Slot>, NetworkError> {
        let hangs = self
            .world
            .meet(Operation::AdoptSlot, "adopt a slot")
            .await?;
        if lock(&self.world.own_slots).contains(&index) {
            return Err(NetworkError::InUse { index });
        }
        if !lock(&self.world.slots).contains_key(&index) {
            return Err(NetworkError::Gone { index });
        }
        lock(&self.world.own_slots).insert(index);
        self.world.faults.done(Operation::AdoptSlot, hangs).await;
        Ok(self.slot(index))
    }

    fn usage(&self) -> SlotUsage {
        SlotUsage {
            capacity: self.world.capacity.load(Ordering::Relaxed),
            taken: u32::try_from(lock(&self.world.slots).len()).unwrap_or(u32::MAX),
        }
    }

    async fn withdraw(&self, name: &str) -> Result<(), NetworkError> {
        let hangs = self
            .world
            .meet(Operation::Withdraw, "withdraw a grant")
            .await?;
        lock(&self.world.withdrawn).insert(name.to_owned());
        for egress in lock(&self.world.slots).values_mut() {
            *egress = self.world.without_withdrawn(egress.clone());
        }
        self.world.faults.done(Operation::Withdraw, hangs).await;
        Ok(())
    }

    async fn sweep(&self, keep: &BTreeSet<u32>) -> Result<(), NetworkError> {
        let hangs = self
            .world
            .meet(Operation::SweepSlots, "sweep the slots")
            .await?;
        lock(&self.world.slots).retain(|index, _| keep.contains(index));
        self.world.faults.done(Operation::SweepSlots, hangs).await;
        Ok(())
    }
}

struct SimulatedListener(mpsc::UnboundedReceiver<DuplexStream>);

#[async_trait]
impl GuestListener for SimulatedListener {
    async fn accept(&mut self) -> io::Result<Box<dyn GuestStream>> {
        match self.0.recv().await {
            Some(stream) => Ok(Box::new(stream)),
            // Another listener has its place.
            None => std::future::pending().await,
        }
    }
}

#[async_trait]
impl Slot for SimulatedSlot {
    fn index(&self) -> u32 {
        self.index
    }

    fn uid(&self) -> Option<u32> {
        Some(FIRST_UID + self.index)
    }

    async fn attach(&self) -> Result<Option<(OwnedFd, OwnedFd)>, NetworkError> {
        let hangs = self.world.meet(Operation::Attach, "open the tap").await?;
        self.world.faults.done(Operation::Attach, hangs).await;
        Ok(None)
    }

    async fn connect(&self, port: u16) -> io::Result<Box<dyn GuestStream>> {
        let machine = self
            .world
            .machine_on(FIRST_UID + self.index)
            .filter(|machine| *machine.running.borrow())
            .ok_or_else(|| io::Error::from(io::ErrorKind::HostUnreachable))?;
        let stream = application::connect(&machine, port)?;
        Ok(Box::new(stream))
    }

    async fn listen(&self) -> io::Result<Box<dyn GuestListener>> {
        let (connect, connections) = mpsc::unbounded_channel();
        lock(&self.world.listeners).insert(FIRST_UID + self.index, connect);
        Ok(Box::new(SimulatedListener(connections)))
    }

    async fn grant(&self, grants: &[Grant]) -> Result<(), NetworkError> {
        let hangs = self
            .world
            .meet(Operation::Grant, "grant egress to a slot")
            .await?;
        let granted = self
            .world
            .without_withdrawn(Egress::Granted(grants.to_vec()));
        let index = self.index;
        match lock(&self.world.slots).get_mut(&index) {
            None => return Err(NetworkError::Gone { index }),
            Some(egress @ Egress::Granted(_)) => *egress = granted,
            Some(_) => return Err(NetworkError::NotGranted { index }),
        }
        self.world.faults.done(Operation::Grant, hangs).await;
        Ok(())
    }

    async fn release(&self) -> Result<(), NetworkError> {
        let hangs = self
            .world
            .meet(Operation::ReleaseSlot, "remove a slot")
            .await?;
        if let Some(machine) = self.world.machine_on(FIRST_UID + self.index) {
            self.world.breach(format!(
                "slot {} was released while {} ran on it",
                self.index,
                machine.id()
            ));
        }
        self.world.give_slot_back(self.index);
        self.world.faults.done(Operation::ReleaseSlot, hangs).await;
        Ok(())
    }
}

//! Simulated slots: numbers, and a way to the application of the machine that runs under a slot's user.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use colibri_network::{Egress, GuestListener, GuestStream, Network, NetworkError, Slot, SlotUsage};
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

fn planned(attempted: &str) -> NetworkError {
    NetworkError::Command {
        attempted: attempted.into(),
        output: "the test planned it".into(),
    }
}

#[async_trait]
impl Network for SimulatedNetwork {
    async fn acquire(&self, egress: Egress) -> Result<Arc<dyn Slot>, NetworkError> {
        if self.world.faults.meet(Operation::AcquireSlot).await.fails() {
            return Err(planned("make a slot"));
        }
        let capacity = self.world.capacity.load(Ordering::Relaxed);
        let mut slots = lock(&self.world.slots);
        let free = (0..capacity).find(|index| !slots.contains_key(index));
        let index = free.ok_or(NetworkError::Exhausted { capacity })?;
        slots.insert(index, egress);
        Ok(self.slot(index))
    }

    async fn adopt(&self, index: u32) -> Result<Arc<dyn Slot>, NetworkError> {
        if self.world.faults.meet(Operation::AdoptSlot).await.fails() {
            return Err(planned("adopt a slot"));
        }
        if !lock(&self.world.slots).contains_key(&index) {
            return Err(NetworkError::Gone { index });
        }
        Ok(self.slot(index))
    }

    fn usage(&self) -> SlotUsage {
        SlotUsage {
            capacity: self.world.capacity.load(Ordering::Relaxed),
            taken: u32::try_from(lock(&self.world.slots).len()).unwrap_or(u32::MAX),
        }
    }

    async fn sweep(&self, keep: &BTreeSet<u32>) -> Result<(), NetworkError> {
        if self.world.faults.meet(Operation::SweepSlots).await.fails() {
            return Err(planned("sweep the slots"));
        }
        lock(&self.world.slots).retain(|index, _| keep.contains(index));
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
        if self.world.faults.meet(Operation::Attach).await.fails() {
            return Err(planned("open the tap"));
        }
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

    async fn release(&self) -> Result<(), NetworkError> {
        if self.world.faults.meet(Operation::ReleaseSlot).await.fails() {
            return Err(planned("remove a slot"));
        }
        if let Some(machine) = self.world.machine_on(FIRST_UID + self.index) {
            self.world.breach(format!(
                "slot {} was released while {} ran on it",
                self.index,
                machine.id()
            ));
        }
        lock(&self.world.slots).remove(&self.index);
        Ok(())
    }
}

//! The simulated world's view of a store: its writes are points like the drivers' calls.

use std::sync::Arc;

use async_trait::async_trait;
use colibri_store::{StoreError, WriteObserver};

use crate::points::Verdict;
use crate::world::WorldState;

pub(crate) struct Journal {
    pub(crate) world: Arc<WorldState>,
}

#[async_trait]
impl WriteObserver for Journal {
    async fn before(&self, write: &'static str) -> Result<(), StoreError> {
        match self.world.faults.points.before(&named(write), true).await {
            Verdict::Passes => Ok(()),
            Verdict::Fails { storage_full: true } => Err(StoreError::storage_full()),
            Verdict::Fails {
                storage_full: false,
            } => Err(StoreError::Interrupted),
        }
    }

    async fn after(&self, write: &'static str) {
        self.world.faults.points.after(&named(write)).await;
    }
}

/// `write change_microvm` out of the full path of the closure that writes.
fn named(write: &str) -> String {
    let function = write
        .split("::")
        .filter(|part| !part.starts_with('{'))
        .last()
        .unwrap_or(write);
    format!("write {function}")
}

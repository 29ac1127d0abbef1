//! Which slots are granted what, and the loading of it into their packet filters. What the filters say is in
//! `rules`.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::commands::{Commands, Place};
use crate::grant::Withdrawn;
use crate::rules::{self, Limits};
use crate::{Grant, NetworkError};

/// The book.
#[derive(Debug)]
pub(crate) struct GrantBook {
    limits: Limits,
    /// Locked while what a slot is granted is loaded, so that the newest is loaded last.
    loading: tokio::sync::Mutex<()>,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    slots: BTreeMap<u32, Granted>,
    withdrawn: Withdrawn,
}

#[derive(Debug)]
struct Granted {
    grants: Vec<Grant>,
    namespace: Arc<OwnedFd>,
}

impl GrantBook {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            loading: tokio::sync::Mutex::default(),
            entries: Mutex::default(),
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Every change under this lock is a single step, so a panic leaves nothing half done.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot whose egress is granted is there. What is loaded in it stays until [`GrantBook::grant`].
    pub(crate) fn enter(&self, index: u32, namespace: &Arc<OwnedFd>) {
        let granted = Granted {
            grants: Vec::new(),
            namespace: Arc::clone(namespace),
        };
        self.entries().slots.insert(index, granted);
    }

    /// A slot goes.
    pub(crate) fn strike(&self, index: u32) {
        self.entries().slots.remove(&index);
    }

    /// Replaces what slot `index` is granted.
    pub(crate) async fn grant(
        &self,
        commands: &Commands,
        index: u32,
        grants: &[Grant],
    ) -> Result<(), NetworkError> {
        match self.entries().slots.get_mut(&index) {
            Some(granted) => granted.grants = grants.to_vec(),
            None => return Err(NetworkError::NotGranted { index }),
        }
        self.load(commands, index).await
    }

    /// Takes a grant back from every slot.
    pub(crate) async fn withdraw(
        &self,
        commands: &Commands,
        name: &str,
    ) -> Result<(), NetworkError> {
        let is_it = |grant: &Grant| grant.name == name;
        let concerned: Vec<u32> = {
            let mut entries = self.entries();
            entries.withdrawn.insert(name);
            let slots = entries.slots.iter();
            let having = slots.filter(|(_, granted)| granted.grants.iter().any(is_it));
            having.map(|(index, _)| *index).collect()
        };
        let mut outcome = Ok(());
        for index in concerned {
            let loaded = self.load(commands, index).await;
            if loaded.is_ok()
                && let Some(granted) = self.entries().slots.get_mut(&index)
            {
                granted.grants.retain(|grant| !is_it(grant));
            }
            outcome = outcome.and(loaded);
        }
        outcome
    }

    /// Loads what a slot is granted and was not withdrawn; a slot that went meanwhile needs nothing.
    async fn load(&self, commands: &Commands, index: u32) -> Result<(), NetworkError> {
        let _newest_last = self.loading.lock().await;
        let (script, namespace) = {
            let entries = self.entries();
            let Some(granted) = entries.slots.get(&index) else {
                return Ok(());
            };
            let grants = entries.withdrawn.rest(&granted.grants);
            let script = rules::granted(&grants, &self.limits);
            (script, Arc::clone(&granted.namespace))
        };
        let attempted = format!("load what network slot {index} is granted");
        commands
            .nft(Place::Slot(&namespace), script, &attempted)
            .await
    }
}

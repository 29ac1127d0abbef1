//! The directory that a daemon answers from: read from the store, and read again when it changes,
//! whichever process changes it.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use colibri_store::{Store, StoreError};
use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info};

use crate::credential::{Credential, CredentialSource};
use crate::directory::Directory;

/// How long a change that another process made may go unnoticed.
pub const STALENESS: Duration = Duration::from_secs(1);

/// Everyone who may ask: the root, users, and sessions of roles.
pub struct Principals {
    pub(crate) store: Store,
    root: Credential,
    current: RwLock<Arc<Directory>>,
    /// One reading at a time, so that an older one never replaces a newer.
    reading: Mutex<()>,
}

impl std::fmt::Debug for Principals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Principals").finish_non_exhaustive()
    }
}

impl Principals {
    /// Reads them from the store. The root is who it is given as.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(store: Store, root: Credential) -> Result<Arc<Self>, StoreError> {
        let records = store.iam().await?;
        let directory = Directory::new(&root.identity.account, &records);
        Ok(Arc::new(Self {
            store,
            root,
            current: RwLock::new(Arc::new(directory)),
            reading: Mutex::new(()),
        }))
    }

    /// Everyone but the root, as of now.
    #[must_use]
    pub fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the store again if it has changed.
    ///
    /// # Errors
    /// When the store cannot be read. What was read last stays in force.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let _turn = self.reading.lock().await;
        if self.store.iam_revision().await? == self.directory().revision() {
            return Ok(());
        }
        let records = self.store.iam().await?;
        let directory = Directory::new(&self.root.identity.account, &records);
        info!(
            revision = directory.revision(),
            "users, roles and policies have changed"
        );
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(directory);
        Ok(())
    }

    /// Notices, within [`STALENESS`], what other processes change. Never returns.
    pub async fn watch(&self) {
        let mut ticks = interval(STALENESS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.refresh().await {
                error!(%error, cause = std::error::Error::source(&error), "changes of users, roles and policies cannot be read");
            }
        }
    }
}

impl CredentialSource for Principals {
    fn credential(&self, access_key_id: &str) -> Option<Credential> {
        self.root
            .credential(access_key_id)
            .or_else(|| self.directory().credential(access_key_id).cloned())
    }
}

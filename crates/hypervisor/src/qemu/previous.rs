//! What the driver does with a machine's previous suspension; what that is, is told in `crate::previous`.

use std::path::Path;
use std::time::SystemTime;

use tokio::task::spawn_blocking;
use tracing::{debug, info};

use super::Qemu;
use super::capture::blocking;
use super::machine::QemuMachine;
use crate::machine::VmmError;
use crate::previous;
use crate::snapshot::{check_base, read_base};

impl Qemu {
    /// See [`crate::Vmm::previous`].
    pub(super) async fn check_previous(
        &self,
        directory: &Path,
        base: &Path,
    ) -> Result<SystemTime, VmmError> {
        let (manifest, base_hash) = read_base(base, &self.installation.description)?;
        check_base(base, &manifest)?;
        let pages = u64::from(manifest.shape.memory_mib) * 256;
        let of = directory.to_owned();
        let checked = spawn_blocking(move || previous::check(&of, &base_hash, pages)).await;
        checked.map_err(|error| {
            let attempted = format!("check what is kept in {}", directory.display());
            VmmError::io(attempted, std::io::Error::other(error))
        })?
    }

    /// See [`crate::Vmm::go_back`].
    pub(super) async fn take_previous(
        &self,
        directory: &Path,
        base: &Path,
    ) -> Result<SystemTime, VmmError> {
        let suspended_at = self.check_previous(directory, base).await?;
        let of = directory.to_owned();
        blocking(move || previous::take(&of))
            .await
            .map_err(|source| {
                VmmError::io(
                    format!("go back to what is kept in {}", directory.display()),
                    source,
                )
            })?;
        Ok(suspended_at)
    }
}

impl QemuMachine {
    /// See [`crate::Machine::keep_suspension`].
    pub(super) async fn keep_previous(&self, most_bytes: u64) -> Result<bool, VmmError> {
        self.previous_recorded().await;
        let directory = self.directory();
        let kept = blocking(move || previous::keep(&directory, most_bytes)).await;
        let kept = kept.map_err(|source| self.io("keep its suspension", source))?;
        let Some(unrecorded) = kept else {
            debug!(id = self.record_ref().id, "its suspension is not kept");
            return Ok(false);
        };
        // The guest need not wait for that.
        let recording = spawn_blocking(move || {
            if let Err(error) = unrecorded.record() {
                debug!(%error, "a suspension that is kept has no record, and is of no use");
            }
        });
        *self.recording().await = Some(recording);
        Ok(true)
    }

    /// Waits until what is kept of this machine has its record.
    pub(super) async fn previous_recorded(&self) {
        if let Some(recording) = self.recording().await.take() {
            // One that failed has said so.
            let _ = recording.await;
        }
    }

    /// Removes what is kept of this machine, for want of room; true when that made some.
    pub(super) async fn give_up_previous(&self) -> bool {
        let directory = self.directory();
        let was_there = blocking(move || previous::forget(&directory)).await;
        let made_room = was_there.unwrap_or(false);
        if made_room {
            let id = &self.record_ref().id;
            info!(
                id,
                "gave up its previous suspension, for want of room for the next"
            );
        }
        made_room
    }
}

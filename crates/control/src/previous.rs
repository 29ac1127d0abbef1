//! The suspension before the one that turns out to be damaged: kept at every wake, offered where one fails, and
//! gone back to where somebody says so.

use std::future::Future;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use colibri_hypervisor::machine::VmmError;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::actor::Actor;
use crate::failure::chain;
use crate::launch::LaunchFailure;

const MIB: u64 = 1024 * 1024;

impl Actor {
    /// Keeps the suspension that the stopped machine is about to go on from, which makes it void. A wake does not
    /// fail for it.
    pub(crate) fn keeping_suspension(&self) -> impl Future<Output = ()> + use<> {
        let (machine, id) = (self.machine.clone(), self.id.clone());
        let mib = self.shared.settings.keep_last_good_mib;
        async move {
            let Some(machine) = machine else { return };
            let kept = machine.keep_suspension(mib.saturating_mul(MIB)).await;
            if let Err(error) = kept {
                tracing::warn!(microvm_id = %id, error = %chain(&error), "a suspension is not kept as the last good one");
            }
        }
    }

    /// Whether it is the MicroVM's own suspension that cannot be used, and not its base.
    pub(crate) fn is_damaged(&self, failure: &LaunchFailure) -> bool {
        let directory = self.shared.settings.microvm_directory(&self.id);
        matches!(failure, LaunchFailure::Machine(VmmError::BadSnapshot { path, .. }) if *path == directory)
    }

    /// Why a damaged MicroVM stays suspended, and what can be done.
    pub(crate) async fn offer_of_previous(&mut self, failure: &LaunchFailure) -> String {
        let vmm = Arc::clone(&self.shared.vmm);
        let (directory, base) = self.own_directories();
        let checking = async move { vmm.previous(&directory, &base).await };
        match (self.attend(checking).await, failure) {
            (Ok(at), LaunchFailure::Machine(VmmError::BadSnapshot { reason, .. })) => format!(
                "The MicroVM's state cannot be used: {reason}. Its suspension of {} is whole: ResumeMicrovm with \
                 the header X-Colibri-If-Damaged: previous goes back to it, and what the MicroVM did since is \
                 lost. Or put the files right, or terminate it.",
                in_words(at)
            ),
            (Err(error), _) => {
                tracing::info!(microvm_id = %self.id, error = %chain(&error), "no earlier suspension can be offered");
                failure.for_owner()
            }
            _ => failure.for_owner(),
        }
    }

    /// Puts the previous suspension in the damaged one's place; the reason where that cannot be.
    pub(crate) async fn go_back(&mut self, failure: &LaunchFailure) -> Result<(), String> {
        let vmm = Arc::clone(&self.shared.vmm);
        let (directory, base) = self.own_directories();
        let going = async move { vmm.go_back(&directory, &base).await };
        match self.attend(going).await {
            Ok(at) => {
                let at_words = in_words(at);
                tracing::warn!(microvm_id = %self.id, suspended_at = at_words, "went back to its previous suspension");
                // Its clocks have stood still since then.
                let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
                self.suspended_at = i64::try_from(since.as_millis()).ok();
                self.went_back = Some(format!(
                    "The MicroVM's state could not be used. It went back to its suspension of {at_words}; what it \
                     did since is lost."
                ));
                Ok(())
            }
            Err(error) => {
                tracing::warn!(microvm_id = %self.id, error = %chain(&error), "could not go back to its previous suspension");
                Err(format!(
                    "{} There is no earlier suspension that it could go back to.",
                    failure.for_owner()
                ))
            }
        }
    }

    fn own_directories(&self) -> (std::path::PathBuf, std::path::PathBuf) {
        let settings = &self.shared.settings;
        let build = self.build_id.as_deref().unwrap_or_default();
        (
            settings.microvm_directory(&self.id),
            settings.base_directory(&self.image_name, self.version, build),
        )
    }
}

/// To the second.
fn in_words(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let time = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| "an unknown time".into())
}

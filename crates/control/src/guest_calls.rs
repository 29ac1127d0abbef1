//! What a MicroVM's own guest may ask of it, over its metadata address (`colibri-metadata`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use colibri_metadata::{About, NoCredentials, NotRunning, RoleCredentials, Subject};
use colibri_store::Phase;
use colibri_wire::id::version::ImageVersion;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use crate::actor::Actor;
use crate::control::Shared;
use crate::registry::{Command, Handle, Reply};
use crate::roles::PassedRole;

/// A MicroVM, to its guest.
struct Own {
    about: About,
    handle: Arc<Handle>,
    role: Option<PassedRole>,
    shared: Arc<Shared>,
}

#[async_trait]
impl Subject for Own {
    fn about(&self) -> &About {
        &self.about
    }

    fn be_busy(&self, time: Duration) {
        self.handle.lease.take(time);
    }

    fn busy_for(&self) -> Duration {
        self.handle.lease.left()
    }

    fn may_suspend(&self) -> Result<(), NotRunning> {
        match self.handle.status.borrow().phase {
            Phase::Running => Ok(()),
            _ => Err(NotRunning),
        }
    }

    async fn suspend(&self) {
        let (reply, answer) = oneshot::channel();
        let id = &self.about.microvm_id;
        if self
            .handle
            .mailbox
            .try_send(Command::Suspend(Reply::to_guest(reply)))
            .is_err()
        {
            tracing::warn!(
                microvm_id = id,
                "too busy to suspend at its guest's request"
            );
            return;
        }
        if let Ok(Err(wrong)) = answer.await {
            tracing::info!(microvm_id = id, phase = ?wrong.0, "could not suspend at its guest's request");
        }
    }

    fn has_role(&self) -> bool {
        self.role.is_some()
    }

    async fn credentials(&self) -> Result<RoleCredentials, NoCredentials> {
        let Some(passed) = &self.role else {
            return Err(NoCredentials::Failed);
        };
        let (now, keys) = (self.shared.clock.now(), self.shared.roles.as_ref());
        self.handle.credentials.get(now, passed, keys).await
    }
}

impl Actor {
    /// Serves the guest at the metadata address of the slot, for as long as the slot is held. A MicroVM
    /// whose address cannot be had runs without.
    pub(crate) async fn serve_guest(&mut self) {
        let Some(slot) = self.slot.clone() else {
            return;
        };
        let handle = Arc::clone(&self.handle);
        let listener = match self.attend(async move { slot.listen().await }).await {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(microvm_id = %self.id, %error, "its guest has no metadata address");
                return;
            }
        };
        let Ok(image_arn) = self.shared.arn_text(&self.image_name) else {
            return;
        };
        let place = &self.shared.settings.place;
        let lifetime = i64::from(self.settings.maximum_duration_seconds) * 1000;
        let about = About {
            microvm_id: self.id.clone(),
            image_arn,
            image_version: ImageVersion::of_major(self.version).to_string(),
            region: place.region.as_str().to_owned(),
            account_id: place.account.as_str().to_owned(),
            started_at: seconds(self.created_at),
            ends_at: seconds(self.created_at.saturating_add(lifetime)),
        };
        let role = self.settings.execution_role.clone();
        let role = role.map(|role_arn| PassedRole {
            role_arn,
            microvm_id: about.microvm_id.clone(),
            image_arn: about.image_arn.clone(),
        });
        let subject = Arc::new(Own {
            about,
            handle,
            role,
            shared: Arc::clone(&self.shared),
        });
        let served = Arc::clone(&self.shared.metadata).serve(listener, subject);
        self.served_guest = Some(AbortOnDropHandle::new(tokio::spawn(served)));
    }
}

/// Milliseconds as the API's timestamps have them.
#[expect(
    clippy::cast_precision_loss,
    reason = "exact for the next 285,000 years"
)]
fn seconds(unix_millis: i64) -> f64 {
    unix_millis as f64 / 1000.0
}

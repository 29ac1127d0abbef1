//! Credentials of the roles that MicroVMs were run with: made when a guest asks, kept with its MicroVM, made anew
//! before they end. Making them is `colibri-iam`'s, behind [`RoleKeys`].

use async_trait::async_trait;
use colibri_metadata::{NoCredentials, RoleCredentials};
use tokio::sync::Mutex;

/// Credentials that are good for less than this are made anew, milliseconds: more than the quarter of an hour
/// from which on clients ask again and again.
const RENEWED_BEFORE_END: i64 = 20 * 60 * 1000;

/// A role that a MicroVM was given by whoever ran it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedRole {
    /// Its ARN.
    pub role_arn: String,
    /// The MicroVM that it was given to.
    pub microvm_id: String,
    /// That MicroVM's image.
    pub image_arn: String,
}

/// Makes credentials of roles.
#[async_trait]
pub trait RoleKeys: Send + Sync + 'static {
    /// New credentials of a role, for a MicroVM.
    ///
    /// # Errors
    /// [`NoCredentials`]
    async fn credentials(&self, passed: &PassedRole) -> Result<RoleCredentials, NoCredentials>;
}

/// For so long a refusal is repeated without asking again, milliseconds: a guest can ask many times a second.
const REFUSED_FOR: i64 = 10_000;

/// What a MicroVM's guest was answered last; suspensions do not end it.
#[derive(Default)]
pub(crate) struct KeptCredentials(Mutex<Option<Kept>>);

enum Kept {
    Given(RoleCredentials),
    Refused { at: i64, why: NoCredentials },
}

impl KeptCredentials {
    /// Those, or new ones in time. One at a time are made, however many processes of the guest ask.
    pub(crate) async fn get(
        &self,
        now: i64,
        passed: &PassedRole,
        keys: &dyn RoleKeys,
    ) -> Result<RoleCredentials, NoCredentials> {
        let mut kept = self.0.lock().await;
        match &*kept {
            Some(Kept::Given(credentials)) if credentials.expires_at - now > RENEWED_BEFORE_END => {
                return Ok(credentials.clone());
            }
            Some(Kept::Refused { at, why }) if now - at < REFUSED_FOR => return Err(why.clone()),
            _ => {}
        }
        let made = keys.credentials(passed).await;
        *kept = Some(match &made {
            Ok(credentials) => Kept::Given(credentials.clone()),
            Err(why) => Kept::Refused {
                at: now,
                why: why.clone(),
            },
        });
        made
    }
}

//! Credentials of the roles that MicroVMs are run with, out of the account's own roles.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use colibri_control::{NoCredentials, PassedRole, RoleCredentials, RoleKeys};
use colibri_iam::Principals;
use colibri_iam::policy::Context;
use colibri_iam::session::{ServiceRoleRequest, SessionError, TemporaryKey};
use tracing::warn;

use super::lambda::PASSED_TO;

/// Life of the credentials in a guest: the service's.
const DURATION: Duration = Duration::from_secs(55 * 60);

/// The account's roles, as the control plane asks for them.
#[derive(Debug, Clone)]
pub struct AccountRoles(Arc<Principals>);

impl AccountRoles {
    /// The roles of these principals.
    #[must_use]
    pub fn new(principals: Arc<Principals>) -> Self {
        Self(principals)
    }
}

#[async_trait]
impl RoleKeys for AccountRoles {
    async fn credentials(&self, passed: &PassedRole) -> Result<RoleCredentials, NoCredentials> {
        let mut context = Context::default();
        context.set("aws:SourceAccount", self.0.directory().account());
        context.set("aws:SourceArn", &passed.image_arn);
        let request = ServiceRoleRequest {
            service: PASSED_TO.to_owned(),
            role_arn: passed.role_arn.clone(),
            session_name: passed.microvm_id.clone(),
            duration: DURATION,
            context,
        };
        let now = SystemTime::now();
        let made = self.0.assume_for_service(request, now).await;
        made.map(|key| credentials(&key, now))
            .map_err(|error| refusal(passed, &error))
    }
}

fn credentials(key: &TemporaryKey, now: SystemTime) -> RoleCredentials {
    RoleCredentials {
        access_key_id: key.identity.access_key_id.clone(),
        secret_access_key: key.secret.expose().to_owned(),
        session_token: key.token.expose().to_owned(),
        issued_at: unix_millis(now),
        expires_at: unix_millis(key.expires_at),
    }
}

fn refusal(passed: &PassedRole, error: &SessionError) -> NoCredentials {
    let (microvm_id, role) = (&passed.microvm_id, &passed.role_arn);
    warn!(microvm_id, role, %error, "a guest has no credentials of its role");
    match error {
        SessionError::Untrusted => NoCredentials::Untrusted {
            role: role.clone(),
            service: PASSED_TO.to_owned(),
        },
        _ => NoCredentials::Failed,
    }
}

fn unix_millis(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

//! Credentials of the roles that MicroVMs are run with, out of the account's own roles.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use colibri_audit::{EventType, Record, Trail, UserIdentity};
use colibri_control::{NoCredentials, PassedRole, RoleCredentials, RoleKeys};
use colibri_iam::Principals;
use colibri_iam::policy::Context;
use colibri_iam::session::{ServiceRoleRequest, SessionError, TemporaryKey};
use serde_json::json;
use tracing::warn;

use super::lambda::PASSED_TO;
use crate::sts::assumed;

/// Life of the credentials in a guest: the service's.
const DURATION: Duration = Duration::from_secs(55 * 60);

/// The account's roles, as the control plane asks for them.
#[derive(Debug, Clone)]
pub struct AccountRoles {
    principals: Arc<Principals>,
    /// Where credentials that were given out are told, and for which region.
    audit: Option<(Trail, String)>,
}

impl AccountRoles {
    /// The roles of these principals.
    #[must_use]
    pub fn new(principals: Arc<Principals>) -> Self {
        Self {
            principals,
            audit: None,
        }
    }

    /// With every session that is given out recorded in this trail.
    #[must_use]
    pub fn with_audit(mut self, trail: Trail, region: &str) -> Self {
        self.audit = Some((trail, region.to_owned()));
        self
    }

    /// As CloudTrail has it of a service that assumes a role.
    fn record(&self, passed: &PassedRole, key: &TemporaryKey) {
        let Some((trail, region)) = &self.audit else {
            return;
        };
        let account = &key.identity.account;
        let kind = EventType::AwsApiCall;
        let mut record = Record::new(kind, "sts.amazonaws.com", "AssumeRole", region, account);
        record.user_identity = UserIdentity {
            kind: "AWSService".to_owned(),
            invoked_by: Some(PASSED_TO.to_owned()),
            ..UserIdentity::default()
        };
        record.source_ip_address = PASSED_TO.to_owned();
        record.read_only = true;
        record.request_parameters = Some(json!({
            "roleArn": passed.role_arn,
            "roleSessionName": passed.microvm_id,
            "durationSeconds": DURATION.as_secs(),
        }));
        record.response_elements = Some(assumed(key));
        trail.record_now(record);
    }
}

#[async_trait]
impl RoleKeys for AccountRoles {
    async fn credentials(&self, passed: &PassedRole) -> Result<RoleCredentials, NoCredentials> {
        let mut context = Context::default();
        context.set("aws:SourceAccount", self.principals.directory().account());
        context.set("aws:SourceArn", &passed.image_arn);
        let request = ServiceRoleRequest {
            service: PASSED_TO.to_owned(),
            role_arn: passed.role_arn.clone(),
            session_name: passed.microvm_id.clone(),
            duration: DURATION,
            context,
        };
        let now = SystemTime::now();
        let made = self.principals.assume_for_service(request, now).await;
        let key = made.map_err(|error| refusal(passed, &error))?;
        self.record(passed, &key);
        Ok(credentials(&key, now))
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

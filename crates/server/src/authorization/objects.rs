//! Who may use the S3 endpoint, which asks this while it verifies and performs a request.

use std::sync::Arc;
use std::time::SystemTime;

use colibri_iam::policy::Resource;
use colibri_iam::{CredentialSource, Principals};
use colibri_objects::{Callers, ObjectCall, SessionFault};

use super::{Caller, Need};

/// The principals, as the S3 endpoint asks for them.
#[derive(Debug, Clone)]
pub struct ObjectCallers {
    principals: Arc<Principals>,
    region: String,
}

impl ObjectCallers {
    /// Callers of the endpoint of a region.
    #[must_use]
    pub fn new(principals: Arc<Principals>, region: impl Into<String>) -> Self {
        Self {
            principals,
            region: region.into(),
        }
    }
}

impl Callers for ObjectCallers {
    fn secret_key(&self, access_key_id: &str) -> Option<String> {
        let credential = self.principals.credential(access_key_id)?;
        Some(credential.secret.expose().to_owned())
    }

    fn check_session(&self, access_key_id: &str, given: Option<&str>) -> Result<(), SessionFault> {
        let Some(credential) = self.principals.credential(access_key_id) else {
            return Err(SessionFault::WrongToken);
        };
        let is_its_own = match (&credential.session_token, given) {
            (None, None) => true,
            (Some(token), Some(given)) => token.matches(given),
            (None, Some(_)) | (Some(_), None) => false,
        };
        if !is_its_own {
            return Err(SessionFault::WrongToken);
        }
        if credential.has_ended(SystemTime::now()) {
            return Err(SessionFault::Ended);
        }
        Ok(())
    }

    fn permits(&self, call: &ObjectCall<'_>) -> Result<(), String> {
        // It was good when the signature was verified, and may have ended since.
        let credential = self.principals.credential(call.access_key_id);
        let good = credential.filter(|credential| !credential.has_ended(SystemTime::now()));
        let Some(credential) = good else {
            return Err("Access Denied".to_owned());
        };
        let principals = Arc::clone(&self.principals);
        let caller = Caller::new(principals, credential.identity, &self.region, call.peer);
        let mut need = Need::new(&call.action, Resource::new(&call.resource));
        for (key, value) in &call.conditions {
            need = need.set(key, value);
        }
        caller.may([need]).map_err(|denied| denied.to_string())
    }
}

//! Who may use the S3 endpoint, which asks this while it verifies and performs a request.

use std::sync::Arc;

use colibri_iam::policy::Resource;
use colibri_iam::{CredentialSource, Principals};
use colibri_objects::{Callers, ObjectCall};

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

    fn is_session_token(&self, access_key_id: &str, given: Option<&str>) -> bool {
        let Some(credential) = self.principals.credential(access_key_id) else {
            return false;
        };
        match (&credential.session_token, given) {
            (None, None) => true,
            (Some(token), Some(given)) => token.matches(given),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    fn permits(&self, call: &ObjectCall<'_>) -> Result<(), String> {
        // It was there when the signature was verified, and has ended since.
        let Some(credential) = self.principals.credential(call.access_key_id) else {
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

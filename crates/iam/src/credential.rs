//! Access keys, their secrets and their owners.

use std::fmt;
use std::time::SystemTime;

use subtle::ConstantTimeEq;

use crate::identity::Identity;

/// A secret text: never shown by `Debug`, compared in constant time.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret itself, for a computation: never for a message, a log or an argument.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `text` is the secret. Takes the same time wherever the two differ.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.0.as_bytes().ct_eq(text.as_bytes()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// An access key with its secret and its owner.
#[derive(Debug, Clone)]
pub struct Credential {
    /// Whose it is.
    pub identity: Identity,
    /// Secret access key.
    pub secret: Secret,
    /// Token that must come with a temporary key; `None` for a lasting one.
    pub session_token: Option<Secret>,
}

impl Credential {
    /// Whether it is a temporary key whose time is over.
    #[must_use]
    pub fn has_ended(&self, now: SystemTime) -> bool {
        let session = self.identity.session.as_ref();
        session.is_some_and(|session| session.expires_at <= now)
    }
}

/// Finds the credential of an access key id.
pub trait CredentialSource: Send + Sync {
    /// The credential; `None` for a key that does not exist or was revoked. One that has ended may still be
    /// there, so that its holder is told: whoever lets someone in asks [`Credential::has_ended`].
    fn credential(&self, access_key_id: &str) -> Option<Credential>;
}

/// A single credential is a source of itself.
impl CredentialSource for Credential {
    fn credential(&self, access_key_id: &str) -> Option<Credential> {
        (self.identity.access_key_id == access_key_id).then(|| self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn a_secret_is_compared_and_not_shown() {
        let secret = Secret::new("hunter2".to_owned());
        assert!(secret.matches("hunter2"));
        assert!(!secret.matches("hunter3") && !secret.matches("hunter") && !secret.matches(""));
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }
}

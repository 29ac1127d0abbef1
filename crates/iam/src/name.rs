//! Names of users, roles, policies and sessions, and the ARNs made of them.

/// What a name is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameOf {
    /// A user.
    User,
    /// A role.
    Role,
    /// A policy.
    Policy,
    /// A session of a role.
    Session,
}

/// A name that IAM would not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{name}` is no name of a {kind}: it must be {least} to {most} letters, digits and characters of _+=,.@-"
)]
pub struct NotAName {
    name: String,
    kind: &'static str,
    least: usize,
    most: usize,
}

impl NameOf {
    /// Checks a name.
    ///
    /// # Errors
    /// When IAM would not take it.
    pub fn check(self, name: &str) -> Result<(), NotAName> {
        let (kind, least, most) = match self {
            Self::User => ("user", 1, 64),
            Self::Role => ("role", 1, 64),
            Self::Policy => ("policy", 1, 128),
            Self::Session => ("session", 2, 64),
        };
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
        if (least..=most).contains(&name.len()) && name.bytes().all(good) {
            return Ok(());
        }
        Err(NotAName {
            name: name.chars().take(most + 1).collect(),
            kind,
            least,
            most,
        })
    }
}

/// ARN of a user.
#[must_use]
pub fn user_arn(account: &str, name: &str) -> String {
    format!("arn:aws:iam::{account}:user/{name}")
}

/// ARN of a role.
#[must_use]
pub fn role_arn(account: &str, name: &str) -> String {
    format!("arn:aws:iam::{account}:role/{name}")
}

/// ARN of a session of a role.
#[must_use]
pub fn session_arn(account: &str, role: &str, session: &str) -> String {
    format!("arn:aws:sts::{account}:assumed-role/{role}/{session}")
}

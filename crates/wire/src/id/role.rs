//! ARNs of IAM roles.

use std::fmt;

use super::arn;
use super::place::{Account, is_partition};

/// A text that is no role's ARN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Invalid ARN format: {0}")]
pub struct NotARole(pub String);

/// ARN of an IAM role.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoleArn {
    text: String,
    account: Account,
}

impl RoleArn {
    /// Reads an ARN.
    ///
    /// # Errors
    /// [`NotARole`] for anything else.
    pub fn parse(text: &str) -> Result<Self, NotARole> {
        let refused = || NotARole(text.to_owned());
        let fields = arn::split(text).map_err(|_| refused())?;
        let named = fields
            .resource
            .strip_prefix("role/")
            .is_some_and(|name| !name.is_empty());
        if fields.service != "iam"
            || !fields.region.is_empty()
            || !is_partition(fields.partition)
            || !named
        {
            return Err(refused());
        }
        let account = Account::parse(fields.account).map_err(|_| refused())?;
        Ok(Self {
            text: text.to_owned(),
            account,
        })
    }

    /// Whose role it is.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The role's name, without its path.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text.rsplit('/').next().unwrap_or_default()
    }

    /// The ARN.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for RoleArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

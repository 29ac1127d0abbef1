//! Partition, region and account: where resources are and whose they are.

use std::fmt;

/// Why a text is no region or account.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Not a region's name.
    #[error("'{0}' is not the name of a region: use one such as us-east-1")]
    Region(String),
    /// Not an account id.
    #[error("'{0}' is not an account id: use 12 digits")]
    Account(String),
}

/// Name of a region, such as `us-east-1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Region(String);

impl Region {
    /// Reads a region's name: lower-case letters, digits and inner hyphens, at most 32 characters.
    ///
    /// # Errors
    /// [`PlaceError::Region`] for anything else.
    pub fn parse(text: &str) -> Result<Self, PlaceError> {
        let plain = text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        let framed = !text.starts_with('-') && !text.ends_with('-');
        if plain && framed && (1..=32).contains(&text.len()) {
            return Ok(Self(text.to_owned()));
        }
        Err(PlaceError::Region(text.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Account id, 12 digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Account(String);

impl Account {
    /// Reads an account id.
    ///
    /// # Errors
    /// [`PlaceError::Account`] for anything but 12 digits.
    pub fn parse(text: &str) -> Result<Self, PlaceError> {
        if text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self(text.to_owned()));
        }
        Err(PlaceError::Account(text.to_owned()))
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a server's resources are and whose.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Region.
    pub region: Region,
    /// Account.
    pub account: Account,
}

/// The partition that Colibri's own ARNs are in.
pub(super) const PARTITION: &str = "aws";

pub(super) fn is_partition(text: &str) -> bool {
    text == "aws"
        || text
            .strip_prefix("aws-")
            .is_some_and(|rest| Region::parse(rest).is_ok())
}

//! Changes that people make to users, roles, policies and keys: checked here, made by the store.

use std::time::{Duration, SystemTime};

use colibri_store::{
    IamAccessKey, IamChange, IamOwner, IamPolicy, IamRecords, IamRole, IamUser, InlinePolicy,
};
use rand::rand_core::OsError;

use crate::credential::Secret;
use crate::keys;
use crate::name::{NameOf, NotAName};
use crate::policy::{PolicyDocument, PolicyError, TrustPolicy};

/// Keys of one user, so that one can be replaced while the other is in use (AWS's bound).
const MAX_KEYS: usize = 2;

/// Policies that one user or role can have: every request is decided by all of them.
const MAX_POLICIES: usize = 20;

/// Longest session of a role where nobody says how long.
pub const USUAL_SESSION: Duration = Duration::from_secs(60 * 60);
const SESSION_SECONDS: std::ops::RangeInclusive<u32> = 3_600..=43_200;

/// A change that is refused.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// A name.
    #[error(transparent)]
    Name(#[from] NotAName),
    /// A policy.
    #[error("the policy `{name}` is refused")]
    Policy {
        /// Its name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: PolicyError,
    },
    /// A trust policy.
    #[error("the trust policy of the role `{role}` is refused")]
    Trust {
        /// Whose.
        role: String,
        /// What is wrong with it.
        #[source]
        source: PolicyError,
    },
    /// A length of sessions.
    #[error("the longest session of a role must be 3600 to 43200 seconds; it is {0}")]
    Session(u32),
    /// A user has as many keys as it can.
    #[error("the user `{0}` has {MAX_KEYS} access keys, which is the most; delete one first")]
    Keys(String),
    /// Too many policies.
    #[error("the {0} would have more than {MAX_POLICIES} policies, which is the most")]
    Policies(IamOwner),
    /// A policy that is named and is nowhere.
    #[error("the {owner} names the policy `{policy}`, which does not exist")]
    NoSuchPolicy {
        /// Who names it.
        owner: IamOwner,
        /// Which.
        policy: String,
    },
    /// No random bytes.
    #[error("could not get random bytes from the system")]
    Random(#[source] OsError),
}

/// A new user.
///
/// # Errors
/// When its name is none.
pub fn create_user(name: &str, now: SystemTime) -> Result<IamChange, EditError> {
    NameOf::User.check(name)?;
    Ok(IamChange::CreateUser(IamUser {
        name: name.to_owned(),
        unique_id: keys::unique_id("AIDA").map_err(EditError::Random)?,
        created_at: millis(now),
    }))
}

/// A new role.
///
/// # Errors
/// When its name, its trust policy or its longest session is refused.
pub fn create_role(
    name: &str,
    trust: &str,
    max_session_seconds: u32,
    now: SystemTime,
) -> Result<IamChange, EditError> {
    NameOf::Role.check(name)?;
    check_role(name, trust, max_session_seconds)?;
    Ok(IamChange::CreateRole(IamRole {
        name: name.to_owned(),
        unique_id: keys::unique_id("AROA").map_err(EditError::Random)?,
        trust: trust.to_owned(),
        max_session_seconds,
        created_at: millis(now),
    }))
}

/// Another trust policy and longest session of a role.
///
/// # Errors
/// When one of them is refused.
pub fn update_role(
    name: &str,
    trust: &str,
    max_session_seconds: u32,
) -> Result<IamChange, EditError> {
    check_role(name, trust, max_session_seconds)?;
    Ok(IamChange::UpdateRole {
        name: name.to_owned(),
        trust: trust.to_owned(),
        max_session_seconds,
    })
}

fn check_role(name: &str, trust: &str, max_session_seconds: u32) -> Result<(), EditError> {
    TrustPolicy::parse(trust).map_err(|source| EditError::Trust {
        role: name.to_owned(),
        source,
    })?;
    if SESSION_SECONDS.contains(&max_session_seconds) {
        return Ok(());
    }
    Err(EditError::Session(max_session_seconds))
}

/// A policy that can be attached: a new one, or another document for it.
///
/// # Errors
/// When its name or document is refused.
pub fn put_policy(name: &str, document: &str, now: SystemTime) -> Result<IamChange, EditError> {
    check_policy(name, document)?;
    Ok(IamChange::PutPolicy(IamPolicy {
        name: name.to_owned(),
        document: document.to_owned(),
        created_at: millis(now),
    }))
}

/// A policy of one user or role alone: a new one, or another document for it.
///
/// # Errors
/// When its name or document is refused, or there are too many.
pub fn put_inline(
    records: &IamRecords,
    owner: &IamOwner,
    name: &str,
    document: &str,
) -> Result<IamChange, EditError> {
    check_policy(name, document)?;
    let there = |policy: &InlinePolicy| policy.owner == *owner && policy.name == name;
    if !records.inline_policies.iter().any(there) {
        check_count(owner, count(records, owner) + 1)?;
    }
    Ok(IamChange::PutInline(InlinePolicy {
        owner: owner.clone(),
        name: name.to_owned(),
        document: document.to_owned(),
    }))
}

/// Attaches a policy.
///
/// # Errors
/// When there are too many.
pub fn attach(
    records: &IamRecords,
    owner: &IamOwner,
    policy: &str,
) -> Result<IamChange, EditError> {
    let pair = (owner.clone(), policy.to_owned());
    if !records.attachments.contains(&pair) {
        check_count(owner, count(records, owner) + 1)?;
    }
    Ok(IamChange::Attach(pair.0, pair.1))
}

fn count(records: &IamRecords, owner: &IamOwner) -> usize {
    let attached = records.attachments.iter().filter(|(of, _)| of == owner);
    let inline = records
        .inline_policies
        .iter()
        .filter(|policy| policy.owner == *owner);
    attached.count() + inline.count()
}

pub(crate) fn check_count(owner: &IamOwner, policies: usize) -> Result<(), EditError> {
    if policies > MAX_POLICIES {
        return Err(EditError::Policies(owner.clone()));
    }
    Ok(())
}

pub(crate) fn check_policy(name: &str, document: &str) -> Result<(), EditError> {
    NameOf::Policy.check(name)?;
    PolicyDocument::parse(document).map_err(|source| EditError::Policy {
        name: name.to_owned(),
        source,
    })?;
    Ok(())
}

/// A new access key of a user, with its secret, which is told once.
///
/// # Errors
/// When the user has as many as it can.
pub fn create_access_key(
    records: &IamRecords,
    user: &str,
    now: SystemTime,
) -> Result<(IamChange, String, Secret), EditError> {
    let keys = records.access_keys.iter().filter(|key| key.user == user);
    if keys.count() >= MAX_KEYS {
        return Err(EditError::Keys(user.to_owned()));
    }
    let (id, secret) = keys::access_key("AKIA").map_err(EditError::Random)?;
    let change = IamChange::CreateAccessKey(IamAccessKey {
        id: id.clone(),
        user: user.to_owned(),
        secret: secret.expose().to_owned(),
        active: true,
        created_at: millis(now),
    });
    Ok((change, id, secret))
}

pub(crate) fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

//! What `colibri iam` shows: everything but secrets.

use std::time::{Duration, SystemTime};

use colibri_store::{IamOwner, IamRecords};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{IamError, say};
use crate::serve::ACCOUNT;

/// Everything.
pub(super) fn list(records: &IamRecords) {
    let users = records.users.iter();
    let roles = records.roles.iter();
    let all = json!({
        "users": users.map(|user| described(records, &IamOwner::User(user.name.clone()))).collect::<Vec<_>>(),
        "roles": roles.map(|role| described(records, &IamOwner::Role(role.name.clone()))).collect::<Vec<_>>(),
        "policies": records.policies.iter().map(|policy| json!({
            "name": policy.name,
            "document": document(&policy.document),
        })).collect::<Vec<_>>(),
    });
    say(format_args!("{all:#}"));
}

/// One user or role.
pub(super) fn principal(records: &IamRecords, owner: &IamOwner) -> Result<(), IamError> {
    let there = match owner {
        IamOwner::User(name) => records.users.iter().any(|user| user.name == *name),
        IamOwner::Role(name) => records.roles.iter().any(|role| role.name == *name),
    };
    if !there {
        return Err(IamError::Missing(owner.to_string()));
    }
    say(format_args!("{:#}", described(records, owner)));
    Ok(())
}

fn described(records: &IamRecords, owner: &IamOwner) -> Value {
    let attached = records.attachments.iter();
    let attached = attached.filter(|(of, _)| of == owner);
    let inline = records.inline_policies.iter();
    let inline = inline.filter(|policy| policy.owner == *owner);
    let mut description = match owner {
        IamOwner::User(name) => {
            let keys = records.access_keys.iter().filter(|key| key.user == *name);
            json!({
                "name": name,
                "arn": format!("arn:aws:iam::{ACCOUNT}:user/{name}"),
                "access_keys": keys.map(|key| json!({"id": key.id, "active": key.active})).collect::<Vec<_>>(),
            })
        }
        IamOwner::Role(name) => {
            let role = records.roles.iter().find(|role| role.name == *name);
            json!({
                "name": name,
                "arn": format!("arn:aws:iam::{ACCOUNT}:role/{name}"),
                "trust": role.map(|role| document(&role.trust)),
                "max_session_seconds": role.map(|role| role.max_session_seconds),
            })
        }
    };
    description["policies"] = attached.map(|(_, policy)| policy.clone()).collect();
    description["inline"] = inline
        .map(|policy| (policy.name.clone(), document(&policy.document)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    description
}

fn document(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// A policy's document, as it was given.
pub(super) fn document_of<'a>(
    records: &'a IamRecords,
    owner: Option<&IamOwner>,
    name: &str,
) -> Result<&'a str, IamError> {
    let missing = || IamError::Missing(format!("policy {name}"));
    let found = match owner {
        None => {
            let mut all = records.policies.iter();
            all.find(|policy| policy.name == name)
                .map(|policy| &policy.document)
        }
        Some(owner) => {
            let mut all = records.inline_policies.iter();
            all.find(|policy| policy.owner == *owner && policy.name == name)
                .map(|policy| &policy.document)
        }
    };
    found.map(String::as_str).ok_or_else(missing)
}

/// A time since the Unix epoch.
pub(super) fn date(since: Duration) -> String {
    let time = OffsetDateTime::from(SystemTime::UNIX_EPOCH + since);
    time.format(&Rfc3339).unwrap_or_default()
}

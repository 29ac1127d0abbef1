//! `colibri iam simulate`: what the daemon would decide, and which statement says so.

use std::collections::BTreeMap;
use std::time::SystemTime;

use colibri_iam::Directory;
use colibri_iam::policy::{Context, Decision, Request, Resource, Source, StatementName};
use colibri_store::{IamOwner, IamRecords};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{IamError, SimulateArguments, owner, say};
use crate::serve::ACCOUNT;

/// Prints the decision; true when it allows.
pub(super) fn simulate(
    records: &IamRecords,
    arguments: &SimulateArguments,
    now: SystemTime,
) -> Result<bool, IamError> {
    let directory = Directory::new(ACCOUNT, records);
    let owner = owner(&arguments.principal)?;
    let identity = match &owner {
        IamOwner::User(name) => directory.user(name, ""),
        IamOwner::Role(name) => directory.assumed(name, "simulation", ""),
    };
    let identity = identity.ok_or_else(|| IamError::Missing(owner.to_string()))?;
    let decision = directory.decide(
        &identity,
        Request {
            action: arguments.action.clone(),
            resource: Resource::new(&arguments.resource),
            context: context(&arguments.context, now)?,
        },
    );
    say(told(&decision));
    Ok(decision.is_allowed())
}

fn context(given: &[String], now: SystemTime) -> Result<Context, IamError> {
    let mut values: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for text in given {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| IamError::Context(text.clone()))?;
        values.entry(key).or_default().push(value.to_owned());
    }
    let mut context = Context::default();
    let now = OffsetDateTime::from(now);
    context.set("aws:CurrentTime", now.format(&Rfc3339).unwrap_or_default());
    context.set("aws:EpochTime", now.unix_timestamp().to_string());
    for (key, values) in values {
        context.set_all(key, values);
    }
    Ok(context)
}

fn told(decision: &Decision) -> String {
    match decision {
        Decision::Allowed(statement) => format!("allowed by {}", named(statement)),
        Decision::Denied(_, statement) => format!("explicitly denied by {}", named(statement)),
        Decision::NotAllowed(Source::Identity) => {
            "denied: no policy of the principal allows it".to_owned()
        }
        Decision::NotAllowed(Source::Session) => {
            "denied: the session's policy does not allow it".to_owned()
        }
    }
}

fn named(statement: &StatementName) -> String {
    let StatementName {
        policy,
        number,
        sid,
    } = statement;
    match sid {
        Some(sid) => format!("policy {policy}, statement {number} ({sid})"),
        None => format!("policy {policy}, statement {number}"),
    }
}

//! Who may do what: every call of every service says here what it needs, and is refused before
//! anything is looked up or changed on its behalf.
//!
//! What an operation needs is in one place for each service: `lambda` and `logs` here, S3 in
//! `colibri-objects`, STS in `sts`. Each is exhaustive over the operations that are served, so that
//! one without a rule does not compile, or is refused to everybody.

pub(crate) mod lambda;
pub(crate) mod logs;
mod objects;
mod roles;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use colibri_iam::policy::{Context, Decision, Request, Resource, Source};
use colibri_iam::{Identity, Principals};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::info;

pub use objects::ObjectCallers;
pub use roles::AccountRoles;

/// One thing that a call needs to be allowed.
#[derive(Debug, Clone)]
pub(crate) struct Need {
    pub(crate) action: String,
    pub(crate) resource: Resource,
    /// What conditions can ask of this need alone: tags, what a role is passed to.
    pub(crate) context: Context,
}

impl Need {
    pub(crate) fn new(action: impl Into<String>, resource: Resource) -> Self {
        Self {
            action: action.into(),
            resource,
            context: Context::default(),
        }
    }

    pub(crate) fn set(mut self, key: &str, value: impl Into<String>) -> Self {
        self.context.set(key, value);
        self
    }

    /// Tags of what is acted on.
    pub(crate) fn resource_tags<'a>(
        mut self,
        tags: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Self {
        for (key, value) in tags {
            self.context.set(&format!("aws:ResourceTag/{key}"), value);
        }
        self
    }

    /// Tags that the request brings.
    pub(crate) fn request_tags<'a>(
        mut self,
        tags: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Self {
        let mut keys = Vec::new();
        for (key, value) in tags {
            self.context.set(&format!("aws:RequestTag/{key}"), value);
            keys.push(key.clone());
        }
        self.context.set_all("aws:TagKeys", keys);
        self
    }
}

/// A call that is not allowed. `Display` is what the client reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("User: {arn} is not authorized to perform: {action} on resource: {resource}{reason}")]
pub(crate) struct Denied {
    arn: String,
    action: String,
    resource: String,
    reason: String,
}

impl Denied {
    pub(crate) fn new(arn: &str, action: &str, resource: &str, decision: &Decision) -> Self {
        Self {
            arn: arn.to_owned(),
            action: action.to_owned(),
            resource: resource.to_owned(),
            reason: reason(action, decision),
        }
    }
}

impl Denied {
    /// Without a reason, which would tell whether there is such a thing.
    pub(crate) fn plain(arn: &str, action: &str, resource: &str) -> Self {
        Self {
            arn: arn.to_owned(),
            action: action.to_owned(),
            resource: resource.to_owned(),
            reason: String::new(),
        }
    }
}

fn reason(action: &str, decision: &Decision) -> String {
    match decision {
        Decision::Denied(Source::Identity, _) => {
            " with an explicit deny in an identity-based policy".to_owned()
        }
        Decision::Denied(Source::Session, _) => {
            " with an explicit deny in a session policy".to_owned()
        }
        Decision::NotAllowed(Source::Session) => {
            format!(" because no session policy allows the {action} action")
        }
        Decision::NotAllowed(Source::Identity) | Decision::Allowed(_) => {
            format!(" because no identity-based policy allows the {action} action")
        }
    }
}

/// Who calls, from where, and when.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) principals: Arc<Principals>,
    pub(crate) identity: Identity,
    /// What conditions can ask of every call.
    pub(crate) circumstances: Context,
}

impl Caller {
    pub(crate) fn new(
        principals: Arc<Principals>,
        identity: Identity,
        region: &str,
        peer: Option<IpAddr>,
    ) -> Self {
        Self {
            principals,
            identity,
            circumstances: circumstances(region, peer, SystemTime::now()),
        }
    }

    /// Whether all of it is allowed; told is the first thing that is not.
    pub(crate) fn may(&self, needs: impl IntoIterator<Item = Need>) -> Result<(), Denied> {
        needs
            .into_iter()
            .try_for_each(|need| self.may_as(&self.identity, need))
    }

    /// Whether somebody else, whom the caller sends, is allowed something.
    pub(crate) fn may_as(&self, identity: &Identity, need: Need) -> Result<(), Denied> {
        let mut context = self.circumstances.clone();
        context.extend(need.context);
        let (action, arn) = (need.action.clone(), need.resource.arn().to_owned());
        let request = Request {
            action: need.action,
            resource: need.resource,
            context,
        };
        let decision = self.principals.directory().decide(identity, request);
        if decision.is_allowed() {
            return Ok(());
        }
        let denied = Denied::new(&identity.principal_arn, &action, &arn, &decision);
        info!(%denied, ?decision, "a call is not allowed");
        Err(denied)
    }
}

/// The API itself speaks plain HTTP, so `aws:SecureTransport` is false whatever is in front of it.
fn circumstances(region: &str, peer: Option<IpAddr>, now: SystemTime) -> Context {
    let mut context = Context::default();
    let now = OffsetDateTime::from(now);
    if let Ok(text) = now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339) {
        context.set("aws:CurrentTime", text);
    }
    context.set("aws:EpochTime", now.unix_timestamp().to_string());
    context.set("aws:RequestedRegion", region);
    context.set("aws:SecureTransport", "false");
    if let Some(peer) = peer {
        context.set("aws:SourceIp", peer.to_canonical().to_string());
    }
    context
}

#[cfg(test)]
mod tests;

//! What policies say to a request: an explicit deny wins, and what nothing allows is denied.

use std::sync::Arc;

use super::document::{Effect, PolicyDocument};
use super::request::Request;

/// A policy under the name that it is attached by.
#[derive(Debug, Clone)]
pub struct NamedPolicy {
    /// Its name.
    pub name: String,
    /// What it says.
    pub document: Arc<PolicyDocument>,
}

/// All policies that a principal's request is decided by.
#[derive(Debug, Clone, Default)]
pub struct PolicySet {
    /// Those of the user or role.
    pub identity: Vec<NamedPolicy>,
    /// The one that a session was made with: it allows nothing, and takes away what it does not allow.
    pub session: Option<Arc<PolicyDocument>>,
}

/// Which kind of policy decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// One of the user or role.
    Identity,
    /// That of the session.
    Session,
}

/// Which statement decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementName {
    /// Name of the policy.
    pub policy: String,
    /// Which of its statements, counted from 1.
    pub number: usize,
    /// Its `Sid`.
    pub sid: Option<String>,
}

/// What policies say to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is allowed, by this statement among others.
    Allowed(StatementName),
    /// It is denied by a statement that says so.
    Denied(Source, StatementName),
    /// It is denied because nothing allows it: nothing of this kind.
    NotAllowed(Source),
}

impl Decision {
    /// Whether the request may be answered.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }
}

/// Name of a session's policy in a decision.
const SESSION: &str = "session policy";

/// Decides a request. Depends on its arguments alone.
#[must_use]
pub fn evaluate(policies: &PolicySet, request: &Request) -> Decision {
    let identity = policies
        .identity
        .iter()
        .map(|policy| (policy.name.as_str(), policy.document.as_ref()));
    let session = policies
        .session
        .as_deref()
        .map(|document| (SESSION, document));
    for (source, deny) in [
        (
            Source::Identity,
            find(identity.clone(), Effect::Deny, request),
        ),
        (Source::Session, find(session, Effect::Deny, request)),
    ] {
        if let Some(statement) = deny {
            return Decision::Denied(source, statement);
        }
    }
    let Some(statement) = find(identity, Effect::Allow, request) else {
        return Decision::NotAllowed(Source::Identity);
    };
    if session.is_some() && find(session, Effect::Allow, request).is_none() {
        return Decision::NotAllowed(Source::Session);
    }
    Decision::Allowed(statement)
}

/// The first statement of an effect that applies.
fn find<'a>(
    policies: impl IntoIterator<Item = (&'a str, &'a PolicyDocument)>,
    effect: Effect,
    request: &Request,
) -> Option<StatementName> {
    policies.into_iter().find_map(|(name, document)| {
        let applies = |statement: &super::document::Statement| {
            statement.effect == effect && statement.applies(request)
        };
        let index = document.statements.iter().position(applies)?;
        Some(StatementName {
            policy: name.to_owned(),
            number: index + 1,
            sid: document.statements[index].sid.clone(),
        })
    })
}

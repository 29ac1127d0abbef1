//! Policy documents: read whole and checked, or refused.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::condition::Condition;
use super::error::PolicyError;
use super::pattern::{Fit, Pattern, Reading};
use super::request::{Context, Request};
use super::trust::{Principal, principals};
use super::written::{Object, OneOrMany, Scalar, WrittenDocument, WrittenStatement};

/// Longest document, bytes: the most that AWS takes for all inline policies of a role.
const MAX_LENGTH: usize = 10_240;

/// The version of the language that knows variables.
const CURRENT: &str = "2012-10-17";
/// The one before, which is also that of a document that names none.
const BEFORE: &str = "2008-10-17";

/// What a statement does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Effect {
    /// Allows.
    Allow,
    /// Denies, whatever else allows.
    Deny,
}

/// A policy of a user, a role or a session: what may be done.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyDocument {
    pub(super) statements: Vec<Statement>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Statement {
    pub(super) sid: Option<String>,
    pub(super) effect: Effect,
    actions: Matching,
    /// None in trust policies, which are about the role that has them.
    resources: Option<Matching>,
    /// Those of a trust policy.
    pub(super) principals: Vec<Principal>,
    conditions: Vec<Condition>,
}

/// An element, or its `Not…` form.
#[derive(Debug, Clone, PartialEq)]
struct Matching {
    negated: bool,
    patterns: Vec<Pattern>,
}

impl PolicyDocument {
    /// Reads a policy of a user, role or session.
    ///
    /// # Errors
    /// [`PolicyError`] when it is not fully understood.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        Ok(Self {
            statements: statements(text, Kind::Identity)?,
        })
    }
}

impl PolicyDocument {
    /// A policy that denies everything.
    #[must_use]
    pub fn deny_everything() -> Self {
        let everything = || Matching {
            negated: false,
            patterns: vec![Pattern::anything()],
        };
        Self {
            statements: vec![Statement {
                sid: None,
                effect: Effect::Deny,
                actions: everything(),
                resources: Some(everything()),
                principals: Vec::new(),
                conditions: Vec::new(),
            }],
        }
    }
}

impl Statement {
    /// Whether it has something to say about a request. That of a trust policy: leaving aside whom it
    /// names.
    pub(super) fn applies(&self, request: &Request) -> bool {
        let none = Context::default();
        let action = self.actions.covers(
            |pattern| pattern.fits(&request.action, &none, true),
            self.effect,
        );
        let resource = || {
            self.resources.as_ref().is_none_or(|resources| {
                resources.covers(|pattern| best_form(pattern, request), self.effect)
            })
        };
        let condition = |condition: &Condition| condition.holds(&request.context, self.effect);
        action && resource() && self.conditions.iter().all(condition)
    }
}

/// How the best of a resource's forms fits.
fn best_form(pattern: &Pattern, request: &Request) -> Fit {
    let fits = request
        .resource
        .forms()
        .map(|form| pattern.fits(form, &request.context, false));
    let mut best = Fit::No;
    for fit in fits {
        match fit {
            Fit::Yes => return Fit::Yes,
            Fit::Unresolved => best = Fit::Unresolved,
            Fit::No => {}
        }
    }
    best
}

impl Matching {
    /// Whether the element covers what is compared. A variable without a value makes an Allow cover
    /// less and a Deny cover more.
    fn covers(&self, fit: impl Fn(&Pattern) -> Fit, effect: Effect) -> bool {
        let fits: Vec<Fit> = self.patterns.iter().map(fit).collect();
        let found = fits.contains(&Fit::Yes);
        if !self.negated {
            return found;
        }
        !found && (!fits.contains(&Fit::Unresolved) || effect == Effect::Deny)
    }
}

/// Which members a statement has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Identity,
    Trust,
}

pub(super) fn statements(text: &str, kind: Kind) -> Result<Vec<Statement>, PolicyError> {
    if text.len() > MAX_LENGTH {
        return Err(PolicyError::TooLong {
            length: text.len(),
            most: MAX_LENGTH,
        });
    }
    let Object(written): Object<WrittenDocument> =
        serde_json::from_str(text).map_err(|error| PolicyError::Malformed(error.to_string()))?;
    let variables = match written.version.as_deref() {
        Some(CURRENT) => true,
        Some(BEFORE) | None => false,
        Some(other) => return Err(PolicyError::Version(other.to_owned())),
    };
    let written = written.statements.0;
    if written.is_empty() {
        return Err(PolicyError::NoStatement);
    }
    let mut names = BTreeSet::new();
    let mut statements = Vec::with_capacity(written.len());
    for (index, Object(written)) in written.into_iter().enumerate() {
        let sid = written.sid.as_deref().filter(|sid| !sid.is_empty());
        if let Some(sid) = sid {
            let plain = sid.bytes().all(|byte| byte.is_ascii_alphanumeric());
            if !plain || !names.insert(sid.to_owned()) {
                return Err(PolicyError::Sid(sid.to_owned()));
            }
        }
        statements.push(statement(written, index + 1, kind, variables)?);
    }
    Ok(statements)
}

fn statement(
    written: WrittenStatement,
    number: usize,
    kind: Kind,
    variables: bool,
) -> Result<Statement, PolicyError> {
    let wrong = |problem| PolicyError::Statement {
        statement: number,
        problem,
    };
    let actions = element(written.action, written.not_action, &action)?
        .ok_or_else(|| wrong("it must have either Action or NotAction, and one entry at least"))?;
    let has_resource = written.resource.is_some() || written.not_resource.is_some();
    let resources = element(written.resource, written.not_resource, &|text| {
        resource(text, variables)
    })?;
    let principals = match (kind, written.principal) {
        (Kind::Identity, Some(_)) => {
            return Err(wrong("Principal belongs in a role's trust policy only"));
        }
        (Kind::Identity, None) => Vec::new(),
        (Kind::Trust, None) => return Err(wrong("a trust policy must have Principal")),
        (Kind::Trust, Some(_)) if has_resource => {
            return Err(wrong(
                "a trust policy has no Resource: it is about its role",
            ));
        }
        (Kind::Trust, Some(written)) => principals(written)?,
    };
    if kind == Kind::Identity && resources.is_none() {
        return Err(wrong(
            "it must have either Resource or NotResource, and one entry at least",
        ));
    }
    let mut conditions = Vec::new();
    for (operator, keys) in written.condition.unique()? {
        for (key, values) in keys.unique()? {
            let values: Vec<String> = values.0.into_iter().map(|Scalar(text)| text).collect();
            conditions.push(Condition::parse(&operator, &key, &values, variables)?);
        }
    }
    Ok(Statement {
        sid: written.sid.filter(|sid| !sid.is_empty()),
        effect: written.effect,
        actions,
        resources,
        principals,
        conditions,
    })
}

/// An element or its negation. None, both, or an empty list are no element.
fn element(
    plain: Option<OneOrMany<String>>,
    negated: Option<OneOrMany<String>>,
    parse: &dyn Fn(&str) -> Result<Pattern, PolicyError>,
) -> Result<Option<Matching>, PolicyError> {
    let (negated, texts) = match (plain, negated) {
        (Some(texts), None) => (false, texts.0),
        (None, Some(texts)) => (true, texts.0),
        (None, None) | (Some(_), Some(_)) => return Ok(None),
    };
    if texts.is_empty() {
        return Ok(None);
    }
    let patterns = texts
        .iter()
        .map(|text| parse(text))
        .collect::<Result<_, _>>()?;
    Ok(Some(Matching { negated, patterns }))
}

fn action(text: &str) -> Result<Pattern, PolicyError> {
    let word = |word: &str, other: &[u8]| {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || other.contains(&byte);
        !word.is_empty() && word.bytes().all(good)
    };
    let good = text == "*"
        || text
            .split_once(':')
            .is_some_and(|(service, name)| word(service, b"-") && word(name, b"*?"));
    if !good {
        return Err(PolicyError::Action(text.to_owned()));
    }
    Pattern::parse(
        text,
        Reading {
            wildcards: true,
            variables: false,
        },
    )
}

fn resource(text: &str, variables: bool) -> Result<Pattern, PolicyError> {
    if text != "*" && !(text.starts_with("arn:") && text.len() > "arn:".len()) {
        return Err(PolicyError::Resource(text.to_owned()));
    }
    Pattern::parse(
        text,
        Reading {
            wildcards: true,
            variables,
        },
    )
}

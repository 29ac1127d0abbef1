//! Trust policies: who may assume the role that has one.

use super::document::{Effect, Kind, Statement, statements};
use super::error::PolicyError;
use super::request::{Context, Request, Resource};
use super::written::WrittenPrincipal;

/// A policy of a role: who may assume it.
#[derive(Debug, Clone, PartialEq)]
pub struct TrustPolicy {
    statements: Vec<Statement>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Principal {
    /// `*`
    Anyone,
    /// Everyone of an account whose own policies allow it.
    Account(String),
    /// One user, role or session.
    Arn(String),
    /// A service of AWS, which Colibri itself is to its MicroVMs.
    Service(String),
}

impl TrustPolicy {
    /// Reads a policy that says who may assume a role.
    ///
    /// # Errors
    /// [`PolicyError`] when it is not fully understood.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        Ok(Self {
            statements: statements(text, Kind::Trust)?,
        })
    }

    /// Whether it lets a caller do `action`, and by naming whom.
    #[must_use]
    pub fn trusts(&self, caller: &Caller<'_>, action: &str, context: &Context) -> Trust {
        let request = Request {
            action: action.to_owned(),
            resource: Resource::any(),
            context: context.clone(),
        };
        let mut trust = Trust::No;
        for statement in self.statements.iter().filter(|one| one.applies(&request)) {
            let best = statement
                .principals
                .iter()
                .map(|principal| principal.is(caller))
                .max();
            match (statement.effect, best.unwrap_or(Trust::No)) {
                (Effect::Deny, Trust::Account | Trust::Caller) => return Trust::No,
                (Effect::Deny, Trust::No) => {}
                (Effect::Allow, found) => trust = trust.max(found),
            }
        }
        trust
    }

    /// Whether it lets a service do `action`: by its name, for `*` means people.
    #[must_use]
    pub fn trusts_service(&self, service: &str, action: &str, context: &Context) -> bool {
        let request = Request {
            action: action.to_owned(),
            resource: Resource::any(),
            context: context.clone(),
        };
        let mut trusted = false;
        for statement in self.statements.iter().filter(|one| one.applies(&request)) {
            let named = statement
                .principals
                .iter()
                .any(|principal| matches!(principal, Principal::Service(name) if name == service));
            let anyone = statement.principals.contains(&Principal::Anyone);
            match statement.effect {
                Effect::Deny if named || anyone => return false,
                Effect::Allow if named => trusted = true,
                Effect::Deny | Effect::Allow => {}
            }
        }
        trusted
    }
}

/// Who asks for a role.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Account, 12 digits.
    pub account: &'a str,
    /// ARN of the caller: of a session its own.
    pub arn: &'a str,
    /// ARN of the role whose session the caller is.
    pub role_arn: Option<&'a str>,
}

/// How a role trusts a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// Not.
    No,
    /// Its account: the caller's own policies must allow it as well.
    Account,
    /// The caller itself.
    Caller,
}

impl Principal {
    fn parse(text: &str) -> Result<Self, PolicyError> {
        let account =
            |text: &str| text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit());
        if text == "*" {
            return Ok(Self::Anyone);
        }
        if account(text) {
            return Ok(Self::Account(text.to_owned()));
        }
        let refused = || PolicyError::Principal(text.to_owned());
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        let ["arn", _, "iam" | "sts", "", owner, name] = parts[..] else {
            return Err(refused());
        };
        let named = ["user/", "role/", "assumed-role/"]
            .iter()
            .any(|kind| name.len() > kind.len() && name.starts_with(kind));
        if !account(owner) || text.contains(['*', '?']) {
            return Err(refused());
        }
        match name {
            "root" => Ok(Self::Account(owner.to_owned())),
            _ if named => Ok(Self::Arn(text.to_owned())),
            _ => Err(refused()),
        }
    }

    fn is(&self, caller: &Caller<'_>) -> Trust {
        match self {
            Self::Anyone => Trust::Caller,
            Self::Account(account) if account == caller.account => Trust::Account,
            Self::Arn(arn) if arn == caller.arn || Some(arn.as_str()) == caller.role_arn => {
                Trust::Caller
            }
            Self::Account(_) | Self::Arn(_) | Self::Service(_) => Trust::No,
        }
    }
}

pub(super) fn principals(written: WrittenPrincipal) -> Result<Vec<Principal>, PolicyError> {
    let named = match written {
        WrittenPrincipal::Text(text) if text == "*" => return Ok(vec![Principal::Anyone]),
        WrittenPrincipal::Text(text) => return Err(PolicyError::Principal(text)),
        WrittenPrincipal::Named(named) => named.unique()?,
    };
    let mut principals = Vec::new();
    for (kind, texts) in named {
        for text in texts.0 {
            principals.push(match kind.as_str() {
                "AWS" => Principal::parse(&text)?,
                "Service" => Principal::Service(text),
                _ => return Err(PolicyError::Principal(kind)),
            });
        }
    }
    Ok(principals)
}

//! Who a request comes from, in the terms of IAM and of an audit's `userIdentity`.

use std::sync::Arc;
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::policy::{Context, PolicyDocument};

/// Who a verified request comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// Access key id that signed it.
    pub access_key_id: String,
    /// Account, 12 digits.
    pub account: String,
    /// ARN of the principal: of a role's session its own, below `sts`.
    pub principal_arn: String,
    /// Unique id: the account of root, `AIDA…` of a user, `AROA…:session` of a role's session.
    pub principal_id: String,
    /// What kind of principal it is.
    pub principal: Principal,
    /// The session that a temporary key belongs to; `None` for a lasting key.
    pub session: Option<Session>,
}

/// What kind of principal asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// The account itself, which may do everything.
    Root,
    /// A user.
    User {
        /// Its name.
        name: String,
    },
    /// Someone who assumed a role.
    AssumedRole {
        /// The role's name.
        role: String,
        /// The role's ARN.
        role_arn: String,
        /// The role's unique id.
        role_id: String,
        /// What the one who assumed it called the session.
        session_name: String,
    },
}

/// When a temporary key was given out, and what it is good for.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// When it was given out.
    pub issued_at: SystemTime,
    /// When it ends.
    pub expires_at: SystemTime,
    /// The policy that whoever asked for it gave it: it takes away and never adds.
    pub policy: Option<Arc<PolicyDocument>>,
}

impl Identity {
    /// The root of an account, by one of its access keys.
    #[must_use]
    pub fn root(account: &str, access_key_id: &str) -> Self {
        Self {
            access_key_id: access_key_id.to_owned(),
            account: account.to_owned(),
            principal_arn: format!("arn:aws:iam::{account}:root"),
            principal_id: account.to_owned(),
            principal: Principal::Root,
            session: None,
        }
    }

    /// `type` of CloudTrail's `userIdentity`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.principal {
            Principal::Root => "Root",
            Principal::User { .. } => "IAMUser",
            Principal::AssumedRole { .. } => "AssumedRole",
        }
    }

    /// The ARN that conditions know as `aws:PrincipalArn`: of a role's session its role's.
    #[must_use]
    pub fn policy_arn(&self) -> &str {
        match &self.principal {
            Principal::AssumedRole { role_arn, .. } => role_arn,
            Principal::Root | Principal::User { .. } => &self.principal_arn,
        }
    }

    /// What conditions and policy variables know of the caller.
    #[must_use]
    pub fn context(&self) -> Context {
        let mut context = Context::default();
        context.set("aws:PrincipalArn", self.policy_arn());
        context.set("aws:PrincipalAccount", &self.account);
        context.set("aws:userid", &self.principal_id);
        context.set(
            "aws:PrincipalType",
            match self.principal {
                Principal::Root => "Account",
                Principal::User { .. } => "User",
                Principal::AssumedRole { .. } => "AssumedRole",
            },
        );
        if let Principal::User { name } = &self.principal {
            context.set("aws:username", name);
        }
        if let Some(session) = &self.session {
            let issued = OffsetDateTime::from(session.issued_at).format(&Rfc3339);
            context.set("aws:TokenIssueTime", issued.unwrap_or_default());
        }
        context
    }
}

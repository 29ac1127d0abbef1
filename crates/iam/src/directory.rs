//! Users, roles, policies and keys as of one moment, ready to answer: whose key is this, and may its
//! owner do that? Reads no clock and waits for nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use colibri_store::{IamOwner, IamRecords, IamRole, IamSession};
use tracing::error;

use crate::credential::{Credential, Secret};
use crate::identity::{Identity, Principal, Session};
use crate::name::{role_arn, session_arn, user_arn};
use crate::policy::{
    Decision, NamedPolicy, PolicyDocument, PolicySet, Request, StatementName, TrustPolicy, evaluate,
};

/// Who there is, and what they may do.
#[derive(Debug, Default)]
pub struct Directory {
    account: String,
    revision: i64,
    users: HashMap<String, User>,
    roles: HashMap<String, Role>,
    credentials: HashMap<String, Credential>,
}

#[derive(Debug)]
struct User {
    unique_id: String,
    policies: Vec<NamedPolicy>,
}

/// A role.
#[derive(Debug)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// Its ARN.
    pub arn: String,
    /// Its unique id.
    pub unique_id: String,
    /// Who may assume it; `None` when that cannot be read: nobody.
    pub trust: Option<TrustPolicy>,
    /// Longest session.
    pub max_session: Duration,
    policies: Vec<NamedPolicy>,
}

impl Directory {
    /// Reads what the store holds of an account. What cannot be read of a policy denies everything.
    #[must_use]
    pub fn new(account: &str, records: &IamRecords) -> Self {
        let mut directory = Self {
            account: account.to_owned(),
            revision: records.revision,
            ..Self::default()
        };
        let mut policies = policies(records);
        for user in &records.users {
            let owner = IamOwner::User(user.name.clone());
            let user_entry = User {
                unique_id: user.unique_id.clone(),
                policies: policies.remove(&owner).unwrap_or_default(),
            };
            directory.users.insert(user.name.clone(), user_entry);
        }
        for role in &records.roles {
            let owner = IamOwner::Role(role.name.clone());
            let policies = policies.remove(&owner).unwrap_or_default();
            let role = read_role(account, role, policies);
            directory.roles.insert(role.name.clone(), role);
        }
        directory.add_keys(records);
        directory
    }

    fn add_keys(&mut self, records: &IamRecords) {
        for key in records.access_keys.iter().filter(|key| key.active) {
            if let Some(identity) = self.user(&key.user, &key.id) {
                let credential = Credential {
                    identity,
                    secret: Secret::new(key.secret.clone()),
                    session_token: None,
                };
                self.credentials.insert(key.id.clone(), credential);
            }
        }
        for session in &records.sessions {
            if let Some(identity) = self.session_identity(session) {
                let credential = Credential {
                    identity,
                    secret: Secret::new(session.secret.clone()),
                    session_token: Some(Secret::new(session.token.clone())),
                };
                self.credentials
                    .insert(session.access_key_id.clone(), credential);
            }
        }
    }

    fn session_identity(&self, session: &IamSession) -> Option<Identity> {
        let key = &session.access_key_id;
        let identity = match &session.owner {
            None => Identity::root(&self.account, key),
            Some(IamOwner::User(name)) => self.user(name, key)?,
            Some(IamOwner::Role(name)) => self.assumed(
                name,
                session.session_name.as_deref().unwrap_or("session"),
                key,
            )?,
        };
        let policy = session
            .policy
            .as_deref()
            .map(|text| read_policy(&format!("of the session {key}"), text));
        Some(Identity {
            session: Some(Session {
                issued_at: time(session.created_at),
                expires_at: time(session.expires_at),
                policy,
            }),
            ..identity
        })
    }

    /// Which state of the store this is.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Account of everyone here.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The credential of a key of a user or a session, of one that has ended too.
    #[must_use]
    pub fn credential(&self, access_key_id: &str) -> Option<&Credential> {
        self.credentials.get(access_key_id)
    }

    /// How many temporary keys are good: of one user or role (of the root, for none), and of all.
    pub(crate) fn sessions(&self, owner: Option<&IamOwner>, now: SystemTime) -> (usize, usize) {
        let good = |credential: &&Credential| {
            credential.session_token.is_some() && !credential.has_ended(now)
        };
        let theirs = |credential: &&Credential| match (&credential.identity.principal, owner) {
            (Principal::Root, None) => true,
            (Principal::User { name }, Some(IamOwner::User(owner))) => name == owner,
            (Principal::AssumedRole { role, .. }, Some(IamOwner::Role(owner))) => role == owner,
            _ => false,
        };
        let all = || self.credentials.values().filter(good);
        (all().filter(theirs).count(), all().count())
    }

    /// A role, by its name.
    #[must_use]
    pub fn role(&self, name: &str) -> Option<&Role> {
        self.roles.get(name)
    }

    /// A role of this account, by its ARN.
    #[must_use]
    pub fn role_of_arn(&self, arn: &str) -> Option<&Role> {
        let prefix = format!("arn:aws:iam::{}:role/", self.account);
        self.role(arn.strip_prefix(&prefix)?)
    }

    /// A user, by one of its keys.
    #[must_use]
    pub fn user(&self, name: &str, access_key_id: &str) -> Option<Identity> {
        let user = self.users.get(name)?;
        Some(Identity {
            access_key_id: access_key_id.to_owned(),
            account: self.account.clone(),
            principal_arn: user_arn(&self.account, name),
            principal_id: user.unique_id.clone(),
            principal: Principal::User {
                name: name.to_owned(),
            },
            session: None,
        })
    }

    /// Someone who assumed a role.
    #[must_use]
    pub fn assumed(&self, role: &str, session_name: &str, access_key_id: &str) -> Option<Identity> {
        let role = self.roles.get(role)?;
        Some(Identity {
            access_key_id: access_key_id.to_owned(),
            account: self.account.clone(),
            principal_arn: session_arn(&self.account, &role.name, session_name),
            principal_id: format!("{}:{session_name}", role.unique_id),
            principal: Principal::AssumedRole {
                role: role.name.clone(),
                role_arn: role.arn.clone(),
                role_id: role.unique_id.clone(),
                session_name: session_name.to_owned(),
            },
            session: None,
        })
    }

    /// Whether an identity may do what it asks for, and which statement says so. What the identity
    /// says of itself in the circumstances is what this directory knows, whatever the request has.
    #[must_use]
    pub fn decide(&self, identity: &Identity, mut request: Request) -> Decision {
        let policies = match &identity.principal {
            Principal::Root => {
                return Decision::Allowed(StatementName {
                    policy: "the account's root".to_owned(),
                    number: 1,
                    sid: None,
                });
            }
            Principal::User { name } => self.users.get(name).map(|user| &user.policies),
            Principal::AssumedRole { role, .. } => self.roles.get(role).map(|role| &role.policies),
        };
        request.context.extend(identity.context());
        let set = PolicySet {
            identity: policies.cloned().unwrap_or_default(),
            session: identity
                .session
                .as_ref()
                .and_then(|session| session.policy.clone()),
        };
        evaluate(&set, &request)
    }
}

/// The policies of each user and role: those attached, and those of its own.
fn policies(records: &IamRecords) -> HashMap<IamOwner, Vec<NamedPolicy>> {
    let managed: HashMap<&str, Arc<PolicyDocument>> = records
        .policies
        .iter()
        .map(|policy| {
            (
                policy.name.as_str(),
                read_policy(&policy.name, &policy.document),
            )
        })
        .collect();
    let mut policies: HashMap<IamOwner, Vec<NamedPolicy>> = HashMap::new();
    for (owner, name) in &records.attachments {
        if let Some(document) = managed.get(name.as_str()) {
            policies
                .entry(owner.clone())
                .or_default()
                .push(NamedPolicy {
                    name: name.clone(),
                    document: Arc::clone(document),
                });
        }
    }
    for policy in &records.inline_policies {
        let document = read_policy(&policy.name, &policy.document);
        policies
            .entry(policy.owner.clone())
            .or_default()
            .push(NamedPolicy {
                name: policy.name.clone(),
                document,
            });
    }
    policies
}

/// A policy that was checked when it was stored. One that is not understood any more may be one that
/// denies, so it denies everything.
fn read_policy(name: &str, text: &str) -> Arc<PolicyDocument> {
    Arc::new(PolicyDocument::parse(text).unwrap_or_else(|reason| {
        error!(policy = name, %reason, "a stored policy cannot be read, and denies everything; put it anew");
        PolicyDocument::deny_everything()
    }))
}

fn read_role(account: &str, role: &IamRole, policies: Vec<NamedPolicy>) -> Role {
    let trust = TrustPolicy::parse(&role.trust);
    Role {
        name: role.name.clone(),
        arn: role_arn(account, &role.name),
        unique_id: role.unique_id.clone(),
        trust: trust
            .inspect_err(|reason| {
                error!(role = role.name, %reason, "a stored trust policy cannot be read; nobody can assume the role");
            })
            .ok(),
        max_session: Duration::from_secs(u64::from(role.max_session_seconds)),
        policies,
    }
}

/// A stored time, which is never later than what a date can be written for.
fn time(millis: i64) -> SystemTime {
    /// The end of the year 9999.
    const LAST: u64 = 253_402_300_799_000;
    let millis = u64::try_from(millis).unwrap_or_default().min(LAST);
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
}

//! Users, roles and policies as a file declares them, and the changes that make the store agree.
//! Declaring the same again changes nothing. Keys are not declared: a secret belongs in no such file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::SystemTime;

use colibri_store::{IamChange, IamOwner, IamRecords};
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::edit::{self, EditError, USUAL_SESSION};

/// What a file declares. Whatever it names is made to be as it says; what it does not name stays.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Declaration {
    policies: BTreeMap<String, Document>,
    users: BTreeMap<String, DeclaredUser>,
    roles: BTreeMap<String, DeclaredRole>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DeclaredUser {
    policies: BTreeSet<String>,
    inline: BTreeMap<String, Document>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeclaredRole {
    trust: Document,
    max_session_seconds: Option<u32>,
    #[serde(default)]
    policies: BTreeSet<String>,
    #[serde(default)]
    inline: BTreeMap<String, Document>,
}

/// A policy document: its text, or the file's own form of the same.
#[derive(Debug, Clone)]
struct Document(String);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self(text)),
            Value::Object(members) => Ok(Self(Value::Object(members).to_string())),
            _ => Err(D::Error::custom(
                "a policy document must be a table, or its JSON as text",
            )),
        }
    }
}

impl Document {
    /// Whether a stored text is the same document.
    fn is(&self, stored: &str) -> bool {
        let read = |text: &str| serde_json::from_str::<Value>(text).ok();
        self.0 == stored || (read(&self.0).is_some() && read(&self.0) == read(stored))
    }
}

/// Changes, and what they do in words.
#[derive(Debug, Default)]
pub struct Plan {
    /// For the store.
    pub changes: Vec<IamChange>,
    /// One line for each.
    pub lines: Vec<String>,
}

impl Plan {
    fn add(&mut self, change: IamChange, line: impl fmt::Display) {
        self.changes.push(change);
        self.lines.push(line.to_string());
    }
}

impl Declaration {
    /// The changes that make what is stored agree. With `prune`, what the file does not name is
    /// deleted, keys of users with them.
    ///
    /// # Errors
    /// When a name or a document is refused, or a policy is named that is nowhere.
    pub fn plan(
        &self,
        records: &IamRecords,
        prune: bool,
        now: SystemTime,
    ) -> Result<Plan, EditError> {
        let mut plan = Plan::default();
        self.plan_policies(records, now, &mut plan)?;
        for (name, user) in &self.users {
            if !records.users.iter().any(|stored| stored.name == *name) {
                plan.add(edit::create_user(name, now)?, format!("create user {name}"));
            }
            let owner = IamOwner::User(name.clone());
            self.plan_owner(
                records,
                prune,
                &owner,
                (&user.policies, &user.inline),
                &mut plan,
            )?;
        }
        for (name, role) in &self.roles {
            plan_role(records, name, role, now, &mut plan)?;
            let owner = IamOwner::Role(name.clone());
            self.plan_owner(
                records,
                prune,
                &owner,
                (&role.policies, &role.inline),
                &mut plan,
            )?;
        }
        if prune {
            self.plan_removals(records, &mut plan);
        }
        Ok(plan)
    }

    fn plan_policies(
        &self,
        records: &IamRecords,
        now: SystemTime,
        plan: &mut Plan,
    ) -> Result<(), EditError> {
        for (name, document) in &self.policies {
            let change = edit::put_policy(name, &document.0, now)?;
            let stored = records.policies.iter().find(|stored| stored.name == *name);
            match stored {
                Some(stored) if document.is(&stored.document) => {}
                Some(_) => plan.add(change, format!("change policy {name}")),
                None => plan.add(change, format!("create policy {name}")),
            }
        }
        Ok(())
    }

    /// The policies of one user or role: exactly those that are declared.
    fn plan_owner(
        &self,
        records: &IamRecords,
        prune: bool,
        owner: &IamOwner,
        (attached, inline): (&BTreeSet<String>, &BTreeMap<String, Document>),
        plan: &mut Plan,
    ) -> Result<(), EditError> {
        edit::check_count(owner, attached.len() + inline.len())?;
        let is_theirs = |of: &IamOwner| of == owner;
        let stored: BTreeSet<&String> = records
            .attachments
            .iter()
            .filter(|(of, _)| is_theirs(of))
            .map(|(_, policy)| policy)
            .collect();
        for policy in attached {
            let there = |stored: &colibri_store::IamPolicy| !prune && stored.name == *policy;
            if !self.policies.contains_key(policy) && !records.policies.iter().any(there) {
                return Err(EditError::NoSuchPolicy {
                    owner: owner.clone(),
                    policy: policy.clone(),
                });
            }
            if !stored.contains(policy) {
                let change = IamChange::Attach(owner.clone(), policy.clone());
                plan.add(change, format!("attach policy {policy} to {owner}"));
            }
        }
        for policy in stored
            .into_iter()
            .filter(|policy| !attached.contains(*policy))
        {
            let change = IamChange::Detach(owner.clone(), policy.clone());
            plan.add(change, format!("detach policy {policy} from {owner}"));
        }
        let stored = || {
            let all = records.inline_policies.iter();
            all.filter(|policy| is_theirs(&policy.owner))
        };
        for (name, document) in inline {
            edit::check_policy(name, &document.0)?;
            if !stored().any(|policy| policy.name == *name && document.is(&policy.document)) {
                let change = IamChange::PutInline(colibri_store::InlinePolicy {
                    owner: owner.clone(),
                    name: name.clone(),
                    document: document.0.clone(),
                });
                plan.add(change, format!("put policy {name} of {owner} alone"));
            }
        }
        for policy in stored().filter(|policy| !inline.contains_key(&policy.name)) {
            let name = &policy.name;
            let change = IamChange::DeleteInline(owner.clone(), name.clone());
            plan.add(change, format!("delete policy {name} of {owner} alone"));
        }
        Ok(())
    }

    fn plan_removals(&self, records: &IamRecords, plan: &mut Plan) {
        for user in &records.users {
            if !self.users.contains_key(&user.name) {
                let change = IamChange::DeleteUser(user.name.clone());
                plan.add(change, format!("delete user {}", user.name));
            }
        }
        for role in &records.roles {
            if !self.roles.contains_key(&role.name) {
                let change = IamChange::DeleteRole(role.name.clone());
                plan.add(change, format!("delete role {}", role.name));
            }
        }
        for policy in &records.policies {
            if !self.policies.contains_key(&policy.name) {
                let change = IamChange::DeletePolicy(policy.name.clone());
                plan.add(change, format!("delete policy {}", policy.name));
            }
        }
    }
}

fn plan_role(
    records: &IamRecords,
    name: &str,
    role: &DeclaredRole,
    now: SystemTime,
    plan: &mut Plan,
) -> Result<(), EditError> {
    let usual = u32::try_from(USUAL_SESSION.as_secs()).unwrap_or(u32::MAX);
    let longest = role.max_session_seconds.unwrap_or(usual);
    let trust = &role.trust;
    match records.roles.iter().find(|stored| stored.name == name) {
        None => plan.add(
            edit::create_role(name, &trust.0, longest, now)?,
            format!("create role {name}"),
        ),
        Some(stored) if trust.is(&stored.trust) && stored.max_session_seconds == longest => {}
        Some(_) => plan.add(
            edit::update_role(name, &trust.0, longest)?,
            format!("change role {name}"),
        ),
    }
    Ok(())
}

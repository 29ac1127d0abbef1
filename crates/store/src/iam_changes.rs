//! Changes of users, roles, policies and keys: any number of them in one transaction, all or none.

use rusqlite::{Transaction, params};

use crate::database::{Store, is_constraint};
use crate::error::StoreError;
use crate::iam::{IamAccessKey, IamOwner, IamPolicy, IamRole, IamSession, IamUser, InlinePolicy};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IamChange {
    /// A user that is not there yet.
    CreateUser(IamUser),
    /// With its keys, its sessions and its own policies.
    DeleteUser(String),
    /// A role that is not there yet.
    CreateRole(IamRole),
    /// Whom a role trusts, and for how long.
    UpdateRole {
        /// Which.
        name: String,
        /// Who may assume it.
        trust: String,
        /// Longest session.
        max_session_seconds: u32,
    },
    /// With its sessions and its own policies.
    DeleteRole(String),
    /// Made, or given another document.
    PutPolicy(IamPolicy),
    /// One that is attached to nobody.
    DeletePolicy(String),
    /// Does nothing when it is attached.
    Attach(IamOwner, String),
    /// Takes a policy away.
    Detach(IamOwner, String),
    /// Made, or given another document.
    PutInline(InlinePolicy),
    /// Takes a policy away from its only owner.
    DeleteInline(IamOwner, String),
    /// A new key.
    CreateAccessKey(IamAccessKey),
    /// Makes a key good or not.
    SetAccessKey {
        /// Which.
        id: String,
        /// Whether it is good.
        active: bool,
    },
    /// Deletes a key.
    DeleteAccessKey(String),
    /// A new temporary key.
    CreateSession(IamSession),
    /// Ends a temporary key.
    DeleteSession(String),
    /// Forgets temporary keys that ended before: milliseconds since the Unix epoch.
    ForgetSessions(i64),
}

impl Store {
    /// Makes changes, all or none, and counts the revision up.
    ///
    /// # Errors
    /// [`StoreError::Exists`] and [`StoreError::Missing`] with what, and when the database fails.
    pub async fn change_iam(&self, changes: Vec<IamChange>) -> Result<(), StoreError> {
        self.write(move |tx| {
            for change in &changes {
                apply(tx, change)?;
            }
            tx.execute("UPDATE iam_revision SET revision = revision + 1", [])?;
            Ok(())
        })
        .await
    }
}

fn apply(tx: &Transaction<'_>, change: &IamChange) -> Result<(), StoreError> {
    match change {
        IamChange::CreateUser(user) => create_user(tx, user),
        IamChange::DeleteUser(name) => delete(tx, "iam_users", "name", name, "user"),
        IamChange::CreateRole(role) => create_role(tx, role),
        IamChange::UpdateRole {
            name,
            trust,
            max_session_seconds,
        } => {
            let changed = tx.execute(
                "UPDATE iam_roles SET trust = ?2, max_session_seconds = ?3 WHERE name = ?1",
                params![name, trust, max_session_seconds],
            )?;
            found(changed, || format!("role {name}"))
        }
        IamChange::DeleteRole(name) => delete(tx, "iam_roles", "name", name, "role"),
        IamChange::PutPolicy(policy) => put_policy(tx, policy),
        IamChange::DeletePolicy(name) => delete_policy(tx, name),
        IamChange::Attach(owner, policy) => attach(tx, owner, policy),
        IamChange::Detach(owner, policy) => {
            let (user, role) = owner.columns();
            let changed = tx.execute(
                "DELETE FROM iam_attachments
                  WHERE user_name IS ?1 AND role_name IS ?2 AND policy_name = ?3",
                params![user, role, policy],
            )?;
            found(changed, || format!("policy {policy} of {owner}"))
        }
        IamChange::PutInline(policy) => put_inline(tx, policy),
        IamChange::DeleteInline(owner, name) => {
            let (user, role) = owner.columns();
            let changed = tx.execute(
                "DELETE FROM iam_inline_policies
                  WHERE user_name IS ?1 AND role_name IS ?2 AND name = ?3",
                params![user, role, name],
            )?;
            found(changed, || format!("policy {name} of {owner} alone"))
        }
        IamChange::CreateAccessKey(key) => create_access_key(tx, key),
        IamChange::SetAccessKey { id, active } => {
            let changed = tx.execute(
                "UPDATE iam_access_keys SET active = ?2 WHERE id = ?1",
                params![id, active],
            )?;
            found(changed, || format!("access key {id}"))
        }
        IamChange::DeleteAccessKey(id) => delete(tx, "iam_access_keys", "id", id, "access key"),
        IamChange::CreateSession(session) => create_session(tx, session),
        IamChange::DeleteSession(id) => delete(tx, "iam_sessions", "access_key_id", id, "session"),
        IamChange::ForgetSessions(before) => {
            tx.execute("DELETE FROM iam_sessions WHERE expires_at < ?1", [before])?;
            Ok(())
        }
    }
}

fn create_user(tx: &Transaction<'_>, user: &IamUser) -> Result<(), StoreError> {
    let IamUser {
        name,
        unique_id,
        created_at,
    } = user;
    let inserted = tx.execute(
        "INSERT INTO iam_users (name, unique_id, created_at) VALUES (?1, ?2, ?3)",
        params![name, unique_id, created_at],
    );
    new(inserted, || format!("user {name}"))
}

fn create_role(tx: &Transaction<'_>, role: &IamRole) -> Result<(), StoreError> {
    let inserted = tx.execute(
        "INSERT INTO iam_roles (name, unique_id, trust, max_session_seconds, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            role.name,
            role.unique_id,
            role.trust,
            role.max_session_seconds,
            role.created_at
        ],
    );
    new(inserted, || format!("role {}", role.name))
}

fn put_policy(tx: &Transaction<'_>, policy: &IamPolicy) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO iam_policies (name, document, created_at) VALUES (?1, ?2, ?3)
         ON CONFLICT (name) DO UPDATE SET document = excluded.document",
        params![policy.name, policy.document, policy.created_at],
    )?;
    Ok(())
}

fn delete_policy(tx: &Transaction<'_>, name: &str) -> Result<(), StoreError> {
    match tx.execute("DELETE FROM iam_policies WHERE name = ?1", [name]) {
        Err(error) if is_constraint(&error) => Err(StoreError::InUse {
            what: format!("policy {name}"),
            remedy: "detach it from every user and role first",
        }),
        other => found(other?, || format!("policy {name}")),
    }
}

fn attach(tx: &Transaction<'_>, owner: &IamOwner, policy: &str) -> Result<(), StoreError> {
    require_owner(tx, owner)?;
    let (user, role) = owner.columns();
    let inserted = tx.execute(
        "INSERT INTO iam_attachments (user_name, role_name, policy_name) VALUES (?1, ?2, ?3)
         ON CONFLICT DO NOTHING",
        params![user, role, policy],
    );
    match inserted {
        Err(error) if is_constraint(&error) => Err(StoreError::missing(format!("policy {policy}"))),
        other => {
            other?;
            Ok(())
        }
    }
}

fn put_inline(tx: &Transaction<'_>, policy: &InlinePolicy) -> Result<(), StoreError> {
    require_owner(tx, &policy.owner)?;
    let (user, role) = policy.owner.columns();
    tx.execute(
        "DELETE FROM iam_inline_policies
          WHERE user_name IS ?1 AND role_name IS ?2 AND name = ?3",
        params![user, role, policy.name],
    )?;
    tx.execute(
        "INSERT INTO iam_inline_policies (user_name, role_name, name, document)
         VALUES (?1, ?2, ?3, ?4)",
        params![user, role, policy.name, policy.document],
    )?;
    Ok(())
}

fn create_access_key(tx: &Transaction<'_>, key: &IamAccessKey) -> Result<(), StoreError> {
    require_owner(tx, &IamOwner::User(key.user.clone()))?;
    let inserted = tx.execute(
        "INSERT INTO iam_access_keys (id, user_name, secret, active, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5)",
        params![key.id, key.user, key.secret, key.active, key.created_at],
    );
    new(inserted, || format!("access key {}", key.id))
}

fn create_session(tx: &Transaction<'_>, session: &IamSession) -> Result<(), StoreError> {
    if let Some(owner) = &session.owner {
        require_owner(tx, owner)?;
    }
    let (user, role) = session
        .owner
        .as_ref()
        .map_or((None, None), IamOwner::columns);
    let inserted = tx.execute(
        "INSERT INTO iam_sessions (access_key_id, secret, token, user_name, role_name, session_name,
                                   policy, created_at, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            session.access_key_id,
            session.secret,
            session.token,
            user,
            role,
            session.session_name,
            session.policy,
            session.created_at,
            session.expires_at
        ],
    );
    new(inserted, || format!("session {}", session.access_key_id))
}

fn require_owner(tx: &Transaction<'_>, owner: &IamOwner) -> Result<(), StoreError> {
    let (table, name) = match owner {
        IamOwner::User(name) => ("iam_users", name),
        IamOwner::Role(name) => ("iam_roles", name),
    };
    let sql = format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE name = ?1)");
    let there: bool = tx.query_row(&sql, [name], |row| row.get(0))?;
    found(usize::from(there), || owner.to_string())
}

fn delete(
    tx: &Transaction<'_>,
    table: &'static str,
    key: &'static str,
    value: &str,
    kind: &'static str,
) -> Result<(), StoreError> {
    let sql = format!("DELETE FROM {table} WHERE {key} = ?1");
    found(tx.execute(&sql, [value])?, || format!("{kind} {value}"))
}

fn found(rows: usize, what: impl FnOnce() -> String) -> Result<(), StoreError> {
    if rows == 0 {
        return Err(StoreError::missing(what()));
    }
    Ok(())
}

fn new(
    inserted: Result<usize, rusqlite::Error>,
    what: impl FnOnce() -> String,
) -> Result<(), StoreError> {
    match inserted {
        Err(error) if is_constraint(&error) => Err(StoreError::Exists { what: what() }),
        other => {
            other?;
            Ok(())
        }
    }
}

//! Users, roles, policies and keys: what is stored, and reading all of it. Changes are in
//! `iam_changes`. What a document says, and who may do what, is not decided here.

use rusqlite::Connection;

use crate::database::Store;
use crate::error::StoreError;
use crate::rows::{Columns, key_of};

/// A user or a role.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IamOwner {
    /// A user, by its name.
    User(String),
    /// A role, by its name.
    Role(String),
}

impl IamOwner {
    /// The name as a user's, and as a role's.
    pub(crate) fn columns(&self) -> (Option<&str>, Option<&str>) {
        match self {
            Self::User(name) => (Some(name), None),
            Self::Role(name) => (None, Some(name)),
        }
    }

    fn read(columns: &Columns<'_>) -> Result<Option<Self>, StoreError> {
        let user: Option<String> = columns.get("user_name")?;
        let role: Option<String> = columns.get("role_name")?;
        match (user, role) {
            (Some(name), None) => Ok(Some(Self::User(name))),
            (None, Some(name)) => Ok(Some(Self::Role(name))),
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(columns.corrupt("it names a user and a role")),
        }
    }

    fn required(columns: &Columns<'_>) -> Result<Self, StoreError> {
        Self::read(columns)?.ok_or_else(|| columns.corrupt("it names neither a user nor a role"))
    }
}

impl std::fmt::Display for IamOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(name) => write!(f, "user {name}"),
            Self::Role(name) => write!(f, "role {name}"),
        }
    }
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IamUser {
    /// Name.
    pub name: String,
    /// `AIDA…`
    pub unique_id: String,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// A role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IamRole {
    /// Name.
    pub name: String,
    /// `AROA…`
    pub unique_id: String,
    /// Who may assume it: a policy document.
    pub trust: String,
    /// Longest session.
    pub max_session_seconds: u32,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// A policy that can be attached to any number of users and roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IamPolicy {
    /// Name.
    pub name: String,
    /// The document.
    pub document: String,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// A policy of one user or role alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlinePolicy {
    /// Whose.
    pub owner: IamOwner,
    /// Name, among its owner's.
    pub name: String,
    /// The document.
    pub document: String,
}

/// A lasting key of a user.
#[derive(Clone, PartialEq, Eq)]
pub struct IamAccessKey {
    /// `AKIA…`
    pub id: String,
    /// Whose.
    pub user: String,
    /// Secret access key.
    pub secret: String,
    /// Whether it is good.
    pub active: bool,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// A temporary key.
#[derive(Clone, PartialEq, Eq)]
pub struct IamSession {
    /// `ASIA…`
    pub access_key_id: String,
    /// Secret access key.
    pub secret: String,
    /// Session token.
    pub token: String,
    /// Whose; `None` for the root's.
    pub owner: Option<IamOwner>,
    /// What the one who assumed a role called the session.
    pub session_name: Option<String>,
    /// The session's policy document.
    pub policy: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
    /// Milliseconds since the Unix epoch.
    pub expires_at: i64,
}

macro_rules! debug_without_secrets {
    ($($kind:ident: $id:ident),*) => {
        $(
            impl std::fmt::Debug for $kind {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.debug_struct(stringify!($kind))
                        .field(stringify!($id), &self.$id)
                        .finish_non_exhaustive()
                }
            }
        )*
    };
}
debug_without_secrets!(IamAccessKey: id, IamSession: access_key_id);

/// Everything about who may do what, as of one moment.
#[derive(Debug, Clone, Default)]
pub struct IamRecords {
    /// Which state this is: grows with every change.
    pub revision: i64,
    /// Users by name.
    pub users: Vec<IamUser>,
    /// Roles by name.
    pub roles: Vec<IamRole>,
    /// Policies by name.
    pub policies: Vec<IamPolicy>,
    /// Which policies are attached to whom.
    pub attachments: Vec<(IamOwner, String)>,
    /// Policies of single users and roles.
    pub inline_policies: Vec<InlinePolicy>,
    /// Lasting keys.
    pub access_keys: Vec<IamAccessKey>,
    /// Temporary keys.
    pub sessions: Vec<IamSession>,
}

impl Store {
    /// Which state users, roles, policies and keys are in.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn iam_revision(&self) -> Result<i64, StoreError> {
        self.read(revision).await
    }

    /// All users, roles, policies and keys.
    ///
    /// # Errors
    /// When the database fails or a row cannot be read: a policy that is left out could be one that
    /// denies.
    pub async fn iam(&self) -> Result<IamRecords, StoreError> {
        self.read(|db| {
            // One transaction: all tables as of the same moment.
            let tx = db.unchecked_transaction()?;
            records(&tx)
        })
        .await
    }
}

pub(crate) fn revision(db: &Connection) -> Result<i64, StoreError> {
    let mut statement = db.prepare_cached("SELECT revision FROM iam_revision WHERE id = 1")?;
    Ok(statement.query_row([], |row| row.get(0))?)
}

fn records(db: &Connection) -> Result<IamRecords, StoreError> {
    Ok(IamRecords {
        revision: revision(db)?,
        users: all(db, "iam_users", "name", |row| {
            Ok(IamUser {
                name: row.get("name")?,
                unique_id: row.get("unique_id")?,
                created_at: row.get("created_at")?,
            })
        })?,
        roles: all(db, "iam_roles", "name", |row| {
            Ok(IamRole {
                name: row.get("name")?,
                unique_id: row.get("unique_id")?,
                trust: row.get("trust")?,
                max_session_seconds: row.get("max_session_seconds")?,
                created_at: row.get("created_at")?,
            })
        })?,
        policies: all(db, "iam_policies", "name", |row| {
            Ok(IamPolicy {
                name: row.get("name")?,
                document: row.get("document")?,
                created_at: row.get("created_at")?,
            })
        })?,
        attachments: all(db, "iam_attachments", "policy_name", |row| {
            Ok((IamOwner::required(row)?, row.get("policy_name")?))
        })?,
        inline_policies: all(db, "iam_inline_policies", "name", |row| {
            Ok(InlinePolicy {
                owner: IamOwner::required(row)?,
                name: row.get("name")?,
                document: row.get("document")?,
            })
        })?,
        access_keys: all(db, "iam_access_keys", "id", |row| {
            Ok(IamAccessKey {
                id: row.get("id")?,
                user: row.get("user_name")?,
                secret: row.get("secret")?,
                active: row.get("active")?,
                created_at: row.get("created_at")?,
            })
        })?,
        sessions: all(db, "iam_sessions", "access_key_id", |row| {
            Ok(IamSession {
                access_key_id: row.get("access_key_id")?,
                secret: row.get("secret")?,
                token: row.get("token")?,
                owner: IamOwner::read(row)?,
                session_name: row.get("session_name")?,
                policy: row.get("policy")?,
                created_at: row.get("created_at")?,
                expires_at: row.get("expires_at")?,
            })
        })?,
    })
}

fn all<T>(
    db: &Connection,
    table: &'static str,
    key: &'static str,
    read: impl Fn(&Columns<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = db.prepare_cached(&format!("SELECT * FROM {table} ORDER BY {key}"))?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(&Columns::new(row, table, key_of(row, key)))?);
    }
    Ok(found)
}

//! Network connectors and their versions: making, updating, settling and listing them. Their removal is in
//! `connector_removal`.

use rusqlite::{Connection, Row, Transaction, params};
use serde_json::Value;

use crate::database::{Store, is_constraint};
use crate::error::StoreError;
use crate::images::bounds;
use crate::rows::{Columns, Listing, Position, key_of, page};
use crate::state::{ConnectorState, UpdateState};
use crate::tokens::{ClientToken, TokenRecord, find_token, remember_token};

/// A connector.
#[derive(Debug, Clone, PartialEq)]
pub struct Connector {
    /// `nc-<uuid>`.
    pub id: String,
    /// Name.
    pub name: String,
    /// State: that of its latest version, unless it is being removed.
    pub state: ConnectorState,
    /// Its latest version that is, or was, good; version 1 until there is one.
    pub latest: u32,
    /// How the last update went.
    pub update: Option<UpdateState>,
    /// Why.
    pub update_reason: Option<Reason>,
    /// Tags, a JSON object of strings.
    pub tags: Value,
    /// Creation, milliseconds since the Unix epoch.
    pub created_at: i64,
    /// Last change.
    pub modified_at: i64,
}

/// A version of a connector.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectorVersion {
    /// Its connector.
    pub connector_id: String,
    /// Number, from 1.
    pub version: u32,
    /// State.
    pub state: ConnectorState,
    /// Why it is in that state.
    pub reason: Option<Reason>,
    /// What it connects to.
    pub config: Value,
    /// The role that manages it.
    pub role: String,
    /// Last change, milliseconds since the Unix epoch.
    pub modified_at: i64,
}

/// Why something is as it is: for people, and for programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// A code of the API.
    pub code: String,
    /// A sentence.
    pub text: String,
}

/// A connector to be made, or a version to be added.
#[derive(Debug, Clone)]
pub struct NewConnectorVersion {
    /// What it connects to.
    pub config: Value,
    /// The role that manages it.
    pub role: String,
    /// Now, milliseconds since the Unix epoch.
    pub at: i64,
}

/// What came of an attempt to make a connector or to update one.
#[derive(Debug)]
pub enum ConnectorOutcome {
    /// Made, or changed: the version is `Pending`.
    Changed(Connector, ConnectorVersion),
    /// The update changes nothing: the version that there is.
    Unchanged(Connector, ConnectorVersion),
    /// The client token is known: this is what came of it.
    Replayed(TokenRecord),
    /// There are as many as there may be.
    Full,
    /// It is in a state that admits no update.
    Busy(ConnectorState),
    /// Another update of it goes on.
    Updating,
}

pub(crate) const CONNECTOR_COLUMNS: &str =
    "SELECT id, name, state, latest, update_state, update_reason,
    update_reason_code, tags, created_at, modified_at FROM connectors";

const VERSION_COLUMNS: &str =
    "SELECT connector_id, version, state, reason, reason_code, config, role,
    created_at, modified_at FROM connector_versions";

impl Store {
    /// Makes a connector with its version 1, both `Pending`, where there are fewer than `most`.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when the name is taken.
    #[expect(clippy::too_many_arguments, reason = "one transaction takes all of it")]
    pub async fn create_connector<F>(
        &self,
        id: String,
        name: String,
        tags: Value,
        version: NewConnectorVersion,
        most: usize,
        token: Option<ClientToken>,
        response: F,
    ) -> Result<ConnectorOutcome, StoreError>
    where
        F: FnOnce(&Connector, &ConnectorVersion) -> Value + Send + 'static,
    {
        self.write(move |tx| {
            if let Some(record) = replayed(tx, token.as_ref())? {
                return Ok(ConnectorOutcome::Replayed(record));
            }
            let inserted = tx.execute(
                "INSERT INTO connectors (id, name, state, latest, next_version, tags, created_at, modified_at)
                 VALUES (?1, ?2, ?3, 1, 1, ?4, ?5, ?5)",
                params![
                    id,
                    name,
                    ConnectorState::Pending.as_str(),
                    tags.to_string(),
                    version.at
                ],
            );
            match inserted {
                Err(error) if is_constraint(&error) => {
                    let what = format!("network connector {name}");
                    return Err(StoreError::Exists { what });
                }
                other => other?,
            };
            let count: usize =
                tx.query_row("SELECT count(*) FROM connectors", [], |row| row.get(0))?;
            if count > most {
                tx.execute("DELETE FROM connectors WHERE id = ?1", [&id])?;
                return Ok(ConnectorOutcome::Full);
            }
            insert_version(tx, &id, &version)?;
            changed(tx, &id, 1, token, response)
        })
        .await
    }

    /// Adds a `Pending` version to a connector that is active and not being updated, where it has fewer
    /// than `most`, and where something changes.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such connector.
    pub async fn update_connector<F>(
        &self,
        id: String,
        version: NewConnectorVersion,
        most: usize,
        token: Option<ClientToken>,
        response: F,
    ) -> Result<ConnectorOutcome, StoreError>
    where
        F: FnOnce(&Connector, &ConnectorVersion) -> Value + Send + 'static,
    {
        self.write(move |tx| {
            if let Some(record) = replayed(tx, token.as_ref())? {
                return Ok(ConnectorOutcome::Replayed(record));
            }
            let (connector, current) = existing(tx, &id, None)?;
            if connector.state != ConnectorState::Active {
                return Ok(ConnectorOutcome::Busy(connector.state));
            }
            if connector.update == Some(UpdateState::InProgress) {
                return Ok(ConnectorOutcome::Updating);
            }
            if current.config == version.config && current.role == version.role {
                if let Some(token) = token {
                    remember_token(tx, &token, &id, &response(&connector, &current))?;
                }
                return Ok(ConnectorOutcome::Unchanged(connector, current));
            }
            let count: usize = tx.query_row(
                "SELECT count(*) FROM connector_versions WHERE connector_id = ?1",
                [&id],
                |row| row.get(0),
            )?;
            if count >= most {
                return Ok(ConnectorOutcome::Full);
            }
            let number = insert_version(tx, &id, &version)?;
            tx.execute(
                "UPDATE connectors SET update_state = ?2, update_reason = NULL, update_reason_code = NULL,
                   modified_at = ?3 WHERE id = ?1",
                params![id, UpdateState::InProgress.as_str(), version.at],
            )?;
            changed(tx, &id, number, token, response)
        })
        .await
    }

    /// Settles a `Pending` version: active without a reason against it, failed with one. A version that is
    /// not pending any more, or gone, stays as it is.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn settle_connector(
        &self,
        id: String,
        version: u32,
        against: Option<Reason>,
        at: i64,
    ) -> Result<(), StoreError> {
        self.write(move |tx| {
            let state = match against {
                None => ConnectorState::Active,
                Some(_) => ConnectorState::Failed,
            };
            let Some(found) = find_connector_version(tx, &id, version)? else {
                return Ok(());
            };
            if found.state != ConnectorState::Pending {
                return Ok(());
            }
            set_version(tx, &id, version, state, against.as_ref(), at)?;
            settle_whole(tx, &id, version, against.as_ref(), at)
        })
        .await
    }

    /// Makes a good version `Inactive` for a reason, or `Active` without one, and its connector with it
    /// where that is its latest.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_connector_use(
        &self,
        id: String,
        version: u32,
        against: Option<Reason>,
        at: i64,
    ) -> Result<(), StoreError> {
        self.write(move |tx| {
            let (from, to) = match against {
                None => (ConnectorState::Inactive, ConnectorState::Active),
                Some(_) => (ConnectorState::Active, ConnectorState::Inactive),
            };
            let Some(found) = find_connector_version(tx, &id, version)? else {
                return Ok(());
            };
            if found.state != from {
                return Ok(());
            }
            set_version(tx, &id, version, to, against.as_ref(), at)?;
            tx.execute(
                "UPDATE connectors SET state = ?3 WHERE id = ?1 AND latest = ?2 AND state = ?4",
                params![id, version, to.as_str(), from.as_str()],
            )?;
            Ok(())
        })
        .await
    }

    /// A connector, by id or name.
    ///
    /// # Errors
    /// When the database fails or the row cannot be read.
    pub async fn connector(&self, key: String) -> Result<Option<Connector>, StoreError> {
        self.read(move |db| find_connector(db, &key)).await
    }

    /// A version of a connector.
    ///
    /// # Errors
    /// When the database fails or the row cannot be read.
    pub async fn connector_version(
        &self,
        id: String,
        version: u32,
    ) -> Result<Option<ConnectorVersion>, StoreError> {
        self.read(move |db| find_connector_version(db, &id, version))
            .await
    }

    /// A page of connectors in a state, or in any, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn connectors(
        &self,
        state: Option<ConnectorState>,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Listing<Connector>, StoreError> {
        self.read(move |db| {
            let (created_at, key) = bounds(after, i64::MIN);
            let mut statement = db.prepare_cached(&format!(
                "{CONNECTOR_COLUMNS} WHERE (created_at, id) > (?1, ?2) AND (?3 IS NULL OR state = ?3)
                  ORDER BY created_at, id LIMIT ?4"
            ))?;
            let state = state.map(ConnectorState::as_str);
            let mut rows = statement.query(params![created_at, key, state, limit + 1])?;
            page(&mut rows, limit, "id", read_connector)
        })
        .await
    }

    /// A page of a connector's versions in a state, or in any, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn connector_versions(
        &self,
        id: String,
        state: Option<ConnectorState>,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Listing<ConnectorVersion>, StoreError> {
        self.read(move |db| {
            let number = |position: Position| position.key.parse::<i64>().ok();
            let below = after.and_then(number).unwrap_or(i64::MAX);
            let mut statement = db.prepare_cached(&format!(
                "{VERSION_COLUMNS} WHERE connector_id = ?1 AND version < ?2 AND (?3 IS NULL OR state = ?3)
                  ORDER BY version DESC LIMIT ?4"
            ))?;
            let state = state.map(ConnectorState::as_str);
            let mut rows = statement.query(params![id, below, state, limit + 1])?;
            page(&mut rows, limit, "version", read_version)
        })
        .await
    }

    /// Changes the tags of a connector, in one transaction.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such connector.
    pub async fn change_connector_tags<F>(&self, key: String, change: F) -> Result<(), StoreError>
    where
        F: FnOnce(Value) -> Value + Send + 'static,
    {
        self.write(move |tx| {
            let connector = find_connector(tx, &key)?.ok_or_else(|| missing(&key))?;
            tx.execute(
                "UPDATE connectors SET tags = ?2 WHERE id = ?1",
                params![connector.id, change(connector.tags).to_string()],
            )?;
            Ok(())
        })
        .await
    }
}

fn replayed(
    tx: &Transaction<'_>,
    token: Option<&ClientToken>,
) -> Result<Option<TokenRecord>, StoreError> {
    let find = |token: &ClientToken| find_token(tx, &token.account, token.operation, &token.token);
    token.map_or(Ok(None), find)
}

fn changed<F>(
    tx: &Transaction<'_>,
    id: &str,
    version: u32,
    token: Option<ClientToken>,
    response: F,
) -> Result<ConnectorOutcome, StoreError>
where
    F: FnOnce(&Connector, &ConnectorVersion) -> Value,
{
    let (connector, version) = existing(tx, id, Some(version))?;
    if let Some(token) = token {
        remember_token(tx, &token, id, &response(&connector, &version))?;
    }
    Ok(ConnectorOutcome::Changed(connector, version))
}

fn insert_version(
    tx: &Transaction<'_>,
    id: &str,
    version: &NewConnectorVersion,
) -> Result<u32, StoreError> {
    let number: u32 = tx.query_row(
        "UPDATE connectors SET next_version = next_version + 1 WHERE id = ?1 RETURNING next_version - 1",
        [id],
        |row| row.get(0),
    )?;
    tx.execute(
        "INSERT INTO connector_versions (connector_id, version, state, config, role, created_at, modified_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)",
        params![
            id,
            number,
            ConnectorState::Pending.as_str(),
            version.config.to_string(),
            version.role,
            version.at
        ],
    )?;
    Ok(number)
}

fn set_version(
    tx: &Transaction<'_>,
    id: &str,
    version: u32,
    state: ConnectorState,
    reason: Option<&Reason>,
    at: i64,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE connector_versions SET state = ?3, reason = ?4, reason_code = ?5, modified_at = ?6
          WHERE connector_id = ?1 AND version = ?2",
        params![
            id,
            version,
            state.as_str(),
            reason.map(|reason| &reason.text),
            reason.map(|reason| &reason.code),
            at
        ],
    )?;
    Ok(())
}

/// What a settled version means for its connector: the first one decides over all of it, a later one is an
/// update.
fn settle_whole(
    tx: &Transaction<'_>,
    id: &str,
    version: u32,
    against: Option<&Reason>,
    at: i64,
) -> Result<(), StoreError> {
    if version == 1 {
        let state = match against {
            None => ConnectorState::Active,
            Some(_) => ConnectorState::Failed,
        };
        tx.execute(
            "UPDATE connectors SET state = ?2, modified_at = ?3 WHERE id = ?1 AND state = ?4",
            params![id, state.as_str(), at, ConnectorState::Pending.as_str()],
        )?;
        return Ok(());
    }
    let (update, latest) = match against {
        None => (UpdateState::Successful, Some(version)),
        Some(_) => (UpdateState::Failed, None),
    };
    tx.execute(
        "UPDATE connectors SET update_state = ?2, update_reason = ?3, update_reason_code = ?4,
           latest = coalesce(?5, latest), modified_at = ?6 WHERE id = ?1",
        params![
            id,
            update.as_str(),
            against.map(|reason| &reason.text),
            against.map(|reason| &reason.code),
            latest,
            at
        ],
    )?;
    Ok(())
}

pub(crate) fn missing(key: &str) -> StoreError {
    StoreError::missing(format!("network connector {key}"))
}

/// A connector with one of its versions, the latest unless another is asked for.
pub(crate) fn existing(
    db: &Connection,
    key: &str,
    version: Option<u32>,
) -> Result<(Connector, ConnectorVersion), StoreError> {
    let connector = find_connector(db, key)?.ok_or_else(|| missing(key))?;
    let number = version.unwrap_or(connector.latest);
    let version = find_connector_version(db, &connector.id, number)?
        .ok_or_else(|| missing(&format!("{key}:{number}")))?;
    Ok((connector, version))
}

pub(crate) fn find_connector(db: &Connection, key: &str) -> Result<Option<Connector>, StoreError> {
    // No name has the form of an id.
    let mut statement =
        db.prepare_cached(&format!("{CONNECTOR_COLUMNS} WHERE id = ?1 OR name = ?1"))?;
    let mut rows = statement.query([key])?;
    rows.next()?.map(read_connector).transpose()
}

pub(crate) fn find_connector_version(
    db: &Connection,
    id: &str,
    version: u32,
) -> Result<Option<ConnectorVersion>, StoreError> {
    let mut statement = db.prepare_cached(&format!(
        "{VERSION_COLUMNS} WHERE connector_id = ?1 AND version = ?2"
    ))?;
    let mut rows = statement.query(params![id, version])?;
    rows.next()?.map(read_version).transpose()
}

fn reason_of(
    columns: &Columns<'_>,
    text: &'static str,
    code: &'static str,
) -> Result<Option<Reason>, StoreError> {
    let (text, code): (Option<String>, Option<String>) = (columns.get(text)?, columns.get(code)?);
    Ok(text.zip(code).map(|(text, code)| Reason { code, text }))
}

fn read_connector(row: &Row<'_>) -> Result<Connector, StoreError> {
    let columns = Columns::new(row, "connectors", key_of(row, "id"));
    let update: Option<String> = columns.get("update_state")?;
    let update = update.map(|text| {
        let unknown = || columns.corrupt(format!("update_state: {text:?} is no state"));
        UpdateState::from_stored(&text).ok_or_else(unknown)
    });
    Ok(Connector {
        id: columns.get("id")?,
        name: columns.get("name")?,
        state: columns.state("state", ConnectorState::from_stored)?,
        latest: columns.get("latest")?,
        update: update.transpose()?,
        update_reason: reason_of(&columns, "update_reason", "update_reason_code")?,
        tags: columns.json("tags")?,
        created_at: columns.get("created_at")?,
        modified_at: columns.get("modified_at")?,
    })
}

fn read_version(row: &Row<'_>) -> Result<ConnectorVersion, StoreError> {
    let key = format!("{}/{}", key_of(row, "connector_id"), key_of(row, "version"));
    let columns = Columns::new(row, "connector_versions", key);
    Ok(ConnectorVersion {
        connector_id: columns.get("connector_id")?,
        version: columns.get("version")?,
        state: columns.state("state", ConnectorState::from_stored)?,
        reason: reason_of(&columns, "reason", "reason_code")?,
        config: columns.json("config")?,
        role: columns.get("role")?,
        modified_at: columns.get("modified_at")?,
    })
}

//! The removal of network connectors and of single versions, and the memory of what was removed.

use rusqlite::{OptionalExtension, Transaction, params};

use crate::connectors::{
    Connector, ConnectorVersion, existing, find_connector, find_connector_version, missing,
};
use crate::database::Store;
use crate::error::StoreError;
use crate::state::ConnectorState;

/// What came of an attempt to remove a version.
#[derive(Debug)]
pub enum VersionRemoval {
    /// It is gone; this is what it was.
    Removed(Connector, ConnectorVersion),
    /// It is the latest, or the only one: that goes with its connector alone.
    Latest,
    /// It is being made: the connector is being updated.
    Pending,
    /// There is no such version; its connector is there.
    Missing(Connector),
}

/// A connector that was removed lately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedConnector {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
}

impl Store {
    /// Begins the removal of a connector: it becomes `Deleting`. Gives it and its latest version; nothing
    /// changes while it is `Pending`, which its state says.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such connector.
    pub async fn begin_connector_removal(
        &self,
        key: String,
        at: i64,
    ) -> Result<(Connector, ConnectorVersion), StoreError> {
        self.write(move |tx| {
            let (connector, _) = existing(tx, &key, None)?;
            if connector.state != ConnectorState::Pending {
                let deleting = ConnectorState::Deleting.as_str();
                tx.execute(
                    "UPDATE connectors SET state = ?2, modified_at = ?3 WHERE id = ?1",
                    params![connector.id, deleting, at],
                )?;
                tx.execute(
                    "UPDATE connector_versions SET state = ?2 WHERE connector_id = ?1",
                    params![connector.id, deleting],
                )?;
            }
            existing(tx, &connector.id, None)
        })
        .await
    }

    /// Ends the removal of a connector: its rows go, and the client tokens that made it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn finish_connector_removal(&self, id: String, at: i64) -> Result<(), StoreError> {
        self.write(move |tx| {
            let Some(connector) = find_connector(tx, &id)? else {
                return Ok(());
            };
            tx.execute("DELETE FROM connectors WHERE id = ?1", [&id])?;
            tx.execute(
                "DELETE FROM client_tokens WHERE resource_id = ?1 AND operation LIKE '%NetworkConnector'",
                [&id],
            )?;
            remember(tx, &connector, 0, at)
        })
        .await
    }

    /// Removes a version that is not the latest.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such connector.
    pub async fn remove_connector_version(
        &self,
        key: String,
        version: u32,
        at: i64,
    ) -> Result<VersionRemoval, StoreError> {
        self.write(move |tx| {
            let connector = find_connector(tx, &key)?.ok_or_else(|| missing(&key))?;
            let Some(found) = find_connector_version(tx, &connector.id, version)? else {
                return Ok(VersionRemoval::Missing(connector));
            };
            if version == connector.latest {
                return Ok(VersionRemoval::Latest);
            }
            if found.state == ConnectorState::Pending {
                return Ok(VersionRemoval::Pending);
            }
            tx.execute(
                "DELETE FROM connector_versions WHERE connector_id = ?1 AND version = ?2",
                params![connector.id, version],
            )?;
            remember(tx, &connector, version, at)?;
            Ok(VersionRemoval::Removed(connector, found))
        })
        .await
    }

    /// The connector (version 0) or the version of one that was removed lately, by id or name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn deleted_connector(
        &self,
        key: String,
        version: u32,
    ) -> Result<Option<DeletedConnector>, StoreError> {
        self.read(move |db| {
            let found = db.query_row(
                "SELECT id, name FROM deleted_connectors
                  WHERE (id = ?1 OR name = ?1) AND version IN (0, ?2) ORDER BY deleted_at DESC LIMIT 1",
                params![key, version],
                |row| {
                    Ok(DeletedConnector {
                        id: row.get(0)?,
                        name: row.get(1)?,
                    })
                },
            );
            Ok(found.optional()?)
        })
        .await
    }
}

fn remember(
    tx: &Transaction<'_>,
    connector: &Connector,
    version: u32,
    at: i64,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT OR REPLACE INTO deleted_connectors (id, version, name, deleted_at) VALUES (?1, ?2, ?3, ?4)",
        params![connector.id, version, connector.name, at],
    )?;
    Ok(())
}

//! What becomes of a new connector or version: `ACTIVE` where the operator's configuration has what it names,
//! `FAILED` with a code where not. And what a start makes of connectors: what an earlier daemon left half
//! done, and what the configuration does not have any more.

use std::sync::Arc;
use std::time::Duration;

use colibri_store::{Connector, ConnectorState, ConnectorVersion, Reason, StoreError};
use tokio::time::sleep;

use crate::connector_removal::{self, RemovalFailure};
use crate::control::Shared;
use crate::egress::configuration_of;
use crate::failure::chain;

/// Rows that are read at a time where a list is walked.
const PAGE: usize = 1000;
/// Pause before a state that could not be written is written again.
const PAUSE: Duration = Duration::from_secs(5);

/// Settles a new version. Without the record of it a connector counts as being made: tried until it is
/// written.
pub(crate) async fn settle(shared: Arc<Shared>, id: String, version: u32) {
    while let Err(error) = try_settle(&shared, &id, version).await {
        tracing::error!(connector = id, version, error = %chain(&error), "could not settle a network connector; trying again");
        sleep(PAUSE).await;
    }
    shared.connectors_changed.send_modify(|count| *count += 1);
}

async fn try_settle(shared: &Shared, id: &str, version: u32) -> Result<(), StoreError> {
    let store = &shared.store;
    let Some(found) = store.connector_version(id.to_owned(), version).await? else {
        return Ok(());
    };
    let against = against(shared, &found)?;
    match &against {
        None => tracing::info!(connector = id, version, "a network connector is active"),
        Some(reason) => {
            tracing::info!(
                connector = id,
                version,
                code = reason.code,
                "a network connector failed"
            );
        }
    }
    store
        .settle_connector(id.to_owned(), version, against, shared.clock.now())
        .await
}

/// What stands against a version, by the operator's configuration.
fn against(shared: &Shared, version: &ConnectorVersion) -> Result<Option<Reason>, StoreError> {
    let configuration = configuration_of(version)?;
    Ok(shared.settings.vpc.allowed(&configuration).err())
}

/// Finishes what an earlier daemon began, and holds every connector against the configuration of now.
pub(crate) async fn recover(shared: &Shared) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let page = shared.store.connectors(None, after, PAGE).await?;
        for error in &page.corrupt {
            tracing::error!(error = %chain(error), "a network connector was left out of the recovery");
        }
        for connector in &page.rows {
            if let Err(failure) = recover_one(shared, connector).await {
                tracing::error!(connector = connector.id, error = %chain(&failure), "could not recover a network connector");
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

async fn recover_one(shared: &Shared, connector: &Connector) -> Result<(), RemovalFailure> {
    if connector.state == ConnectorState::Deleting {
        return connector_removal::remove(shared, connector).await;
    }
    let mut after = None;
    loop {
        let store = &shared.store;
        let page = store
            .connector_versions(connector.id.clone(), None, after, PAGE)
            .await?;
        for version in &page.rows {
            hold_against_configuration(shared, version).await?;
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

async fn hold_against_configuration(
    shared: &Shared,
    version: &ConnectorVersion,
) -> Result<(), StoreError> {
    let (id, number) = (version.connector_id.clone(), version.version);
    match version.state {
        ConnectorState::Pending => try_settle(shared, &id, number).await,
        ConnectorState::Active | ConnectorState::Inactive => {
            let against = against(shared, version)?;
            let now = shared.clock.now();
            let store = &shared.store;
            store.set_connector_use(id, number, against, now).await
        }
        ConnectorState::Failed | ConnectorState::Deleting | ConnectorState::DeleteFailed => Ok(()),
    }
}

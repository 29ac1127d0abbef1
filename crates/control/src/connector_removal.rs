//! `DeleteNetworkConnector`: of a whole connector, or of one version of it. Who uses what is deleted is cut
//! off before the call is answered.

use std::sync::Arc;

use colibri_store::{Connector, ConnectorState, StoreError, VersionRemoval};
use colibri_wire::ApiError;
use colibri_wire::api_error::ResourceName;
use colibri_wire::check::connector::{CONNECTOR, connector_not_found};
use colibri_wire::shape::connector::{
    ConnectorChangeResponse, ConnectorState as ApiState, DeleteNetworkConnectorRequest,
};

use crate::control::{Control, Shared};
use crate::egress::grant_name;
use crate::failure::{chain, store_failed};

impl Control {
    /// `DeleteNetworkConnector`
    ///
    /// # Errors
    /// As the operation's.
    pub async fn delete_network_connector(
        self: &Arc<Self>,
        request: DeleteNetworkConnectorRequest,
    ) -> Result<ConnectorChangeResponse, ApiError> {
        let control = Arc::clone(self);
        self.whole(async move {
            let target = control.connector_target(&request.identifier)?;
            match target.version {
                None => {
                    control
                        .delete_connector(target.key, &request.identifier)
                        .await
                }
                Some(version) => {
                    let identifier = &request.identifier;
                    control
                        .delete_connector_version(target.key, version, identifier)
                        .await
                }
            }
        })
        .await
    }

    async fn delete_connector(
        &self,
        key: String,
        identifier: &str,
    ) -> Result<ConnectorChangeResponse, ApiError> {
        let failed = |error| store_failed(&error);
        let shared = &self.shared;
        let begun = shared
            .store
            .begin_connector_removal(key.clone(), shared.clock.now())
            .await;
        let (connector, version) = match begun {
            Err(StoreError::Missing { .. }) => {
                return self.deleted_before(key, 0, identifier).await;
            }
            other => other.map_err(failed)?,
        };
        if connector.state == ConnectorState::Pending {
            return Err(conflict(
                format!(
                    "Network connector {identifier} is in state PENDING; it can be deleted when it is ACTIVE or \
                     FAILED"
                ),
                identifier,
            ));
        }
        let answer = shared.connector_changed(&connector, &version, ApiState::Deleting);
        remove(shared, &connector).await.map_err(|failure| {
            tracing::error!(connector = connector.id, error = %chain(&failure), "could not delete a network connector");
            ApiError::internal(format!(
                "Network connector {identifier} could not be deleted; try again"
            ))
        })?;
        tracing::info!(connector = connector.id, "deleted a network connector");
        shared.connectors_changed.send_modify(|count| *count += 1);
        answer.map_err(failed)
    }

    async fn delete_connector_version(
        &self,
        key: String,
        version: u32,
        identifier: &str,
    ) -> Result<ConnectorChangeResponse, ApiError> {
        let shared = &self.shared;
        let removed = shared
            .store
            .remove_connector_version(key.clone(), version, shared.clock.now())
            .await;
        match removed {
            Ok(VersionRemoval::Removed(connector, found)) => {
                let name = grant_name(&connector.id, version);
                shared.network.withdraw(&name).await.map_err(|failure| {
                    tracing::error!(connector = name, error = %chain(&failure), "could not cut off a deleted network connector's users");
                    ApiError::internal(
                        "The version is deleted, but MicroVMs that use it could not be cut off: terminate them",
                    )
                })?;
                let answer = shared.connector_changed(&connector, &found, ApiState::Deleting);
                answer.map_err(|error| store_failed(&error))
            }
            Ok(VersionRemoval::Latest) => Err(conflict(
                format!(
                    "{identifier} is the latest version of its network connector, which cannot be deleted alone; \
                     delete the network connector"
                ),
                identifier,
            )),
            Ok(VersionRemoval::Pending) => Err(conflict(
                format!("{identifier} is being made; delete it when the update has ended"),
                identifier,
            )),
            Ok(VersionRemoval::Missing(connector)) => {
                self.deleted_before(connector.id, version, identifier).await
            }
            Err(StoreError::Missing { .. }) => self.deleted_before(key, version, identifier).await,
            Err(error) => Err(store_failed(&error)),
        }
    }

    /// A repeated deletion succeeds; what never was, is not found.
    async fn deleted_before(
        &self,
        key: String,
        version: u32,
        identifier: &str,
    ) -> Result<ConnectorChangeResponse, ApiError> {
        let deleted = self.shared.store.deleted_connector(key, version).await;
        let deleted = deleted.map_err(|error| store_failed(&error))?;
        let deleted = deleted.ok_or_else(|| connector_not_found(identifier))?;
        let qualified = (version > 0).then_some(version);
        Ok(ConnectorChangeResponse {
            arn: self.shared.connector_arn(&deleted.id, None),
            version_arn: qualified
                .map(|version| self.shared.connector_arn(&deleted.id, Some(version))),
            version: qualified.map(u64::from),
            name: deleted.name,
            id: deleted.id,
            configuration: None,
            operator_role: None,
            state: Some(ApiState::Deleting),
        })
    }
}

fn conflict(message: String, identifier: &str) -> ApiError {
    ApiError::conflict(message, ResourceName::new(CONNECTOR, identifier))
}

/// Why a connector could not be removed; it stays `DELETING`, and the next attempt goes on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemovalFailure {
    #[error("could not read or write the state")]
    Store(#[from] StoreError),
    #[error("could not cut its users off")]
    Network(#[from] colibri_network::NetworkError),
}

/// Cuts off whoever uses a connector that is being removed, and removes it.
pub(crate) async fn remove(shared: &Shared, connector: &Connector) -> Result<(), RemovalFailure> {
    let most = shared.settings.max_connector_versions.max(1);
    let mut after = None;
    loop {
        let page = shared
            .store
            .connector_versions(connector.id.clone(), None, after, most)
            .await?;
        for version in &page.rows {
            let name = grant_name(&connector.id, version.version);
            shared.network.withdraw(&name).await?;
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let now = shared.clock.now();
    let id = connector.id.clone();
    Ok(shared.store.finish_connector_removal(id, now).await?)
}

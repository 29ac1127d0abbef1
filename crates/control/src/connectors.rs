//! The operations on network connectors. Their removal is in `connector_removal`, what becomes of a new
//! version in `provision`, and what a connector lets through in `egress` and `vpc`.

use std::sync::Arc;

use colibri_store::{
    Connector, ConnectorOutcome, ConnectorState, ConnectorVersion, NewConnectorVersion, Reason,
    StoreError, TokenRecord, UpdateState,
};
use colibri_wire::ApiError;
use colibri_wire::api_error::ResourceName;
use colibri_wire::check::connector::{
    self as check, CONNECTOR, ConnectorTarget, connector_not_found,
};
use colibri_wire::id::connector::{ConnectorArn, connector_id};
use colibri_wire::id::timestamp::IsoTimestamp;
use colibri_wire::page::ListScope;
use colibri_wire::shape::connector::{
    ConnectorChangeResponse, ConnectorConfiguration, ConnectorState as ApiState, ConnectorSummary,
    ConnectorType, ConnectorVersionSummary, CreateNetworkConnectorRequest,
    GetNetworkConnectorRequest, GetNetworkConnectorResponse, LastUpdateStatus,
    ListNetworkConnectorVersionsRequest, ListNetworkConnectorVersionsResponse,
    ListNetworkConnectorsRequest, ListNetworkConnectorsResponse, ReasonCode,
    UpdateNetworkConnectorRequest, UpdateNetworkConnectorResponse,
};
use uuid::Uuid;

use crate::control::{Control, Shared};
use crate::documents;
use crate::egress::configuration_of;
use crate::failure::store_failed;
use crate::lists;
use crate::provision;
use crate::run::same_request;
use crate::tags;

pub(crate) fn api_state(state: ConnectorState) -> ApiState {
    match state {
        ConnectorState::Pending => ApiState::Pending,
        ConnectorState::Active => ApiState::Active,
        ConnectorState::Inactive => ApiState::Inactive,
        ConnectorState::Failed => ApiState::Failed,
        ConnectorState::Deleting => ApiState::Deleting,
        ConnectorState::DeleteFailed => ApiState::DeleteFailed,
    }
}

fn stored_state(state: ApiState) -> ConnectorState {
    match state {
        ApiState::Pending => ConnectorState::Pending,
        ApiState::Active => ConnectorState::Active,
        ApiState::Inactive => ConnectorState::Inactive,
        ApiState::Failed => ConnectorState::Failed,
        ApiState::Deleting => ConnectorState::Deleting,
        ApiState::DeleteFailed => ConnectorState::DeleteFailed,
    }
}

fn update_status(state: UpdateState) -> LastUpdateStatus {
    match state {
        UpdateState::InProgress => LastUpdateStatus::InProgress,
        UpdateState::Successful => LastUpdateStatus::Successful,
        UpdateState::Failed => LastUpdateStatus::Failed,
    }
}

/// How the update that made a version went.
fn status_of(version: &ConnectorVersion) -> LastUpdateStatus {
    match version.state {
        ConnectorState::Pending => LastUpdateStatus::InProgress,
        ConnectorState::Failed => LastUpdateStatus::Failed,
        _ => LastUpdateStatus::Successful,
    }
}

fn code_of(reason: Option<&Reason>) -> Option<ReasonCode> {
    let code = reason.map(|reason| serde_json::Value::String(reason.code.clone()))?;
    serde_json::from_value(code).ok()
}

fn text_of(reason: Option<&Reason>) -> Option<String> {
    reason.map(|reason| reason.text.clone())
}

impl Shared {
    pub(crate) fn connector_arn(&self, id: &str, version: Option<u32>) -> String {
        ConnectorArn::own(&self.settings.place, id, version).to_string()
    }

    /// A connector and one of its versions as creation and deletion answer.
    pub(crate) fn connector_changed(
        &self,
        connector: &Connector,
        version: &ConnectorVersion,
        state: ApiState,
    ) -> Result<ConnectorChangeResponse, StoreError> {
        let configuration = configuration_of(version)?;
        Ok(ConnectorChangeResponse {
            arn: self.connector_arn(&connector.id, None),
            name: connector.name.clone(),
            id: connector.id.clone(),
            version_arn: Some(self.connector_arn(&connector.id, Some(version.version))),
            version: Some(version.version.into()),
            configuration: Some(ConnectorConfiguration::VpcEgressConfiguration(
                configuration,
            )),
            operator_role: Some(version.role.clone()),
            state: Some(state),
        })
    }

    fn connector_updated(
        &self,
        connector: &Connector,
        version: &ConnectorVersion,
    ) -> Result<UpdateNetworkConnectorResponse, StoreError> {
        Ok(UpdateNetworkConnectorResponse {
            connector: self.connector_changed(connector, version, api_state(connector.state))?,
            last_update_status: Some(status_of(version)),
            last_update_status_reason: text_of(version.reason.as_ref()),
            last_modified: Some(IsoTimestamp::from_unix_millis(connector.modified_at)),
        })
    }

    /// A connector, or a version of it where one was asked for, as `GetNetworkConnector` answers.
    fn connector_described(
        &self,
        connector: &Connector,
        version: &ConnectorVersion,
        is_qualified: bool,
    ) -> Result<GetNetworkConnectorResponse, StoreError> {
        let arn = |number| self.connector_arn(&connector.id, Some(number));
        let unqualified = (!is_qualified).then_some(connector.latest);
        let update = connector.update.filter(|_| !is_qualified);
        let update_reason = connector.update_reason.as_ref().filter(|_| !is_qualified);
        let (state, modified_at) = if is_qualified {
            (version.state, version.modified_at)
        } else {
            (connector.state, connector.modified_at)
        };
        Ok(GetNetworkConnectorResponse {
            arn: self.connector_arn(&connector.id, None),
            name: connector.name.clone(),
            id: connector.id.clone(),
            version_arn: is_qualified.then(|| arn(version.version)),
            version: Some(version.version.into()),
            latest_version_arn: unqualified.map(arn),
            latest_version: unqualified.map(u64::from),
            configuration: Some(ConnectorConfiguration::VpcEgressConfiguration(
                configuration_of(version)?,
            )),
            operator_role: Some(version.role.clone()),
            state: Some(api_state(state)),
            state_reason: text_of(version.reason.as_ref()),
            state_reason_code: code_of(version.reason.as_ref()),
            last_update_status: update.map(update_status),
            last_update_status_reason: text_of(update_reason),
            last_update_status_reason_code: code_of(update_reason),
            last_modified: Some(IsoTimestamp::from_unix_millis(modified_at)),
        })
    }

    fn connector_summary(&self, connector: &Connector) -> ConnectorSummary {
        ConnectorSummary {
            arn: self.connector_arn(&connector.id, None),
            name: connector.name.clone(),
            id: connector.id.clone(),
            kind: ConnectorType::VpcEgress,
            state: Some(api_state(connector.state)),
            last_modified: Some(IsoTimestamp::from_unix_millis(connector.modified_at)),
            latest_version_arn: Some(self.connector_arn(&connector.id, Some(connector.latest))),
            latest_version: Some(connector.latest.into()),
        }
    }

    fn version_summary(
        &self,
        connector: &Connector,
        version: &ConnectorVersion,
    ) -> ConnectorVersionSummary {
        ConnectorVersionSummary {
            arn: self.connector_arn(&connector.id, None),
            version_arn: self.connector_arn(&connector.id, Some(version.version)),
            name: connector.name.clone(),
            id: connector.id.clone(),
            version: version.version.into(),
            state: api_state(version.state),
            state_reason: text_of(version.reason.as_ref()),
            state_reason_code: code_of(version.reason.as_ref()),
            last_modified: Some(IsoTimestamp::from_unix_millis(version.modified_at)),
        }
    }
}

impl Control {
    /// `CreateNetworkConnector`: `PENDING` at once, `ACTIVE` or `FAILED` soon.
    ///
    /// # Errors
    /// As the operation's.
    pub async fn create_network_connector(
        self: &Arc<Self>,
        request: CreateNetworkConnectorRequest,
    ) -> Result<ConnectorChangeResponse, ApiError> {
        let control = Arc::clone(self);
        self.whole(async move { control.create_and_provision(request).await })
            .await
    }

    async fn create_and_provision(
        self: &Arc<Self>,
        request: CreateNetworkConnectorRequest,
    ) -> Result<ConnectorChangeResponse, ApiError> {
        let (configuration, role) = check::new_connector(&request)?;
        let tags = request.tags.clone().unwrap_or_default();
        tags::check_count(&tags)?;
        let token = request.client_token.as_deref();
        let token = self.client_token("CreateNetworkConnector", token, &request)?;
        let hash = token.as_ref().map(|token| token.request_hash.clone());
        let shared = Arc::clone(&self.shared);
        let answer = move |connector: &Connector, version: &ConnectorVersion| {
            let changed = shared.connector_changed(connector, version, api_state(connector.state));
            changed.map_or(serde_json::Value::Null, |answer| documents::write(&answer))
        };
        let most = self.shared.settings.max_connectors;
        let version = NewConnectorVersion {
            config: documents::write(&configuration),
            role,
            at: self.shared.clock.now(),
        };
        let id = connector_id(Uuid::new_v4().into_bytes());
        let tags = documents::write(&tags);
        let name = request.name.clone();
        let store = &self.shared.store;
        let made = store
            .create_connector(id, name, tags, version, most, token, answer)
            .await;
        match made {
            Ok(ConnectorOutcome::Changed(connector, version)) => {
                let state = api_state(connector.state);
                let answer = self.shared.connector_changed(&connector, &version, state);
                self.provision(connector.id, version.version);
                answer.map_err(|error| store_failed(&error))
            }
            Ok(ConnectorOutcome::Replayed(record)) => {
                same_request(&record, hash.as_deref().unwrap_or_default())?;
                self.replay_creation(&record).await
            }
            Ok(ConnectorOutcome::Full) => Err(ApiError::connector_limit(format!(
                "The maximum number of network connectors ({most}) is reached"
            ))),
            // An update's alone.
            Ok(
                ConnectorOutcome::Unchanged(..)
                | ConnectorOutcome::Busy(_)
                | ConnectorOutcome::Updating,
            ) => Err(ApiError::internal("The network connector was not made")),
            Err(StoreError::Exists { .. }) => Err(ApiError::conflict(
                format!(
                    "A network connector with the name '{}' already exists in this account",
                    request.name
                ),
                ResourceName::new(CONNECTOR, request.name.clone()),
            )),
            Err(error) => Err(store_failed(&error)),
        }
    }

    /// The first call's answer, with the state of now.
    async fn replay_creation(
        &self,
        record: &TokenRecord,
    ) -> Result<ConnectorChangeResponse, ApiError> {
        let failed = |error| store_failed(&error);
        let key = &record.resource_id;
        let mut answer: ConnectorChangeResponse =
            documents::read("client_tokens", key, &record.response).map_err(failed)?;
        let connector = self.shared.store.connector(key.clone()).await;
        if let Some(connector) = connector.map_err(failed)? {
            answer.state = Some(api_state(connector.state));
        }
        Ok(answer)
    }

    fn provision(&self, id: String, version: u32) {
        self.spawn(provision::settle(Arc::clone(&self.shared), id, version));
    }

    /// `UpdateNetworkConnector`: a new version where something changes. The connector stays as it is until
    /// that is known to be good; who uses it now goes on with what it has.
    ///
    /// # Errors
    /// As the operation's.
    pub async fn update_network_connector(
        self: &Arc<Self>,
        request: UpdateNetworkConnectorRequest,
    ) -> Result<UpdateNetworkConnectorResponse, ApiError> {
        let control = Arc::clone(self);
        self.whole(async move { control.update_and_provision(request).await })
            .await
    }

    async fn update_and_provision(
        self: &Arc<Self>,
        request: UpdateNetworkConnectorRequest,
    ) -> Result<UpdateNetworkConnectorResponse, ApiError> {
        let identifier = request.identifier.clone();
        let target = self.connector_target(&identifier)?;
        if target.version.is_some() {
            return Err(ApiError::validation(
                "A version of a network connector cannot be changed; name the connector without a version",
            ));
        }
        let token = request.client_token.as_deref();
        let token = self.client_token("UpdateNetworkConnector", token, &request)?;
        if let Some(record) = self.replayed(token.as_ref()).await? {
            return self.replay_update(&record).await;
        }
        let (connector, current) = self.found(&target, &identifier).await?;
        let version = self.wanted_version(&request, &current)?;
        let shared = Arc::clone(&self.shared);
        let answer = move |connector: &Connector, version: &ConnectorVersion| {
            let updated = shared.connector_updated(connector, version);
            updated.map_or(serde_json::Value::Null, |answer| documents::write(&answer))
        };
        let most = self.shared.settings.max_connector_versions;
        let hash = token.as_ref().map(|token| token.request_hash.clone());
        let store = &self.shared.store;
        let updated = store
            .update_connector(connector.id.clone(), version, most, token, answer)
            .await;
        let conflict = |message: String| {
            ApiError::conflict(message, ResourceName::new(CONNECTOR, identifier.clone()))
        };
        let failed = |error| store_failed(&error);
        match updated {
            Ok(ConnectorOutcome::Changed(connector, version)) => {
                let answer = self.shared.connector_updated(&connector, &version);
                self.provision(connector.id, version.version);
                answer.map_err(failed)
            }
            Ok(ConnectorOutcome::Unchanged(connector, version)) => self
                .shared
                .connector_updated(&connector, &version)
                .map_err(failed),
            Ok(ConnectorOutcome::Replayed(record)) => {
                same_request(&record, hash.as_deref().unwrap_or_default())?;
                self.replay_update(&record).await
            }
            Ok(ConnectorOutcome::Full) => Err(ApiError::connector_limit(format!(
                "The maximum number of versions ({most}) of network connector {identifier} is reached; delete \
                 older versions"
            ))),
            Ok(ConnectorOutcome::Busy(state)) => Err(conflict(format!(
                "Network connector {identifier} is in state {}; it can be updated in state ACTIVE only",
                state.as_str().to_uppercase()
            ))),
            Ok(ConnectorOutcome::Updating) => Err(conflict(format!(
                "Network connector {identifier} is being updated; try again when its LastUpdateStatus is not \
                 InProgress any more"
            ))),
            Err(StoreError::Missing { .. }) => Err(connector_not_found(&identifier)),
            Err(error) => Err(store_failed(&error)),
        }
    }

    fn wanted_version(
        &self,
        request: &UpdateNetworkConnectorRequest,
        current: &ConnectorVersion,
    ) -> Result<NewConnectorVersion, ApiError> {
        let now = configuration_of(current).map_err(|error| store_failed(&error))?;
        let configuration = match &request.configuration {
            Some(ConnectorConfiguration::VpcEgressConfiguration(given)) => {
                check::changed_configuration(given, &now)?
            }
            None => now,
        };
        let role = request.operator_role.clone();
        Ok(NewConnectorVersion {
            config: documents::write(&configuration),
            role: role.unwrap_or_else(|| current.role.clone()),
            at: self.shared.clock.now(),
        })
    }

    /// The first call's answer, with how its update went since.
    async fn replay_update(
        &self,
        record: &TokenRecord,
    ) -> Result<UpdateNetworkConnectorResponse, ApiError> {
        let failed = |error| store_failed(&error);
        let key = &record.resource_id;
        let mut answer: UpdateNetworkConnectorResponse =
            documents::read("client_tokens", key, &record.response).map_err(failed)?;
        let number = answer.connector.version;
        let number = number.and_then(|number| u32::try_from(number).ok());
        let store = &self.shared.store;
        let version = store
            .connector_version(key.clone(), number.unwrap_or_default())
            .await;
        if let Some(version) = version.map_err(failed)? {
            answer.last_update_status = Some(status_of(&version));
            answer.last_update_status_reason = text_of(version.reason.as_ref());
        }
        Ok(answer)
    }

    /// `GetNetworkConnector`
    ///
    /// # Errors
    /// As the operation's.
    pub async fn get_network_connector(
        &self,
        request: GetNetworkConnectorRequest,
    ) -> Result<GetNetworkConnectorResponse, ApiError> {
        let target = self.connector_target(&request.identifier)?;
        let (connector, version) = self.found(&target, &request.identifier).await?;
        self.shared
            .connector_described(&connector, &version, target.version.is_some())
            .map_err(|error| store_failed(&error))
    }

    /// `ListNetworkConnectors`
    ///
    /// # Errors
    /// As the operation's.
    pub async fn list_network_connectors(
        &self,
        request: ListNetworkConnectorsRequest,
    ) -> Result<ListNetworkConnectorsResponse, ApiError> {
        let state = request.paging.state.map(stored_state);
        let filters: Vec<(&str, &str)> = state
            .map(|state| ("State", state.as_str()))
            .into_iter()
            .collect();
        let scope = ListScope {
            name: "ListNetworkConnectors",
            filters: &filters,
        };
        let key = &self.shared.settings.page_key;
        let after = lists::start_after(key, &scope, request.paging.marker.as_deref())?;
        let limit = request.paging.limit(ListNetworkConnectorsRequest::PAGE);
        let listing = self.shared.store.connectors(state, after, limit).await;
        let listing = listing.map_err(|error| store_failed(&error))?;
        let page = lists::page(key, &scope, listing, |connector| {
            Some(self.shared.connector_summary(&connector))
        });
        Ok(ListNetworkConnectorsResponse {
            network_connectors: page.items,
            next_marker: page.next_token,
        })
    }

    /// `ListNetworkConnectorVersions`: newest first.
    ///
    /// # Errors
    /// As the operation's.
    pub async fn list_network_connector_versions(
        &self,
        request: ListNetworkConnectorVersionsRequest,
    ) -> Result<ListNetworkConnectorVersionsResponse, ApiError> {
        let target = self.connector_target(&request.identifier)?;
        if target.version.is_some() {
            return Err(ApiError::validation(
                "Versions are listed of a network connector; name it without a version",
            ));
        }
        let (connector, _) = self.found(&target, &request.identifier).await?;
        let state = request.paging.state.map(stored_state);
        let filters: Vec<(&str, &str)> = [("Identifier", connector.id.as_str())]
            .into_iter()
            .chain(state.map(|state| ("State", state.as_str())))
            .collect();
        let scope = ListScope {
            name: "ListNetworkConnectorVersions",
            filters: &filters,
        };
        let key = &self.shared.settings.page_key;
        let after = lists::start_after(key, &scope, request.paging.marker.as_deref())?;
        let limit = request
            .paging
            .limit(ListNetworkConnectorVersionsRequest::PAGE);
        let store = &self.shared.store;
        let listing = store
            .connector_versions(connector.id.clone(), state, after, limit)
            .await;
        let listing = listing.map_err(|error| store_failed(&error))?;
        let page = lists::page(key, &scope, listing, |version| {
            Some(self.shared.version_summary(&connector, &version))
        });
        Ok(ListNetworkConnectorVersionsResponse {
            network_connector_versions: page.items,
            next_marker: page.next_token,
        })
    }

    /// Returns when a connector is neither being made nor updated; false when there is none. Not an operation
    /// of the API: what the API's clients poll for.
    ///
    /// # Errors
    /// When the identifier is none, or the state cannot be read.
    pub async fn connector_settled(&self, identifier: &str) -> Result<bool, ApiError> {
        let target = self.connector_target(identifier)?;
        let mut changes = self.shared.connectors_changed.subscribe();
        loop {
            changes.borrow_and_update();
            let connector = self.shared.store.connector(target.key.clone()).await;
            let Some(connector) = connector.map_err(|error| store_failed(&error))? else {
                return Ok(false);
            };
            if connector.state != ConnectorState::Pending
                && connector.update != Some(UpdateState::InProgress)
            {
                return Ok(true);
            }
            // The sender lives as long as this control plane.
            let _ = changes.changed().await;
        }
    }

    pub(crate) fn connector_target(&self, identifier: &str) -> Result<ConnectorTarget, ApiError> {
        check::target(identifier, &self.shared.settings.place)
    }

    async fn found(
        &self,
        target: &ConnectorTarget,
        identifier: &str,
    ) -> Result<(Connector, ConnectorVersion), ApiError> {
        let failed = |error| store_failed(&error);
        let missing = || connector_not_found(identifier);
        let store = &self.shared.store;
        let connector = store.connector(target.key.clone()).await.map_err(failed)?;
        let connector = connector.ok_or_else(missing)?;
        let number = target.version.unwrap_or(connector.latest);
        let version = store.connector_version(connector.id.clone(), number).await;
        let version = version.map_err(failed)?.ok_or_else(missing)?;
        Ok((connector, version))
    }
}

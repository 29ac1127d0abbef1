//! From a MicroVM's or an image version's egress connectors to what its network lets out.
//!
//! A launch is refused where a connector cannot be used. What a connector lets through is looked up anew
//! whenever a network is set up: at a launch, at a resume, and when the next daemon takes a MicroVM over. A
//! connector that went meanwhile lets nothing through.

use std::sync::Arc;

use colibri_network::{Allow, Egress, Grant, Protocol, Slot};
use colibri_store::{Connector, ConnectorState, ConnectorVersion, StoreError};
use colibri_wire::ApiError;
use colibri_wire::api_error::ResourceName;
use colibri_wire::check::connector::{CONNECTOR, connector_not_found};
use colibri_wire::id::connector::{ConnectorArn, ManagedConnector};
use colibri_wire::shape::connector::{ComputeResourceType, VpcEgressConfiguration};

use crate::actor::Actor;
use crate::control::Shared;
use crate::documents;
use crate::failure::store_failed;
use crate::launch::LaunchFailure;

/// The name of what `INTERNET_EGRESS` grants beside another connector. No connector's id is like it.
const INTERNET: &str = "INTERNET_EGRESS";

/// The name under which a version's grant can be withdrawn.
pub(crate) fn grant_name(id: &str, version: u32) -> String {
    format!("{id}:{version}")
}

impl Shared {
    /// Refuses connectors that cannot be used for a MicroVM's or a build's egress.
    pub(crate) async fn check_egress(&self, connectors: &[ConnectorArn]) -> Result<(), ApiError> {
        for arn in connectors {
            match arn {
                ConnectorArn::Managed { connector, .. } => check_managed(arn, *connector)?,
                ConnectorArn::Own { id, version, .. } => {
                    let found = self.attachable(id, *version).await;
                    let found = found.map_err(|error| store_failed(&error))?;
                    let (connector, version) =
                        found.ok_or_else(|| connector_not_found(&arn.to_string()))?;
                    check_own(arn, &connector, &version)?;
                }
            }
        }
        Ok(())
    }

    /// What the network lets out for stored connectors, at this moment.
    pub(crate) async fn egress_of(&self, connectors: &[String]) -> Result<Egress, StoreError> {
        let arns: Vec<ConnectorArn> = connectors
            .iter()
            .filter_map(|text| ConnectorArn::parse(text).ok())
            .collect();
        if arns.is_empty() {
            return Ok(Egress::Sealed);
        }
        if arns.iter().all(|arn| arn.as_managed().is_some()) {
            return Ok(Egress::Internet);
        }
        let mut grants: Vec<Grant> = Vec::new();
        for arn in &arns {
            let grant = match arn {
                ConnectorArn::Managed { .. } => Some(internet()),
                ConnectorArn::Own { id, version, .. } => self.grant_of(id, *version).await?,
            };
            grants.extend(grant.filter(|grant| !grants.contains(grant)));
        }
        Ok(Egress::Granted(grants))
    }

    async fn grant_of(&self, key: &str, version: Option<u32>) -> Result<Option<Grant>, StoreError> {
        let Some((connector, version)) = self.attachable(key, version).await? else {
            tracing::info!(
                connector = key,
                "a network connector is gone: nothing passes"
            );
            return Ok(None);
        };
        let is_active =
            version.state == ConnectorState::Active && connector.state != ConnectorState::Deleting;
        let configuration = configuration_of(&version)?;
        let allow = self.settings.vpc.allowed(&configuration);
        let (true, Ok(allow)) = (is_active, allow) else {
            tracing::warn!(
                connector = connector.id,
                version = version.version,
                "a network connector is not active: nothing passes"
            );
            return Ok(None);
        };
        Ok(Some(Grant {
            name: grant_name(&connector.id, version.version),
            allow,
        }))
    }

    async fn attachable(
        &self,
        key: &str,
        version: Option<u32>,
    ) -> Result<Option<(Connector, ConnectorVersion)>, StoreError> {
        // An ARN has the id in it, never the name: policies are about ARNs.
        let found = self.store.connector(key.to_owned()).await?;
        let Some(connector) = found.filter(|connector| connector.id == key) else {
            return Ok(None);
        };
        let number = version.unwrap_or(connector.latest);
        let version = self
            .store
            .connector_version(connector.id.clone(), number)
            .await?;
        Ok(version.map(|version| (connector, version)))
    }
}

/// Reads the configuration of a version.
pub(crate) fn configuration_of(
    version: &ConnectorVersion,
) -> Result<VpcEgressConfiguration, StoreError> {
    let key = grant_name(&version.connector_id, version.version);
    documents::read("connector_versions", &key, &version.config)
}

fn internet() -> Grant {
    Grant {
        name: INTERNET.to_owned(),
        allow: vec![Allow {
            to: ipnet::Ipv4Net::default(),
            internet_only: true,
            protocol: Protocol::Any,
            ports: None,
        }],
    }
}

fn check_managed(arn: &ConnectorArn, connector: ManagedConnector) -> Result<(), ApiError> {
    if connector.is_ingress() {
        return Err(ApiError::validation(format!(
            "Network connector {arn} is not for egress"
        )));
    }
    Ok(())
}

/// A state that may pass is a conflict, which clients try again; one that stays is the request's mistake.
fn check_own(
    arn: &ConnectorArn,
    connector: &Connector,
    version: &ConnectorVersion,
) -> Result<(), ApiError> {
    let state = match connector.state {
        ConnectorState::Deleting | ConnectorState::DeleteFailed => connector.state,
        _ => version.state,
    };
    let refusal = format!(
        "Network connector {arn} is in state {}; it can be attached in state ACTIVE only",
        state.as_str().to_uppercase()
    );
    match state {
        ConnectorState::Active => {}
        ConnectorState::Pending | ConnectorState::Inactive => {
            let resource = ResourceName::new(CONNECTOR, arn.to_string());
            return Err(ApiError::conflict(refusal, resource));
        }
        ConnectorState::Failed | ConnectorState::Deleting | ConnectorState::DeleteFailed => {
            return Err(ApiError::validation(refusal));
        }
    }
    let configuration = configuration_of(version).map_err(|error| store_failed(&error))?;
    let kinds = configuration.associated_compute_resource_types;
    if kinds.is_some_and(|kinds| !kinds.contains(&ComputeResourceType::MicroVm)) {
        return Err(ApiError::validation(format!(
            "Network connector {arn} is not for compute resources of type MicroVm"
        )));
    }
    Ok(())
}

impl Actor {
    /// What this MicroVM's network lets out, at this moment.
    pub(crate) async fn own_egress(&mut self) -> Result<Egress, LaunchFailure> {
        let (shared, connectors) = (Arc::clone(&self.shared), self.settings.egress.clone());
        self.attend(async move { shared.egress_of(&connectors).await })
            .await
            .map_err(LaunchFailure::Egress)
    }

    /// Lets out of a slot that was set up before what this MicroVM's connectors allow now.
    pub(crate) async fn grant_anew(&mut self) -> Result<(), LaunchFailure> {
        let Some(slot) = self.slot.clone() else {
            return Ok(());
        };
        let egress = self.own_egress().await?;
        self.attend(async move { grant(slot.as_ref(), &egress).await })
            .await
    }
}

/// Replaces what a slot is granted, where its egress is of that kind.
pub(crate) async fn grant(slot: &dyn Slot, egress: &Egress) -> Result<(), LaunchFailure> {
    match egress {
        Egress::Granted(grants) => slot.grant(grants).await.map_err(LaunchFailure::Slot),
        Egress::Internet | Egress::Sealed => Ok(()),
    }
}

//! What is checked of requests about network connectors beyond the model.

use crate::api_error::{ApiError, ResourceName};
use crate::id::connector::{ConnectorArn, is_connector_id};
use crate::id::place::Place;
use crate::shape::connector::{
    ComputeResourceType, ConnectorConfiguration, CreateNetworkConnectorRequest, NetworkProtocol,
    VpcEgressConfiguration,
};

/// What resource an error about a connector names.
pub const CONNECTOR: &str = "NetworkConnector";

/// Longest name of a connector. (The model's pattern admits ARNs beside names.)
const MAX_NAME_LENGTH: usize = 64;

/// The connector that an operation names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectorTarget {
    /// Its id or name.
    pub key: String,
    /// The version, where one is named.
    pub version: Option<u32>,
}

/// 404: no such connector; `identifier` as the request gave it.
#[must_use]
pub fn connector_not_found(identifier: &str) -> ApiError {
    ApiError::not_found(
        format!("Network connector not found: {identifier}"),
        ResourceName::new(CONNECTOR, identifier),
    )
}

/// Reads the identifier of an operation: an id, a name, or an ARN.
///
/// # Errors
/// [`ApiError::Validation`] for what can be none of them, [`ApiError::ResourceNotFound`] for an ARN of
/// another region or account.
pub fn target(identifier: &str, place: &Place) -> Result<ConnectorTarget, ApiError> {
    if !identifier.starts_with("arn:") {
        return if is_plain(identifier) {
            Ok(ConnectorTarget {
                key: identifier.to_owned(),
                version: None,
            })
        } else {
            Err(ApiError::validation(format!(
                "Invalid network connector identifier: {identifier}; give its id, its name or its ARN"
            )))
        };
    }
    let arn = ConnectorArn::parse(identifier)
        .map_err(|refusal| ApiError::validation(refusal.to_string()))?;
    let ConnectorArn::Own {
        region,
        account,
        id,
        version,
    } = arn
    else {
        return Err(ApiError::validation(format!(
            "{identifier} is a managed network connector, which cannot be read or changed"
        )));
    };
    if region != place.region || account != place.account {
        return Err(connector_not_found(identifier));
    }
    // An ARN has the id in it, never the name: policies are about ARNs.
    if !is_connector_id(&id) {
        return Err(connector_not_found(identifier));
    }
    Ok(ConnectorTarget { key: id, version })
}

fn is_plain(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=MAX_NAME_LENGTH).contains(&text.len()) && text.bytes().all(plain)
}

/// Checks a new connector, and fills in what its configuration leaves open.
///
/// # Errors
/// [`ApiError::Validation`] for what no connector can be made of.
pub fn new_connector(
    request: &CreateNetworkConnectorRequest,
) -> Result<(VpcEgressConfiguration, String), ApiError> {
    if !is_plain(&request.name) || is_connector_id(&request.name) {
        return Err(ApiError::validation(format!(
            "A network connector's name has 1 to {MAX_NAME_LENGTH} letters, digits, hyphens and underscores, \
             and is neither an ARN nor an id: {}",
            request.name
        )));
    }
    let role = request.operator_role.clone().ok_or_else(|| {
        ApiError::validation(
            "NetworkConnectorOperatorRole is required for VPC_EGRESS connector type",
        )
    })?;
    let ConnectorConfiguration::VpcEgressConfiguration(given) = &request.configuration;
    Ok((completed(given, None)?, role))
}

/// The configuration that an update asks for: a whole new one. What a connector is for stays.
///
/// # Errors
/// [`ApiError::Validation`] where the connector would be for something else.
pub fn changed_configuration(
    given: &VpcEgressConfiguration,
    current: &VpcEgressConfiguration,
) -> Result<VpcEgressConfiguration, ApiError> {
    let changed = completed(given, Some(current))?;
    if changed.associated_compute_resource_types != current.associated_compute_resource_types {
        return Err(ApiError::validation(
            "AssociatedComputeResourceTypes of a network connector cannot be changed",
        ));
    }
    Ok(changed)
}

fn completed(
    given: &VpcEgressConfiguration,
    current: Option<&VpcEgressConfiguration>,
) -> Result<VpcEgressConfiguration, ApiError> {
    if given.subnet_ids.is_none() {
        return Err(ApiError::validation(
            "SubnetIds is required for VPC_EGRESS connector type",
        ));
    }
    let kinds = given.associated_compute_resource_types.clone();
    let kinds =
        kinds.or_else(|| current.and_then(|old| old.associated_compute_resource_types.clone()));
    Ok(VpcEgressConfiguration {
        security_group_ids: Some(given.security_group_ids.clone().unwrap_or_default()),
        network_protocol: Some(given.network_protocol.unwrap_or(NetworkProtocol::Ipv4)),
        associated_compute_resource_types: Some(
            kinds.unwrap_or_else(|| vec![ComputeResourceType::MicroVm]),
        ),
        ..given.clone()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{changed_configuration, new_connector, target};
    use crate::api_error::ApiError;
    use crate::id::place::{Account, Place, Region};
    use crate::shape::connector::{CreateNetworkConnectorRequest, VpcEgressConfiguration};

    fn place() -> Place {
        Place {
            region: Region::parse("us-east-1").expect("a region"),
            account: Account::parse("000000000000").expect("an account"),
        }
    }

    #[test]
    fn a_connector_is_named_by_id_name_or_arn() {
        let id = "nc-00000000-0000-4000-8000-000000000000";
        let own = format!("arn:aws:lambda:us-east-1:000000000000:network-connector:{id}");
        let own = own.as_str();
        let read = |text: &str| target(text, &place()).map(|target| (target.key, target.version));
        assert_eq!(read("office"), Ok(("office".into(), None)));
        assert_eq!(read(own), Ok((id.into(), None)));
        assert_eq!(read(&format!("{own}:7")), Ok((id.into(), Some(7))));
        let by_name = own.replace(id, "office");
        assert!(matches!(
            read(&by_name),
            Err(ApiError::ResourceNotFound { .. })
        ));
        for text in ["", "a b", "a:1", "arn:aws:s3:::x", &format!("{own}:0")] {
            assert!(
                matches!(read(text), Err(ApiError::Validation { .. })),
                "{text}"
            );
        }
        let elsewhere = own.replace("000000000000", "000000000001");
        assert!(matches!(
            read(&elsewhere),
            Err(ApiError::ResourceNotFound { .. })
        ));
        let managed =
            "arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:INTERNET_EGRESS";
        assert!(matches!(read(managed), Err(ApiError::Validation { .. })));
    }

    fn request(name: &str) -> CreateNetworkConnectorRequest {
        let members = json!({
            "Name": name,
            "Configuration": { "VpcEgressConfiguration": { "SubnetIds": ["subnet-1"] } },
            "OperatorRole": "arn:aws:iam::000000000000:role/operator",
        });
        serde_json::from_value(members).expect("a request")
    }

    #[test]
    fn a_new_connector_needs_a_plain_name_a_role_and_subnets_and_gets_the_defaults() {
        let (made, _) = new_connector(&request("office")).expect("a connector");
        assert_eq!(
            serde_json::to_value(made).expect("JSON"),
            json!({
                "SubnetIds": ["subnet-1"], "SecurityGroupIds": [], "NetworkProtocol": "IPv4",
                "AssociatedComputeResourceTypes": ["MicroVm"],
            })
        );
        let id = "nc-00000000-0000-4000-8000-000000000000";
        let arn = "arn:aws:lambda:us-east-1:000000000000:network-connector:a";
        for name in [id, arn] {
            assert!(new_connector(&request(name)).is_err(), "{name}");
        }
        let mut without_role = request("office");
        without_role.operator_role = None;
        let refusal = new_connector(&without_role).expect_err("no role");
        assert_eq!(
            refusal.to_string(),
            "NetworkConnectorOperatorRole is required for VPC_EGRESS connector type"
        );
    }

    #[test]
    fn an_update_replaces_all_but_what_the_connector_is_for() {
        let read = |value| serde_json::from_value::<VpcEgressConfiguration>(value).expect("one");
        let current = read(json!({
            "SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"], "NetworkProtocol": "DualStack",
            "AssociatedComputeResourceTypes": ["MicroVm"],
        }));
        let changed = changed_configuration(&read(json!({ "SubnetIds": ["subnet-2"] })), &current);
        let expected = read(json!({
            "SubnetIds": ["subnet-2"], "SecurityGroupIds": [], "NetworkProtocol": "IPv4",
            "AssociatedComputeResourceTypes": ["MicroVm"],
        }));
        assert_eq!(changed, Ok(expected));
        let other = read(json!({
            "SubnetIds": ["subnet-2"], "AssociatedComputeResourceTypes": ["WebFunction"]
        }));
        assert!(changed_configuration(&other, &current).is_err());
    }
}

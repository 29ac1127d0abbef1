//! Requests and answers of the network connectors (`lambda-core`); their members are written in Pascal
//! case.

use serde::{Deserialize, Serialize};

use super::common::Tags;
use crate::id::timestamp::IsoTimestamp;

/// What a connector connects to: a union, of which there is one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConnectorConfiguration {
    /// Subnets, for outbound traffic.
    VpcEgressConfiguration(VpcEgressConfiguration),
}

/// Subnets and security groups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VpcEgressConfiguration {
    /// Subnets, 1 to 16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet_ids: Option<Vec<String>>,
    /// Security groups, at most 16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_group_ids: Option<Vec<String>>,
    /// Versions of IP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_protocol: Option<NetworkProtocol>,
    /// What may be attached, exactly one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub associated_compute_resource_types: Option<Vec<ComputeResourceType>>,
    /// Public addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elastic_ip_configuration: Option<ElasticIpConfiguration>,
}

/// Versions of IP that a connector is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkProtocol {
    /// IPv4 alone.
    #[serde(rename = "IPv4")]
    Ipv4,
    /// IPv4 and IPv6.
    DualStack,
}

/// What a connector can be attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ComputeResourceType {
    /// MicroVMs.
    MicroVm,
    /// Web functions, which are nothing of Colibri's.
    WebFunction,
}

/// Public addresses of a connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ElasticIpConfiguration {
    /// Whose they are.
    #[serde(rename = "Type")]
    pub kind: ElasticIpType,
}

/// Whose the public addresses are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ElasticIpType {
    /// There are none.
    None,
    /// The service's.
    ServiceManaged,
}

/// State of a connector or of a version of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ConnectorState {
    /// Being made.
    Pending,
    /// Of use.
    Active,
    /// Of no use for the time being.
    Inactive,
    /// Could not be made.
    Failed,
    /// Being removed.
    Deleting,
    /// Could not be removed.
    DeleteFailed,
}

/// How the last update went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LastUpdateStatus {
    /// Well.
    Successful,
    /// Not.
    Failed,
    /// It goes on.
    InProgress,
}

/// Kind of a connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ConnectorType {
    /// For outbound traffic into subnets.
    VpcEgress,
}

/// Why a connector is in its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReasonCode {
    /// `DisallowedByVpcEncryptionControl`
    DisallowedByVpcEncryptionControl,
    /// `Ec2RequestLimitExceeded`
    Ec2RequestLimitExceeded,
    /// `InsufficientRolePermissions`
    InsufficientRolePermissions,
    /// `InternalError`
    InternalError,
    /// `InternetGatewayNotAttached`
    InternetGatewayNotAttached,
    /// `InvalidSecurityGroup`
    InvalidSecurityGroup,
    /// `InvalidSubnet`
    InvalidSubnet,
    /// `SecurityGroupsPerInterfaceLimitExceeded`
    SecurityGroupsPerInterfaceLimitExceeded,
    /// `SubnetOutOfIPAddresses`
    #[serde(rename = "SubnetOutOfIPAddresses")]
    SubnetOutOfIpAddresses,
}

/// `CreateNetworkConnector`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateNetworkConnectorRequest {
    /// Name, unique in the account.
    pub name: String,
    /// What it connects to.
    pub configuration: ConnectorConfiguration,
    /// Role that manages its interfaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator_role: Option<String>,
    /// Makes a repeated request find the first one's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_token: Option<String>,
    /// Tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Tags>,
}

/// Answer of `CreateNetworkConnector` and `DeleteNetworkConnector`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ConnectorChangeResponse {
    /// ARN.
    pub arn: String,
    /// Name.
    pub name: String,
    /// Id.
    pub id: String,
    /// ARN of the version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_arn: Option<String>,
    /// The version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Its configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration: Option<ConnectorConfiguration>,
    /// Its role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator_role: Option<String>,
    /// State.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<ConnectorState>,
}

/// `DeleteNetworkConnector`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeleteNetworkConnectorRequest {
    /// Id, name, or ARN, with a version or without.
    pub identifier: String,
}

/// `GetNetworkConnector`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GetNetworkConnectorRequest {
    /// Id, name, or ARN, with a version or without.
    pub identifier: String,
}

/// Answer of `GetNetworkConnector`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GetNetworkConnectorResponse {
    /// ARN.
    pub arn: String,
    /// Name.
    pub name: String,
    /// Id.
    pub id: String,
    /// ARN of the version, where one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_arn: Option<String>,
    /// The version that is described.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// ARN of the latest version, where none was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest_version_arn: Option<String>,
    /// The latest version, where none was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest_version: Option<u64>,
    /// Configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration: Option<ConnectorConfiguration>,
    /// Role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator_role: Option<String>,
    /// State.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<ConnectorState>,
    /// Why it is in that state, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
    /// Why, as a code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_reason_code: Option<ReasonCode>,
    /// How the last update went; absent before the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_status: Option<LastUpdateStatus>,
    /// Why, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_status_reason: Option<String>,
    /// Why, as a code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_status_reason_code: Option<ReasonCode>,
    /// Last change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<IsoTimestamp>,
}

/// How much of a list of connectors is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ConnectorPaging {
    /// Those in this state alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<ConnectorState>,
    /// Continues an earlier page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub marker: Option<String>,
    /// Most items wanted, 1 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_items: Option<u32>,
}

impl ConnectorPaging {
    /// Most items that a page may have, where the model bounds it by `most`.
    #[must_use]
    pub fn limit(&self, most: usize) -> usize {
        self.max_items
            .and_then(|wanted| usize::try_from(wanted).ok())
            .map_or(most, |wanted| wanted.min(most))
    }
}

/// `ListNetworkConnectors`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListNetworkConnectorsRequest {
    /// Filter and page.
    #[serde(flatten)]
    pub paging: ConnectorPaging,
}

impl ListNetworkConnectorsRequest {
    /// The model's bound of a page.
    pub const PAGE: usize = 50;
}

/// Answer of `ListNetworkConnectors`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListNetworkConnectorsResponse {
    /// The page.
    pub network_connectors: Vec<ConnectorSummary>,
    /// Continues the list; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
}

/// A connector in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ConnectorSummary {
    /// ARN.
    pub arn: String,
    /// Name.
    pub name: String,
    /// Id.
    pub id: String,
    /// Kind.
    #[serde(rename = "Type")]
    pub kind: ConnectorType,
    /// State.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<ConnectorState>,
    /// Last change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<IsoTimestamp>,
    /// ARN of the latest version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest_version_arn: Option<String>,
    /// The latest version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest_version: Option<u64>,
}

/// `ListNetworkConnectorVersions`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListNetworkConnectorVersionsRequest {
    /// Id, name or ARN, without a version.
    pub identifier: String,
    /// Filter and page.
    #[serde(flatten)]
    pub paging: ConnectorPaging,
}

impl ListNetworkConnectorVersionsRequest {
    /// The model's bound of a page.
    pub const PAGE: usize = 100;
}

/// Answer of `ListNetworkConnectorVersions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListNetworkConnectorVersionsResponse {
    /// The page.
    pub network_connector_versions: Vec<ConnectorVersionSummary>,
    /// Continues the list; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
}

/// A version in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ConnectorVersionSummary {
    /// ARN of the connector.
    pub arn: String,
    /// ARN of the version.
    pub version_arn: String,
    /// Name of the connector.
    pub name: String,
    /// Id of the connector.
    pub id: String,
    /// The version.
    pub version: u64,
    /// State.
    pub state: ConnectorState,
    /// Why it is in that state, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
    /// Why, as a code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_reason_code: Option<ReasonCode>,
    /// Last change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<IsoTimestamp>,
}

/// `UpdateNetworkConnector`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UpdateNetworkConnectorRequest {
    /// Id, name or ARN.
    pub identifier: String,
    /// A whole new configuration; the old one stays where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration: Option<ConnectorConfiguration>,
    /// A new role; the old one stays where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator_role: Option<String>,
    /// Makes a repeated request find the first one's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_token: Option<String>,
}

/// Answer of `UpdateNetworkConnector`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UpdateNetworkConnectorResponse {
    /// The connector, and the version that the update made; the current one where nothing changed.
    #[serde(flatten)]
    pub connector: ConnectorChangeResponse,
    /// How the update goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_status: Option<LastUpdateStatus>,
    /// Why, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_status_reason: Option<String>,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<IsoTimestamp>,
}

//! Shapes of the network connectors (`lambda-core`). Constraints as the published model states them; a
//! test walks them against it (`tests/model_drift.rs`).

use super::common::{STRING, TAG_KEY, TAG_VALUE};
use super::{Pattern, Shape, TextRule, member};

static ARN_PATTERN: Pattern = Pattern::new(
    r"(arn:aws[a-zA-Z-]*:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:network-connector:[a-zA-Z0-9-_]+(:[1-9][0-9]*)?)",
);

static NAME_PATTERN: Pattern = Pattern::new(
    r"(arn:aws[a-zA-Z-]*:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:network-connector:[a-zA-Z0-9-_]+(:[1-9][0-9]*)?)|[a-zA-Z0-9_-]{1,64}",
);

static ROLE_PATTERN: Pattern =
    Pattern::new(r"arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+");

static SECURITY_GROUP_PATTERN: Pattern = Pattern::new(r"sg-[0-9a-zA-Z]*");

static SUBNET_PATTERN: Pattern = Pattern::new(r"subnet-[0-9a-z]*");

static REASON_CODES: &[&str] = &[
    "DisallowedByVpcEncryptionControl",
    "Ec2RequestLimitExceeded",
    "InsufficientRolePermissions",
    "InternalError",
    "InternetGatewayNotAttached",
    "InvalidSecurityGroup",
    "InvalidSubnet",
    "SecurityGroupsPerInterfaceLimitExceeded",
    "SubnetOutOfIPAddresses",
];

static ARN: Shape = Shape::Text(TextRule {
    min: Some(1),
    max: Some(140),
    pattern: Some(&ARN_PATTERN),
});

static NAME: Shape = Shape::Text(TextRule {
    min: Some(1),
    max: Some(140),
    pattern: Some(&NAME_PATTERN),
});

static ID: Shape = Shape::Text(TextRule {
    min: Some(1),
    max: Some(140),
    pattern: None,
});

static IDENTIFIER: Shape = Shape::Text(TextRule {
    min: Some(1),
    max: Some(140),
    pattern: None,
});

static ROLE_ARN: Shape = Shape::Text(TextRule {
    min: Some(0),
    max: Some(10000),
    pattern: Some(&ROLE_PATTERN),
});

static CLIENT_TOKEN: Shape = Shape::Text(TextRule {
    min: Some(1),
    max: Some(64),
    pattern: None,
});

static SUBNET_ID: Shape = Shape::Text(TextRule {
    min: Some(0),
    max: Some(1024),
    pattern: Some(&SUBNET_PATTERN),
});

static SUBNET_IDS: Shape = Shape::List {
    element: &SUBNET_ID,
    min: Some(1),
    max: Some(16),
};

static SECURITY_GROUP_ID: Shape = Shape::Text(TextRule {
    min: Some(0),
    max: Some(1024),
    pattern: Some(&SECURITY_GROUP_PATTERN),
});

static SECURITY_GROUP_IDS: Shape = Shape::List {
    element: &SECURITY_GROUP_ID,
    min: Some(0),
    max: Some(16),
};

static NETWORK_PROTOCOL: Shape = Shape::Choice(&["IPv4", "DualStack"]);

static COMPUTE_RESOURCE_TYPE: Shape = Shape::Choice(&["MicroVm", "WebFunction"]);

static COMPUTE_RESOURCE_TYPES: Shape = Shape::List {
    element: &COMPUTE_RESOURCE_TYPE,
    min: Some(1),
    max: Some(1),
};

static ELASTIC_IP_TYPE: Shape = Shape::Choice(&["None", "ServiceManaged"]);

static ELASTIC_IP_CONFIGURATION: Shape =
    Shape::Structure(&[member("Type", &ELASTIC_IP_TYPE).required()]);

static VPC_EGRESS_CONFIGURATION: Shape = Shape::Structure(&[
    member("SubnetIds", &SUBNET_IDS),
    member("SecurityGroupIds", &SECURITY_GROUP_IDS),
    member("NetworkProtocol", &NETWORK_PROTOCOL),
    member("AssociatedComputeResourceTypes", &COMPUTE_RESOURCE_TYPES),
    member("ElasticIpConfiguration", &ELASTIC_IP_CONFIGURATION),
]);

static CONFIGURATION: Shape =
    Shape::Union(&[member("VpcEgressConfiguration", &VPC_EGRESS_CONFIGURATION)]);

static TAGS: Shape = Shape::Map {
    key: &TAG_KEY,
    value: &TAG_VALUE,
    min: None,
    max: None,
};

static STATE: Shape = Shape::Choice(&[
    "PENDING",
    "ACTIVE",
    "INACTIVE",
    "FAILED",
    "DELETING",
    "DELETE_FAILED",
]);

static REASON_CODE: Shape = Shape::Choice(REASON_CODES);

static LAST_UPDATE_STATUS: Shape = Shape::Choice(&["Successful", "Failed", "InProgress"]);

static TYPE: Shape = Shape::Choice(&["VPC_EGRESS"]);

static VERSION: Shape = Shape::Long { min: Some(1) };

static TIMESTAMP: Shape = Shape::IsoTimestamp;

static MAX_ITEMS: Shape = Shape::Integer {
    min: Some(1),
    max: Some(100),
};

pub(super) static CREATE_REQUEST: Shape = Shape::Structure(&[
    member("Name", &NAME).required(),
    member("Configuration", &CONFIGURATION).required(),
    member("OperatorRole", &ROLE_ARN),
    member("ClientToken", &CLIENT_TOKEN),
    member("Tags", &TAGS),
]);

/// Creation and deletion are answered alike.
pub(super) static CHANGE_RESPONSE: Shape = Shape::Structure(&[
    member("Arn", &ARN).required(),
    member("Name", &NAME).required(),
    member("Id", &ID).required(),
    member("VersionArn", &ARN),
    member("Version", &VERSION),
    member("Configuration", &CONFIGURATION),
    member("OperatorRole", &ROLE_ARN),
    member("State", &STATE),
]);

/// Requests that name a connector and nothing else.
pub(super) static IDENTIFIER_REQUEST: Shape =
    Shape::Structure(&[member("Identifier", &IDENTIFIER).required().in_path()]);

pub(super) static GET_RESPONSE: Shape = Shape::Structure(&[
    member("Arn", &ARN).required(),
    member("Name", &NAME).required(),
    member("Id", &ID).required(),
    member("VersionArn", &ARN),
    member("Version", &VERSION),
    member("LatestVersionArn", &ARN),
    member("LatestVersion", &VERSION),
    member("Configuration", &CONFIGURATION),
    member("OperatorRole", &ROLE_ARN),
    member("State", &STATE),
    member("StateReason", &STRING),
    member("StateReasonCode", &REASON_CODE),
    member("LastUpdateStatus", &LAST_UPDATE_STATUS),
    member("LastUpdateStatusReason", &STRING),
    member("LastUpdateStatusReasonCode", &REASON_CODE),
    member("LastModified", &TIMESTAMP),
]);

pub(super) static LIST_REQUEST: Shape = Shape::Structure(&[
    member("State", &STATE).in_query("State"),
    member("Marker", &STRING).in_query("Marker"),
    member("MaxItems", &MAX_ITEMS).in_query("MaxItems"),
]);

static SUMMARY: Shape = Shape::Structure(&[
    member("Arn", &ARN).required(),
    member("Name", &NAME).required(),
    member("Id", &ID).required(),
    member("Type", &TYPE).required(),
    member("State", &STATE),
    member("LastModified", &TIMESTAMP),
    member("LatestVersionArn", &ARN),
    member("LatestVersion", &VERSION),
]);

static SUMMARIES: Shape = Shape::List {
    element: &SUMMARY,
    min: Some(0),
    max: Some(50),
};

pub(super) static LIST_RESPONSE: Shape = Shape::Structure(&[
    member("NetworkConnectors", &SUMMARIES).required(),
    member("NextMarker", &STRING),
]);

pub(super) static LIST_VERSIONS_REQUEST: Shape = Shape::Structure(&[
    member("Identifier", &IDENTIFIER).required().in_path(),
    member("State", &STATE).in_query("State"),
    member("Marker", &STRING).in_query("Marker"),
    member("MaxItems", &MAX_ITEMS).in_query("MaxItems"),
]);

static VERSION_SUMMARY: Shape = Shape::Structure(&[
    member("Arn", &ARN).required(),
    member("VersionArn", &ARN).required(),
    member("Name", &NAME).required(),
    member("Id", &ID).required(),
    member("Version", &VERSION).required(),
    member("State", &STATE).required(),
    member("StateReason", &STRING),
    member("StateReasonCode", &REASON_CODE),
    member("LastModified", &TIMESTAMP),
]);

static VERSION_SUMMARIES: Shape = Shape::List {
    element: &VERSION_SUMMARY,
    min: Some(0),
    max: Some(100),
};

pub(super) static LIST_VERSIONS_RESPONSE: Shape = Shape::Structure(&[
    member("NetworkConnectorVersions", &VERSION_SUMMARIES).required(),
    member("NextMarker", &STRING),
]);

pub(super) static UPDATE_REQUEST: Shape = Shape::Structure(&[
    member("Identifier", &IDENTIFIER).required().in_path(),
    member("Configuration", &CONFIGURATION),
    member("OperatorRole", &ROLE_ARN),
    member("ClientToken", &CLIENT_TOKEN),
]);

pub(super) static UPDATE_RESPONSE: Shape = Shape::Structure(&[
    member("Arn", &ARN).required(),
    member("Name", &NAME).required(),
    member("Id", &ID).required(),
    member("VersionArn", &ARN),
    member("Version", &VERSION),
    member("OperatorRole", &ROLE_ARN),
    member("Configuration", &CONFIGURATION),
    member("State", &STATE),
    member("LastUpdateStatus", &LAST_UPDATE_STATUS),
    member("LastUpdateStatusReason", &STRING),
    member("LastModified", &TIMESTAMP),
]);

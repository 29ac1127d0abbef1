//! Shapes of the MicroVM operations. Constraints as the published model states them; a test walks
//! them against it (`tests/model_drift.rs`).

use super::common::{
    CLIENT_TOKEN, IMAGE_ARN_PATTERN, INTEGER, LOGGING, MAX_RESULTS, MICROVM_IMAGE_IDENTIFIER,
    NETWORK_CONNECTOR, NO_WHITESPACE, NON_BLANK_STRING, PORT_NUMBER, ROLE_ARN, STRING, TIMESTAMP,
    UNIT, VERSION,
};
use super::{Shape, TextRule, member};

pub(super) static MICROVM_IDENTIFIER: Shape = Shape::Text(TextRule {
    min: Some(1),
    max: Some(256),
    pattern: None,
});

pub(super) static POSITIVE_INTEGER: Shape = Shape::Integer {
    min: Some(1),
    max: None,
};

pub(super) static PORT_RANGE: Shape = Shape::Structure(&[
    member("startPort", &PORT_NUMBER).required(),
    member("endPort", &PORT_NUMBER).required(),
]);

pub(super) static PORT_SPECIFICATION: Shape = Shape::Union(&[
    member("port", &PORT_NUMBER),
    member("range", &PORT_RANGE),
    member("allPorts", &UNIT),
]);

pub(super) static LIST_OF_PORT_SPECIFICATION: Shape = Shape::List {
    element: &PORT_SPECIFICATION,
    min: Some(1),
    max: None,
};

pub(super) static AUTH_TOKEN_KEY: Shape = Shape::Text(TextRule {
    min: Some(1),
    max: Some(256),
    pattern: Some(&NO_WHITESPACE),
});

pub(super) static AUTH_TOKEN_VALUE: Shape = Shape::Text(TextRule {
    min: Some(0),
    max: Some(8000),
    pattern: None,
});

pub(super) static TOKEN_PARTS: Shape = Shape::Map {
    key: &AUTH_TOKEN_KEY,
    value: &AUTH_TOKEN_VALUE,
    min: Some(1),
    max: Some(10),
};

pub(super) static MICROVM_STATE: Shape = Shape::Choice(&[
    "PENDING",
    "RUNNING",
    "SUSPENDING",
    "SUSPENDED",
    "TERMINATING",
    "TERMINATED",
]);

pub(super) static ENDPOINT_HOST: Shape = Shape::Text(TextRule {
    min: Some(1),
    max: Some(2048),
    pattern: None,
});

pub(super) static MICROVM_IMAGE_ARN: Shape = Shape::Text(TextRule {
    min: Some(20),
    max: Some(2048),
    pattern: Some(&IMAGE_ARN_PATTERN),
});

pub(super) static IDLE_POLICY_MAX_IDLE_DURATION_SECONDS_INTEGER: Shape = Shape::Integer {
    min: Some(60),
    max: None,
};

pub(super) static IDLE_POLICY_SUSPENDED_DURATION_SECONDS_INTEGER: Shape = Shape::Integer {
    min: Some(0),
    max: None,
};

pub(super) static BOOLEAN: Shape = Shape::Boolean;

pub(super) static IDLE_POLICY: Shape = Shape::Structure(&[
    member(
        "maxIdleDurationSeconds",
        &IDLE_POLICY_MAX_IDLE_DURATION_SECONDS_INTEGER,
    )
    .required(),
    member(
        "suspendedDurationSeconds",
        &IDLE_POLICY_SUSPENDED_DURATION_SECONDS_INTEGER,
    )
    .required(),
    member("autoResumeEnabled", &BOOLEAN).required(),
]);

pub(super) static NETWORK_CONNECTOR_LIST: Shape = Shape::List {
    element: &NETWORK_CONNECTOR,
    min: Some(0),
    max: Some(10),
};

pub(super) static MICROVM_ITEM: Shape = Shape::Structure(&[
    member("microvmId", &MICROVM_IDENTIFIER).required(),
    member("state", &MICROVM_STATE).required(),
    member("imageArn", &MICROVM_IMAGE_ARN).required(),
    member("imageVersion", &VERSION).required(),
    member("startedAt", &TIMESTAMP).required(),
]);

pub(super) static MICROVM_ITEM_LIST: Shape = Shape::List {
    element: &MICROVM_ITEM,
    min: None,
    max: None,
};

pub(super) static RUN_HOOK_PAYLOAD: Shape = Shape::Text(TextRule {
    min: Some(0),
    max: Some(4096),
    pattern: None,
});

// The service's bound of 28800 is the server's to set: see `check::run::LifetimeBound`.
pub(super) static RUN_MICROVM_REQUEST_MAXIMUM_DURATION_IN_SECONDS_INTEGER: Shape = Shape::Integer {
    min: Some(1),
    max: None,
};

pub(super) static CREATE_MICROVM_AUTH_TOKEN_REQUEST: Shape = Shape::Structure(&[
    member("microvmIdentifier", &MICROVM_IDENTIFIER)
        .required()
        .in_path(),
    member("expirationInMinutes", &POSITIVE_INTEGER).required(),
    member("allowedPorts", &LIST_OF_PORT_SPECIFICATION).required(),
]);

pub(super) static CREATE_MICROVM_AUTH_TOKEN_RESPONSE: Shape =
    Shape::Structure(&[member("authToken", &TOKEN_PARTS).required()]);

pub(super) static CREATE_MICROVM_SHELL_AUTH_TOKEN_REQUEST: Shape = Shape::Structure(&[
    member("microvmIdentifier", &MICROVM_IDENTIFIER)
        .required()
        .in_path(),
    member("expirationInMinutes", &POSITIVE_INTEGER).required(),
]);

pub(super) static CREATE_MICROVM_SHELL_AUTH_TOKEN_RESPONSE: Shape =
    Shape::Structure(&[member("authToken", &TOKEN_PARTS).required()]);

pub(super) static GET_MICROVM_REQUEST: Shape =
    Shape::Structure(&[member("microvmIdentifier", &MICROVM_IDENTIFIER)
        .required()
        .in_path()]);

pub(super) static GET_MICROVM_RESPONSE: Shape = Shape::Structure(&[
    member("microvmId", &MICROVM_IDENTIFIER).required(),
    member("state", &MICROVM_STATE).required(),
    member("endpoint", &ENDPOINT_HOST).required(),
    member("imageArn", &MICROVM_IMAGE_ARN).required(),
    member("imageVersion", &VERSION).required(),
    member("executionRoleArn", &ROLE_ARN),
    member("idlePolicy", &IDLE_POLICY),
    member("maximumDurationInSeconds", &INTEGER).required(),
    member("startedAt", &TIMESTAMP).required(),
    member("terminatedAt", &TIMESTAMP),
    member("stateReason", &NON_BLANK_STRING),
    member("ingressNetworkConnectors", &NETWORK_CONNECTOR_LIST),
    member("egressNetworkConnectors", &NETWORK_CONNECTOR_LIST),
]);

pub(super) static LIST_MICROVMS_REQUEST: Shape = Shape::Structure(&[
    member("maxResults", &MAX_RESULTS).in_query("maxResults"),
    member("nextToken", &STRING).in_query("nextToken"),
    member("imageIdentifier", &MICROVM_IMAGE_IDENTIFIER).in_query("imageIdentifier"),
    member("imageVersion", &STRING).in_query("imageVersion"),
]);

pub(super) static LIST_MICROVMS_RESPONSE: Shape = Shape::Structure(&[
    member("nextToken", &STRING),
    member("items", &MICROVM_ITEM_LIST).required(),
]);

pub(super) static RESUME_MICROVM_REQUEST: Shape =
    Shape::Structure(&[member("microvmIdentifier", &MICROVM_IDENTIFIER)
        .required()
        .in_path()]);

pub(super) static RESUME_MICROVM_RESPONSE: Shape = Shape::Structure(&[]);

pub(super) static RUN_MICROVM_REQUEST: Shape = Shape::Structure(&[
    member("ingressNetworkConnectors", &NETWORK_CONNECTOR_LIST),
    member("egressNetworkConnectors", &NETWORK_CONNECTOR_LIST),
    member("imageIdentifier", &MICROVM_IMAGE_IDENTIFIER).required(),
    member("imageVersion", &VERSION),
    member("executionRoleArn", &ROLE_ARN),
    member("idlePolicy", &IDLE_POLICY),
    member("logging", &LOGGING),
    member("runHookPayload", &RUN_HOOK_PAYLOAD),
    member(
        "maximumDurationInSeconds",
        &RUN_MICROVM_REQUEST_MAXIMUM_DURATION_IN_SECONDS_INTEGER,
    ),
    member("clientToken", &CLIENT_TOKEN),
]);

pub(super) static RUN_MICROVM_RESPONSE: Shape = Shape::Structure(&[
    member("microvmId", &MICROVM_IDENTIFIER).required(),
    member("state", &MICROVM_STATE).required(),
    member("endpoint", &ENDPOINT_HOST).required(),
    member("imageArn", &MICROVM_IMAGE_ARN).required(),
    member("imageVersion", &VERSION).required(),
    member("executionRoleArn", &ROLE_ARN),
    member("idlePolicy", &IDLE_POLICY),
    member("maximumDurationInSeconds", &INTEGER).required(),
    member("startedAt", &TIMESTAMP).required(),
    member("terminatedAt", &TIMESTAMP),
    member("stateReason", &NON_BLANK_STRING),
    member("ingressNetworkConnectors", &NETWORK_CONNECTOR_LIST),
    member("egressNetworkConnectors", &NETWORK_CONNECTOR_LIST),
]);

pub(super) static SUSPEND_MICROVM_REQUEST: Shape =
    Shape::Structure(&[member("microvmIdentifier", &MICROVM_IDENTIFIER)
        .required()
        .in_path()]);

pub(super) static SUSPEND_MICROVM_RESPONSE: Shape = Shape::Structure(&[]);

pub(super) static TERMINATE_MICROVM_REQUEST: Shape =
    Shape::Structure(&[member("microvmIdentifier", &MICROVM_IDENTIFIER)
        .required()
        .in_path()]);

pub(super) static TERMINATE_MICROVM_RESPONSE: Shape = Shape::Structure(&[]);

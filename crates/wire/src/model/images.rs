//! Shapes of the image operations. Constraints as the published model states them; a test walks them
//! against it (`tests/model_drift.rs`).

use super::common::{
    CLIENT_TOKEN, INTEGER, LOGGING, MAX_RESULTS, MICROVM_IMAGE_IDENTIFIER, NAME, NETWORK_CONNECTOR,
    NO_WHITESPACE, NON_BLANK_STRING, PORT_NUMBER, ROLE_ARN, STRING, TAGS, TIMESTAMP, VERSION,
};
use super::{Shape, TextRule, member};

pub(super) static CODE_ARTIFACT: Shape = Shape::Union(&[member("uri", &NON_BLANK_STRING)]);

pub(super) static BUILD_NETWORK_CONNECTORS: Shape = Shape::List {
    element: &NETWORK_CONNECTOR,
    min: Some(0),
    max: Some(1),
};

pub(super) static ARCHITECTURE: Shape = Shape::Choice(&["ARM_64", "X86_64"]);

pub(super) static CPU_CONFIGURATION: Shape =
    Shape::Structure(&[member("architecture", &ARCHITECTURE).required()]);

pub(super) static CPU_CONFIGURATION_LIST: Shape = Shape::List {
    element: &CPU_CONFIGURATION,
    min: None,
    max: None,
};

pub(super) static RESOURCES: Shape =
    Shape::Structure(&[member("minimumMemoryInMiB", &INTEGER).required()]);

pub(super) static RESOURCES_LIST: Shape = Shape::List {
    element: &RESOURCES,
    min: Some(0),
    max: Some(1),
};

pub(super) static CAPABILITY: Shape = Shape::Choice(&["ALL"]);

pub(super) static CAPABILITY_LIST: Shape = Shape::List {
    element: &CAPABILITY,
    min: None,
    max: None,
};

pub(super) static HOOK_STATE: Shape = Shape::Choice(&["DISABLED", "ENABLED"]);

pub(super) static MICROVM_HOOK_TIMEOUT: Shape = Shape::Integer {
    min: Some(1),
    max: Some(60),
};

pub(super) static MICROVM_HOOKS: Shape = Shape::Structure(&[
    member("run", &HOOK_STATE),
    member("runTimeoutInSeconds", &MICROVM_HOOK_TIMEOUT),
    member("resume", &HOOK_STATE),
    member("resumeTimeoutInSeconds", &MICROVM_HOOK_TIMEOUT),
    member("suspend", &HOOK_STATE),
    member("suspendTimeoutInSeconds", &MICROVM_HOOK_TIMEOUT),
    member("terminate", &HOOK_STATE),
    member("terminateTimeoutInSeconds", &MICROVM_HOOK_TIMEOUT),
]);

pub(super) static IMAGE_HOOK_TIMEOUT: Shape = Shape::Integer {
    min: Some(1),
    max: Some(3600),
};

pub(super) static MICROVM_IMAGE_HOOKS: Shape = Shape::Structure(&[
    member("ready", &HOOK_STATE),
    member("readyTimeoutInSeconds", &IMAGE_HOOK_TIMEOUT),
    member("validate", &HOOK_STATE),
    member("validateTimeoutInSeconds", &IMAGE_HOOK_TIMEOUT),
]);

pub(super) static HOOKS: Shape = Shape::Structure(&[
    member("port", &PORT_NUMBER),
    member("microvmHooks", &MICROVM_HOOKS),
    member("microvmImageHooks", &MICROVM_IMAGE_HOOKS),
]);

pub(super) static ENVIRONMENT_VARIABLE_KEY: Shape = Shape::Text(TextRule {
    min: Some(1),
    max: Some(256),
    pattern: Some(&NO_WHITESPACE),
});

pub(super) static ENVIRONMENT_VARIABLE_VALUE: Shape = Shape::Text(TextRule {
    min: Some(0),
    max: Some(4096),
    pattern: None,
});

pub(super) static ENVIRONMENT_VARIABLE_MAP: Shape = Shape::Map {
    key: &ENVIRONMENT_VARIABLE_KEY,
    value: &ENVIRONMENT_VARIABLE_VALUE,
    min: Some(0),
    max: Some(100),
};

pub(super) static IMAGE_NAME: Shape = Shape::Text(TextRule {
    min: Some(1),
    max: Some(64),
    pattern: Some(&NAME),
});

pub(super) static MICROVM_IMAGE_STATE: Shape = Shape::Choice(&[
    "CREATING",
    "CREATED",
    "CREATE_FAILED",
    "UPDATING",
    "UPDATED",
    "UPDATE_FAILED",
    "DELETING",
    "DELETE_FAILED",
    "DELETED",
]);

pub(super) static MICROVM_IMAGE_VERSION_STATE: Shape = Shape::Choice(&[
    "PENDING",
    "IN_PROGRESS",
    "SUCCESSFUL",
    "FAILED",
    "DELETING",
    "DELETED",
    "DELETE_FAILED",
]);

pub(super) static BUILD_STATE: Shape =
    Shape::Choice(&["PENDING", "IN_PROGRESS", "SUCCESSFUL", "FAILED"]);

pub(super) static CHIPSET: Shape = Shape::Choice(&["GRAVITON", "INTEL"]);

pub(super) static LONG: Shape = Shape::Long { min: None };

pub(super) static SNAPSHOT_BUILD: Shape = Shape::Structure(&[
    member("memorySnapshotSizeInBytes", &LONG),
    member("codeInstallSizeInBytes", &LONG),
    member("diskSnapshotSizeInBytes", &LONG),
]);

pub(super) static MICROVM_IMAGE_VERSION_STATUS: Shape = Shape::Choice(&["ACTIVE", "INACTIVE"]);

pub(super) static MANAGED_MICROVM_IMAGE_VERSION_STATUS: Shape =
    Shape::Choice(&["AVAILABLE", "DEPRECATED", "RECALLED"]);

pub(super) static MANAGED_MICROVM_IMAGE_VERSION: Shape = Shape::Structure(&[
    member("imageArn", &NON_BLANK_STRING).required(),
    member("imageVersion", &NON_BLANK_STRING).required(),
    member("status", &MANAGED_MICROVM_IMAGE_VERSION_STATUS),
    member("supportedCpuConfigurations", &CPU_CONFIGURATION_LIST),
    member("createdAt", &TIMESTAMP).required(),
    member("updatedAt", &TIMESTAMP),
]);

pub(super) static MANAGED_MICROVM_IMAGE_VERSION_LIST: Shape = Shape::List {
    element: &MANAGED_MICROVM_IMAGE_VERSION,
    min: None,
    max: None,
};

pub(super) static MANAGED_MICROVM_IMAGE_SUMMARY: Shape = Shape::Structure(&[
    member("imageArn", &NON_BLANK_STRING).required(),
    member("createdAt", &TIMESTAMP).required(),
    member("updatedAt", &TIMESTAMP),
]);

pub(super) static MANAGED_MICROVM_IMAGE_SUMMARY_LIST: Shape = Shape::List {
    element: &MANAGED_MICROVM_IMAGE_SUMMARY,
    min: None,
    max: None,
};

pub(super) static MICROVM_IMAGE_BUILD_SUMMARY: Shape = Shape::Structure(&[
    member("imageArn", &NON_BLANK_STRING).required(),
    member("imageVersion", &NON_BLANK_STRING).required(),
    member("buildId", &NON_BLANK_STRING).required(),
    member("buildState", &BUILD_STATE).required(),
    member("architecture", &ARCHITECTURE).required(),
    member("chipset", &CHIPSET).required(),
    member("chipsetGeneration", &NON_BLANK_STRING).required(),
    member("stateReason", &STRING),
    member("createdAt", &TIMESTAMP).required(),
]);

pub(super) static MICROVM_IMAGE_BUILD_SUMMARIES: Shape = Shape::List {
    element: &MICROVM_IMAGE_BUILD_SUMMARY,
    min: None,
    max: None,
};

pub(super) static MICROVM_IMAGE_VERSION_SUMMARY: Shape = Shape::Structure(&[
    member("baseImageArn", &NON_BLANK_STRING).required(),
    member("baseImageVersion", &VERSION),
    member("buildRoleArn", &ROLE_ARN).required(),
    member("description", &STRING),
    member("codeArtifact", &CODE_ARTIFACT).required(),
    member("logging", &LOGGING),
    member("egressNetworkConnectors", &BUILD_NETWORK_CONNECTORS),
    member("cpuConfigurations", &CPU_CONFIGURATION_LIST),
    member("resources", &RESOURCES_LIST),
    member("additionalOsCapabilities", &CAPABILITY_LIST),
    member("hooks", &HOOKS),
    member("environmentVariables", &ENVIRONMENT_VARIABLE_MAP),
    member("imageArn", &NON_BLANK_STRING).required(),
    member("imageVersion", &NON_BLANK_STRING).required(),
    member("state", &MICROVM_IMAGE_VERSION_STATE).required(),
    member("status", &MICROVM_IMAGE_VERSION_STATUS).required(),
    member("createdAt", &TIMESTAMP).required(),
    member("updatedAt", &TIMESTAMP),
    member("stateReason", &STRING),
    member("tags", &TAGS),
]);

pub(super) static MICROVM_IMAGE_VERSION_SUMMARY_LIST: Shape = Shape::List {
    element: &MICROVM_IMAGE_VERSION_SUMMARY,
    min: None,
    max: None,
};

pub(super) static MICROVM_IMAGE_SUMMARY: Shape = Shape::Structure(&[
    member("imageArn", &NON_BLANK_STRING).required(),
    member("name", &IMAGE_NAME).required(),
    member("state", &MICROVM_IMAGE_STATE).required(),
    member("latestActiveImageVersion", &NON_BLANK_STRING),
    member("latestFailedImageVersion", &NON_BLANK_STRING),
    member("createdAt", &TIMESTAMP).required(),
]);

pub(super) static MICROVM_IMAGE_SUMMARIES: Shape = Shape::List {
    element: &MICROVM_IMAGE_SUMMARY,
    min: None,
    max: None,
};

pub(super) static CREATE_MICROVM_IMAGE_REQUEST: Shape = Shape::Structure(&[
    member("baseImageArn", &NON_BLANK_STRING).required(),
    member("baseImageVersion", &VERSION),
    member("buildRoleArn", &ROLE_ARN).required(),
    member("description", &STRING),
    member("codeArtifact", &CODE_ARTIFACT).required(),
    member("logging", &LOGGING),
    member("egressNetworkConnectors", &BUILD_NETWORK_CONNECTORS),
    member("cpuConfigurations", &CPU_CONFIGURATION_LIST),
    member("resources", &RESOURCES_LIST),
    member("additionalOsCapabilities", &CAPABILITY_LIST),
    member("hooks", &HOOKS),
    member("environmentVariables", &ENVIRONMENT_VARIABLE_MAP),
    member("name", &IMAGE_NAME).required(),
    member("tags", &TAGS),
    member("clientToken", &CLIENT_TOKEN),
]);

pub(super) static CREATE_MICROVM_IMAGE_RESPONSE: Shape = Shape::Structure(&[
    member("imageArn", &NON_BLANK_STRING).required(),
    member("name", &IMAGE_NAME).required(),
    member("state", &MICROVM_IMAGE_STATE).required(),
    member("latestActiveImageVersion", &NON_BLANK_STRING),
    member("latestFailedImageVersion", &NON_BLANK_STRING),
    member("createdAt", &TIMESTAMP).required(),
    member("baseImageArn", &NON_BLANK_STRING).required(),
    member("baseImageVersion", &VERSION),
    member("buildRoleArn", &ROLE_ARN).required(),
    member("description", &STRING),
    member("codeArtifact", &CODE_ARTIFACT).required(),
    member("logging", &LOGGING),
    member("egressNetworkConnectors", &BUILD_NETWORK_CONNECTORS),
    member("cpuConfigurations", &CPU_CONFIGURATION_LIST),
    member("resources", &RESOURCES_LIST),
    member("additionalOsCapabilities", &CAPABILITY_LIST),
    member("hooks", &HOOKS),
    member("environmentVariables", &ENVIRONMENT_VARIABLE_MAP),
    member("tags", &TAGS),
    member("updatedAt", &TIMESTAMP),
    member("imageVersion", &NON_BLANK_STRING).required(),
]);

pub(super) static DELETE_MICROVM_IMAGE_INPUT: Shape =
    Shape::Structure(&[member("imageIdentifier", &MICROVM_IMAGE_IDENTIFIER)
        .required()
        .in_path()]);

pub(super) static DELETE_MICROVM_IMAGE_OUTPUT: Shape = Shape::Structure(&[
    member("imageIdentifier", &MICROVM_IMAGE_IDENTIFIER).required(),
    member("state", &MICROVM_IMAGE_STATE).required(),
]);

pub(super) static DELETE_MICROVM_IMAGE_VERSION_INPUT: Shape = Shape::Structure(&[
    member("imageIdentifier", &MICROVM_IMAGE_IDENTIFIER)
        .required()
        .in_path(),
    member("imageVersion", &NON_BLANK_STRING)
        .required()
        .in_path(),
]);

pub(super) static DELETE_MICROVM_IMAGE_VERSION_OUTPUT: Shape = Shape::Structure(&[
    member("imageIdentifier", &MICROVM_IMAGE_IDENTIFIER).required(),
    member("imageVersion", &NON_BLANK_STRING).required(),
    member("state", &MICROVM_IMAGE_VERSION_STATE).required(),
]);

pub(super) static GET_MICROVM_IMAGE_INPUT: Shape =
    Shape::Structure(&[member("imageIdentifier", &MICROVM_IMAGE_IDENTIFIER)
        .required()
        .in_path()]);

pub(super) static GET_MICROVM_IMAGE_OUTPUT: Shape = Shape::Structure(&[
    member("imageArn", &NON_BLANK_STRING).required(),
    member("name", &IMAGE_NAME).required(),
    member("state", &MICROVM_IMAGE_STATE).required(),
    member("latestActiveImageVersion", &NON_BLANK_STRING),
    member("latestFailedImageVersion", &NON_BLANK_STRING),
    member("createdAt", &TIMESTAMP).required(),
    member("tags", &TAGS),
    member("updatedAt", &TIMESTAMP),
]);

pub(super) static GET_MICROVM_IMAGE_BUILD_INPUT: Shape = Shape::Structure(&[
    member("imageIdentifier", &MICROVM_IMAGE_IDENTIFIER)
        .required()
        .in_path(),
    member("imageVersion", &NON_BLANK_STRING)
        .required()
        .in_path(),
    member("buildId", &NON_BLANK_STRING).required().in_path(),
]);

pub(super) static GET_MICROVM_IMAGE_BUILD_OUTPUT: Shape = Shape::Structure(&[
    member("imageArn", &NON_BLANK_STRING).required(),
    member("imageVersion", &NON_BLANK_STRING).required(),
    member("buildId", &NON_BLANK_STRING).required(),
    member("buildState", &BUILD_STATE).required(),
    member("architecture", &ARCHITECTURE).required(),
    member("chipset", &CHIPSET).required(),
    member("chipsetGeneration", &NON_BLANK_STRING).required(),
    member("stateReason", &STRING),
    member("createdAt", &TIMESTAMP).required(),
    member("snapshotBuild", &SNAPSHOT_BUILD),
]);

pub(super) static GET_MICROVM_IMAGE_VERSION_INPUT: Shape = Shape::Structure(&[
    member("imageIdentifier", &MICROVM_IMAGE_IDENTIFIER)
        .required()
        .in_path(),
    member("imageVersion", &NON_BLANK_STRING)
        .required()
        .in_path(),
]);

pub(super) static GET_MICROVM_IMAGE_VERSION_OUTPUT: Shape = Shape::Structure(&[
    member("baseImageArn", &NON_BLANK_STRING).required(),
    member("baseImageVersion", &VERSION),
    member("buildRoleArn", &ROLE_ARN).required(),
    member("description", &STRING),
    member("codeArtifact", &CODE_ARTIFACT).required(),
    member("logging", &LOGGING),
    member("egressNetworkConnectors", &BUILD_NETWORK_CONNECTORS),
    member("cpuConfigurations", &CPU_CONFIGURATION_LIST),
    member("resources", &RESOURCES_LIST),
    member("additionalOsCapabilities", &CAPABILITY_LIST),
    member("hooks", &HOOKS),
    member("environmentVariables", &ENVIRONMENT_VARIABLE_MAP),
    member("imageArn", &NON_BLANK_STRING).required(),
    member("imageVersion", &NON_BLANK_STRING).required(),
    member("state", &MICROVM_IMAGE_VERSION_STATE).required(),
    member("status", &MICROVM_IMAGE_VERSION_STATUS).required(),
    member("createdAt", &TIMESTAMP).required(),
    member("updatedAt", &TIMESTAMP),
    member("stateReason", &STRING),
    member("tags", &TAGS),
]);

pub(super) static LIST_MANAGED_MICROVM_IMAGE_VERSIONS_INPUT: Shape = Shape::Structure(&[
    member("maxResults", &MAX_RESULTS).in_query("maxResults"),
    member("nextToken", &STRING).in_query("nextToken"),
    member("imageIdentifier", &MICROVM_IMAGE_IDENTIFIER)
        .required()
        .in_path(),
]);

pub(super) static LIST_MANAGED_MICROVM_IMAGE_VERSIONS_OUTPUT: Shape = Shape::Structure(&[
    member("nextToken", &STRING),
    member("items", &MANAGED_MICROVM_IMAGE_VERSION_LIST).required(),
]);

pub(super) static LIST_MANAGED_MICROVM_IMAGES_INPUT: Shape = Shape::Structure(&[
    member("maxResults", &MAX_RESULTS).in_query("maxResults"),
    member("nextToken", &STRING).in_query("nextToken"),
]);

pub(super) static LIST_MANAGED_MICROVM_IMAGES_OUTPUT: Shape = Shape::Structure(&[
    member("nextToken", &STRING),
    member("items", &MANAGED_MICROVM_IMAGE_SUMMARY_LIST).required(),
]);

pub(super) static LIST_MICROVM_IMAGE_BUILDS_INPUT: Shape = Shape::Structure(&[
    member("maxResults", &MAX_RESULTS).in_query("maxResults"),
    member("nextToken", &STRING).in_query("nextToken"),
    member("imageIdentifier", &MICROVM_IMAGE_IDENTIFIER)
        .required()
        .in_path(),
    member("imageVersion", &NON_BLANK_STRING)
        .required()
        .in_path(),
    member("architecture", &ARCHITECTURE).in_query("architecture"),
    member("chipset", &CHIPSET).in_query("chipset"),
    member("chipsetGeneration", &NON_BLANK_STRING).in_query("chipsetGeneration"),
]);

pub(super) static LIST_MICROVM_IMAGE_BUILDS_OUTPUT: Shape = Shape::Structure(&[
    member("nextToken", &STRING),
    member("items", &MICROVM_IMAGE_BUILD_SUMMARIES).required(),
]);

pub(super) static LIST_MICROVM_IMAGE_VERSIONS_INPUT: Shape = Shape::Structure(&[
    member("maxResults", &MAX_RESULTS).in_query("maxResults"),
    member("nextToken", &STRING).in_query("nextToken"),
    member("imageIdentifier", &MICROVM_IMAGE_IDENTIFIER)
        .required()
        .in_path(),
]);

pub(super) static LIST_MICROVM_IMAGE_VERSIONS_OUTPUT: Shape = Shape::Structure(&[
    member("nextToken", &STRING),
    member("items", &MICROVM_IMAGE_VERSION_SUMMARY_LIST).required(),
]);

pub(super) static LIST_MICROVM_IMAGES_REQUEST: Shape = Shape::Structure(&[
    member("maxResults", &MAX_RESULTS).in_query("maxResults"),
    member("nextToken", &STRING).in_query("nextToken"),
    member("nameFilter", &NON_BLANK_STRING).in_query("nameFilter"),
]);

pub(super) static LIST_MICROVM_IMAGES_RESPONSE: Shape = Shape::Structure(&[
    member("nextToken", &STRING),
    member("items", &MICROVM_IMAGE_SUMMARIES).required(),
]);

pub(super) static UPDATE_MICROVM_IMAGE_REQUEST: Shape = Shape::Structure(&[
    member("baseImageArn", &NON_BLANK_STRING).required(),
    member("baseImageVersion", &VERSION),
    member("buildRoleArn", &ROLE_ARN).required(),
    member("description", &STRING),
    member("codeArtifact", &CODE_ARTIFACT).required(),
    member("logging", &LOGGING),
    member("egressNetworkConnectors", &BUILD_NETWORK_CONNECTORS),
    member("cpuConfigurations", &CPU_CONFIGURATION_LIST),
    member("resources", &RESOURCES_LIST),
    member("additionalOsCapabilities", &CAPABILITY_LIST),
    member("hooks", &HOOKS),
    member("environmentVariables", &ENVIRONMENT_VARIABLE_MAP),
    member("imageIdentifier", &MICROVM_IMAGE_IDENTIFIER)
        .required()
        .in_path(),
    member("clientToken", &CLIENT_TOKEN),
]);

pub(super) static UPDATE_MICROVM_IMAGE_RESPONSE: Shape = Shape::Structure(&[
    member("imageArn", &NON_BLANK_STRING).required(),
    member("name", &IMAGE_NAME).required(),
    member("state", &MICROVM_IMAGE_STATE).required(),
    member("latestActiveImageVersion", &NON_BLANK_STRING),
    member("latestFailedImageVersion", &NON_BLANK_STRING),
    member("createdAt", &TIMESTAMP).required(),
    member("baseImageArn", &NON_BLANK_STRING).required(),
    member("baseImageVersion", &VERSION),
    member("buildRoleArn", &ROLE_ARN).required(),
    member("description", &STRING),
    member("codeArtifact", &CODE_ARTIFACT).required(),
    member("logging", &LOGGING),
    member("egressNetworkConnectors", &BUILD_NETWORK_CONNECTORS),
    member("cpuConfigurations", &CPU_CONFIGURATION_LIST),
    member("resources", &RESOURCES_LIST),
    member("additionalOsCapabilities", &CAPABILITY_LIST),
    member("hooks", &HOOKS),
    member("environmentVariables", &ENVIRONMENT_VARIABLE_MAP),
    member("updatedAt", &TIMESTAMP).required(),
    member("imageVersion", &NON_BLANK_STRING).required(),
]);

pub(super) static UPDATE_MICROVM_IMAGE_VERSION_REQUEST: Shape = Shape::Structure(&[
    member("imageIdentifier", &MICROVM_IMAGE_IDENTIFIER)
        .required()
        .in_path(),
    member("imageVersion", &NON_BLANK_STRING)
        .required()
        .in_path(),
    member("status", &MICROVM_IMAGE_VERSION_STATUS).required(),
]);

pub(super) static UPDATE_MICROVM_IMAGE_VERSION_RESPONSE: Shape = Shape::Structure(&[
    member("baseImageArn", &NON_BLANK_STRING).required(),
    member("baseImageVersion", &VERSION),
    member("buildRoleArn", &ROLE_ARN).required(),
    member("description", &STRING),
    member("codeArtifact", &CODE_ARTIFACT).required(),
    member("logging", &LOGGING),
    member("egressNetworkConnectors", &BUILD_NETWORK_CONNECTORS),
    member("cpuConfigurations", &CPU_CONFIGURATION_LIST),
    member("resources", &RESOURCES_LIST),
    member("additionalOsCapabilities", &CAPABILITY_LIST),
    member("hooks", &HOOKS),
    member("environmentVariables", &ENVIRONMENT_VARIABLE_MAP),
    member("imageArn", &NON_BLANK_STRING).required(),
    member("imageVersion", &NON_BLANK_STRING).required(),
    member("state", &MICROVM_IMAGE_VERSION_STATE).required(),
    member("status", &MICROVM_IMAGE_VERSION_STATUS).required(),
    member("createdAt", &TIMESTAMP).required(),
    member("updatedAt", &TIMESTAMP),
    member("stateReason", &STRING),
    member("tags", &TAGS),
]);

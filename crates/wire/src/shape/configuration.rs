//! How an image version is built: what create and update bring and every description echoes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::common::{Architecture, HookState, Logging, Sensitive};

/// Where the Dockerfile and what it needs come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CodeArtifact {
    /// `s3://<bucket>/<key>` of a zip archive.
    Uri(String),
}

/// One architecture that an image is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CpuConfiguration {
    /// The architecture.
    pub architecture: Architecture,
}

/// Size of the MicroVMs of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// Baseline memory, MiB.
    #[serde(rename = "minimumMemoryInMiB")]
    pub minimum_memory_in_mib: i32,
}

/// More capabilities for the application than a container has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Capability {
    /// All of them.
    All,
}

/// Lifecycle hooks of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hooks {
    /// Port of the application's hook server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Hooks of a MicroVM's life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub microvm_hooks: Option<MicrovmHooks>,
    /// Hooks of a build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub microvm_image_hooks: Option<MicrovmImageHooks>,
}

/// Hooks of a MicroVM's life; timeouts in seconds, 1 to 60.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names are the model's and say it")]
pub struct MicrovmHooks {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<HookState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_timeout_in_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume: Option<HookState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume_timeout_in_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspend: Option<HookState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspend_timeout_in_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminate: Option<HookState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminate_timeout_in_seconds: Option<u32>,
}

/// Hooks of a build; timeouts in seconds, 1 to 3600.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names are the model's and say it")]
pub struct MicrovmImageHooks {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<HookState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_timeout_in_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validate: Option<HookState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validate_timeout_in_seconds: Option<u32>,
}

/// How an image version is built: the body of create and update, echoed by everything that
/// describes a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageConfiguration {
    /// ARN of the managed base image.
    pub base_image_arn: String,
    /// Its version, given as `1`, echoed as `1.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_image_version: Option<String>,
    /// Role that reads the artifact and writes the logs.
    pub build_role_arn: String,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The artifact.
    pub code_artifact: CodeArtifact,
    /// Where the build's output goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logging: Option<Logging>,
    /// Connector for outbound traffic, at most one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_network_connectors: Option<Vec<String>>,
    /// Architectures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_configurations: Option<Vec<CpuConfiguration>>,
    /// Size, at most one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Vec<Resources>>,
    /// More capabilities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub additional_os_capabilities: Option<Vec<Capability>>,
    /// Hooks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
    /// Environment of the application.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment_variables: Option<BTreeMap<String, Sensitive<String>>>,
}

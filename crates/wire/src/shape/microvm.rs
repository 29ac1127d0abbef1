//! Requests and answers of the MicroVM operations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::common::{Logging, Page, Paging, Sensitive};
use crate::id::port::PortSpecification;
use crate::id::timestamp::Timestamp;

/// State of a MicroVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MicrovmState {
    /// Being started or resumed.
    Pending,
    /// Running.
    Running,
    /// Being suspended.
    Suspending,
    /// Memory and disk are saved, nothing runs.
    Suspended,
    /// Being ended.
    Terminating,
    /// Ended for good.
    Terminated,
}

/// When a MicroVM is suspended and ended for want of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdlePolicy {
    /// Seconds without traffic until it is suspended, at least 60.
    pub max_idle_duration_seconds: u32,
    /// Seconds that it stays suspended until it is ended; 0 ends it instead of suspending it.
    pub suspended_duration_seconds: u32,
    /// Whether a request at its endpoint resumes it.
    pub auto_resume_enabled: bool,
}

/// `RunMicrovm`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunMicrovmRequest {
    /// Connectors for inbound traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_network_connectors: Option<Vec<String>>,
    /// Connectors for outbound traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_network_connectors: Option<Vec<String>>,
    /// ARN of the image.
    pub image_identifier: String,
    /// Version; the latest active one when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_version: Option<String>,
    /// Role whose credentials the guest gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_role_arn: Option<String>,
    /// Idle policy; never suspended by itself when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_policy: Option<IdlePolicy>,
    /// Where the application's output goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logging: Option<Logging>,
    /// Given to the run hook.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_hook_payload: Option<Sensitive<String>>,
    /// Longest lifetime, seconds, from 1 on; 28800 at most on the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum_duration_in_seconds: Option<u32>,
    /// Makes repeats of the same call one call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_token: Option<String>,
}

/// Answer of `RunMicrovm` and `GetMicrovm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MicrovmDescription {
    /// Id.
    pub microvm_id: String,
    /// State.
    pub state: MicrovmState,
    /// Host name of its endpoint, with a port where it is not 443, without a scheme.
    pub endpoint: String,
    /// ARN of its image.
    pub image_arn: String,
    /// Version of its image.
    pub image_version: String,
    /// Role whose credentials the guest gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_role_arn: Option<String>,
    /// Idle policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_policy: Option<IdlePolicy>,
    /// Longest lifetime, seconds.
    pub maximum_duration_in_seconds: u32,
    /// When it was asked for.
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminated_at: Option<Timestamp>,
    /// Why it ended; absent on a healthy one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
    /// Connectors for inbound traffic, defaults included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_network_connectors: Option<Vec<String>>,
    /// Connectors for outbound traffic, defaults included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_network_connectors: Option<Vec<String>>,
}

macro_rules! about_one_microvm {
    ($($(#[$meta:meta])* $name:ident,)*) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
            #[serde(rename_all = "camelCase")]
            pub struct $name {
                /// Id or ARN of the MicroVM.
                pub microvm_identifier: String,
            }
        )*
    };
}

about_one_microvm! {
    /// `GetMicrovm`
    GetMicrovmRequest,
    /// `SuspendMicrovm`; its answer has no body.
    SuspendMicrovmRequest,
    /// `ResumeMicrovm`; its answer has no body.
    ResumeMicrovmRequest,
    /// `TerminateMicrovm`; its answer has no body.
    TerminateMicrovmRequest,
}

/// `ListMicrovms`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListMicrovmsRequest {
    /// How much is wanted.
    #[serde(flatten)]
    pub paging: Paging,
    /// Only MicroVMs of this image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_identifier: Option<String>,
    /// Only MicroVMs of this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_version: Option<String>,
}

/// Answer of `ListMicrovms`.
pub type ListMicrovmsResponse = Page<MicrovmItem>;

/// One MicroVM in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MicrovmItem {
    /// Id.
    pub microvm_id: String,
    /// State.
    pub state: MicrovmState,
    /// ARN of its image.
    pub image_arn: String,
    /// Version of its image.
    pub image_version: String,
    /// When it was asked for.
    pub started_at: Timestamp,
}

/// `CreateMicrovmAuthToken`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateMicrovmAuthTokenRequest {
    /// Id or ARN of the MicroVM.
    pub microvm_identifier: String,
    /// Lifetime of the token, minutes.
    pub expiration_in_minutes: u32,
    /// Ports that it opens.
    pub allowed_ports: Vec<PortSpecification>,
}

/// `CreateMicrovmShellAuthToken`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateMicrovmShellAuthTokenRequest {
    /// Id or ARN of the MicroVM.
    pub microvm_identifier: String,
    /// Lifetime of the token, minutes.
    pub expiration_in_minutes: u32,
}

/// Answer of both token operations: headers to send, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthTokenResponse {
    /// Values by header name.
    pub auth_token: BTreeMap<String, Sensitive<String>>,
}

impl AuthTokenResponse {
    /// Header that carries a token.
    pub const HEADER: &'static str = "X-aws-proxy-auth";

    /// The answer with one token, under [`Self::HEADER`].
    #[must_use]
    pub fn with_token(token: String) -> Self {
        Self {
            auth_token: BTreeMap::from([(Self::HEADER.to_owned(), Sensitive(token))]),
        }
    }
}

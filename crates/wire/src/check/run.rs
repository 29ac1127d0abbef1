//! What `RunMicrovm` asks for.

use super::connectors;
use crate::api_error::ApiError;
use crate::id::connector::{ConnectorArn, ManagedConnector};
use crate::id::image::ImageArn;
use crate::id::place::Place;
use crate::id::role::RoleArn;
use crate::id::version::ImageVersion;
use crate::shape::common::{Logging, Sensitive};
use crate::shape::microvm::{IdlePolicy, RunMicrovmRequest};

/// Lifetime of a MicroVM whose run call names none, seconds: the longest there is.
pub const DEFAULT_DURATION_SECONDS: u32 = 28_800;

/// Which version a run call wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedVersion {
    /// The latest active one.
    Latest,
    /// This one.
    Exact(ImageVersion),
    /// One that no image can have: as good as one that does not exist.
    Impossible,
}

/// A run call, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPlan {
    /// Image, of whatever region and account: one that is elsewhere does not exist here.
    pub image: ImageArn,
    /// Version.
    pub version: WantedVersion,
    /// Connectors for inbound traffic, the default filled in.
    pub ingress: Vec<ConnectorArn>,
    /// Connectors for outbound traffic; `None` takes the image version's.
    pub egress: Option<Vec<ConnectorArn>>,
    /// Role whose credentials the guest gets.
    pub execution_role: Option<RoleArn>,
    /// Idle policy.
    pub idle_policy: Option<IdlePolicy>,
    /// Where output goes.
    pub logging: Option<Logging>,
    /// Payload; allowed only where the image's run hook is enabled
    /// ([`crate::fault::run_hook_needed`]).
    pub run_hook_payload: Option<Sensitive<String>>,
    /// Longest lifetime, seconds, the default filled in.
    pub maximum_duration_seconds: u32,
}

impl RunPlan {
    /// Understands a run call, checking in the order in which the service does.
    ///
    /// # Errors
    /// [`ApiError::Validation`] for what is not an image's ARN, a connector's, or a role's.
    pub fn of(request: &RunMicrovmRequest, place: &Place) -> Result<Self, ApiError> {
        let image = ImageArn::parse(&request.image_identifier)
            .map_err(|refusal| ApiError::validation(refusal.to_string()))?;
        let execution_role = request
            .execution_role_arn
            .as_deref()
            .map(RoleArn::parse)
            .transpose()
            .map_err(|refusal| ApiError::validation(refusal.to_string()))?;
        let ingress = connectors(
            request
                .ingress_network_connectors
                .as_deref()
                .unwrap_or_default(),
            true,
            place,
        )?;
        let egress = connectors(
            request
                .egress_network_connectors
                .as_deref()
                .unwrap_or_default(),
            false,
            place,
        )?;
        Ok(Self {
            image,
            version: wanted_version(request.image_version.as_deref()),
            ingress: if ingress.is_empty() {
                default_ingress(place)
            } else {
                ingress
            },
            egress: (!egress.is_empty()).then_some(egress),
            execution_role,
            idle_policy: request.idle_policy,
            logging: request.logging.clone(),
            run_hook_payload: request.run_hook_payload.clone(),
            maximum_duration_seconds: request
                .maximum_duration_in_seconds
                .unwrap_or(DEFAULT_DURATION_SECONDS),
        })
    }
}

fn wanted_version(text: Option<&str>) -> WantedVersion {
    let Some(text) = text else {
        return WantedVersion::Latest;
    };
    ImageVersion::parse(text).map_or(WantedVersion::Impossible, WantedVersion::Exact)
}

fn default_ingress(place: &Place) -> Vec<ConnectorArn> {
    vec![ConnectorArn::managed(
        place.region.clone(),
        ManagedConnector::HttpIngress,
    )]
}

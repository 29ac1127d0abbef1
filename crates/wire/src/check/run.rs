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

/// Longest lifetime of a MicroVM on the service, and that of one whose run call names none, seconds.
pub const SERVICE_DURATION_SECONDS: u32 = 28_800;

/// Lifetimes that run calls may name. The service's are the default; an operator may allow longer ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LifetimeBound {
    /// Of a MicroVM whose run call names none, seconds.
    pub default_seconds: u32,
    /// The longest, seconds.
    pub maximum_seconds: u32,
}

impl Default for LifetimeBound {
    fn default() -> Self {
        Self {
            default_seconds: SERVICE_DURATION_SECONDS,
            maximum_seconds: SERVICE_DURATION_SECONDS,
        }
    }
}

impl LifetimeBound {
    /// The lifetime that a run call asks for, in the words of the model's constraints where it is too long.
    fn admit(self, asked: Option<u32>) -> Result<u32, ApiError> {
        let seconds = asked.unwrap_or(self.default_seconds);
        self.holds("maximumDurationInSeconds", seconds)?;
        Ok(seconds)
    }

    /// Refuses an idle time that no MicroVM lives to see. (The model has no upper bound; the guide has the
    /// service's longest lifetime.)
    fn admit_idle(self, policy: Option<IdlePolicy>) -> Result<Option<IdlePolicy>, ApiError> {
        if let Some(policy) = policy {
            let seconds = policy.max_idle_duration_seconds;
            self.holds("idlePolicy.maxIdleDurationSeconds", seconds)?;
        }
        Ok(policy)
    }

    fn holds(self, member: &str, seconds: u32) -> Result<(), ApiError> {
        if seconds <= self.maximum_seconds {
            return Ok(());
        }
        Err(ApiError::validation(format!(
            "1 validation error detected: Value at '{member}' failed to satisfy constraint: Member must have value \
             less than or equal to {}",
            self.maximum_seconds
        )))
    }
}

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
    pub fn of(
        request: &RunMicrovmRequest,
        place: &Place,
        lifetime: LifetimeBound,
    ) -> Result<Self, ApiError> {
        let maximum_duration_seconds = lifetime.admit(request.maximum_duration_in_seconds)?;
        let idle_policy = lifetime.admit_idle(request.idle_policy)?;
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
            idle_policy,
            logging: request.logging.clone(),
            run_hook_payload: request.run_hook_payload.clone(),
            maximum_duration_seconds,
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

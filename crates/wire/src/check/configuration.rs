//! What the configuration of an image version asks for (specification, section 4.4).

use std::time::Duration;

use super::{connectors, image_identifier};
use crate::api_error::ApiError;
use crate::id::connector::{ConnectorArn, ManagedConnector};
use crate::id::image::ImageArn;
use crate::id::memory::MemorySize;
use crate::id::place::Place;
use crate::id::role::RoleArn;
use crate::id::s3_uri::S3Uri;
use crate::id::version::BaseImageVersion;
use crate::shape::common::{Architecture, HookState};
use crate::shape::configuration::{
    Capability, CodeArtifact, CpuConfiguration, Hooks, ImageConfiguration, Resources,
};

/// Environment variable that the service sets itself.
const RESERVED_KEY: &str = "AWS_REGION";
/// Timeout of a build's hook that names none (section 8.1).
const BUILD_HOOK_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout of a MicroVM's hook that names none (section 8.1).
const MICROVM_HOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// The enabled hooks, each with its timeout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HookPlan {
    /// Port of the application's hook server; there when any hook is enabled.
    pub port: Option<u16>,
    /// `/ready`
    pub ready: Option<Duration>,
    /// `/validate`
    pub validate: Option<Duration>,
    /// `/run`
    pub run: Option<Duration>,
    /// `/resume`
    pub resume: Option<Duration>,
    /// `/suspend`
    pub suspend: Option<Duration>,
    /// `/terminate`
    pub terminate: Option<Duration>,
}

/// The configuration of an image version, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildPlan {
    /// Managed base image; whether it exists is not known here.
    pub base_image: ImageArn,
    /// Its version; `None` takes the newest.
    pub base_version: Option<BaseImageVersion>,
    /// Role that reads the artifact and writes the logs.
    pub build_role: RoleArn,
    /// The artifact.
    pub artifact: S3Uri,
    /// Connector for outbound traffic, the default filled in.
    pub egress: ConnectorArn,
    /// Architectures asked for; none takes the host's.
    pub architectures: Vec<Architecture>,
    /// Size, the default filled in.
    pub memory: MemorySize,
    /// Every capability instead of the container default set.
    pub all_capabilities: bool,
    /// Hooks.
    pub hooks: HookPlan,
}

impl BuildPlan {
    /// Understands a configuration.
    ///
    /// # Errors
    /// [`ApiError::Validation`] in the service's words for whatever is not allowed.
    pub fn of(configuration: &ImageConfiguration, place: &Place) -> Result<Self, ApiError> {
        let base_image = base_image(&configuration.base_image_arn, place)?;
        let base_version = configuration
            .base_image_version
            .as_deref()
            .map(base_version)
            .transpose()?;
        let build_role = RoleArn::parse(&configuration.build_role_arn)
            .map_err(|refusal| ApiError::validation(refusal.to_string()))?;
        let CodeArtifact::Uri(uri) = &configuration.code_artifact;
        let artifact =
            S3Uri::parse(uri).map_err(|refusal| ApiError::validation(refusal.to_string()))?;
        let egress = egress(
            configuration
                .egress_network_connectors
                .as_deref()
                .unwrap_or_default(),
            place,
        )?;
        let memory = memory(
            configuration.resources.as_deref().unwrap_or_default(),
            &base_image,
        )?;
        let hooks = hooks(configuration.hooks.as_ref())?;
        environment(configuration)?;
        let capabilities = configuration
            .additional_os_capabilities
            .as_deref()
            .unwrap_or_default();
        Ok(Self {
            base_image,
            base_version,
            build_role,
            artifact,
            egress,
            architectures: architectures(
                configuration
                    .cpu_configurations
                    .as_deref()
                    .unwrap_or_default(),
            ),
            memory,
            all_capabilities: capabilities.contains(&Capability::All),
            hooks,
        })
    }

    /// The configuration as descriptions echo it: as given, with the defaults filled in. A client
    /// that compares the echo with what it wants must find no difference but these.
    #[must_use]
    pub fn echoed(
        &self,
        given: &ImageConfiguration,
        base_version: BaseImageVersion,
        host: Architecture,
    ) -> ImageConfiguration {
        let architectures = if self.architectures.is_empty() {
            vec![host]
        } else {
            self.architectures.clone()
        };
        let cpus = architectures
            .into_iter()
            .map(|architecture| CpuConfiguration { architecture })
            .collect();
        #[expect(clippy::cast_possible_wrap, reason = "at most 8192")]
        let memory = self.memory.baseline_mib() as i32;
        ImageConfiguration {
            base_image_version: Some(base_version.to_string()),
            egress_network_connectors: Some(vec![self.egress.to_string()]),
            cpu_configurations: Some(cpus),
            resources: Some(vec![Resources {
                minimum_memory_in_mib: memory,
            }]),
            ..given.clone()
        }
    }
}

fn base_image(text: &str, place: &Place) -> Result<ImageArn, ApiError> {
    let arn = image_identifier(text)?;
    if !arn.is_managed_in(&place.region) {
        return Err(ApiError::validation(format!(
            "The base image {text} is not a managed MicroVM image of region {}",
            place.region
        )));
    }
    Ok(arn)
}

fn base_version(text: &str) -> Result<BaseImageVersion, ApiError> {
    BaseImageVersion::parse(text).map_err(|_| {
        ApiError::validation(format!(
            "Base image version '{text}' is not valid: give it as it is listed, such as '1'"
        ))
    })
}

fn egress(given: &[String], place: &Place) -> Result<ConnectorArn, ApiError> {
    let given = connectors(given, false, place)?.into_iter().next();
    Ok(given.unwrap_or_else(|| {
        ConnectorArn::managed(place.region.clone(), ManagedConnector::InternetEgress)
    }))
}

fn architectures(given: &[CpuConfiguration]) -> Vec<Architecture> {
    let mut wanted = Vec::new();
    for CpuConfiguration { architecture } in given {
        if !wanted.contains(architecture) {
            wanted.push(*architecture);
        }
    }
    wanted
}

fn memory(given: &[Resources], base_image: &ImageArn) -> Result<MemorySize, ApiError> {
    let Some(Resources {
        minimum_memory_in_mib: mib,
    }) = given.first()
    else {
        return Ok(MemorySize::DEFAULT);
    };
    MemorySize::of_baseline_mib(*mib).ok_or_else(|| {
        let supported: Vec<String> = MemorySize::ALL.iter().map(|size| size.baseline_mib().to_string()).collect();
        ApiError::validation(format!(
            "The requested memory size of {mib} MiB is not supported by base MicroVM image {base_image}. \
             Supported memory sizes in MiB are: [{}].",
            supported.join(", ")
        ))
    })
}

fn hooks(given: Option<&Hooks>) -> Result<HookPlan, ApiError> {
    let Some(given) = given else {
        return Ok(HookPlan::default());
    };
    let image = given.microvm_image_hooks.clone().unwrap_or_default();
    let life = given.microvm_hooks.clone().unwrap_or_default();
    let plan = HookPlan {
        port: given.port,
        ready: enabled(
            image.ready,
            image.ready_timeout_in_seconds,
            BUILD_HOOK_TIMEOUT,
        ),
        validate: enabled(
            image.validate,
            image.validate_timeout_in_seconds,
            BUILD_HOOK_TIMEOUT,
        ),
        run: enabled(life.run, life.run_timeout_in_seconds, MICROVM_HOOK_TIMEOUT),
        resume: enabled(
            life.resume,
            life.resume_timeout_in_seconds,
            MICROVM_HOOK_TIMEOUT,
        ),
        suspend: enabled(
            life.suspend,
            life.suspend_timeout_in_seconds,
            MICROVM_HOOK_TIMEOUT,
        ),
        terminate: enabled(
            life.terminate,
            life.terminate_timeout_in_seconds,
            MICROVM_HOOK_TIMEOUT,
        ),
    };
    let in_life = [plan.run, plan.resume, plan.suspend, plan.terminate]
        .iter()
        .any(Option::is_some);
    if in_life && plan.ready.is_none() {
        return Err(ApiError::validation(
            "The /ready hook must be enabled when any of the /run, /resume, /suspend or /terminate hooks is enabled",
        ));
    }
    if (in_life || plan.ready.is_some() || plan.validate.is_some()) && plan.port.is_none() {
        return Err(ApiError::validation(
            "The hooks port must be specified when any lifecycle hook is enabled",
        ));
    }
    Ok(plan)
}

fn enabled(switch: Option<HookState>, seconds: Option<u32>, default: Duration) -> Option<Duration> {
    (switch == Some(HookState::Enabled))
        .then(|| seconds.map_or(default, |given| Duration::from_secs(given.into())))
}

fn environment(configuration: &ImageConfiguration) -> Result<(), ApiError> {
    let variables = configuration.environment_variables.as_ref();
    if variables.is_some_and(|variables| variables.contains_key(RESERVED_KEY)) {
        return Err(ApiError::validation(format!(
            "Environment variable key '{RESERVED_KEY}' is reserved"
        )));
    }
    Ok(())
}

//! Whether an image or a version may be made here: what the service checks beyond the model, what this
//! host can build, and how many there may be.

use colibri_store::{NewBuild, NewVersion};
use colibri_wire::ApiError;
use colibri_wire::api_error::{QuotaName, ResourceName};
use colibri_wire::check::configuration::BuildPlan;
use colibri_wire::id::connector::ConnectorArn;
use colibri_wire::id::image::ImageArn;
use colibri_wire::shape::common::Architecture;
use colibri_wire::shape::configuration::ImageConfiguration;
use uuid::Uuid;

use crate::control::Control;
use crate::documents;
use crate::failure::store_failed;
use crate::idle;
use crate::settings::Arm64Requests;
use crate::warm_up;

/// A configuration that may be built here.
pub(crate) struct Accepted {
    /// As it is stored and echoed.
    pub(crate) configuration: ImageConfiguration,
    /// The connector of its builds and, unless they choose others, of its MicroVMs.
    pub(crate) egress: ConnectorArn,
}

impl Control {
    /// What the service checks of a configuration before it looks anything up, and what this host can build.
    pub(crate) fn accept(&self, given: &ImageConfiguration) -> Result<Accepted, ApiError> {
        let plan = BuildPlan::of(given, &self.shared.settings.place)?;
        let base_version = self.base_version(&plan)?;
        warm_up::check(given)?;
        idle::check(given)?;
        self.check_architectures(&plan.architectures)?;
        let host = self.shared.host.architecture;
        Ok(Accepted {
            configuration: plan.echoed(given, base_version, host),
            egress: plan.egress,
        })
    }

    fn check_architectures(&self, wanted: &[Architecture]) -> Result<(), ApiError> {
        let host = self.shared.host.architecture;
        for architecture in wanted.iter().filter(|wanted| **wanted != host) {
            match (architecture, self.shared.settings.arm64_requests) {
                (Architecture::Arm64, Arm64Requests::Native) => {}
                (Architecture::Arm64, Arm64Requests::Refuse) => {
                    return Err(ApiError::validation(
                        "This host cannot build for ARM_64. Leave cpuConfigurations out to build for the host's \
                         own architecture, or set arm64_requests = \"native\" in the server's configuration to \
                         build natively whenever ARM_64 is asked for",
                    ));
                }
                (Architecture::X86_64, _) => {
                    return Err(ApiError::validation(
                        "This host cannot build for X86_64. Leave cpuConfigurations \
                                                     out to build for the host's own architecture",
                    ));
                }
            }
        }
        Ok(())
    }

    pub(crate) async fn check_image_count(&self) -> Result<(), ApiError> {
        let limit = self.shared.settings.max_images;
        let count = self
            .shared
            .store
            .image_count()
            .await
            .map_err(|error| store_failed(&error))?;
        if count < limit {
            return Ok(());
        }
        Err(quota(
            format!("The maximum number of MicroVM images ({limit}) is reached"),
            ResourceName {
                kind: Some("MicroVMImage".into()),
                id: None,
            },
            "L-942E56BE",
        ))
    }

    pub(crate) async fn check_version_count(
        &self,
        arn: &ImageArn,
        image_id: i64,
    ) -> Result<(), ApiError> {
        let limit = self.shared.settings.max_versions;
        let count = self
            .shared
            .store
            .version_count(image_id)
            .await
            .map_err(|error| store_failed(&error))?;
        if count < limit {
            return Ok(());
        }
        Err(quota(
            format!("The maximum number of versions ({limit}) of {arn} is reached"),
            ResourceName::new("MicroVMImage", arn.to_string()),
            "L-F8BECE9C",
        ))
    }

    pub(crate) async fn check_build_count(&self) -> Result<(), ApiError> {
        let limit = self.shared.settings.max_builds;
        let unfinished = self
            .shared
            .store
            .unfinished_builds()
            .await
            .map_err(|error| store_failed(&error))?;
        if unfinished.rows.len() < limit {
            return Ok(());
        }
        Err(quota(
            format!("The maximum number of concurrent builds ({limit}) is reached"),
            ResourceName {
                kind: Some("MicroVMImageBuild".into()),
                id: None,
            },
            "L-72E0D058",
        ))
    }

    pub(crate) fn new_version(&self, accepted: &Accepted) -> NewVersion {
        let host = &self.shared.host;
        let architecture = match host.architecture {
            Architecture::Arm64 => "ARM_64",
            Architecture::X86_64 => "X86_64",
        };
        NewVersion {
            config: documents::write(&accepted.configuration),
            builds: vec![NewBuild {
                id: Uuid::new_v4().to_string(),
                architecture: architecture.into(),
                chipset: host.chipset.into(),
                chipset_generation: host.generation.clone(),
            }],
            at: self.shared.clock.now(),
        }
    }
}

pub(crate) fn quota(message: String, resource: ResourceName, code: &str) -> ApiError {
    ApiError::ServiceQuotaExceeded {
        message,
        resource,
        quota: QuotaName::lambda(code),
    }
}

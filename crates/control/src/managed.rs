//! The managed base images: what there is to build on.

use colibri_wire::ApiError;
use colibri_wire::check;
use colibri_wire::check::configuration::BuildPlan;
use colibri_wire::fault;
use colibri_wire::id::image::{ImageArn, ImageName};
use colibri_wire::id::timestamp::Timestamp;
use colibri_wire::id::version::BaseImageVersion;
use colibri_wire::shape::common::Page;
use colibri_wire::shape::configuration::CpuConfiguration;
use colibri_wire::shape::image::{
    ListManagedMicrovmImageVersionsRequest, ListManagedMicrovmImageVersionsResponse,
    ListManagedMicrovmImagesRequest, ListManagedMicrovmImagesResponse, ManagedImageSummary,
    ManagedImageVersion, ManagedImageVersionStatus,
};

use crate::control::Control;

/// The one managed image.
const NAME: &str = "al2023-1";
/// Its one version.
const VERSION: u32 = 1;
/// When it appeared: 2026-11-22 00:00 UTC, milliseconds since the Unix epoch.
const CREATED_AT: i64 = 1_795_305_600_000;

impl Control {
    /// `ListManagedMicrovmImages`
    ///
    /// # Errors
    /// As the operation's.
    pub async fn list_managed_microvm_images(
        &self,
        request: ListManagedMicrovmImagesRequest,
    ) -> Result<ListManagedMicrovmImagesResponse, ApiError> {
        one_page_only(request.paging.next_token.as_deref())?;
        let item = ManagedImageSummary {
            image_arn: self.managed_arn()?.to_string(),
            created_at: Timestamp::from_unix_millis(CREATED_AT),
            updated_at: None,
        };
        Ok(Page {
            next_token: None,
            items: vec![item],
        })
    }

    /// `ListManagedMicrovmImageVersions`
    ///
    /// # Errors
    /// As the operation's.
    pub async fn list_managed_microvm_image_versions(
        &self,
        request: ListManagedMicrovmImageVersionsRequest,
    ) -> Result<ListManagedMicrovmImageVersionsResponse, ApiError> {
        let arn = check::image_identifier(&request.image_identifier)?;
        if arn != self.managed_arn()? {
            return Err(fault::image_not_found(&arn));
        }
        one_page_only(request.paging.next_token.as_deref())?;
        let item = ManagedImageVersion {
            image_arn: arn.to_string(),
            image_version: VERSION.to_string(),
            status: Some(ManagedImageVersionStatus::Available),
            supported_cpu_configurations: Some(vec![CpuConfiguration {
                architecture: self.shared.host.architecture,
            }]),
            created_at: Timestamp::from_unix_millis(CREATED_AT),
            updated_at: None,
        };
        Ok(Page {
            next_token: None,
            items: vec![item],
        })
    }

    /// The version of the base image that a plan asks for, or the newest.
    pub(crate) fn base_version(&self, plan: &BuildPlan) -> Result<BaseImageVersion, ApiError> {
        let managed = self.managed_arn()?;
        if plan.base_image != managed {
            return Err(ApiError::validation(format!(
                "The base image {} does not exist. Available base images: {managed}",
                plan.base_image
            )));
        }
        let version = plan
            .base_version
            .unwrap_or(BaseImageVersion::of_number(VERSION));
        if version.number() != VERSION {
            return Err(ApiError::validation(format!(
                "Version {} of base image {managed} does not exist. Available versions: {VERSION}",
                version.number()
            )));
        }
        Ok(version)
    }

    fn managed_arn(&self) -> Result<ImageArn, ApiError> {
        let name = ImageName::parse(NAME)
            .ok_or_else(|| ApiError::internal("The managed image has no name"))?;
        Ok(ImageArn::managed(
            self.shared.settings.place.region.clone(),
            name,
        ))
    }
}

/// The list fits a page: there is no token that could continue it.
fn one_page_only(token: Option<&str>) -> Result<(), ApiError> {
    token.map_or(Ok(()), |_| Err(ApiError::validation("Invalid nextToken")))
}

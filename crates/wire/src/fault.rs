//! Errors whose texts the live service has been seen to give, each with its status (specification,
//! sections 3, 4.3 and 4.4). Clients match on some of them.

use crate::api_error::{ApiError, ResourceName};
use crate::id::image::ImageArn;

const IMAGE: &str = "MicroVMImage";
const MICROVM: &str = "MicroVM";

/// 404: no such image.
#[must_use]
pub fn image_not_found(arn: &ImageArn) -> ApiError {
    let message = format!("MicroVMImage not found for MicroVMImageID: {arn}");
    ApiError::not_found(message, ResourceName::new(IMAGE, arn.to_string()))
}

/// 404: no such version of an image; `version` as the request gave it.
#[must_use]
pub fn image_version_not_found(arn: &ImageArn, version: &str) -> ApiError {
    let message =
        format!("MicroVMImageVersion not found for MicroVMImageID: {arn} and version: {version}");
    ApiError::not_found(
        message,
        ResourceName::new("MicroVMImageVersion", format!("{arn}:{version}")),
    )
}

/// 404: no such build of an image version.
#[must_use]
pub fn image_build_not_found(arn: &ImageArn, version: &str, build: &str) -> ApiError {
    let message =
        format!("Build {build} not found for MicroVMImageID: {arn} and version: {version}");
    ApiError::not_found(message, ResourceName::new("MicroVMImageBuild", build))
}

/// 404: nothing to launch from. Also the answer for an image that does not exist and for a version
/// that is pinned and inactive.
#[must_use]
pub fn no_active_version(arn: &ImageArn) -> ApiError {
    let message = format!("No active version found for MicroVM image {arn}");
    ApiError::not_found(message, ResourceName::new(IMAGE, arn.to_string()))
}

/// 404: there is nothing to launch from, for the base of what there is was withdrawn.
#[must_use]
pub fn base_withdrawn(arn: &ImageArn, version: u32, base: u32, became: &str) -> ApiError {
    let message = format!(
        "No active version found for MicroVM image {arn}: version {version}.0 was built from version {base} of its base \
         image, which is {became}. Update the image to build it from a version that is available"
    );
    ApiError::not_found(message, ResourceName::new(IMAGE, arn.to_string()))
}

/// 400: the name is taken. (Not a conflict: the live service says so.)
#[must_use]
pub fn image_exists(name: &str) -> ApiError {
    ApiError::validation(format!(
        "A MicroVM image with the name '{name}' already exists in this account"
    ))
}

/// 409: the image is being changed already; `state` as the API writes it.
#[must_use]
pub fn image_busy(arn: &ImageArn, state: &str) -> ApiError {
    let message = format!("MicroVM Image is already in state: {state}");
    ApiError::conflict(message, ResourceName::new(IMAGE, arn.to_string()))
}

/// 400: the image cannot be deleted in its state.
#[must_use]
pub fn image_not_deletable(arn: &ImageArn) -> ApiError {
    ApiError::validation(format!(
        "Cannot delete MicroVM image in its current state: {arn}"
    ))
}

/// 400: the version to delete is the image's last.
#[must_use]
pub fn last_version() -> ApiError {
    ApiError::validation("This is the last version. Please delete the entire image")
}

/// 400: a payload for a run hook that is not enabled.
#[must_use]
pub fn run_hook_needed() -> ApiError {
    ApiError::validation(
        "The run hook must be enabled in the MicroVM image to pass the run hook payload",
    )
}

/// 404: no such MicroVM; `identifier` as the request gave it.
#[must_use]
pub fn microvm_not_found(identifier: &str) -> ApiError {
    let message = format!("MicroVM not found for MicroVMID: {identifier}");
    ApiError::not_found(message, ResourceName::new(MICROVM, identifier))
}

/// 409: the MicroVM cannot do that in its state; `attempted` completes "cannot be …".
#[must_use]
pub fn microvm_in_wrong_state(id: &str, attempted: &str, state: &str) -> ApiError {
    ApiError::conflict(
        format!("MicroVM {id} cannot be {attempted} in state {state}"),
        ResourceName::new(MICROVM, id),
    )
}

/// 400: an image identifier that is no ARN.
#[must_use]
pub fn invalid_arn(value: &str) -> ApiError {
    ApiError::validation(format!("Invalid ARN format: {value}"))
}

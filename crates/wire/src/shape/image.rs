//! Requests and answers of the image operations.

use serde::{Deserialize, Serialize};

use super::common::{Architecture, Chipset, Page, Paging, Tags};
use super::configuration::{CpuConfiguration, ImageConfiguration};
use crate::id::timestamp::Timestamp;

/// State of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the names are the model's and say it")]
pub enum ImageState {
    Creating,
    Created,
    CreateFailed,
    Updating,
    Updated,
    UpdateFailed,
    Deleting,
    DeleteFailed,
    Deleted,
}

/// State of an image version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the names are the model's and say it")]
pub enum ImageVersionState {
    Pending,
    InProgress,
    Successful,
    Failed,
    Deleting,
    Deleted,
    DeleteFailed,
}

/// Whether a version can be launched from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ImageVersionStatus {
    /// It can.
    Active,
    /// It cannot.
    Inactive,
}

/// State of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the names are the model's and say it")]
pub enum BuildState {
    Pending,
    InProgress,
    Successful,
    Failed,
}

/// Status of a managed image's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ManagedImageVersionStatus {
    /// Current.
    Available,
    /// Still builds and runs.
    Deprecated,
    /// Withdrawn.
    Recalled,
}

/// `CreateMicrovmImage`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateMicrovmImageRequest {
    /// How it is built.
    #[serde(flatten)]
    pub configuration: ImageConfiguration,
    /// Name, unique in the account and region.
    pub name: String,
    /// Tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Tags>,
    /// Makes repeats of the same call one call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_token: Option<String>,
}

/// `UpdateMicrovmImage`: a new version, described in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateMicrovmImageRequest {
    /// How it is built.
    #[serde(flatten)]
    pub configuration: ImageConfiguration,
    /// ARN of the image.
    pub image_identifier: String,
    /// Makes repeats of the same call one call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_token: Option<String>,
}

/// Answer of `CreateMicrovmImage`, and of `UpdateMicrovmImage`, which has no `tags` and always has
/// `updated_at`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageChangeResponse {
    /// The image.
    #[serde(flatten)]
    pub image: ImageSummary,
    /// How the version is built.
    #[serde(flatten)]
    pub configuration: ImageConfiguration,
    /// Tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Tags>,
    /// Last change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
    /// The new version.
    pub image_version: String,
}

/// An image in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageSummary {
    /// ARN.
    pub image_arn: String,
    /// Name.
    pub name: String,
    /// State.
    pub state: ImageState,
    /// Newest active version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest_active_image_version: Option<String>,
    /// Newest failed version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest_failed_image_version: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
}

/// Answer of `GetMicrovmImage`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GetMicrovmImageResponse {
    /// The image.
    #[serde(flatten)]
    pub image: ImageSummary,
    /// Tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Tags>,
    /// Last change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
}

macro_rules! about_an_image {
    ($($(#[$meta:meta])* $name:ident $({ $($(#[$field:meta])* $extra:ident: $type:ty,)* })?,)*) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
            #[serde(rename_all = "camelCase")]
            pub struct $name {
                /// ARN of the image.
                pub image_identifier: String,
                $($($(#[$field])* pub $extra: $type,)*)?
            }
        )*
    };
}

about_an_image! {
    /// `GetMicrovmImage`
    GetMicrovmImageRequest,
    /// `DeleteMicrovmImage`
    DeleteMicrovmImageRequest,
    /// Answer of `DeleteMicrovmImage`.
    DeleteMicrovmImageResponse {
        /// State of the image.
        state: ImageState,
    },
    /// `GetMicrovmImageVersion`
    GetMicrovmImageVersionRequest {
        /// Version.
        image_version: String,
    },
    /// `UpdateMicrovmImageVersion`
    UpdateMicrovmImageVersionRequest {
        /// Version.
        image_version: String,
        /// New status.
        status: ImageVersionStatus,
    },
    /// `DeleteMicrovmImageVersion`
    DeleteMicrovmImageVersionRequest {
        /// Version.
        image_version: String,
    },
    /// Answer of `DeleteMicrovmImageVersion`.
    DeleteMicrovmImageVersionResponse {
        /// Version.
        image_version: String,
        /// State of the version.
        state: ImageVersionState,
    },
    /// `GetMicrovmImageBuild`
    GetMicrovmImageBuildRequest {
        /// Version.
        image_version: String,
        /// Build.
        build_id: String,
    },
    /// `ListMicrovmImageVersions`
    ListMicrovmImageVersionsRequest {
        /// How much is wanted.
        #[serde(flatten)]
        paging: Paging,
    },
    /// `ListManagedMicrovmImageVersions`
    ListManagedMicrovmImageVersionsRequest {
        /// How much is wanted.
        #[serde(flatten)]
        paging: Paging,
    },
    /// `ListMicrovmImageBuilds`
    ListMicrovmImageBuildsRequest {
        /// How much is wanted.
        #[serde(flatten)]
        paging: Paging,
        /// Version.
        image_version: String,
        /// Only builds for this architecture.
        #[serde(skip_serializing_if = "Option::is_none")]
        architecture: Option<Architecture>,
        /// Only builds for this chipset.
        #[serde(skip_serializing_if = "Option::is_none")]
        chipset: Option<Chipset>,
        /// Only builds for this generation.
        #[serde(skip_serializing_if = "Option::is_none")]
        chipset_generation: Option<String>,
    },
}

/// `ListMicrovmImages`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListMicrovmImagesRequest {
    /// How much is wanted.
    #[serde(flatten)]
    pub paging: Paging,
    /// Only images whose name holds this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_filter: Option<String>,
}

/// `ListManagedMicrovmImages`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListManagedMicrovmImagesRequest {
    /// How much is wanted.
    #[serde(flatten)]
    pub paging: Paging,
}

/// Answer of `ListMicrovmImages`.
pub type ListMicrovmImagesResponse = Page<ImageSummary>;
/// Answer of `ListMicrovmImageVersions`.
pub type ListMicrovmImageVersionsResponse = Page<ImageVersionDescription>;
/// Answer of `ListMicrovmImageBuilds`.
pub type ListMicrovmImageBuildsResponse = Page<ImageBuildSummary>;
/// Answer of `ListManagedMicrovmImages`.
pub type ListManagedMicrovmImagesResponse = Page<ManagedImageSummary>;
/// Answer of `ListManagedMicrovmImageVersions`.
pub type ListManagedMicrovmImageVersionsResponse = Page<ManagedImageVersion>;

/// An image version: answer of `GetMicrovmImageVersion` and `UpdateMicrovmImageVersion`, item of
/// `ListMicrovmImageVersions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageVersionDescription {
    /// How it is built.
    #[serde(flatten)]
    pub configuration: ImageConfiguration,
    /// ARN of the image.
    pub image_arn: String,
    /// Version.
    pub image_version: String,
    /// State.
    pub state: ImageVersionState,
    /// Whether it can be launched from.
    pub status: ImageVersionStatus,
    /// When it was created.
    pub created_at: Timestamp,
    /// Last change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
    /// Why it is in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
    /// Tags of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Tags>,
}

/// A build in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageBuildSummary {
    /// ARN of the image.
    pub image_arn: String,
    /// Version.
    pub image_version: String,
    /// Build.
    pub build_id: String,
    /// State.
    pub build_state: BuildState,
    /// Architecture that it is for.
    pub architecture: Architecture,
    /// Chipset that it is for.
    pub chipset: Chipset,
    /// Generation that it is for.
    pub chipset_generation: String,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
}

/// Answer of `GetMicrovmImageBuild`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GetMicrovmImageBuildResponse {
    /// The build.
    #[serde(flatten)]
    pub build: ImageBuildSummary,
    /// What it produced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_build: Option<SnapshotBuild>,
}

/// Sizes of what a build produced, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotBuild {
    /// Memory file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_snapshot_size_in_bytes: Option<u64>,
    /// Unpacked container image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code_install_size_in_bytes: Option<u64>,
    /// Disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_snapshot_size_in_bytes: Option<u64>,
}

/// A managed image in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManagedImageSummary {
    /// ARN.
    pub image_arn: String,
    /// When it appeared.
    pub created_at: Timestamp,
    /// Last change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
}

/// Version of a managed image in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManagedImageVersion {
    /// ARN of the image.
    pub image_arn: String,
    /// Version, a bare integer.
    pub image_version: String,
    /// Status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<ManagedImageVersionStatus>,
    /// Architectures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supported_cpu_configurations: Option<Vec<CpuConfiguration>>,
    /// When it appeared.
    pub created_at: Timestamp,
    /// Last change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
}

//! What goes into a build, what comes out, and what can go wrong.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use colibri_hypervisor::{MachineRecord, MachineShape, manifest::BaseManifest};
use colibri_network::Egress;
use serde::{Deserialize, Serialize};

/// One build of one image version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BuildRequest {
    /// UUID of the build.
    pub build_id: String,
    /// Image name.
    pub image_name: String,
    /// Image ARN.
    pub image_arn: String,
    /// Version: `1.0`.
    pub image_version: String,
    /// Region, for the application's `AWS_REGION`.
    pub region: String,
    /// Bucket of the artifact.
    pub bucket: String,
    /// Key of the artifact.
    pub key: String,
    /// What the guest sees.
    pub shape: MachineShape,
    /// Size of the root disk, bytes.
    pub disk_bytes: u64,
    /// The image version's own environment variables.
    pub environment: Vec<(String, String)>,
    /// Every capability instead of the container default set.
    pub all_capabilities: bool,
    /// What the build and its machines may reach.
    pub egress: Egress,
    /// Hooks.
    pub hooks: HookSettings,
    /// Where the base goes: existing and empty. It holds `manifest.json` after a success and nothing
    /// after a failure.
    pub directory: PathBuf,
    /// Log group of the build's output.
    pub log_group: String,
    /// Log stream of the container build; `None` when logging is disabled.
    pub log_stream: Option<String>,
}

/// The hooks that a build calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookSettings {
    /// The application's hook port.
    pub port: Option<u16>,
    /// Bound for `/ready`; `None` when it is not enabled.
    pub ready: Option<Duration>,
    /// Bound for `/validate`; `None` when it is not enabled.
    pub validate: Option<Duration>,
}

/// Where a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildStage {
    /// The artifact is read and unpacked.
    Artifact,
    /// The Dockerfile is built.
    Container,
    /// The root disk is made.
    Disk,
    /// A machine boots on it and its application starts.
    Boot,
    /// `/ready` is polled.
    Ready,
    /// The machine is frozen.
    Snapshot,
    /// `/validate` is polled on a throw-away clone.
    Validate,
}

/// Told of a build's course. Calls are short and never fail; what they record must survive a crash,
/// so that a later daemon can clean up.
#[async_trait]
pub trait Progress: Send + Sync {
    /// The build entered a stage.
    async fn stage(&self, stage: BuildStage);
    /// A machine of the build started, on this network slot.
    async fn machine_started(&self, record: &MachineRecord, slot: u32);
    /// That machine is gone.
    async fn machine_ended(&self, record: &MachineRecord);
    /// The size of the unpacked container image is known, bytes (reported even when a later stage
    /// fails).
    async fn code_size(&self, bytes: u64);
}

/// A build that succeeded.
#[derive(Debug, Clone)]
pub struct BuiltImage {
    /// The base's manifest.
    pub manifest: BaseManifest,
    /// Size of the unpacked container image, bytes.
    pub code_bytes: u64,
}

/// The documented codes of a failed build (specification, section 5.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureCode {
    /// `S3_ACCESS_DENIED`
    S3AccessDenied,
    /// `S3_NO_SUCH_KEY`
    S3NoSuchKey,
    /// `S3_NO_SUCH_BUCKET`
    S3NoSuchBucket,
    /// `ARCHIVE_DOCKERFILE_NOT_FOUND`
    ArchiveDockerfileNotFound,
    /// `ARCHIVE_INVALID`
    ArchiveInvalid,
    /// `CONTAINER_BUILD_FAILED`
    ContainerBuildFailed,
    /// `DISK_STORAGE_FULL`
    DiskStorageFull,
    /// `INTERNAL_PLATFORM_ERROR`
    InternalPlatformError,
    /// A hook or the application failed: the live service gives a sentence without a code.
    Application,
}

/// A build that failed; `Display` is the build's `stateReason`: `CODE: sentence`, or the sentence
/// alone for [`FailureCode::Application`].
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}{sentence}", code.prefix())]
pub struct BuildFailure {
    /// The documented code.
    pub code: FailureCode,
    /// What happened, in a sentence for the owner of the image. Never holds secrets or host paths.
    pub sentence: String,
}

impl FailureCode {
    /// The code as the API spells it, followed by `: `; empty for [`FailureCode::Application`].
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::S3AccessDenied => "S3_ACCESS_DENIED: ",
            Self::S3NoSuchKey => "S3_NO_SUCH_KEY: ",
            Self::S3NoSuchBucket => "S3_NO_SUCH_BUCKET: ",
            Self::ArchiveDockerfileNotFound => "ARCHIVE_DOCKERFILE_NOT_FOUND: ",
            Self::ArchiveInvalid => "ARCHIVE_INVALID: ",
            Self::ContainerBuildFailed => "CONTAINER_BUILD_FAILED: ",
            Self::DiskStorageFull => "DISK_STORAGE_FULL: ",
            Self::InternalPlatformError => "INTERNAL_PLATFORM_ERROR: ",
            Self::Application => "",
        }
    }
}

/// Builds images. The real one runs containers and machines; the simulated one is in `testkit`.
#[async_trait]
pub trait ImageBuilder: Send + Sync + 'static {
    /// Carries a build through. Cancel safe: dropping the future ends every process that the build
    /// started (a machine's too) as soon as possible, and `Progress::machine_started` names those
    /// that a crash may leave.
    async fn build(&self, request: BuildRequest, progress: Arc<dyn Progress>) -> Result<BuiltImage, BuildFailure>;

    /// Removes what an earlier daemon's interrupted build left outside its directory and its
    /// machines: container images, mounts, unpacked archives.
    async fn sweep(&self);
}

/// Where artifacts come from.
#[async_trait]
pub trait Artifacts: Send + Sync + 'static {
    /// Copies an object into a new file.
    ///
    /// # Errors
    /// As [`ArtifactError`] says; the file is not there then.
    async fn fetch(&self, bucket: &str, key: &str, into: &Path, limit: u64) -> Result<u64, ArtifactError>;
}

/// Why an artifact could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// No such bucket.
    #[error("the bucket does not exist")]
    NoSuchBucket,
    /// No such key.
    #[error("the object does not exist")]
    NoSuchKey,
    /// Larger than the limit.
    #[error("the object has {length} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Its length, bytes.
        length: u64,
        /// The limit, bytes.
        limit: u64,
    },
    /// Reading or writing failed.
    #[error("the object could not be copied")]
    Io(#[from] std::io::Error),
}

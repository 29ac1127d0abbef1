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
    /// Version of the base image: which kernel and agent its machines have.
    pub base_version: u32,
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

impl BuildFailure {
    /// A failure whose text becomes a sentence: a capital first, a full stop last.
    pub(crate) fn sentence(code: FailureCode, text: &str) -> Self {
        let mut letters = text.chars();
        let first = letters
            .next()
            .map(|letter| letter.to_uppercase().collect::<String>())
            .unwrap_or_default();
        let end = if text.ends_with(['.', '!', '?']) {
            ""
        } else {
            "."
        };
        Self {
            code,
            sentence: format!("{first}{}{end}", letters.as_str()),
        }
    }

    /// A failure in the live service's own words, passed on as they are.
    pub(crate) fn application(sentence: impl Into<String>) -> Self {
        Self {
            code: FailureCode::Application,
            sentence: sentence.into(),
        }
    }

    /// A failure of the platform. `attempted` completes "could not"; the cause goes to the daemon's
    /// own log, because it may hold paths of the host.
    pub(crate) fn internal(attempted: &str, cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(attempted, %cause, "an image build failed inside the platform");
        Self::sentence(
            FailureCode::InternalPlatformError,
            &format!("the platform could not {attempted}"),
        )
    }

    /// As [`BuildFailure::internal`], but a full disk is named as one.
    pub(crate) fn io(attempted: &str, cause: &std::io::Error) -> Self {
        match cause.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::sentence(
                FailureCode::DiskStorageFull,
                &format!("no space was left to {attempted}"),
            ),
            _ => Self::internal(attempted, cause),
        }
    }
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
    async fn build(
        &self,
        request: BuildRequest,
        progress: Arc<dyn Progress>,
    ) -> Result<BuiltImage, BuildFailure>;

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
    async fn fetch(
        &self,
        bucket: &str,
        key: &str,
        into: &Path,
        limit: u64,
    ) -> Result<u64, ArtifactError>;
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

#[cfg(test)]
pub(crate) mod tests {
    use super::{BuildRequest, HookSettings};
    use colibri_hypervisor::{MachineShape, machine::Architecture};
    use colibri_network::Egress;

    /// A request as tests start from.
    pub(crate) fn request() -> BuildRequest {
        BuildRequest {
            build_id: "5f0f3c9e-58e5-4f9a-9f0e-5f3c7f6d2a10".into(),
            image_name: "shop".into(),
            image_arn: "arn:aws:lambda:us-east-1:000000000000:microvm-image:shop".into(),
            image_version: "1.0".into(),
            base_version: 1,
            region: "us-east-1".into(),
            bucket: "bucket".into(),
            key: "shop.zip".into(),
            shape: MachineShape {
                architecture: Architecture::X86_64,
                vcpus: 1,
                memory_mib: 512,
            },
            disk_bytes: 1 << 30,
            environment: Vec::new(),
            all_capabilities: false,
            egress: Egress::Sealed,
            hooks: HookSettings::default(),
            directory: "/nowhere".into(),
            log_group: "/aws/lambda-microvms/shop".into(),
            log_stream: None,
        }
    }
}

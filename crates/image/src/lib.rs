//! From an artifact to a frozen machine: zip, container build, root disk, boot, ready, snapshot,
//! validate. What an image or a version *is*, and who may have one, is not this crate's business.
//!
//! [`ContainerImageBuilder`] is the way in. Artifacts and Dockerfiles are hostile: see the notes in
//! `archive` (what may be unpacked), `container` (how a Dockerfile is run) and `storage` (where
//! images may come from).
#![forbid(unsafe_code)]

mod archive;
mod bases;
mod builder;
mod command;
mod confinement;
mod container;
mod container_config;
mod disk;
mod disk_use;
mod dockerfile;
mod duration;
mod environment;
mod fetched;
mod guest;
mod hooks;
mod leftovers;
mod machines;
mod output;
mod request;
mod run_flags;
mod settings;
mod storage;

pub use builder::{APPLICATION_FILE, ContainerImageBuilder};
pub use output::{BuildLog, BuildLogs, Discarded, MAX_LINE};
pub use request::{
    ArtifactError, Artifacts, BuildFailure, BuildRequest, BuildStage, BuiltImage, FailureCode,
    HookSettings, ImageBuilder, Progress,
};
pub use settings::{BuilderSettings, GuestAssets, GuestAssetsError, GuestFiles};

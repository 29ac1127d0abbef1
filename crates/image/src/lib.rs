//! From an artifact to a frozen machine: zip, container build, root disk, boot, ready, snapshot,
//! validate. What an image or a version *is*, and who may have one, is not this crate's business.

mod request;

pub use request::{
    ArtifactError, Artifacts, BuildFailure, BuildRequest, BuildStage, BuiltImage, FailureCode, HookSettings,
    ImageBuilder, Progress,
};

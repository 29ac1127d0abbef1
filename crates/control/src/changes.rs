//! Who is told of every change of state, and on whose behalf it happened. What is done with it is the
//! observer's business: an audit, say.

use std::future::Future;

use colibri_store::{Build, BuildOutcome, Phase};
use colibri_wire::id::version::ImageVersion;

use crate::control::Shared;
use crate::images;
use crate::microvms;

tokio::task_local! {
    /// The call that the work at hand is done for.
    static REQUEST: String;
}

/// Does work on behalf of a call: the changes that it brings name the call.
pub async fn on_behalf_of<T>(request_id: String, work: impl Future<Output = T>) -> T {
    REQUEST.scope(request_id, work).await
}

/// The call that the work at hand is done for.
pub(crate) fn current_request() -> Option<String> {
    REQUEST.try_with(Clone::clone).ok()
}

/// Goes on with work on behalf of the call that began it.
pub(crate) async fn continued<T>(request: Option<String>, work: impl Future<Output = T>) -> T {
    match request {
        Some(request) => on_behalf_of(request, work).await,
        None => work.await,
    }
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A MicroVM.
    Microvm {
        /// Its id.
        id: String,
        /// ARN of its image.
        image_arn: String,
        /// Its image version.
        image_version: String,
    },
    /// An image.
    Image {
        /// Its ARN.
        arn: String,
    },
    /// A build of an image version.
    Build {
        /// Its id.
        id: String,
        /// ARN of its image.
        image_arn: String,
        /// Its image version.
        image_version: String,
    },
}

/// Why it changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Cause {
    /// A call, by its request id, or what followed from it.
    Request(String),
    /// No byte crossed the endpoint for as long as the idle policy says.
    Idle,
    /// A request at the endpoint.
    Traffic,
    /// The application in the guest asked for it.
    Guest,
    /// By itself: the reason says why.
    #[default]
    Service,
    /// An earlier daemon had begun it.
    Recovery,
}

/// A change of state that is written down in the store already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What changed.
    pub subject: Subject,
    /// The state that it is in now, as the API spells it.
    pub state: String,
    /// The step within that state, where there are several.
    pub phase: Option<&'static str>,
    /// `stateReason`.
    pub reason: Option<String>,
    /// Why it changed.
    pub cause: Cause,
}

/// Is told of every change. Called where the change is made: it must not wait.
pub trait Observer: Send + Sync {
    /// Something changed.
    fn changed(&self, change: Change);
}

/// Nobody is told.
pub(crate) struct Nobody;

impl Observer for Nobody {
    fn changed(&self, _: Change) {}
}

/// The cause of what begins now.
pub(crate) fn cause_of(request: Option<String>) -> Cause {
    request.map_or(Cause::Recovery, Cause::Request)
}

impl Shared {
    /// A MicroVM is in this phase.
    pub(crate) fn tell_of_microvm(
        &self,
        id: &str,
        image: (&str, u32),
        phase: Phase,
        reason: Option<String>,
        cause: Cause,
    ) {
        self.settings.observer.changed(Change {
            subject: Subject::Microvm {
                id: id.to_owned(),
                image_arn: self.arn_text(image.0).unwrap_or_default(),
                image_version: ImageVersion::of_major(image.1).to_string(),
            },
            state: microvms::state_name(phase).to_owned(),
            phase: Some(phase.as_str()),
            reason,
            cause,
        });
    }

    /// An image is in this state.
    pub(crate) fn tell_of_image(&self, name: &str, state: &str, cause: Cause) {
        self.settings.observer.changed(Change {
            subject: Subject::Image {
                arn: self.arn_text(name).unwrap_or_default(),
            },
            state: state.to_owned(),
            phase: None,
            reason: None,
            cause,
        });
    }

    /// A build is in this state.
    pub(crate) fn tell_of_build(
        &self,
        build: &Build,
        state: &str,
        reason: Option<String>,
        cause: Cause,
    ) {
        self.settings.observer.changed(Change {
            subject: Subject::Build {
                id: build.id.clone(),
                image_arn: self.arn_text(&build.image_name).unwrap_or_default(),
                image_version: ImageVersion::of_major(build.version).to_string(),
            },
            state: state.to_owned(),
            phase: None,
            reason,
            cause,
        });
    }

    /// A build ended, and with it what its image was waiting for.
    pub(crate) async fn tell_of_built(&self, build: &Build, outcome: &BuildOutcome, cause: Cause) {
        let (state, reason) = match outcome {
            BuildOutcome::Succeeded { .. } => ("SUCCESSFUL", None),
            BuildOutcome::Failed(reason) => ("FAILED", Some(reason.clone())),
        };
        self.tell_of_build(build, state, reason, cause.clone());
        // An image that is gone has told of its end already.
        if let Ok(Some(image)) = self.store.image(build.image_name.clone()).await {
            self.tell_of_image(&image.name, &images::state_name(image.state), cause);
        }
    }
}

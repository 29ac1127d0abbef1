//! What can go wrong, and how it reaches a client.

use colibri_hypervisor::machine::VmmError;
use colibri_network::NetworkError;
use colibri_store::StoreError;
use colibri_wire::ApiError;

/// Why the control plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartFailure {
    /// The state could not be read.
    #[error("could not read the state")]
    Store(#[from] StoreError),
    /// What an earlier daemon left of machines could not be removed.
    #[error("could not end the machines that an earlier daemon left")]
    Machines(#[source] VmmError),
    /// What an earlier daemon left of networks could not be removed.
    #[error("could not remove the network slots that an earlier daemon left")]
    Slots(#[source] NetworkError),
    /// A directory could not be made or read.
    #[error("could not use the directory {path}")]
    Directory {
        /// Which one.
        path: std::path::PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// The client learns that the state failed; the log learns why.
pub(crate) fn store_failed(error: &StoreError) -> ApiError {
    tracing::error!(error = %chain(error), "the state database failed");
    ApiError::internal("The service's state could not be read or written")
}

/// An error with all of its causes, for a log line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

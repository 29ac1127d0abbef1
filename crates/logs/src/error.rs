//! Why a log could not be read, written or changed.

use std::io;

use crate::name::{GroupName, StreamName};

/// Why a log could not be read, written or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// There is no such group. CloudWatch: `ResourceNotFoundException`.
    #[error("The specified log group does not exist: {group}")]
    NoSuchGroup {
        /// Its name.
        group: GroupName,
    },
    /// There is no such stream. CloudWatch: `ResourceNotFoundException`.
    #[error("The specified log stream does not exist: {stream} in {group}")]
    NoSuchStream {
        /// Its group.
        group: GroupName,
        /// Its name.
        stream: StreamName,
    },
    /// The group is there already. CloudWatch: `ResourceAlreadyExistsException`.
    #[error("The specified log group already exists: {group}")]
    GroupExists {
        /// Its name.
        group: GroupName,
    },
    /// The stream is there already. CloudWatch: `ResourceAlreadyExistsException`.
    #[error("The specified log stream already exists: {stream} in {group}")]
    StreamExists {
        /// Its group.
        group: GroupName,
        /// Its name.
        stream: StreamName,
    },
    /// A token that this store did not give. CloudWatch: `InvalidParameterException`.
    #[error("The specified nextToken is invalid; use one of an earlier answer, unchanged")]
    InvalidToken,
    /// A file could not be read or written.
    #[error("could not {attempted}")]
    Io {
        /// What was attempted, on which group or stream.
        attempted: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl LogsError {
    /// For `map_err`: an error of the file system, with what was attempted.
    pub(crate) fn io(attempted: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let attempted = attempted.into();
        |source| Self::Io { attempted, source }
    }
}

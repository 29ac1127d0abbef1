//! Why a call is not answered with what it asks for, as CloudWatch Logs says it.

use colibri_logs::{LogsError, NameError};

use crate::authorization::Denied;

/// Why a call fails. `Display` is the `message` that the client reads.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogsFault {
    /// A member is missing, out of bounds, or asks for what Colibri does not do.
    #[error("{0}")]
    Invalid(String),
    /// The body is not what the operation takes.
    #[error("the request's body cannot be read: {0}")]
    Serialization(String),
    /// `X-Amz-Target` names no operation that is served.
    #[error(
        "Colibri serves these operations of CloudWatch Logs: DescribeLogGroups, CreateLogGroup, DeleteLogGroup, \
         DescribeLogStreams, CreateLogStream, DeleteLogStream, GetLogEvents, FilterLogEvents, StartLiveTail, \
         PutRetentionPolicy, DeleteRetentionPolicy, ListTagsForResource, ListTagsLogGroup"
    )]
    UnknownOperation,
    /// The caller may not do that.
    #[error("{0}")]
    AccessDenied(Denied),
    /// Nobody else can be told of events live.
    #[error("{0} live tail sessions are open, which is the most; end one")]
    TooManySessions(usize),
    /// From the logs themselves.
    #[error("{0}")]
    Logs(#[from] LogsError),
    /// The daemon stops, or a thread of it ended early.
    #[error("the call was interrupted; try again")]
    Interrupted,
}

impl From<NameError> for LogsFault {
    fn from(error: NameError) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl LogsFault {
    /// HTTP status.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Interrupted | Self::Logs(LogsError::Io { .. }) => 500,
            _ => 400,
        }
    }

    /// Value of `__type`.
    pub(crate) fn wire_name(&self) -> &'static str {
        match self {
            Self::Invalid(_) | Self::Logs(LogsError::InvalidToken) => "InvalidParameterException",
            Self::Serialization(_) => "SerializationException",
            Self::UnknownOperation => "UnknownOperationException",
            Self::AccessDenied(_) => "AccessDeniedException",
            Self::TooManySessions(_) => "LimitExceededException",
            Self::Logs(LogsError::NoSuchGroup { .. } | LogsError::NoSuchStream { .. }) => {
                "ResourceNotFoundException"
            }
            Self::Logs(LogsError::GroupExists { .. } | LogsError::StreamExists { .. }) => {
                "ResourceAlreadyExistsException"
            }
            Self::Interrupted | Self::Logs(LogsError::Io { .. }) => "ServiceUnavailableException",
        }
    }
}

//! Why the store could not do something.

use std::io;

/// Why the store could not do something. The messages are those of S3 where it has one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("The specified bucket does not exist")]
    NoSuchBucket,
    #[error("The specified key does not exist.")]
    NoSuchKey,
    #[error(
        "The specified multipart upload does not exist. The upload ID might be invalid, or the \
         multipart upload might have been aborted or completed."
    )]
    NoSuchUpload,
    #[error("Your previous request to create the named bucket succeeded and you already own it.")]
    BucketExists,
    #[error("The bucket you tried to delete is not empty")]
    BucketNotEmpty,
    #[error("At least one of the pre-conditions you specified did not hold")]
    PreconditionFailed,
    #[error(
        "One or more of the specified parts could not be found. The part may not have been \
         uploaded, or the specified entity tag or checksum may not match the part's."
    )]
    InvalidPart,
    #[error("The list of parts was not in ascending order. Parts must be ordered by part number.")]
    InvalidPartOrder,
    #[error(
        "Your proposed upload is smaller than the minimum allowed size: part {number} has {size} \
         bytes, and every part but the last needs {minimum}"
    )]
    PartTooSmall {
        number: u16,
        size: u64,
        minimum: u64,
    },
    #[error("The {algorithm} you specified did not match what we received.")]
    WrongChecksum { algorithm: &'static str },
    #[error("The object's size is {found} bytes and not the {expected} that you specified")]
    WrongSize { expected: u64, found: u64 },
    #[error("could not {attempted}")]
    Io {
        attempted: String,
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// For `map_err`: an error of the file system, with what was attempted.
    pub(crate) fn io(attempted: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let attempted = attempted.into();
        |source| Self::Io { attempted, source }
    }
}

//! What went wrong, as S3 tells it: code, status and message.

use std::io;

use http::StatusCode;
use s3s::{S3Error, S3ErrorCode, s3_error};

use crate::store::StoreError;

/// The answer to an upload that the disk has no room for. S3 has no such error; 507 is what HTTP
/// calls it (RFC 4918, 11.5), and the AWS clients do not repeat a request for it.
pub(crate) fn storage_full() -> S3Error {
    let mut error = S3Error::with_message(
        S3ErrorCode::Custom("InsufficientStorage".into()),
        "The disk of this server is too full for the upload; delete objects, images or MicroVMs, \
         or give the data directory a larger disk.",
    );
    error.set_status_code(StatusCode::INSUFFICIENT_STORAGE);
    error
}

/// For `map_err`: a failure of the disk, with what was attempted for the log.
pub(crate) fn disk_error(attempted: &'static str) -> impl FnOnce(io::Error) -> S3Error {
    move |error| {
        if is_full(&error) {
            return storage_full();
        }
        tracing::error!(attempted, %error, "the object store could not use the disk");
        internal(error)
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn internal(error: io::Error) -> S3Error {
    s3_error!(
        error,
        InternalError,
        "We encountered an internal error. Please try again."
    )
}

impl From<StoreError> for S3Error {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        let code = match error {
            StoreError::NoSuchBucket => S3ErrorCode::NoSuchBucket,
            StoreError::NoSuchKey => S3ErrorCode::NoSuchKey,
            StoreError::NoSuchUpload => S3ErrorCode::NoSuchUpload,
            StoreError::BucketExists => S3ErrorCode::BucketAlreadyOwnedByYou,
            StoreError::BucketNotEmpty => S3ErrorCode::BucketNotEmpty,
            StoreError::PreconditionFailed => S3ErrorCode::PreconditionFailed,
            StoreError::InvalidPart => S3ErrorCode::InvalidPart,
            StoreError::InvalidPartOrder => S3ErrorCode::InvalidPartOrder,
            StoreError::PartTooSmall { .. } => S3ErrorCode::EntityTooSmall,
            StoreError::WrongChecksum { .. } => S3ErrorCode::BadDigest,
            StoreError::WrongSize { .. } => S3ErrorCode::InvalidRequest,
            StoreError::Io { source, .. } if is_full(&source) => return storage_full(),
            StoreError::Io { attempted, source } => {
                tracing::error!(attempted, error = %source, "the object store could not use the disk");
                return internal(source);
            }
        };
        Self::with_message(code, message)
    }
}

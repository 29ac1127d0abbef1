//! An object as a file of one's own, for who builds from it.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::store::{Object, Store, StoreError};

/// Why an object could not be copied to a file.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// There is no such bucket.
    #[error("bucket {bucket} does not exist; create it with `aws s3 mb s3://{bucket}`")]
    NoSuchBucket {
        /// Its name.
        bucket: String,
    },
    /// There is no such object.
    #[error("bucket {bucket} has no object {key:?}; upload it with `aws s3 cp`")]
    NoSuchKey {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
    },
    /// The object is larger than what is allowed.
    #[error("s3://{bucket}/{key} has {size} bytes and the limit is {limit}")]
    TooLarge {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// Bytes that it has.
        size: u64,
        /// Bytes that it may have.
        limit: u64,
    },
    /// A file could not be read or written.
    #[error("could not copy s3://{bucket}/{key} to a file")]
    Io {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

pub(crate) async fn copy_to_file(
    store: &Store,
    bucket: &str,
    key: &str,
    path: &Path,
    limit: u64,
) -> Result<u64, CopyError> {
    let object = find(store, bucket, key)?;
    let (bucket, key) = (bucket.to_owned(), key.to_owned());
    let size = object.record.size;
    if size > limit {
        return Err(CopyError::TooLarge {
            bucket,
            key,
            size,
            limit,
        });
    }
    let path = path.to_owned();
    let copied = tokio::task::spawn_blocking(move || write(&object, &path)).await;
    match copied.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
        Ok(()) => Ok(size),
        Err(source) => Err(CopyError::Io {
            bucket,
            key,
            source,
        }),
    }
}

fn find(store: &Store, bucket: &str, key: &str) -> Result<Arc<Object>, CopyError> {
    store
        .bucket(bucket)
        .and_then(|bucket| bucket.object(key))
        .map_err(|error| match error {
            StoreError::NoSuchBucket => CopyError::NoSuchBucket {
                bucket: bucket.to_owned(),
            },
            _ => CopyError::NoSuchKey {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
            },
        })
}

fn write(object: &Object, path: &Path) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    let copied = object
        .segments
        .iter()
        .try_for_each(|segment| io::copy(&mut segment.open()?, &mut file).map(drop));
    if copied.is_err() {
        // The first error is the one worth reporting.
        let _ = std::fs::remove_file(path);
    }
    copied
}

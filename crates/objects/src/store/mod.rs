//! Buckets and objects on disk, durable and indexed in memory. Not for HTTP, signatures or digests:
//! it is told what an object's bytes and checksums are. Every call may wait for the disk, so they
//! belong on a blocking thread, save the look-ups, which only read memory.
//!
//! ```text
//! <root>/<bucket>/bucket.json
//! <root>/<bucket>/objects/<blake3 of the key>.json   what an object is, and which files hold it
//! <root>/<bucket>/data/<uuid>                        bytes, never rewritten
//! <root>/<bucket>/uploads/<uuid>/…                   multipart uploads under way
//! ```
//!
//! A key never becomes a path. An object appears by the rename of its record, after its bytes have
//! reached the disk; what no record lists is swept at the next start.

mod bucket;
mod durable;
mod error;
mod load;
mod record;
mod segment;
mod uploads;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use time::OffsetDateTime;
use uuid::Uuid;

pub(crate) use bucket::{Bucket, Condition};
pub(crate) use error::StoreError;
pub(crate) use record::{
    BucketRecord, FORMAT, Headers, Object, ObjectRecord, Part, PartRecord, SegmentRecord,
    UploadRecord,
};
pub(crate) use segment::Segment;
pub(crate) use uploads::{Completion, DEFAULT_CHECKSUM, WantedPart};

/// Beginning of the name of a bucket that is being removed.
const REMOVED: &str = ".removed-";

/// All buckets of a data directory.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    /// Held while a bucket appears or goes.
    changing: Mutex<()>,
    buckets: RwLock<BTreeMap<String, Arc<Bucket>>>,
}

impl Store {
    /// Reads every record and sweeps what a crash left behind.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let mut buckets = BTreeMap::new();
        for entry in fs::read_dir(root)? {
            let path = entry?.path();
            if let Some(bucket) = load::bucket(&path)? {
                buckets.insert(bucket.name().to_owned(), Arc::new(bucket));
            }
        }
        Ok(Self {
            root: root.to_owned(),
            changing: Mutex::new(()),
            buckets: RwLock::new(buckets),
        })
    }

    /// The directory, for questions about its file system.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn bucket(&self, name: &str) -> Result<Arc<Bucket>, StoreError> {
        read(&self.buckets)
            .get(name)
            .cloned()
            .ok_or(StoreError::NoSuchBucket)
    }

    /// All buckets, by name.
    pub(crate) fn buckets(&self) -> Vec<Arc<Bucket>> {
        read(&self.buckets).values().cloned().collect()
    }

    /// `name` is a valid bucket name, hence a safe file name.
    pub(crate) fn create_bucket(&self, name: &str) -> Result<Arc<Bucket>, StoreError> {
        let _changing = lock(&self.changing);
        if read(&self.buckets).contains_key(name) {
            return Err(StoreError::BucketExists);
        }
        let record = BucketRecord {
            format: FORMAT,
            name: name.to_owned(),
            created: OffsetDateTime::now_utc(),
        };
        self.write_bucket(&record)
            .map_err(StoreError::io(format!("create bucket {name}")))?;
        let bucket = Arc::new(Bucket::empty(self.root.join(name), record));
        write(&self.buckets).insert(name.to_owned(), Arc::clone(&bucket));
        Ok(bucket)
    }

    fn write_bucket(&self, record: &BucketRecord) -> io::Result<()> {
        let name = format!("{}{}", durable::UNFINISHED, Uuid::new_v4().simple());
        let unfinished = self.root.join(name);
        let written = bucket::write_empty(&unfinished, record)
            .and_then(|()| fs::rename(&unfinished, self.root.join(&record.name)));
        if let Err(error) = written {
            // Swept at the next start if this fails, too.
            let _ = fs::remove_dir_all(&unfinished);
            return Err(error);
        }
        durable::sync_directory(&self.root)
    }

    /// Removes an empty bucket; multipart uploads under way in it are lost, as in S3.
    pub(crate) fn delete_bucket(&self, name: &str) -> Result<(), StoreError> {
        let _changing = lock(&self.changing);
        let bucket = self.bucket(name)?;
        let removed = self
            .root
            .join(format!("{REMOVED}{}", Uuid::new_v4().simple()));
        bucket.retire(&removed)?;
        write(&self.buckets).remove(name);
        durable::sync_directory(&self.root)
            .and_then(|()| fs::remove_dir_all(&removed))
            .map_err(StoreError::io(format!("remove the files of bucket {name}")))
    }

    /// Ends multipart uploads that began before `before`.
    pub(crate) fn abort_uploads_before(&self, before: OffsetDateTime) {
        for bucket in self.buckets() {
            for upload in bucket.uploads() {
                if upload.initiated < before
                    && let Err(error) = bucket.abort_upload(&upload.key, &upload.id)
                {
                    tracing::warn!(bucket = bucket.name(), upload = upload.id, %error,
                        "could not clear an abandoned multipart upload");
                }
            }
        }
    }
}

// A panic while one of these locks is held leaves the index as it was: it is changed last, in one
// step. So a poisoned lock is as good as any.

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

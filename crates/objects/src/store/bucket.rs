//! One bucket: its objects by key, and the changes to them. Multipart uploads are in `uploads`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use super::durable;
use super::record::{BucketRecord, Object, record_name};
use super::uploads::Upload;
use super::{StoreError, lock, read, write};

/// What must hold for an object to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Condition {
    #[default]
    Always,
    /// `If-None-Match: *`
    Absent,
    /// `If-Match`, an ETag without its quotation marks.
    Etag(String),
}

impl Condition {
    fn check(&self, current: Option<&Object>) -> Result<(), StoreError> {
        match (self, current) {
            (Self::Always, _) | (Self::Absent, None) => Ok(()),
            (Self::Absent, Some(_)) => Err(StoreError::PreconditionFailed),
            (Self::Etag(_), None) => Err(StoreError::NoSuchKey),
            (Self::Etag(etag), Some(object)) if *etag == object.record.etag => Ok(()),
            (Self::Etag(_), Some(_)) => Err(StoreError::PreconditionFailed),
        }
    }
}

/// What a bucket holds, by the bytes of the key: the order in which S3 lists.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) objects: BTreeMap<Vec<u8>, Arc<Object>>,
    pub(super) uploads: BTreeMap<String, Upload>,
}

/// Whether a bucket still takes changes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    Live,
    Retired,
}

/// A bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    directory: PathBuf,
    record: BucketRecord,
    /// Held while a change is written to the disk, so that disk and memory agree on the order.
    changing: Mutex<State>,
    /// Held only to look and to swap.
    pub(super) contents: RwLock<Contents>,
}

/// Makes the directory of a bucket without objects.
pub(super) fn write_empty(directory: &Path, record: &BucketRecord) -> io::Result<()> {
    for name in ["objects", "data", "uploads"] {
        fs::create_dir_all(directory.join(name))?;
    }
    durable::write_json(directory, "bucket.json", record)
}

impl Bucket {
    pub(super) fn empty(directory: PathBuf, record: BucketRecord) -> Self {
        Self::loaded(directory, record, Contents::default())
    }

    pub(super) fn loaded(directory: PathBuf, record: BucketRecord, contents: Contents) -> Self {
        Self {
            directory,
            record,
            changing: Mutex::new(State::Live),
            contents: RwLock::new(contents),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.record.name
    }

    pub(crate) fn record(&self) -> &BucketRecord {
        &self.record
    }

    /// Where the bytes of new objects and parts go.
    pub(crate) fn data_directory(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn objects_directory(&self) -> PathBuf {
        self.directory.join("objects")
    }

    pub(super) fn upload_directory(&self, id: &str) -> PathBuf {
        self.directory.join("uploads").join(id)
    }

    /// Waits for the right to change the bucket.
    pub(super) fn change(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = lock(&self.changing);
        if *state == State::Retired {
            return Err(StoreError::NoSuchBucket);
        }
        Ok(state)
    }

    pub(crate) fn object(&self, key: &str) -> Result<Arc<Object>, StoreError> {
        let contents = read(&self.contents);
        contents
            .objects
            .get(key.as_bytes())
            .cloned()
            .ok_or(StoreError::NoSuchKey)
    }

    /// Looks at the objects in the order of their keys.
    pub(crate) fn with_objects<T>(
        &self,
        look: impl FnOnce(&BTreeMap<Vec<u8>, Arc<Object>>) -> T,
    ) -> T {
        look(&read(&self.contents).objects)
    }

    /// Makes an object appear, in place of one of the same key. Its bytes have been synced.
    pub(crate) fn put(
        &self,
        object: Object,
        condition: &Condition,
    ) -> Result<Arc<Object>, StoreError> {
        let state = self.change()?;
        self.put_while_changing(&state, object, condition)
    }

    pub(super) fn put_while_changing(
        &self,
        _changing: &MutexGuard<'_, State>,
        object: Object,
        condition: &Condition,
    ) -> Result<Arc<Object>, StoreError> {
        let key = object.record.key.as_bytes().to_vec();
        let current = read(&self.contents).objects.get(&key).cloned();
        condition.check(current.as_deref())?;
        durable::sync_directory(&self.data_directory())
            .and_then(|()| {
                let name = record_name(&object.record.key);
                durable::write_json(&self.objects_directory(), &name, &object.record)
            })
            .map_err(StoreError::io(format!(
                "record an object in bucket {}",
                self.name()
            )))?;
        object.keep();
        let object = Arc::new(object);
        if let Some(replaced) = write(&self.contents)
            .objects
            .insert(key, Arc::clone(&object))
        {
            replaced.dispose();
        }
        Ok(object)
    }

    /// Removes objects; keys that are not there are as good as removed.
    pub(crate) fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let _state = self.change()?;
        let present: Vec<&String> = {
            let contents = read(&self.contents);
            keys.iter()
                .filter(|key| contents.objects.contains_key(key.as_bytes()))
                .collect()
        };
        if present.is_empty() {
            return Ok(());
        }
        let directory = self.objects_directory();
        present
            .iter()
            .try_for_each(|key| durable::remove(&directory.join(record_name(key))))
            .and_then(|()| durable::sync_directory(&directory))
            .map_err(StoreError::io(format!(
                "delete objects from bucket {}",
                self.name()
            )))?;
        let mut contents = write(&self.contents);
        for key in present {
            if let Some(removed) = contents.objects.remove(key.as_bytes()) {
                removed.dispose();
            }
        }
        Ok(())
    }

    /// Moves the bucket's files out of the way; only an empty bucket can go.
    pub(super) fn retire(&self, destination: &Path) -> Result<(), StoreError> {
        let mut state = self.change()?;
        if !read(&self.contents).objects.is_empty() {
            return Err(StoreError::BucketNotEmpty);
        }
        fs::rename(&self.directory, destination)
            .map_err(StoreError::io(format!("remove bucket {}", self.name())))?;
        *state = State::Retired;
        write(&self.contents).uploads.clear();
        Ok(())
    }
}

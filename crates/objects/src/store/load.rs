//! Reads a bucket from the disk at start, and sweeps what a crash left in it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::bucket::{Bucket, Contents};
use super::record::{BucketRecord, FORMAT, Object, ObjectRecord, Part, PartRecord, record_name};
use super::uploads::Upload;
use super::{REMOVED, UploadRecord, durable};

/// The bucket in a directory; `None` when it is not one, or one that was going or coming.
pub(super) fn bucket(directory: &Path) -> io::Result<Option<Bucket>> {
    let name = directory
        .file_name()
        .and_then(OsStr::to_str)
        .unwrap_or_default();
    if name.starts_with(REMOVED) || name.starts_with(durable::UNFINISHED) {
        fs::remove_dir_all(directory)?;
        return Ok(None);
    }
    let record: BucketRecord = match durable::read_json(&directory.join("bucket.json")) {
        Ok(record) => record,
        Err(error) => {
            tracing::warn!(path = %directory.display(), %error, "not a bucket; left alone");
            return Ok(None);
        }
    };
    if record.name != name || record.format > FORMAT {
        tracing::error!(path = %directory.display(), "bucket of another version; left alone");
        return Ok(None);
    }
    Reader::new(directory).read(record).map(Some)
}

/// What a bucket's files amount to.
struct Reader {
    directory: PathBuf,
    data: PathBuf,
    /// Files that a record lists.
    used: BTreeSet<String>,
    /// A record could not be read: its files are unknown, so none is swept.
    damaged: bool,
}

impl Reader {
    fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            data: directory.join("data"),
            used: BTreeSet::new(),
            damaged: false,
        }
    }

    fn read(mut self, record: BucketRecord) -> io::Result<Bucket> {
        for name in ["objects", "data", "uploads"] {
            fs::create_dir_all(self.directory.join(name))?;
        }
        let objects = self.objects()?;
        let uploads = self.uploads()?;
        if !self.damaged {
            self.sweep()?;
        }
        Ok(Bucket::loaded(
            self.directory,
            record,
            Contents { objects, uploads },
        ))
    }

    fn objects(&mut self) -> io::Result<BTreeMap<Vec<u8>, Arc<Object>>> {
        let mut objects = BTreeMap::new();
        for path in finished_files(&self.directory.join("objects"))? {
            let Some(record) = self.record::<ObjectRecord>(&path, |record| record.format) else {
                continue;
            };
            let named = path.file_name().and_then(OsStr::to_str) == Some(&record_name(&record.key));
            self.used
                .extend(record.segments.iter().map(|segment| segment.id.clone()));
            match Object::load(record, &self.data).filter(|_| named) {
                Some(object) => {
                    objects.insert(object.record.key.as_bytes().to_vec(), Arc::new(object));
                }
                None => {
                    self.damaged = true;
                    tracing::error!(record = %path.display(), "an object's data is missing or cut");
                }
            }
        }
        Ok(objects)
    }

    fn uploads(&mut self) -> io::Result<BTreeMap<String, Upload>> {
        let mut uploads = BTreeMap::new();
        for entry in fs::read_dir(self.directory.join("uploads"))? {
            let path = entry?.path();
            match self.upload(&path)? {
                Some(upload) => {
                    uploads.insert(upload.record.id.clone(), upload);
                }
                None if !self.damaged => fs::remove_dir_all(&path)?,
                None => {}
            }
        }
        Ok(uploads)
    }

    /// An upload; `None` when it was aborted or completed just before a crash.
    fn upload(&mut self, path: &Path) -> io::Result<Option<Upload>> {
        if !path.join("upload.json").exists() {
            return Ok(None);
        }
        let Some(record) =
            self.record::<UploadRecord>(&path.join("upload.json"), |record| record.format)
        else {
            return Ok(None);
        };
        if path.file_name() != Some(OsStr::new(&record.id)) {
            self.damaged = true;
            return Ok(None);
        }
        let mut parts = BTreeMap::new();
        for file in finished_files(path)? {
            if file.ends_with("upload.json") {
                continue;
            }
            let Some(part) = self.record::<PartRecord>(&file, |_| FORMAT) else {
                continue;
            };
            if self.used.contains(&part.segment.id) {
                return Ok(None);
            }
            if let Some(part) = Part::load(part, &self.data) {
                parts.insert(part.record.number, part);
            }
        }
        self.used
            .extend(parts.values().map(|part| part.record.segment.id.clone()));
        Ok(Some(Upload { record, parts }))
    }

    fn record<T: DeserializeOwned>(
        &mut self,
        path: &Path,
        format: impl FnOnce(&T) -> u32,
    ) -> Option<T> {
        match durable::read_json::<T>(path) {
            Ok(record) if format(&record) <= FORMAT => Some(record),
            Ok(_) => {
                self.damaged = true;
                tracing::error!(record = %path.display(), "record of a newer version; left alone");
                None
            }
            Err(error) => {
                self.damaged = true;
                tracing::error!(record = %path.display(), %error, "could not read a record");
                None
            }
        }
    }

    fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.data)? {
            let entry = entry?;
            let used = entry
                .file_name()
                .to_str()
                .is_some_and(|name| self.used.contains(name));
            if !used {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// The files of a directory, after those that a crash left unfinished are removed.
fn finished_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(durable::UNFINISHED)
        {
            fs::remove_file(entry.path())?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(files)
}

//! One file of an object's bytes: written once, read by many, removed when nobody needs it any more.
//! Not for what the bytes mean: an object's record lists its segments.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use uuid::Uuid;

/// A file of bytes. It starts as *disposable*: dropping the last reference removes it, so an upload
/// that fails, is cancelled, or finds the disk full leaves nothing. A record that lists it makes it
/// last, and the record's end makes it disposable again; readers that still hold it finish first.
#[derive(Debug)]
pub(crate) struct Segment {
    path: PathBuf,
    id: String,
    disposable: AtomicBool,
}

impl Segment {
    /// Names a file that does not exist yet.
    pub(crate) fn create(directory: &Path) -> Self {
        let id = Uuid::new_v4().simple().to_string();
        Self {
            path: directory.join(&id),
            id,
            disposable: AtomicBool::new(true),
        }
    }

    /// A file that a record on disk lists. `None` when the name is not one that `create` gives.
    pub(crate) fn listed(directory: &Path, id: &str) -> Option<Self> {
        let genuine = Uuid::try_parse(id).is_ok_and(|parsed| parsed.simple().to_string() == id);
        genuine.then(|| Self {
            path: directory.join(id),
            id: id.to_owned(),
            disposable: AtomicBool::new(false),
        })
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A record on disk lists the file from now on.
    pub(crate) fn keep(&self) {
        self.disposable.store(false, Ordering::Release);
    }

    /// No record on disk lists the file any more.
    pub(crate) fn dispose(&self) {
        self.disposable.store(true, Ordering::Release);
    }

    pub(crate) fn open(&self) -> io::Result<File> {
        File::open(&self.path)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if self.disposable.load(Ordering::Acquire)
            && let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "could not remove object data");
        }
    }
}

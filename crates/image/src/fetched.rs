//! The account of base images that were fetched from registries: when, and when last used. What is not in
//! it was made on this host by its owner and is left alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The account: for each image a file with its name in it, written when it was fetched, and an empty one
/// beside it, written when it was last used.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    directory: PathBuf,
}

impl Fetched {
    pub(crate) fn below(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// When an image was last fetched; `None` where it never was.
    pub(crate) fn fetched_at(&self, image: &str) -> Option<SystemTime> {
        fs::metadata(self.record(image)).ok()?.modified().ok()
    }

    /// An image was fetched just now.
    pub(crate) fn note_fetched(&self, image: &str) {
        self.write(&self.record(image), image);
    }

    /// A build uses an image; of one that was never fetched nothing is noted.
    pub(crate) fn note_used(&self, image: &str) {
        if self.record(image).exists() {
            self.write(&self.record(image).with_extension("used"), "");
        }
    }

    /// An image is gone.
    pub(crate) fn forget(&self, image: &str) {
        for path in [
            self.record(image),
            self.record(image).with_extension("used"),
        ] {
            // What was never noted is not there.
            let _ = fs::remove_file(path);
        }
    }

    /// The image that no build has used for the longest time.
    pub(crate) fn least_recently_used(&self) -> Option<String> {
        let entries = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten();
        let records = entries.map(|entry| entry.path()).filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "name")
        });
        let oldest = records.min_by_key(|record| {
            let used = fs::metadata(record.with_extension("used"));
            used.or_else(|_| fs::metadata(record))
                .and_then(|metadata| metadata.modified())
                .unwrap_or(SystemTime::UNIX_EPOCH)
        })?;
        fs::read_to_string(oldest).ok()
    }

    fn record(&self, image: &str) -> PathBuf {
        let name = blake3::hash(image.as_bytes()).to_hex();
        self.directory.join(format!("{name}.name"))
    }

    /// The account is a convenience: a record that cannot be written costs a download, or room.
    fn write(&self, path: &Path, content: &str) {
        let written = fs::create_dir_all(&self.directory).and_then(|()| fs::write(path, content));
        if let Err(error) = written {
            tracing::warn!(%error, path = %path.display(), "could not note a base image's use");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Fetched;

    #[test]
    fn the_least_recently_used_image_is_told_and_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let fetched = Fetched::below(directory.path().join("bases"));
        assert_eq!(fetched.least_recently_used(), None);
        fetched.note_used("made/here:1");
        assert_eq!(fetched.fetched_at("made/here:1"), None);
        for image in ["a:1", "b:1"] {
            fetched.note_fetched(image);
        }
        let earlier = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        for image in ["a:1", "b:1"] {
            let record = std::fs::File::options()
                .write(true)
                .open(fetched.record(image));
            record.unwrap().set_modified(earlier).unwrap();
        }
        fetched.note_used("a:1");
        assert_eq!(fetched.least_recently_used().as_deref(), Some("b:1"));
        fetched.forget("b:1");
        assert_eq!(fetched.least_recently_used().as_deref(), Some("a:1"));
        fetched.forget("a:1");
        assert_eq!(fetched.least_recently_used(), None);
    }
}

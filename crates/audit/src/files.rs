//! Where events go: `audit.jsonl` grows; when it is full or old it becomes `audit.1.jsonl`, that one
//! `audit.2.jsonl`, and the oldest goes. Only the owner reads them.
//!
//! Renaming a handful of files is less than the crates for it bring along (calendars, compression), and
//! a failure must be told here.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Bounds of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSettings {
    /// Bytes of one file: an event that would exceed it opens the next.
    pub max_file_bytes: u64,
    /// Full files that are kept beside the one that grows.
    pub files: u32,
    /// How long one file grows.
    pub max_age: Duration,
}

impl Default for FileSettings {
    fn default() -> Self {
        Self {
            max_file_bytes: 64 * 1024 * 1024,
            files: 10,
            max_age: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// The files of a directory, the newest one open.
#[derive(Debug)]
pub(crate) struct Files {
    directory: PathBuf,
    settings: FileSettings,
    file: File,
    length: u64,
    begun: SystemTime,
}

impl Files {
    pub(crate) fn open(directory: &Path, settings: FileSettings) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let file = open_newest(directory)?;
        let metadata = file.metadata()?;
        Ok(Self {
            directory: directory.to_owned(),
            settings,
            length: metadata.len(),
            // The first event's time is not worth reading the file for.
            begun: metadata.created().unwrap_or_else(|_| SystemTime::now()),
            file,
        })
    }

    /// Writes a whole line, in the next file where this one is full or old.
    pub(crate) fn write(&mut self, line: &[u8], now: SystemTime) -> io::Result<()> {
        let length = line.len() as u64;
        let full = self.length + length > self.settings.max_file_bytes;
        let age = now.duration_since(self.begun).unwrap_or_default();
        if self.length > 0 && (full || age >= self.settings.max_age) {
            self.rotate(now)?;
        }
        if let Err(error) = self.file.write_all(line) {
            // Half a line would spoil the next one: what was there before is the file.
            let _ = self.file.set_len(self.length);
            return Err(error);
        }
        self.length += length;
        Ok(())
    }

    /// On the disk when this returns.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn rotate(&mut self, now: SystemTime) -> io::Result<()> {
        self.file.sync_data()?;
        remove_if_there(&self.full(self.settings.files))?;
        for number in (1..self.settings.files).rev() {
            rename_if_there(&self.full(number), &self.full(number + 1))?;
        }
        let newest = newest(&self.directory);
        if self.settings.files == 0 {
            fs::remove_file(&newest)?;
        } else {
            fs::rename(&newest, self.full(1))?;
        }
        self.file = open_newest(&self.directory)?;
        self.length = 0;
        self.begun = now;
        Ok(())
    }

    fn full(&self, number: u32) -> PathBuf {
        self.directory.join(format!("audit.{number}.jsonl"))
    }
}

fn newest(directory: &Path) -> PathBuf {
    directory.join("audit.jsonl")
}

fn open_newest(directory: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(newest(directory))?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    allow_missing(fs::remove_file(path))
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    allow_missing(fs::rename(from, to))
}

fn allow_missing(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, SystemTime};

    use super::{FileSettings, Files};

    fn settings(max_file_bytes: u64, files: u32) -> FileSettings {
        FileSettings {
            max_file_bytes,
            files,
            max_age: Duration::from_secs(60),
        }
    }

    #[test]
    fn a_full_file_makes_room_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = Files::open(directory.path(), settings(10, 2)).unwrap();
        for line in [
            "one\n", "two\n", "three\n", "four\n", "five\n", "six\n", "seven\n",
        ] {
            files.write(line.as_bytes(), SystemTime::now()).unwrap();
        }
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!(read("audit.jsonl"), "six\nseven\n");
        assert_eq!(read("audit.1.jsonl"), "four\nfive\n");
        assert_eq!(read("audit.2.jsonl"), "three\n");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
        let mode = fs::metadata(directory.path().join("audit.jsonl")).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_old_file_makes_room_and_an_empty_one_never_does() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = Files::open(directory.path(), settings(1000, 2)).unwrap();
        let now = SystemTime::now();
        files
            .write(b"one\n", now + Duration::from_secs(600))
            .unwrap();
        files
            .write(b"two\n", now + Duration::from_secs(601))
            .unwrap();
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!(
            (read("audit.1.jsonl"), read("audit.jsonl")),
            ("one\n".into(), "two\n".into())
        );
    }

    #[test]
    fn a_reopened_file_grows_on() {
        let directory = tempfile::tempdir().unwrap();
        for line in ["one\n", "two\n", "three\n"] {
            let mut files = Files::open(directory.path(), settings(10, 1)).unwrap();
            files.write(line.as_bytes(), SystemTime::now()).unwrap();
        }
        let full = fs::read_to_string(directory.path().join("audit.1.jsonl")).unwrap();
        assert_eq!(full, "one\ntwo\n");
    }
}

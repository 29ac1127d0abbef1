//! One log group: its streams, its retention, and the bell that rings when something is written.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use crate::name::{GroupName, StreamName, file_name};
use crate::stream::{StreamFiles, StreamRecord};
use crate::writer::Batch;
use crate::{now_ms, read, write};

/// `group.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct GroupRecord {
    pub(crate) name: GroupName,
    /// Milliseconds since 1970.
    pub(crate) created_ms: i64,
    pub(crate) retention_days: Option<u32>,
}

/// A group.
#[derive(Debug)]
pub(crate) struct Group {
    directory: PathBuf,
    record: Mutex<GroupRecord>,
    streams: RwLock<BTreeMap<StreamName, Arc<Stream>>>,
    stream_bytes: u64,
    /// Counts writes.
    written: watch::Sender<u64>,
}

/// A stream and who writes it.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) files: StreamFiles,
    /// The queue of the task that writes, while there is one.
    pub(crate) queue: Mutex<Option<mpsc::WeakSender<Batch>>>,
    deleted: AtomicBool,
}

impl Stream {
    fn new(files: StreamFiles) -> Arc<Self> {
        Arc::new(Self {
            files,
            queue: Mutex::new(None),
            deleted: AtomicBool::new(false),
        })
    }

    /// A deleted stream takes no more events; whoever still writes to it writes to nowhere.
    pub(crate) fn append(&self, events: &[(i64, String)]) -> io::Result<()> {
        if self.deleted.load(Ordering::Acquire) {
            return Ok(());
        }
        self.files.append(events, now_ms())
    }

    fn is_written(&self) -> bool {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.as_ref().is_some_and(|queue| queue.strong_count() > 0)
    }
}

impl Group {
    pub(crate) fn create(root: &Path, name: &GroupName, stream_bytes: u64) -> io::Result<Self> {
        let directory = root.join(file_name(name.as_str()));
        fs::create_dir_all(&directory)?;
        let record = GroupRecord {
            name: name.clone(),
            created_ms: now_ms(),
            retention_days: None,
        };
        write_record(&directory, &record)?;
        Ok(Self::new(directory, record, BTreeMap::new(), stream_bytes))
    }

    /// `None` when the directory holds no group.
    pub(crate) fn open(directory: PathBuf, stream_bytes: u64) -> io::Result<Option<Self>> {
        let Ok(record) = fs::read(directory.join("group.json")) else {
            return Ok(None);
        };
        let Ok(record) = serde_json::from_slice::<GroupRecord>(&record) else {
            tracing::error!(path = %directory.display(), "unreadable log group; left alone");
            return Ok(None);
        };
        let mut streams = BTreeMap::new();
        for entry in fs::read_dir(&directory)? {
            if let Some(files) = StreamFiles::open(entry?.path(), stream_bytes) {
                streams.insert(files.record.name.clone(), Stream::new(files));
            }
        }
        Ok(Some(Self::new(directory, record, streams, stream_bytes)))
    }

    fn new(
        directory: PathBuf,
        record: GroupRecord,
        streams: BTreeMap<StreamName, Arc<Stream>>,
        stream_bytes: u64,
    ) -> Self {
        Self {
            directory,
            record: Mutex::new(record),
            streams: RwLock::new(streams),
            stream_bytes,
            written: watch::Sender::new(0),
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn record(&self) -> GroupRecord {
        self.record
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_retention(&self, days: Option<u32>) -> io::Result<()> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = GroupRecord {
            retention_days: days,
            ..record.clone()
        };
        write_record(&self.directory, &changed)?;
        *record = changed;
        Ok(())
    }

    pub(crate) fn stream(&self, name: &StreamName) -> Option<Arc<Stream>> {
        read(&self.streams).get(name).cloned()
    }

    /// Every stream, by name.
    pub(crate) fn streams(&self) -> Vec<Arc<Stream>> {
        read(&self.streams).values().cloned().collect()
    }

    /// The stream, and whether it was made now.
    pub(crate) fn stream_or_new(&self, name: &StreamName) -> io::Result<(Arc<Stream>, bool)> {
        let mut streams = write(&self.streams);
        if let Some(stream) = streams.get(name) {
            return Ok((Arc::clone(stream), false));
        }
        let directory = self.directory.join(file_name(name.as_str()));
        let record = StreamRecord {
            name: name.clone(),
            created_ms: now_ms(),
        };
        let stream = Stream::new(StreamFiles::create(directory, record, self.stream_bytes)?);
        streams.insert(name.clone(), Arc::clone(&stream));
        Ok((stream, true))
    }

    /// `false` when there is no such stream.
    pub(crate) fn delete_stream(&self, name: &StreamName) -> io::Result<bool> {
        let mut streams = write(&self.streams);
        let Some(stream) = streams.remove(name) else {
            return Ok(false);
        };
        stream.deleted.store(true, Ordering::Release);
        fs::remove_dir_all(self.directory.join(file_name(name.as_str())))?;
        Ok(true)
    }

    /// Ends every stream, before the group's directory goes.
    pub(crate) fn retire(&self) {
        for stream in read(&self.streams).values() {
            stream.deleted.store(true, Ordering::Release);
        }
    }

    /// Drops what is older than the retention, and streams of which nothing is left and that nobody
    /// writes.
    pub(crate) fn expire(&self, before_ms: i64) -> io::Result<()> {
        for stream in self.streams() {
            let idle_and_old = !stream.is_written() && stream.files.record.created_ms < before_ms;
            if stream.files.expire(before_ms)? && idle_and_old {
                self.delete_stream(&stream.files.record.name)?;
            }
        }
        Ok(())
    }

    pub(crate) fn ring(&self) {
        self.written
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(crate) fn bell(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }
}

fn write_record(directory: &Path, record: &GroupRecord) -> io::Result<()> {
    let unfinished = directory.join(".group.json");
    let mut file = fs::File::create(&unfinished)?;
    io::Write::write_all(&mut file, &serde_json::to_vec(record)?)?;
    file.sync_all()?;
    fs::rename(&unfinished, directory.join("group.json"))
}

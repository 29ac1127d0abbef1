//! Build and application logs: groups of append-only streams on disk, readable while they are written.
//!
//! The semantics are those of CloudWatch Logs, which will be served from here; this crate has no
//! HTTP, and knows nothing of what logs. Everything is bounded: an event ([`LARGEST_MESSAGE_BYTES`]),
//! a stream and the age of its events ([`Settings`]), the queue of a writer.
//!
//! ```text
//! <root>/<group>/group.json
//! <root>/<group>/<stream>/stream.json
//! <root>/<group>/<stream>/<position>.log    events, one line of JSON each
//! ```
//!
//! Calls that are not `async` wait for the disk, and belong on a blocking thread.

#![forbid(unsafe_code)]

mod error;
mod event;
mod filter;
mod group;
mod line;
mod name;
mod read;
mod segment;
mod stream;
mod writer;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use uuid::Uuid;

pub use error::LogsError;
pub use event::Event;
pub use filter::{Filter, FilterPage, FilterToken, Streams};
pub use line::LARGEST_MESSAGE_BYTES;
pub use name::{GroupName, NameError, StreamName};
pub use read::{From, LARGEST_PAGE, Page, Query, Token};
pub use writer::LogWriter;

use group::{Group, Stream};

/// Beginning of the name of a group that is being removed.
const REMOVED: &str = ".removed-";

/// Milliseconds of a day.
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// What of the logs can be set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bytes on disk of one stream. Beyond it the oldest events are dropped.
    pub stream_bytes: u64,
    /// Days after which events of groups without a retention of their own are dropped; `None` for
    /// never.
    pub retention_days: Option<u32>,
}

impl Default for Settings {
    /// 64 MiB, and 30 days.
    fn default() -> Self {
        Self {
            stream_bytes: 64 * 1024 * 1024,
            retention_days: Some(30),
        }
    }
}

/// All logs of a data directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Logs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    settings: Settings,
    groups: RwLock<BTreeMap<GroupName, Arc<Group>>>,
}

/// A group, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSummary {
    /// Its name.
    pub name: GroupName,
    /// Milliseconds since 1970.
    pub created_ms: i64,
    /// Its own retention.
    pub retention_days: Option<u32>,
    /// Bytes on disk.
    pub stored_bytes: u64,
}

/// A stream, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSummary {
    /// Its name.
    pub name: StreamName,
    /// Milliseconds since 1970.
    pub created_ms: i64,
    /// Of the oldest event that is left, milliseconds since 1970.
    pub first_event_ms: Option<i64>,
    /// Of the newest event, milliseconds since 1970.
    pub last_event_ms: Option<i64>,
    /// When the newest event was taken in, milliseconds since 1970.
    pub last_ingestion_ms: Option<i64>,
    /// Bytes on disk.
    pub stored_bytes: u64,
}

/// Tells that something was written to a group.
#[derive(Debug)]
pub struct Subscription(watch::Receiver<u64>);

impl Subscription {
    /// Waits until something was written since the last call, or since the subscription. `false`
    /// when the group is gone.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }

    /// Whether something was written since the last call, without waiting. `None` when the group is
    /// gone.
    pub fn take_change(&mut self) -> Option<bool> {
        self.0.has_changed().ok()?;
        Some(self.0.borrow_and_update().has_changed())
    }
}

impl Logs {
    /// Opens the logs under `root` (made when missing).
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(root: &Path, settings: Settings) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let mut groups = BTreeMap::new();
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(REMOVED) {
                fs::remove_dir_all(entry.path())?;
            } else if let Some(group) = Group::open(entry.path(), settings.stream_bytes)? {
                groups.insert(group.record().name, Arc::new(group));
            }
        }
        let inner = Inner {
            root: root.to_owned(),
            settings,
            groups: RwLock::new(groups),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    fn group(&self, name: &GroupName) -> Result<Arc<Group>, LogsError> {
        let group = read(&self.inner.groups).get(name).cloned();
        group.ok_or_else(|| LogsError::NoSuchGroup {
            group: name.clone(),
        })
    }

    fn stream(&self, group: &GroupName, name: &StreamName) -> Result<Arc<Stream>, LogsError> {
        self.group(group)?
            .stream(name)
            .ok_or_else(|| LogsError::NoSuchStream {
                group: group.clone(),
                stream: name.clone(),
            })
    }

    fn group_or_new(&self, name: &GroupName) -> Result<(Arc<Group>, bool), LogsError> {
        let mut groups = write(&self.inner.groups);
        if let Some(group) = groups.get(name) {
            return Ok((Arc::clone(group), false));
        }
        let group = Group::create(&self.inner.root, name, self.inner.settings.stream_bytes)
            .map_err(LogsError::io(format!("create log group {name}")))?;
        let group = Arc::new(group);
        groups.insert(name.clone(), Arc::clone(&group));
        Ok((group, true))
    }

    /// Makes a group.
    ///
    /// # Errors
    /// When it is there already, or cannot be written.
    pub fn create_group(&self, name: &GroupName) -> Result<(), LogsError> {
        match self.group_or_new(name)? {
            (_, true) => Ok(()),
            (_, false) => Err(LogsError::GroupExists {
                group: name.clone(),
            }),
        }
    }

    /// Makes a stream in a group that is there.
    ///
    /// # Errors
    /// When it is there already, the group is not, or it cannot be written.
    pub fn create_stream(&self, group: &GroupName, name: &StreamName) -> Result<(), LogsError> {
        let made = self
            .group(group)?
            .stream_or_new(name)
            .map_err(LogsError::io(format!(
                "create log stream {name} in {group}"
            )))?;
        match made {
            (_, true) => Ok(()),
            (_, false) => Err(LogsError::StreamExists {
                group: group.clone(),
                stream: name.clone(),
            }),
        }
    }

    /// Removes a group with all its streams. Writers to it go on to write to nowhere.
    ///
    /// # Errors
    /// When there is no such group, or its files cannot be removed.
    pub fn delete_group(&self, name: &GroupName) -> Result<(), LogsError> {
        let mut groups = write(&self.inner.groups);
        let Some(group) = groups.get(name) else {
            return Err(LogsError::NoSuchGroup {
                group: name.clone(),
            });
        };
        let removed = self
            .inner
            .root
            .join(format!("{REMOVED}{}", Uuid::new_v4().simple()));
        group.retire();
        let moved = fs::rename(group.directory(), &removed);
        groups.remove(name);
        drop(groups);
        moved
            .and_then(|()| fs::remove_dir_all(&removed))
            .map_err(LogsError::io(format!("delete log group {name}")))
    }

    /// Removes a stream. Writers to it go on to write to nowhere.
    ///
    /// # Errors
    /// When there is no such stream, or its files cannot be removed.
    pub fn delete_stream(&self, group: &GroupName, name: &StreamName) -> Result<(), LogsError> {
        let deleted = self
            .group(group)?
            .delete_stream(name)
            .map_err(LogsError::io(format!(
                "delete log stream {name} in {group}"
            )))?;
        if deleted {
            return Ok(());
        }
        Err(LogsError::NoSuchStream {
            group: group.clone(),
            stream: name.clone(),
        })
    }

    /// Sets after how many days a group's events are dropped; `None` for the default.
    ///
    /// # Errors
    /// When there is no such group, or it cannot be written.
    pub fn set_retention(&self, group: &GroupName, days: Option<u32>) -> Result<(), LogsError> {
        self.group(group)?
            .set_retention(days)
            .map_err(LogsError::io(format!(
                "set the retention of log group {group}"
            )))
    }

    /// Drops events that are older than their group's retention. To be called about once an hour.
    ///
    /// # Errors
    /// When a file cannot be read or removed.
    pub fn expire(&self) -> Result<(), LogsError> {
        let groups: Vec<Arc<Group>> = read(&self.inner.groups).values().cloned().collect();
        for group in groups {
            let record = group.record();
            let days = record.retention_days.or(self.inner.settings.retention_days);
            if let Some(days) = days {
                group
                    .expire(now_ms() - i64::from(days) * DAY_MS)
                    .map_err(LogsError::io(format!("expire log group {}", record.name)))?;
            }
        }
        Ok(())
    }

    /// Opens a stream for appending; it and its group are made when missing. Short, though it may
    /// touch the disk; must be called on a Tokio runtime.
    ///
    /// # Errors
    /// When a missing group or stream cannot be written.
    pub fn writer(&self, group: &GroupName, name: &StreamName) -> Result<LogWriter, LogsError> {
        let (group_found, _) = self.group_or_new(group)?;
        let (stream, _) = group_found
            .stream_or_new(name)
            .map_err(LogsError::io(format!(
                "create log stream {name} in {group}"
            )))?;
        Ok(LogWriter::new(&group_found, &stream))
    }

    /// A page of one stream.
    ///
    /// # Errors
    /// When there is no such stream, or it cannot be read.
    pub fn events(
        &self,
        group: &GroupName,
        name: &StreamName,
        query: &Query,
    ) -> Result<Page, LogsError> {
        let stream = self.stream(group, name)?;
        read::page(&stream.files, query)
            .map_err(LogsError::io(format!("read log stream {name} in {group}")))
    }

    /// A page of several streams of a group together.
    ///
    /// # Errors
    /// When there is no such group, or a stream cannot be read.
    pub fn filter(&self, group: &GroupName, filter: &Filter<'_>) -> Result<FilterPage, LogsError> {
        let found = self.group(group)?;
        filter::page(&found, filter).map_err(LogsError::io(format!(
            "read the streams of log group {group}"
        )))
    }

    /// Waits for what will be written to a group. Subscribe first, then read, then wait: so nothing
    /// is missed.
    ///
    /// # Errors
    /// When there is no such group.
    pub fn subscribe(&self, group: &GroupName) -> Result<Subscription, LogsError> {
        Ok(Subscription(self.group(group)?.bell()))
    }

    /// Days after which events of groups without a retention of their own are dropped; `None` for
    /// never.
    #[must_use]
    pub fn default_retention_days(&self) -> Option<u32> {
        self.inner.settings.retention_days
    }

    /// The names of every group, in order. Does not touch the disk.
    #[must_use]
    pub fn group_names(&self) -> Vec<GroupName> {
        read(&self.inner.groups).keys().cloned().collect()
    }

    /// The names of every stream of a group, in order. Does not touch the disk.
    ///
    /// # Errors
    /// When there is no such group.
    pub fn stream_names(&self, group: &GroupName) -> Result<Vec<StreamName>, LogsError> {
        let streams = self.group(group)?.streams();
        let name = |stream: &Arc<Stream>| stream.files.record.name.clone();
        Ok(streams.iter().map(name).collect())
    }

    /// One group; `None` when it is not there.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn summary(&self, name: &GroupName) -> Result<Option<GroupSummary>, LogsError> {
        let group = read(&self.inner.groups).get(name).cloned();
        group.map(|group| summarize_group(&group)).transpose()
    }

    /// Every group, by name.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn groups(&self) -> Result<Vec<GroupSummary>, LogsError> {
        let groups: Vec<Arc<Group>> = read(&self.inner.groups).values().cloned().collect();
        groups.iter().map(|group| summarize_group(group)).collect()
    }

    /// Every stream of a group, by name.
    ///
    /// # Errors
    /// When there is no such group, or a stream cannot be read.
    pub fn streams(&self, group: &GroupName) -> Result<Vec<StreamSummary>, LogsError> {
        let streams = self.group(group)?.streams();
        streams
            .iter()
            .map(|stream| summarize_stream(stream))
            .collect::<io::Result<_>>()
            .map_err(LogsError::io(format!(
                "list the streams of log group {group}"
            )))
    }
}

fn summarize_group(group: &Group) -> Result<GroupSummary, LogsError> {
    let record = group.record();
    let stored_bytes = group
        .streams()
        .iter()
        .map(|stream| stream.files.stored_bytes())
        .sum::<io::Result<u64>>()
        .map_err(LogsError::io(format!("measure log group {}", record.name)))?;
    Ok(GroupSummary {
        name: record.name,
        created_ms: record.created_ms,
        retention_days: record.retention_days,
        stored_bytes,
    })
}

fn summarize_stream(stream: &Stream) -> io::Result<StreamSummary> {
    let bounds = stream.files.bounds_ms()?;
    Ok(StreamSummary {
        name: stream.files.record.name.clone(),
        created_ms: stream.files.record.created_ms,
        first_event_ms: bounds.map(|(first, _)| first),
        last_event_ms: bounds.map(|(_, last)| last),
        last_ingestion_ms: stream.files.last_event()?.map(|event| event.ingestion_ms),
        stored_bytes: stream.files.stored_bytes()?,
    })
}

/// Milliseconds since 1970.
fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

// What these locks guard is changed in one step, so a poisoned one is as good as any.

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

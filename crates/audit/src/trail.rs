//! Takes events and has them written by a thread of its own.
//!
//! The queue is bounded. A call whose event finds it full waits a moment for room; after that the event
//! is dropped, which is counted, logged, and written down as an event of its own as soon as there is
//! room. So a slow disk slows callers a little and never stops them, and a gap in the trail is told.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use crate::files::{FileSettings, Files};
use crate::record::{EventType, Record, UserIdentity};

/// Events that wait to be written.
const QUEUE: usize = 8192;
/// How long a call waits for room for its event.
const ROOM_BOUND: Duration = Duration::from_millis(100);

/// The trail cannot be written.
#[derive(Debug, thiserror::Error)]
#[error(
    "could not open the audit trail in {directory}; make room or set `enabled = false` in `[audit]`"
)]
pub struct OpenFailure {
    /// Its directory.
    pub directory: PathBuf,
    /// The cause.
    #[source]
    pub source: io::Error,
}

enum Message {
    Event(Box<Record>),
    Flush(oneshot::Sender<()>),
}

/// The trail. Cheap to clone; ends, with everything written, when the last clone goes.
#[derive(Clone, Debug)]
pub struct Trail {
    queue: mpsc::Sender<Message>,
    dropped: Arc<AtomicU64>,
}

impl Trail {
    /// Opens the trail below a directory.
    ///
    /// # Errors
    /// When its newest file cannot be opened, or its thread started.
    pub fn open(directory: &Path, settings: FileSettings) -> Result<Self, OpenFailure> {
        let failure = |source| OpenFailure {
            directory: directory.to_owned(),
            source,
        };
        let files = Files::open(directory, settings).map_err(failure)?;
        let (queue, events) = mpsc::channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            files,
            dropped: Arc::clone(&dropped),
            failing: false,
        };
        thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.write_all(events))
            .map_err(failure)?;
        Ok(Self { queue, dropped })
    }

    /// Takes an event; waits a moment where the queue is full.
    pub async fn record(&self, record: Record) {
        let message = Message::Event(Box::new(record));
        if self.queue.send_timeout(message, ROOM_BOUND).await.is_err() {
            self.drop_one();
        }
    }

    /// Takes an event without waiting.
    pub fn record_now(&self, record: Record) {
        if self
            .queue
            .try_send(Message::Event(Box::new(record)))
            .is_err()
        {
            self.drop_one();
        }
    }

    /// Returns when everything that was taken before is on the disk, or cannot be written.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.queue.send(Message::Flush(done)).await.is_ok() {
            // The thread lives as long as this sender.
            let _ = written.await;
        }
    }

    fn drop_one(&self) {
        if self.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
            error!("the audit trail is too slow: events are dropped until there is room again");
        }
    }
}

struct Writer {
    files: Files,
    dropped: Arc<AtomicU64>,
    failing: bool,
}

impl Writer {
    fn write_all(mut self, mut events: mpsc::Receiver<Message>) {
        let mut last = None;
        while let Some(message) = events.blocking_recv() {
            match message {
                Message::Event(record) => {
                    self.tell_of_dropped(&record);
                    if !self.write(&record) {
                        self.dropped.fetch_add(1, Ordering::Relaxed);
                    }
                    last = Some(record);
                }
                Message::Flush(done) => {
                    if let Some(record) = &last {
                        self.tell_of_dropped(record);
                    }
                    self.sync();
                    // Who waited may have gone.
                    let _ = done.send(());
                }
            }
        }
        self.sync();
    }

    /// An event about those that are missing, in the place of the one that follows them.
    fn tell_of_dropped(&mut self, next: &Record) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped == 0 {
            return;
        }
        error!(dropped, "events are missing in the audit trail");
        let mut gap = Record::new(
            EventType::AwsServiceEvent,
            "cloudtrail.amazonaws.com",
            "EventsDropped",
            &next.aws_region,
            &next.recipient_account_id,
        );
        gap.user_identity = UserIdentity {
            kind: "AWSService".to_owned(),
            invoked_by: Some("cloudtrail.amazonaws.com".to_owned()),
            ..UserIdentity::default()
        };
        gap.service_event_details = Some(json!({ "dropped": dropped }));
        if !self.write(&gap) {
            self.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
    }

    /// Whether it is written.
    fn write(&mut self, record: &Record) -> bool {
        let line = serde_json::to_vec(record).map(|mut line| {
            line.push(b'\n');
            line
        });
        let written = line
            .map_err(io::Error::from)
            .and_then(|line| self.files.write(&line, SystemTime::now()));
        match written {
            Ok(()) => {
                self.failing = false;
                true
            }
            Err(failure) => {
                if !self.failing {
                    error!(%failure, "the audit trail cannot be written; events are dropped");
                }
                self.failing = true;
                false
            }
        }
    }

    fn sync(&self) {
        if let Err(failure) = self.files.sync() {
            error!(%failure, "the audit trail did not reach the disk");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::Trail;
    use crate::files::FileSettings;
    use crate::record::{EventType, Record};

    fn record(name: &str) -> Record {
        Record::new(
            EventType::AwsApiCall,
            "lambda.amazonaws.com",
            name,
            "us-east-1",
            "000000000000",
        )
    }

    #[tokio::test]
    async fn what_was_taken_is_on_the_disk_after_a_flush_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let trail = Trail::open(directory.path(), FileSettings::default()).unwrap();
        for number in 0..100 {
            trail.record(record(&format!("Event{number}"))).await;
        }
        trail.flush().await;
        let text = fs::read_to_string(directory.path().join("audit.jsonl")).unwrap();
        let names: Vec<String> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|event| event["eventName"].as_str().unwrap().to_owned())
            .collect();
        let expected: Vec<String> = (0..100).map(|number| format!("Event{number}")).collect();
        assert_eq!(names, expected);
    }

    #[tokio::test]
    async fn a_gap_in_the_trail_is_told_in_the_trail() {
        let directory = tempfile::tempdir().unwrap();
        let trail = Trail::open(directory.path(), FileSettings::default()).unwrap();
        trail.drop_one();
        trail.drop_one();
        trail.record(record("Next")).await;
        trail.flush().await;
        let text = fs::read_to_string(directory.path().join("audit.jsonl")).unwrap();
        let events: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(events[0]["eventName"], "EventsDropped");
        assert_eq!(events[0]["serviceEventDetails"]["dropped"], 2);
        assert_eq!(events[1]["eventName"], "Next");
    }
}

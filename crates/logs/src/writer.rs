//! Writing: any number of writers per stream, one queue, one task that takes from it to the disk. A
//! writer that is faster than the disk waits ([`LogWriter::append`]) or loses lines and says so
//! ([`LogWriter::offer`]).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::group::{Group, Stream};
use crate::line::{LARGEST_MESSAGE_BYTES, LineSplitter};

/// Batches in the queue of a stream. With [`CHUNK_BYTES`] it bounds what a stream holds in memory:
/// about 20 MiB for the worst of writers, and next to nothing for a common one.
const QUEUE: usize = 64;

/// Bytes that go into one batch.
const CHUNK_BYTES: usize = 64 * 1024;

/// What the task of a stream is told.
#[derive(Debug)]
pub(crate) enum Batch {
    /// Timestamps and messages.
    Events(Vec<(i64, String)>),
    /// Answered when all that came before is readable.
    Flush(oneshot::Sender<()>),
}

/// Appends to one stream. Dropping it passes on the unfinished last line.
#[derive(Debug)]
pub struct LogWriter {
    splitter: LineSplitter,
    last_ms: i64,
    queue: mpsc::Sender<Batch>,
    lost: AtomicU64,
}

impl LogWriter {
    /// Spawns the stream's task unless there is one.
    pub(crate) fn new(group: &Arc<Group>, stream: &Arc<Stream>) -> Self {
        let mut current = stream.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = current
            .as_ref()
            .and_then(mpsc::WeakSender::upgrade)
            .unwrap_or_else(|| {
                let (queue, batches) = mpsc::channel(QUEUE);
                tokio::spawn(write_batches(
                    Arc::clone(group),
                    Arc::clone(stream),
                    batches,
                ));
                *current = Some(queue.downgrade());
                queue
            });
        Self {
            splitter: LineSplitter::default(),
            last_ms: 0,
            queue,
            lost: AtomicU64::new(0),
        }
    }

    /// Appends raw output that came at `timestamp_ms` (milliseconds since 1970). Lines are found in
    /// it wherever it is cut; what is not UTF-8 is replaced; a line of more than
    /// [`LARGEST_MESSAGE_BYTES`] becomes several events. Waits while the queue is full.
    pub async fn append(&mut self, timestamp_ms: i64, output: &[u8]) {
        self.last_ms = timestamp_ms;
        for chunk in output.chunks(CHUNK_BYTES) {
            let messages = self.splitter.push(chunk);
            self.send(timestamp_ms, messages).await;
        }
    }

    async fn send(&self, timestamp_ms: i64, messages: Vec<String>) {
        if messages.is_empty() {
            return;
        }
        let events = messages
            .into_iter()
            .map(|message| (timestamp_ms, message))
            .collect();
        // The task takes until the last writer is gone, so this fails only when the runtime ends.
        let _ = self.queue.send(Batch::Events(events)).await;
    }

    /// Appends one message without waiting. When the queue is full the message is lost; the next one
    /// that finds room is preceded by an event that says how many were.
    pub fn offer(&self, timestamp_ms: i64, message: &str) {
        let mut splitter = LineSplitter::default();
        let mut messages = splitter.push(message.as_bytes());
        messages.extend(splitter.finish());
        if messages.is_empty() {
            return;
        }
        let lost = self.lost.swap(0, Ordering::AcqRel);
        let note = (lost > 0)
            .then(|| format!("[colibri: {lost} lines were lost here: the log could not keep up]"));
        let events: Vec<(i64, String)> = note
            .into_iter()
            .chain(messages)
            .map(|message| (timestamp_ms, message))
            .collect();
        if self.queue.try_send(Batch::Events(events)).is_err() {
            self.lost.fetch_add(lost + 1, Ordering::AcqRel);
        }
    }

    /// Waits until all that was appended so far, but for an unfinished line, can be read.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.queue.send(Batch::Flush(done)).await.is_ok() {
            // Not answered when the runtime ends.
            let _ = flushed.await;
        }
    }

    /// Appends the unfinished line, if there is one, and waits until all can be read.
    pub async fn finish(mut self) {
        let rest = self.splitter.finish();
        self.send(self.last_ms, rest.into_iter().collect()).await;
        self.flush().await;
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        if let Some(rest) = self.splitter.finish() {
            debug_assert!(rest.len() <= LARGEST_MESSAGE_BYTES);
            // With a full queue this is one more line that could not be kept.
            let _ = self
                .queue
                .try_send(Batch::Events(vec![(self.last_ms, rest)]));
        }
    }
}

async fn write_batches(group: Arc<Group>, stream: Arc<Stream>, mut batches: mpsc::Receiver<Batch>) {
    let mut taken = Vec::new();
    let mut failing = false;
    while batches.recv_many(&mut taken, QUEUE).await > 0 {
        let mut events = Vec::new();
        let mut flushes = Vec::new();
        for batch in taken.drain(..) {
            match batch {
                Batch::Events(more) => events.extend(more),
                Batch::Flush(done) => flushes.push(done),
            }
        }
        if !events.is_empty() {
            failing = write_events(&stream, events, failing).await;
            group.ring();
        }
        for done in flushes {
            // Whoever asked may have gone.
            let _ = done.send(());
        }
    }
    stream.files.close();
}

/// Says whether it failed. A disk that is full must not stop what is being logged: events are lost,
/// and the daemon's own log says so once.
async fn write_events(stream: &Arc<Stream>, events: Vec<(i64, String)>, failing: bool) -> bool {
    let target = Arc::clone(stream);
    let written = tokio::task::spawn_blocking(move || target.append(&events)).await;
    match written {
        Ok(Ok(())) => false,
        Ok(Err(error)) => {
            if !failing {
                let name = stream.files.record.name.as_str();
                tracing::error!(stream = name, %error, "log events are lost");
            }
            true
        }
        Err(error) => {
            tracing::error!(%error, "writing a log was interrupted");
            true
        }
    }
}

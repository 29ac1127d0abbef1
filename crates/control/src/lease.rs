//! What a guest says of itself: that it is busy, and until when. Kept for as long as it is awake; a
//! suspension ends it, and so does a restart of the daemon: who is busy for long says so again and again.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// A MicroVM's.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    end: Mutex<Option<Instant>>,
    changed: Notify,
}

impl Lease {
    /// The guest is busy for this long from now on.
    pub(crate) fn take(&self, time: Duration) {
        *self.lock() = Instant::now().checked_add(time);
        self.changed.notify_one();
    }

    /// Nobody is busy any more, and nobody was.
    pub(crate) fn forget(&self) {
        *self.lock() = None;
    }

    /// When the guest stops, or stopped, being busy; nothing where it never was.
    pub(crate) fn end(&self) -> Option<Instant> {
        *self.lock()
    }

    /// For how much longer.
    pub(crate) fn left(&self) -> Duration {
        self.end().map_or(Duration::ZERO, |end| {
            end.saturating_duration_since(Instant::now())
        })
    }

    /// Returns when the guest has said something new.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        // A single value: a panic leaves nothing half done.
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The wall clock, and one that follows the runtime's own time, which tests can pause and advance.
//!
//! Timers run on the runtime's clock, which no correction of the wall clock disturbs. Deadlines that
//! must survive a restart are wall-clock times; who waits for one looks again at least every
//! [`LONGEST_NAP`], so that a jump of the wall clock is noticed.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Longest time that a waiter for a wall-clock deadline sleeps without looking at the clock.
const LONGEST_NAP: Duration = Duration::from_secs(30);

/// Tells the time of day.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    simulated: Option<Arc<Simulated>>,
}

#[derive(Debug)]
struct Simulated {
    origin: Instant,
    start_millis: AtomicI64,
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that starts at `unix_millis` and goes on with the runtime's time.
    #[must_use]
    pub fn following_runtime(unix_millis: i64) -> Self {
        let simulated = Simulated {
            origin: Instant::now(),
            start_millis: AtomicI64::new(unix_millis),
        };
        Self {
            simulated: Some(Arc::new(simulated)),
        }
    }

    /// Moves a clock made by [`Clock::following_runtime`], as a correction of the wall clock would; the
    /// system's clock stays.
    pub fn jump(&self, millis: i64) {
        if let Some(simulated) = &self.simulated {
            simulated.start_millis.fetch_add(millis, Ordering::Relaxed);
        }
    }

    /// Now, milliseconds since the Unix epoch.
    #[must_use]
    pub fn now(&self) -> i64 {
        i64::try_from(self.now_nanos() / 1_000_000).unwrap_or(i64::MAX)
    }

    /// Now, nanoseconds since the Unix epoch.
    #[must_use]
    pub fn now_nanos(&self) -> u64 {
        let since_epoch = match &self.simulated {
            None => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
            Some(simulated) => {
                let start =
                    u64::try_from(simulated.start_millis.load(Ordering::Relaxed)).unwrap_or(0);
                Duration::from_millis(start) + simulated.origin.elapsed()
            }
        };
        u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
    }

    /// What passed since a reading, nanoseconds since the Unix epoch; nothing since one of the future.
    #[must_use]
    pub fn passed_since(&self, unix_nanos: u64) -> Duration {
        Duration::from_nanos(self.now_nanos().saturating_sub(unix_nanos))
    }

    /// Returns when the wall clock shows `deadline`, milliseconds since the Unix epoch, or later.
    pub async fn reached(&self, deadline: i64) {
        loop {
            let left = deadline.saturating_sub(self.now());
            let Ok(left @ 1..) = u64::try_from(left) else {
                return;
            };
            tokio::time::sleep(Duration::from_millis(left).min(LONGEST_NAP)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_reached_early_when_the_clock_jumps_ahead() {
        let clock = Clock::following_runtime(1_000_000);
        let begun = tokio::time::Instant::now();
        let (waiter, jumper) = (clock.clone(), clock);
        let waited = tokio::spawn(async move { waiter.reached(1_000_000 + 3_600_000).await });
        tokio::task::yield_now().await;
        jumper.jump(3_600_000);
        waited.await.unwrap();
        assert!(begun.elapsed().as_secs() <= 30);
    }
}

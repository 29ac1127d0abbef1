//! The wall clock, and one that follows the runtime's own time, which tests can pause and advance.
//!
//! A lifetime is counted from `startedAt` and goes on while nobody looks: daemon killed, host asleep. It is
//! counted on the clock of the host's boot, which no correction of the wall clock moves, so that a step of
//! hours neither ends a machine nor keeps it for ever. Only what another boot began is counted by the wall
//! clock, and then never as more than the whole of it is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// What names this boot of the host.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Longest time that a waiter sleeps without looking at the clock: timers stand still while the host sleeps.
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
    boots: AtomicI64,
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
            boots: AtomicI64::new(1),
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

    /// Milliseconds of this host's life, sleep included: no correction of the wall clock moves it.
    pub(crate) fn steady(&self) -> i64 {
        match &self.simulated {
            None => {
                let time = clock_gettime(ClockId::Boottime);
                time.tv_sec
                    .saturating_mul(1000)
                    .saturating_add(time.tv_nsec / 1_000_000)
            }
            Some(simulated) => {
                i64::try_from(simulated.origin.elapsed().as_millis()).unwrap_or(i64::MAX)
            }
        }
    }

    /// This moment, so that later daemons of this boot know how long ago it was.
    pub(crate) fn moment(&self) -> Moment {
        Moment {
            boot: self.boot(),
            steady: self.steady(),
        }
    }

    /// Milliseconds since a moment of this boot; nothing for one of another.
    pub(crate) fn since(&self, moment: &Moment) -> Option<i64> {
        let is_of_this_boot = !moment.boot.is_empty() && moment.boot == self.boot();
        is_of_this_boot.then(|| self.steady().saturating_sub(moment.steady))
    }

    fn boot(&self) -> String {
        match &self.simulated {
            None => std::fs::read_to_string(BOOT_ID)
                .map(|id| id.trim().to_owned())
                .unwrap_or_default(),
            Some(simulated) => simulated.boots.load(Ordering::Relaxed).to_string(),
        }
    }

    /// The host of a simulated clock has started anew: moments of before say nothing any more.
    pub fn reboot(&self) {
        if let Some(simulated) = &self.simulated {
            simulated.boots.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns when [`Clock::steady`] shows `deadline` or later.
    pub(crate) async fn reached(&self, deadline: i64) {
        loop {
            let left = deadline.saturating_sub(self.steady());
            let Ok(left @ 1..) = u64::try_from(left) else {
                return;
            };
            tokio::time::sleep(Duration::from_millis(left).min(LONGEST_NAP)).await;
        }
    }
}

/// A moment of a boot of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moment {
    boot: String,
    steady: i64,
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_neither_hastened_nor_delayed_by_a_step_of_the_wall_clock() {
        for step in [3_600_000, -3_600_000] {
            let clock = Clock::following_runtime(1_000_000_000);
            let begun = tokio::time::Instant::now();
            let (waiter, deadline) = (clock.clone(), clock.steady() + 600_000);
            let waited = tokio::spawn(async move { waiter.reached(deadline).await });
            tokio::task::yield_now().await;
            clock.jump(step);
            waited.await.unwrap();
            assert_eq!(begun.elapsed().as_secs(), 600);
        }
    }

    #[test]
    fn a_moment_is_known_within_its_boot_only() {
        for clock in [Clock::system(), Clock::default()] {
            let moment = clock.moment();
            assert!(
                clock
                    .since(&moment)
                    .is_some_and(|millis| (0..60_000).contains(&millis))
            );
        }
    }

    #[tokio::test]
    async fn a_moment_of_another_boot_says_nothing() {
        let clock = Clock::following_runtime(1_000_000_000);
        let moment = clock.moment();
        clock.reboot();
        assert_eq!(clock.since(&moment), None);
    }
}

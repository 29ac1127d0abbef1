//! How many requests a second a MicroVM gets: a bucket for each MicroVM, of the quota that its size has.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

/// After so many requests, buckets that are full again are forgotten: they say nothing.
const BETWEEN_SWEEPS: usize = 4096;

type Buckets<C> =
    RateLimiter<String, HashMapStateStore<String>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// All buckets, by their quota. There are few quotas: one for each size.
pub(crate) struct Pace<C: Clock = DefaultClock> {
    by_quota: Mutex<Vec<(Quota, Arc<Buckets<C>>)>>,
    asked: AtomicUsize,
    clock: C,
}

impl<C: Clock> std::fmt::Debug for Pace<C> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Pace").finish_non_exhaustive()
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::with_clock(DefaultClock::default())
    }
}

impl<C: Clock + Clone> Pace<C> {
    fn with_clock(clock: C) -> Self {
        Self {
            by_quota: Mutex::default(),
            asked: AtomicUsize::new(0),
            clock,
        }
    }

    /// Takes one request out of the MicroVM's bucket, if there is one left.
    pub(crate) fn allows(&self, microvm_id: &str, quota: Quota) -> bool {
        let buckets = self.of_quota(quota);
        if self.asked.fetch_add(1, Relaxed) % BETWEEN_SWEEPS == BETWEEN_SWEEPS - 1 {
            buckets.retain_recent();
        }
        buckets.check_key(&microvm_id.to_owned()).is_ok()
    }

    fn of_quota(&self, quota: Quota) -> Arc<Buckets<C>> {
        let mut by_quota = self.by_quota.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, buckets)) = by_quota.iter().find(|(known, _)| *known == quota) {
            return Arc::clone(buckets);
        }
        let store = HashMapStateStore::default();
        let buckets = Arc::new(RateLimiter::new(quota, store, self.clock.clone()));
        by_quota.push((quota, Arc::clone(&buckets)));
        buckets
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn each_microvm_has_a_bucket_of_its_sizes_quota() {
        let clock = FakeRelativeClock::default();
        let pace = Pace::with_clock(clock.clone());
        let quota = |rate| Quota::per_second(NonZeroU32::new(rate).unwrap());
        let passed = |id: &str, rate| (0..100).filter(|_| pace.allows(id, quota(rate))).count();
        assert_eq!(passed("small", 10), 10);
        assert_eq!(passed("also small", 10), 10);
        assert_eq!(passed("large", 40), 40);
        clock.advance(Duration::from_millis(500));
        assert_eq!((passed("small", 10), passed("large", 40)), (5, 20));
    }

    #[test]
    fn buckets_that_are_full_again_are_forgotten() {
        let clock = FakeRelativeClock::default();
        let pace = Pace::with_clock(clock.clone());
        let quota = Quota::per_second(NonZeroU32::new(10).unwrap());
        for number in 0..BETWEEN_SWEEPS - 1 {
            pace.allows(&number.to_string(), quota);
        }
        clock.advance(Duration::from_secs(60));
        pace.allows("one more", quota);
        assert_eq!(pace.of_quota(quota).len(), 1);
    }
}

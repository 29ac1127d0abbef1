//! How often each operation may be called: a bucket of tokens each (specification, section 19), for the
//! whole account, of which there is one.
//!
//! Only calls whose signature was right are counted: a stranger takes nothing from the bucket. The
//! answer is the service's own: 429 with the quota's code and `Retry-After`.

use std::collections::HashMap;
use std::num::NonZeroU32;

use colibri_wire::api_error::QuotaName;
use colibri_wire::model::OPERATIONS;
use colibri_wire::{ApiError, Operation};
use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// Calls of an operation: how many a second, and how many at once after a rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Calls a second, in the long run.
    pub per_second: NonZeroU32,
    /// Calls at once, when there were none before.
    pub burst: NonZeroU32,
}

/// The rates of the operations that have one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rates(HashMap<Operation, Rate>);

/// No operation has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no operation of lambda-microvms; they are named as in `RunMicrovm`")]
pub struct UnknownOperation(pub String);

/// What Colibri allows by default: far beyond what one host does, and still a bound on a client that
/// has run wild. Operations that are not named have none.
const GENEROUS: [(Operation, u32, u32); 7] = [
    (Operation::RunMicrovm, 100, 200),
    (Operation::ResumeMicrovm, 100, 200),
    (Operation::SuspendMicrovm, 100, 200),
    (Operation::TerminateMicrovm, 200, 1000),
    (Operation::GetMicrovm, 20_000, 20_000),
    (Operation::CreateMicrovmAuthToken, 2000, 2000),
    (Operation::CreateMicrovmShellAuthToken, 100, 200),
];

/// What AWS gives an account by default.
const AWS: [(Operation, u32, u32); 7] = [
    (Operation::RunMicrovm, 5, 5),
    (Operation::ResumeMicrovm, 5, 5),
    (Operation::SuspendMicrovm, 2, 2),
    (Operation::TerminateMicrovm, 10, 10),
    (Operation::GetMicrovm, 100, 100),
    (Operation::CreateMicrovmAuthToken, 50, 50),
    (Operation::CreateMicrovmShellAuthToken, 5, 5),
];

impl Rates {
    /// Colibri's own defaults.
    #[must_use]
    pub fn generous() -> Self {
        Self::of(&GENEROUS)
    }

    /// AWS's defaults.
    #[must_use]
    pub fn aws() -> Self {
        Self::of(&AWS)
    }

    fn of(table: &[(Operation, u32, u32)]) -> Self {
        let rate = |&(operation, per_second, burst): &(Operation, u32, u32)| {
            let rate = Rate {
                per_second: NonZeroU32::new(per_second)?,
                burst: NonZeroU32::new(burst)?,
            };
            Some((operation, rate))
        };
        Self(table.iter().filter_map(rate).collect())
    }

    /// Gives an operation this rate.
    ///
    /// # Errors
    /// When no operation has this name.
    pub fn set(&mut self, operation: &str, rate: Rate) -> Result<(), UnknownOperation> {
        let found = OPERATIONS
            .iter()
            .find(|model| model.operation.name() == operation)
            .ok_or_else(|| UnknownOperation(operation.to_owned()))?;
        self.0.insert(found.operation, rate);
        Ok(())
    }

    /// The rate of an operation; `None` when it has no bound.
    #[must_use]
    pub fn of_operation(&self, operation: Operation) -> Option<Rate> {
        self.0.get(&operation).copied()
    }
}

type Bucket<C> = RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// The buckets at work.
pub(crate) struct Throttle<C: Clock = DefaultClock> {
    buckets: HashMap<Operation, Bucket<C>>,
    clock: C,
}

impl<C: Clock + Clone> Throttle<C> {
    pub(crate) fn new(rates: &Rates, clock: C) -> Self {
        let bucket = |(operation, rate): (&Operation, &Rate)| {
            let quota = Quota::per_second(rate.per_second).allow_burst(rate.burst);
            (
                *operation,
                RateLimiter::direct_with_clock(quota, clock.clone()),
            )
        };
        Self {
            buckets: rates.0.iter().map(bucket).collect(),
            clock,
        }
    }

    /// Takes a token of the operation's bucket.
    pub(crate) fn take(&self, operation: Operation) -> Result<(), ApiError> {
        let Some(bucket) = self.buckets.get(&operation) else {
            return Ok(());
        };
        bucket.check().map_err(|early| {
            let wait = early.wait_time_from(self.clock.now());
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            refusal(operation, u32::try_from(seconds.max(1)).unwrap_or(u32::MAX))
        })
    }
}

/// In the words of the operation's front end: that of tags is older and has names of its own.
fn refusal(operation: Operation, retry_after: u32) -> ApiError {
    let message = format!("Rate exceeded for {}", operation.name());
    match operation {
        Operation::ListTags | Operation::TagResource | Operation::UntagResource => {
            ApiError::TooManyRequests { message }
        }
        _ => ApiError::Throttling {
            message,
            quota: quota_code(operation).map_or_else(
                || QuotaName {
                    service: Some("lambda".to_owned()),
                    quota: None,
                },
                QuotaName::lambda,
            ),
            retry_after: Some(retry_after),
        },
    }
}

/// Codes of the rates, where they are known.
fn quota_code(operation: Operation) -> Option<&'static str> {
    Some(match operation {
        Operation::RunMicrovm => "L-535CA9B6",
        Operation::ResumeMicrovm => "L-118C44B3",
        Operation::SuspendMicrovm => "L-90045317",
        Operation::TerminateMicrovm => "L-74787B8A",
        Operation::CreateMicrovmAuthToken => "L-7712260B",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use colibri_wire::{Operation, Reply};
    use governor::clock::FakeRelativeClock;

    use super::{Rate, Rates, Throttle};

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate {
            per_second: NonZeroU32::new(per_second).unwrap(),
            burst: NonZeroU32::new(burst).unwrap(),
        }
    }

    #[test]
    fn a_burst_passes_and_what_follows_waits_for_its_rate() {
        let mut rates = Rates::aws();
        rates.set("RunMicrovm", rate(1, 2)).unwrap();
        let clock = FakeRelativeClock::default();
        let throttle = Throttle::new(&rates, clock.clone());
        assert_eq!(throttle.take(Operation::RunMicrovm), Ok(()));
        assert_eq!(throttle.take(Operation::RunMicrovm), Ok(()));
        let refused = throttle.take(Operation::RunMicrovm).unwrap_err();
        let reply = Reply::failure(&refused);
        assert_eq!(reply.status, 429);
        assert!(reply.headers.contains(&("retry-after", "1".to_owned())));
        let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(body["serviceCode"], "lambda");
        assert_eq!(body["quotaCode"], "L-535CA9B6");
        // What one operation has used up is no other's loss.
        assert_eq!(throttle.take(Operation::GetMicrovm), Ok(()));
        clock.advance(Duration::from_secs(1));
        assert_eq!(throttle.take(Operation::RunMicrovm), Ok(()));
        assert!(throttle.take(Operation::RunMicrovm).is_err());
    }

    #[test]
    fn the_older_front_end_of_tags_has_its_own_words() {
        let mut rates = Rates::aws();
        rates.set("ListTags", rate(1, 1)).unwrap();
        let throttle = Throttle::new(&rates, FakeRelativeClock::default());
        assert_eq!(throttle.take(Operation::ListTags), Ok(()));
        let refused = throttle.take(Operation::ListTags).unwrap_err();
        assert_eq!(refused.wire_name(), "TooManyRequestsException");
    }

    #[test]
    fn operations_without_a_rate_are_not_counted_and_unknown_ones_are_told() {
        let throttle = Throttle::new(&Rates::aws(), FakeRelativeClock::default());
        for _ in 0..10_000 {
            assert_eq!(throttle.take(Operation::ListMicrovms), Ok(()));
        }
        assert!(Rates::aws().set("RunMicroVM", rate(1, 1)).is_err());
    }
}

//! The guest's wall clock. It stood still while the machine slept; `CLOCK_MONOTONIC` and
//! `CLOCK_BOOTTIME` did too, and no kernel interface moves those.

use colibri_guest_protocol::message::{AgentFailure, WallClock};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::failure::Attempt;

const NANOS: u64 = 1_000_000_000;

/// Sets it.
pub(crate) fn set(now: WallClock) -> Result<(), AgentFailure> {
    #[expect(
        clippy::cast_possible_wrap,
        reason = "2^64 ns are fewer than 2^63 s, and a second's part fits"
    )]
    let now = Timespec {
        tv_sec: (now.unix_nanos / NANOS) as i64,
        tv_nsec: (now.unix_nanos % NANOS) as _,
    };
    clock_settime(ClockId::Realtime, now).attempt(|| "set the clock".to_owned())
}

/// What it shows.
pub(crate) fn read() -> WallClock {
    let now = clock_gettime(ClockId::Realtime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    WallClock {
        unix_nanos: seconds.saturating_mul(NANOS).saturating_add(nanos),
    }
}

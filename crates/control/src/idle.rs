//! When a MicroVM is idle: what counts as activity, and how long there has been none.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::lease::Lease;
use crate::ready::Running;

/// Returns when for `limit` seconds no byte has crossed the endpoint and the guest has not been busy; never
/// without a limit.
pub(crate) async fn idle_for(running: &Running, lease: &Lease, limit: Option<u32>) {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    let limit = Duration::from_secs(limit.into());
    loop {
        let active = running.last_activity();
        let active = lease.end().map_or(active, |end| end.max(active));
        let over = active + limit;
        if over <= Instant::now() {
            return;
        }
        tokio::select! {
            () = sleep_until(over) => {}
            () = lease.changed() => {}
        }
    }
}

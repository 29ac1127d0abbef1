//! When a MicroVM is idle: what counts as activity, and how long there has been none.
//!
//! Bytes that cross the endpoint count always, as on the service, and so does a guest that says it is
//! busy. An image or the operator can have two more count, so that a program is not frozen mid-task: the
//! guest's CPU, and requests and WebSockets that are open, silent or not.

use std::str::FromStr;
use std::time::Duration;

use colibri_hypervisor::Machine;
use colibri_wire::ApiError;
use colibri_wire::shape::configuration::ImageConfiguration;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use crate::lease::Lease;
use crate::ready::Running;

/// The image's variable.
pub(crate) const VARIABLE: &str = "COLIBRI_IDLE_SIGNAL";
/// Over how long the guest's CPU is measured.
const CPU_SAMPLE: Duration = Duration::from_secs(5);
/// Share of one CPU of the host from which on a guest counts as working, percent. One that only waits
/// takes a half under software emulation.
const CPU_WORKS: u128 = 5;

/// What counts as activity beside bytes and being busy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleSignals {
    /// The guest's CPU.
    pub cpu: bool,
    /// Requests and WebSockets that are open.
    pub connections: bool,
}

/// A list that is not of the form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "it must be a list of traffic, cpu and connections, separated by commas, and '{0}' is none of them"
)]
pub struct UnknownSignal(String);

impl FromStr for IdleSignals {
    type Err = UnknownSignal;

    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        let mut signals = Self::default();
        for word in text.split(',').map(str::trim) {
            match word {
                // Counts in any case.
                "traffic" => {}
                "cpu" => signals.cpu = true,
                "connections" => signals.connections = true,
                other => return Err(UnknownSignal(other.chars().take(100).collect())),
            }
        }
        Ok(signals)
    }
}

/// Refuses a configuration whose variable is not of the form.
pub(crate) fn check(configuration: &ImageConfiguration) -> Result<(), ApiError> {
    let variables = configuration.environment_variables.as_ref();
    match variables.and_then(|variables| variables.get(VARIABLE)) {
        Some(value) => IdleSignals::from_str(&value.0)
            .map(drop)
            .map_err(|unknown| ApiError::validation(format!("{VARIABLE}: {unknown}"))),
        None => Ok(()),
    }
}

/// Whose idleness is watched, and what of it.
pub(crate) struct Watched<'a> {
    pub(crate) running: &'a Running,
    pub(crate) lease: &'a Lease,
    pub(crate) machine: &'a dyn Machine,
    pub(crate) signals: IdleSignals,
}

impl Watched<'_> {
    /// Returns when nothing has happened for `limit` seconds; never without a limit.
    pub(crate) async fn idle_for(&self, limit: Option<u32>) {
        let Some(limit) = limit else {
            return std::future::pending().await;
        };
        let limit = Duration::from_secs(limit.into());
        loop {
            if self.signals.cpu {
                self.measure_cpu().await;
            }
            let (now, over) = (Instant::now(), self.last_activity() + limit);
            if over <= now {
                return;
            }
            let look = if self.signals.cpu {
                over.min(now + CPU_SAMPLE)
            } else {
                over
            };
            tokio::select! {
                () = sleep_until(look) => {}
                () = self.lease.changed() => {}
            }
        }
    }

    fn last_activity(&self) -> Instant {
        if self.signals.connections && self.running.has_open_work() {
            return Instant::now();
        }
        let active = self.running.last_activity();
        self.lease.end().map_or(active, |end| end.max(active))
    }

    /// A guest that took its share of CPU since it was looked at last has been working until now.
    async fn measure_cpu(&self) {
        let total = match self.machine.cpu_time().await {
            Ok(total) => total,
            Err(error) => {
                tracing::debug!(%error, "could not learn what CPU time a machine took");
                return;
            }
        };
        if let Some((elapsed, used)) = self.running.cpu_since(total, CPU_SAMPLE)
            && used.as_micros() * 100 >= elapsed.as_micros() * CPU_WORKS
        {
            self.running.worked();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::IdleSignals;

    #[test]
    fn signals_are_words_and_traffic_always_counts() {
        let signals = |text: &str| text.parse::<IdleSignals>();
        assert_eq!(signals("traffic"), Ok(IdleSignals::default()));
        let both = IdleSignals {
            cpu: true,
            connections: true,
        };
        assert_eq!(signals("traffic, cpu,connections"), Ok(both));
        for bad in ["", "CPU", "traffic,", "cpu;connections"] {
            assert!(signals(bad).is_err(), "{bad}");
        }
    }
}

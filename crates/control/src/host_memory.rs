//! How much memory the host has and has left: what is kept only for speed must never make it short.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Part of the host's memory below which it counts as short of it, percent available.
const SHORT_PERCENT: u64 = 10;

/// Memory of a simulated host, MiB.
const SIMULATED_MIB: u64 = 16 * 1024;

/// Tells the host's memory.
#[derive(Debug, Clone, Default)]
pub struct HostMemory {
    simulated_percent: Option<Arc<AtomicU64>>,
}

impl HostMemory {
    /// This host's own (proc(5), `meminfo`).
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// One that tests move; all of it is available at first.
    #[must_use]
    pub fn simulated() -> Self {
        Self {
            simulated_percent: Some(Arc::new(AtomicU64::new(100))),
        }
    }

    /// Sets what is available of a simulated host's memory, percent; the system's own stays what it is.
    pub fn set_available_percent(&self, percent: u64) {
        if let Some(simulated) = &self.simulated_percent {
            simulated.store(percent, Ordering::Relaxed);
        }
    }

    /// Whether the host is short of memory. One that does not tell is not.
    pub(crate) fn is_short(&self) -> bool {
        if let Some(simulated) = &self.simulated_percent {
            return simulated.load(Ordering::Relaxed) < SHORT_PERCENT;
        }
        match system() {
            Some((available, total)) => available < total / 100 * SHORT_PERCENT,
            None => false,
        }
    }

    /// Whether this much is available, MiB. A host that does not tell is believed to have it.
    pub(crate) fn has(&self, mib: u64) -> bool {
        if let Some(simulated) = &self.simulated_percent {
            return simulated.load(Ordering::Relaxed) * SIMULATED_MIB / 100 >= mib;
        }
        system().is_none_or(|(available, _)| available / 1024 >= mib)
    }
}

/// What is available of this host's memory, and all of it, KiB.
fn system() -> Option<(u64, u64)> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    Some((
        kib_of(&meminfo, "MemAvailable:")?,
        kib_of(&meminfo, "MemTotal:")?,
    ))
}

/// Memory of this host, MiB (`MemTotal` of proc(5)).
#[must_use]
pub fn host_memory_mib() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    kib_of(&meminfo, "MemTotal:").map(|kib| kib / 1024)
}

fn kib_of(meminfo: &str, field: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::kib_of;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let meminfo = "MemTotal:       24561234 kB\nMemFree:  12 kB\nMemAvailable:   34 kB\n";
        assert_eq!(kib_of(meminfo, "MemTotal:"), Some(24_561_234));
        assert_eq!(kib_of(meminfo, "MemAvailable:"), Some(34));
        assert_eq!(kib_of(meminfo, "SwapTotal:"), None);
    }
}

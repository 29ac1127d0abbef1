//! How much the disk with the data has left: what is begun must leave room for what runs to be suspended.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most of a disk that is kept in reserve where nobody says how much, MiB.
const MOST_RESERVE_MIB: u64 = 2 * 1024;
const MIB: u64 = 1024 * 1024;

/// Tells the disk's room.
#[derive(Debug, Clone, Default)]
pub struct HostDisk {
    simulated_mib: Option<Arc<AtomicU64>>,
}

impl HostDisk {
    /// The disks of this host (statvfs(3)).
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// One that tests move; there is no end to it at first.
    #[must_use]
    pub fn simulated() -> Self {
        Self {
            simulated_mib: Some(Arc::new(AtomicU64::new(u64::MAX))),
        }
    }

    /// Sets what is free on a simulated disk, MiB; the system's own stays what it is.
    pub fn set_free_mib(&self, mib: u64) {
        if let Some(simulated) = &self.simulated_mib {
            simulated.store(mib, Ordering::Relaxed);
        }
    }

    /// Whether this much is free below a directory, MiB. A disk that does not tell is believed to have it.
    pub(crate) fn has(&self, directory: &Path, mib: u64) -> bool {
        if let Some(simulated) = &self.simulated_mib {
            return simulated.load(Ordering::Relaxed) >= mib;
        }
        let told = rustix::fs::statvfs(directory);
        told.map_or(true, |disk| {
            disk.f_bavail.saturating_mul(disk.f_frsize) / MIB >= mib
        })
    }
}

/// What is kept free of the disk below a directory where nobody says how much: a twentieth, at most 2 GiB.
#[must_use]
pub fn default_disk_reserve_mib(directory: &Path) -> u64 {
    let whole = rustix::fs::statvfs(directory)
        .map_or(0, |disk| disk.f_blocks.saturating_mul(disk.f_frsize) / MIB);
    (whole / 20).min(MOST_RESERVE_MIB)
}

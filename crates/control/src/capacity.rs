//! What this host can take: it refuses what does not fit, and never swaps for it.
//!
//! Three bounds, all checked before a launch and before a wake. The account: the baseline memory of the
//! MicroVMs that have a process, with what is built and what is kept for speed, stays within
//! `max_memory_mib`, which may be more than the host has, for guests take what they touch. And the host's own
//! word: one more machine leaves `reserve_mib` of memory available. What is kept for speed goes before anything is
//! refused. And the disk's, before a build too: what is begun leaves `disk_reserve_mib` free, and enough for
//! what runs to be suspended.

use colibri_store::Admission;

use crate::control::Shared;

/// Memory that a build counts with, MiB: the bound of its container build.
pub(crate) const BUILD_MIB: u64 = 2048;
/// Memory that a machine takes at once, MiB. Measured: 37 to 50 with a Flask application under emulation; an
/// application that warms more of itself up takes more.
pub(crate) const MACHINE_MIB: u64 = 96;

/// Room on the disk that is kept for each MicroVM that runs to be suspended, MiB. What a suspension takes follows
/// what was written; an application that was just started and has served something takes a half of it.
const SUSPENSION_MIB: u64 = 64;

impl Shared {
    /// Whether the disk has room for one thing more.
    pub(crate) fn has_disk_left(&self) -> bool {
        let settings = &self.settings;
        let needed = self.disk_needed_mib();
        settings.host_disk.has(&settings.data_directory, needed)
    }

    fn disk_needed_mib(&self) -> u64 {
        // Whoever has a slot may have to be suspended.
        let running = u64::from(self.network.usage().taken);
        let suspensions = running.saturating_add(1).saturating_mul(SUSPENSION_MIB);
        self.settings.disk_reserve_mib.saturating_add(suspensions)
    }

    /// Why there is no room on the disk for what was asked.
    pub(crate) fn no_disk(&self) -> String {
        format!(
            "This host's disk has less than {} MiB free, of which it keeps {} in reserve and the rest for running \
             MicroVMs to be suspended; terminate some MicroVMs, delete images, or lower `disk_reserve_mib` in [capacity]",
            self.disk_needed_mib(),
            self.settings.disk_reserve_mib
        )
    }

    /// What is left to MicroVMs beside what is built and what is kept.
    pub(crate) fn admission(&self) -> Admission {
        let spoken_for = self
            .building_mib()
            .saturating_add(self.pool.memory_mib())
            .saturating_add(self.hot.memory_mib());
        Admission {
            running: self.settings.max_running,
            kept: self.settings.max_microvms,
            kept_memory_mib: self.settings.max_kept_memory_mib,
            running_memory_mib: self.settings.max_memory_mib.saturating_sub(spoken_for),
        }
    }

    fn building_mib(&self) -> u64 {
        let turns = self.settings.concurrent_builds.max(1);
        let building = turns.saturating_sub(self.build_turns.available_permits());
        (building as u64).saturating_mul(BUILD_MIB)
    }

    /// One machine that was only kept for speed goes; true when one did.
    pub(crate) async fn give_up_kept(&self) -> bool {
        self.pool.make_room().await || self.hot.make_room().await
    }

    /// Whether the host has the memory for one more machine, once nothing is kept for speed in its place.
    pub(crate) async fn has_memory_left(&self) -> bool {
        let needed = self.settings.reserve_mib.saturating_add(MACHINE_MIB);
        // Every turn takes one away, and there are never more than slots.
        for _ in 0..=self.network.usage().capacity {
            if self.settings.host_memory.has(needed) {
                return true;
            }
            if !self.give_up_kept().await {
                break;
            }
        }
        self.settings.host_memory.has(needed)
    }

    /// Why there is no room for a MicroVM, for who asked; what is in use by MicroVMs is given.
    pub(crate) fn no_room(&self, in_use: Admission) -> String {
        format!(
            "This host runs {} MicroVMs with {} MiB of baseline memory and {} builds, and has no room for one more; \
             terminate or suspend some, or raise `microvms` or `memory_overcommit` in [capacity]",
            in_use.running,
            in_use.running_memory_mib,
            self.building_mib() / BUILD_MIB,
        )
    }

    /// Likewise, where the host itself is short of memory.
    pub(crate) fn no_memory(&self) -> String {
        format!(
            "This host has less than {} MiB of memory available, of which it keeps {} in reserve; terminate or suspend \
             some MicroVMs, or lower `reserve_mib` in [capacity]",
            self.settings.reserve_mib.saturating_add(MACHINE_MIB),
            self.settings.reserve_mib
        )
    }
}

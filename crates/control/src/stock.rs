//! What waits of one build in the pool, and how many should.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::pooled::PoolMachine;

/// Time without a launch, a wake or a build after which a version has no machines any more.
const IDLE: Duration = Duration::from_secs(600);
/// The launches of this time say how many machines should wait.
pub(crate) const RECENT: Duration = Duration::from_secs(60);

/// What machines are made from: a build of an image version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) image_name: String,
    pub(crate) version: u32,
    pub(crate) build_id: String,
}

/// What waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A machine that has run.
    Machine,
    /// A process without a machine in it.
    Spare,
}

/// What waits of a build, and what is known of its use.
pub(crate) struct Stock {
    pub(crate) source: Source,
    pub(crate) machines: VecDeque<PoolMachine>,
    pub(crate) spares: VecDeque<PoolMachine>,
    /// MicroVMs that sleep without a process.
    pub(crate) sleepers: usize,
    /// Whether launches use it, as far as is known; wakes may all the same.
    pub(crate) is_launched: bool,
    /// Launches of the last minute.
    pub(crate) launches: VecDeque<Instant>,
    /// Last launch, wake or build.
    pub(crate) used: Instant,
    /// How long the last machine took to make.
    pub(crate) took: Option<Duration>,
    pub(crate) failures: u32,
    pub(crate) not_before: Instant,
}

impl Stock {
    pub(crate) fn new(source: Source, now: Instant) -> Self {
        Self {
            source,
            machines: VecDeque::new(),
            spares: VecDeque::new(),
            sleepers: 0,
            is_launched: true,
            launches: VecDeque::new(),
            used: now,
            took: None,
            failures: 0,
            not_before: now,
        }
    }

    /// How many should wait.
    pub(crate) fn target(&mut self, kind: Kind, now: Instant, most: usize) -> usize {
        match kind {
            Kind::Machine => self.machine_target(now, most),
            Kind::Spare if self.is_idle(now) && self.sleepers == 0 => 0,
            Kind::Spare => most,
        }
    }

    /// A launch foretells another one.
    pub(crate) fn machine_target(&mut self, now: Instant, most: usize) -> usize {
        let old = |launch: &Instant| now.duration_since(*launch) >= RECENT;
        while self.launches.front().is_some_and(old) {
            self.launches.pop_front();
        }
        if self.is_idle(now) || !self.is_launched {
            return 0;
        }
        (1 + self.launches.len()).min(most)
    }

    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        now.duration_since(self.used) >= IDLE
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.machines.is_empty() && self.spares.is_empty()
    }

    pub(crate) fn of(&mut self, kind: Kind) -> &mut VecDeque<PoolMachine> {
        match kind {
            Kind::Machine => &mut self.machines,
            Kind::Spare => &mut self.spares,
        }
    }

    /// The one of that name.
    pub(crate) fn remove(&mut self, id: &str) -> Option<PoolMachine> {
        for kind in [Kind::Machine, Kind::Spare] {
            let all = self.of(kind);
            if let Some(index) = all.iter().position(|machine| machine.id == id) {
                return all.remove(index);
            }
        }
        None
    }

    pub(crate) fn into_all(self) -> impl Iterator<Item = PoolMachine> {
        self.machines.into_iter().chain(self.spares)
    }
}

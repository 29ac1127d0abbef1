//! The hot tier: suspended MicroVMs whose stopped process is kept while the host has room for it. Their
//! suspension is complete on the disk and their row says `suspended`; a kept process is a faster way
//! back, nothing else, and is given up without asking anybody.
//!
//! The process and the slot stay their actor's. This is the account of who keeps one, and the way to
//! ask for it back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use colibri_network::SlotUsage;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::control::Shared;
use crate::settings::HotSettings;
use crate::stocking::is_crowded;

/// What a kept process takes beside the pages that it copied, bytes: QEMU itself and translated code
/// (30 to 50 MiB measured).
const PROCESS_BYTES: u64 = 50 * 1024 * 1024;
/// How often ages, memory and slots are looked at while anything is kept.
const LOOK: Duration = Duration::from_secs(1);
/// Bound of the wait for one that was asked to leave: a kill, and the removal of a slot.
const LEAVE_BOUND: Duration = Duration::from_secs(10);

/// The account.
pub(crate) struct HotTier {
    settings: HotSettings,
    kept: Mutex<Kept>,
    /// Changes whenever one comes or goes.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Kept {
    by_id: BTreeMap<String, Entry>,
    closed: bool,
}

struct Entry {
    since: Instant,
    bytes: u64,
    leave: Arc<Notify>,
    asked: bool,
}

impl Kept {
    fn bytes(&self) -> u64 {
        self.staying().map(|(_, entry)| entry.bytes).sum()
    }

    fn staying(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.by_id.iter().filter(|(_, entry)| !entry.asked)
    }

    /// Asks the one that has been kept longest to leave.
    fn ask_oldest(&mut self) -> Option<String> {
        let oldest = self.staying().min_by_key(|(_, entry)| entry.since);
        let id = oldest.map(|(id, _)| id.clone())?;
        self.ask(&id);
        Some(id)
    }

    fn ask(&mut self, id: &str) {
        if let Some(entry) = self.by_id.get_mut(id) {
            entry.asked = true;
            entry.leave.notify_one();
        }
    }
}

impl HotTier {
    pub(crate) fn new(settings: HotSettings) -> Self {
        Self {
            settings,
            kept: Mutex::default(),
            changed: watch::channel(0).0,
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Every change under this lock is a single step, so a panic leaves nothing half done.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the process of a MicroVM that was just suspended is kept: then the mark is told when it has
    /// to go. The oldest make room.
    pub(crate) fn admit(&self, id: &str, delta_bytes: u64, shared: &Shared) -> Option<Arc<Notify>> {
        let usage = shared.network.usage();
        let bytes = delta_bytes.saturating_add(PROCESS_BYTES);
        let budget = self.settings.memory_mib.saturating_mul(1024 * 1024);
        let mut kept = self.kept();
        let refused = !self.settings.enabled
            || kept.closed
            || bytes > budget
            || self.most(usage) == 0
            || is_crowded(usage)
            || shared.settings.host_memory.is_short();
        if refused {
            return None;
        }
        let leave = Arc::new(Notify::new());
        let entry = Entry {
            since: Instant::now(),
            bytes,
            leave: Arc::clone(&leave),
            asked: false,
        };
        kept.by_id.insert(id.to_owned(), entry);
        while kept.bytes() > budget || kept.staying().count() > self.most(usage) {
            kept.ask_oldest();
        }
        drop(kept);
        self.tell();
        Some(leave)
    }

    /// What the kept processes take, MiB.
    pub(crate) fn memory_mib(&self) -> u64 {
        self.kept().bytes().div_ceil(1024 * 1024)
    }

    fn most(&self, usage: SlotUsage) -> usize {
        self.settings.machines.min(usage.capacity as usize / 2)
    }

    /// A MicroVM's process is not kept any more: it runs, or is gone.
    pub(crate) fn forget(&self, id: &str) {
        if self.kept().by_id.remove(id).is_some() {
            self.tell();
        }
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// The oldest gives its slot back; true when one did, or went some other way.
    pub(crate) async fn make_room(&self) -> bool {
        let asked = self.kept().ask_oldest();
        match asked {
            Some(id) => {
                self.gone(|kept| !kept.by_id.contains_key(&id)).await;
                true
            }
            // Somebody else asked already: that one's slot is as good.
            None => {
                let leaving = self.kept().by_id.len();
                leaving > 0 && self.gone(|kept| kept.by_id.len() < leaving).await
            }
        }
    }

    async fn gone(&self, is_so: impl Fn(&Kept) -> bool) -> bool {
        let mut changes = self.changed.subscribe();
        let waited = async {
            while !is_so(&self.kept()) {
                if changes.changed().await.is_err() {
                    break;
                }
            }
        };
        timeout(LEAVE_BOUND, waited).await.is_ok()
    }

    /// Nothing is kept any more; returns when all are gone.
    pub(crate) async fn close(&self) {
        {
            let mut kept = self.kept();
            kept.closed = true;
            while kept.ask_oldest().is_some() {}
        }
        if !self.gone(|kept| kept.by_id.is_empty()).await {
            tracing::warn!("processes of suspended MicroVMs are left for the next start to end");
        }
    }

    /// Asks those to leave that have been kept too long.
    fn tidy(&self) {
        let now = Instant::now();
        let mut kept = self.kept();
        let old: Vec<String> = kept
            .staying()
            .filter(|(_, entry)| now.duration_since(entry.since) >= self.settings.longest)
            .map(|(id, _)| id.clone())
            .collect();
        for id in old {
            kept.ask(&id);
        }
    }
}

/// Looks after the account for as long as the control plane lives.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut changes = shared.hot.changed.subscribe();
    loop {
        shared.hot.tidy();
        let is_short = shared.settings.host_memory.is_short() || is_crowded(shared.network.usage());
        // One after the other, until there is enough again.
        if is_short && shared.hot.make_room().await {
            continue;
        }
        let is_empty = shared.hot.kept().by_id.is_empty();
        if is_empty {
            // The sender lives as long as this control plane.
            let _ = changes.changed().await;
        } else {
            sleep(LOOK).await;
        }
    }
}

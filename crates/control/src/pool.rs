//! The warm pool: machines that were launched from an image version, have run, and wait, paused, to
//! become a MicroVM. What there is, what there should be, and who takes what; how one is made is in
//! `pooled`, when in `stocking`.
//!
//! A machine of the pool belongs to nobody: nothing of it is recorded, and nothing of it survives the
//! daemon. How many there are depends on launches and on the host, never on what a tenant asks for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use colibri_network::Egress;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::pooled::PoolMachine;
use crate::settings::PoolSettings;

/// Memory that a machine of the pool has for itself, MiB. Measured: 37 to 50 with a Flask application
/// under emulation; an application that warms more of itself up takes more.
const MACHINE_MIB: u64 = 96;
/// Time without a launch or a build after which a version has no machines any more.
const IDLE: Duration = Duration::from_secs(600);
/// The launches of this time say how many machines should wait.
const RECENT: Duration = Duration::from_secs(60);
/// A launch waits for a machine that should be made within this time. A launch from the base takes as
/// long under emulation, and twice as long while it competes with the making.
const PATIENCE: Duration = Duration::from_millis(500);
/// What that may take beyond the quarter more that is granted.
const SLACK: Duration = Duration::from_millis(100);
/// Pause after a machine could not be made; it doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// What machines are made from: a build of an image version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) image_name: String,
    pub(crate) version: u32,
    pub(crate) build_id: String,
}

/// All machines that wait.
pub(crate) struct Pool {
    settings: PoolSettings,
    state: Mutex<State>,
    /// Something changed that whoever keeps the stock should look at.
    changed: Notify,
    /// Cancelled when nothing is to be made any more.
    closing: CancellationToken,
    /// Cancelled when whoever keeps the stock has ended.
    pub(crate) ended: CancellationToken,
}

#[derive(Default)]
struct State {
    /// By build.
    stocks: BTreeMap<String, Stock>,
    /// Machines that are to go.
    condemned: Vec<PoolMachine>,
    /// The machine that is being made.
    making: Option<Making>,
    /// Launches and wakes under way.
    under_way: usize,
    /// Image versions may have changed: every stock's source is to be looked up again.
    recheck: bool,
}

struct Making {
    build_id: String,
    begun: Instant,
    /// A launch waits for it.
    promised: bool,
    abandon: CancellationToken,
    ended: CancellationToken,
}

struct Stock {
    source: Source,
    machines: VecDeque<PoolMachine>,
    /// Launches of the last minute.
    launches: VecDeque<Instant>,
    /// Last launch or build.
    used: Instant,
    /// How long the last machine took to make.
    took: Option<Duration>,
    failures: u32,
    not_before: Instant,
}

impl Stock {
    fn new(source: Source, now: Instant) -> Self {
        Self {
            source,
            machines: VecDeque::new(),
            launches: VecDeque::new(),
            used: now,
            took: None,
            failures: 0,
            not_before: now,
        }
    }

    /// How many machines should wait. A launch foretells another one.
    fn target(&mut self, now: Instant, most: usize) -> usize {
        let old = |launch: &Instant| now.duration_since(*launch) >= RECENT;
        while self.launches.front().is_some_and(old) {
            self.launches.pop_front();
        }
        if now.duration_since(self.used) >= IDLE {
            return 0;
        }
        (1 + self.launches.len()).min(most)
    }
}

/// A launch or wake under way: nothing is made in the background meanwhile.
pub(crate) struct UnderWay(Arc<Pool>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.under_way = state.under_way.saturating_sub(1);
        drop(state);
        self.0.changed.notify_one();
    }
}

impl Pool {
    pub(crate) fn new(settings: PoolSettings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            state: Mutex::default(),
            changed: Notify::new(),
            closing: CancellationToken::new(),
            ended: CancellationToken::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under this lock is a single step, so a panic leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self) -> bool {
        self.settings.enabled && !self.closing.is_cancelled()
    }

    /// A launch of this version: a machine that waits for it, or will in a moment. Nobody else gets it.
    pub(crate) async fn claim(&self, source: &Source, reach: Egress) -> Option<PoolMachine> {
        if !self.is_open() {
            return None;
        }
        self.note_launch(source);
        if let Some(machine) = self.take(source, reach) {
            return Some(machine);
        }
        let (made, left) = self.promise(source)?;
        // Late or failed: the launch begins from the base.
        let _ = timeout(left + left / 4 + SLACK, made.cancelled()).await;
        self.take(source, reach)
    }

    fn note_launch(&self, source: &Source) {
        let now = Instant::now();
        let mut state = self.state();
        let stock = state
            .stocks
            .entry(source.build_id.clone())
            .or_insert_with(|| Stock::new(source.clone(), now));
        stock.used = now;
        stock.launches.push_back(now);
        // More than these say nothing more.
        if stock.launches.len() > self.settings.machines_per_version {
            stock.launches.pop_front();
        }
    }

    /// Told when the machine that is being made of a build is there, and how long that should take; nothing
    /// where it takes too long for a launch, or somebody waits for it already.
    fn promise(&self, source: &Source) -> Option<(CancellationToken, Duration)> {
        let mut state = self.state();
        let took = state.stocks.get(&source.build_id)?.took?;
        let making = state.making.as_mut()?;
        let left = took.saturating_sub(making.begun.elapsed());
        if making.build_id != source.build_id || making.promised || left > PATIENCE {
            return None;
        }
        making.promised = true;
        Some((making.ended.clone(), left))
    }

    fn take(&self, source: &Source, reach: Egress) -> Option<PoolMachine> {
        let mut state = self.state();
        let stock = state.stocks.get_mut(&source.build_id)?;
        let index = stock
            .machines
            .iter()
            .position(|machine| machine.reach == reach)?;
        stock.machines.remove(index)
    }

    /// A version was built: its first launch should find a machine.
    pub(crate) fn built(&self, source: Source) {
        if !self.is_open() {
            return;
        }
        let now = Instant::now();
        let mut state = self.state();
        let stock = state.stocks.entry(source.build_id.clone());
        stock.or_insert_with(|| Stock::new(source, now)).used = now;
        state.recheck = true;
        drop(state);
        self.changed.notify_one();
    }

    /// Image versions changed: machines of those that are not to be launched any more go.
    pub(crate) fn recheck(&self) {
        self.state().recheck = true;
        self.changed.notify_one();
    }

    /// As [`Pool::recheck`], with the next look.
    pub(crate) fn recheck_later(&self) {
        self.state().recheck = true;
    }

    /// Something changed that decides whether a machine may be made.
    pub(crate) fn look_again(&self) {
        self.changed.notify_one();
    }

    /// Nothing is made in the background while this is held.
    pub(crate) fn under_way(self: &Arc<Self>) -> UnderWay {
        self.state().under_way += 1;
        UnderWay(Arc::clone(self))
    }

    /// A machine's process ended by itself.
    pub(crate) fn lost(&self, id: &str) {
        let mut state = self.state();
        let mut lost = None;
        for stock in state.stocks.values_mut() {
            if let Some(index) = stock.machines.iter().position(|machine| machine.id == id) {
                lost = stock.machines.remove(index);
            }
        }
        state.condemned.extend(lost);
        drop(state);
        self.changed.notify_one();
    }

    /// Forgets a build; its machines are the caller's to discard. One that is being made of it is not kept.
    pub(crate) fn drain(&self, build_id: &str) -> Vec<PoolMachine> {
        let stock = self.state().stocks.remove(build_id);
        stock.map_or_else(Vec::new, |stock| stock.machines.into())
    }

    /// Gives a slot back that a machine of the pool holds, where there is one; true when it did.
    pub(crate) async fn make_room(&self) -> bool {
        if let Some(machine) = self.take_any() {
            machine.discard().await;
            return true;
        }
        let ended = {
            let state = self.state();
            let Some(making) = &state.making else {
                return false;
            };
            making.abandon.cancel();
            making.ended.clone()
        };
        ended.cancelled().await;
        // It may have been finished before it could be abandoned.
        if let Some(machine) = self.take_any() {
            machine.discard().await;
        }
        true
    }

    /// The machine that is missed least: the oldest of the version that was used longest ago.
    pub(crate) fn take_any(&self) -> Option<PoolMachine> {
        let mut state = self.state();
        let stocks = state.stocks.values_mut();
        stocks
            .filter(|stock| !stock.machines.is_empty())
            .min_by_key(|stock| stock.used)?
            .machines
            .pop_front()
    }

    /// Nothing is made or claimed any more; what waits is the caller's to discard.
    pub(crate) fn close(&self) -> Vec<PoolMachine> {
        self.closing.cancel();
        let mut state = self.state();
        let machines = std::mem::take(&mut state.stocks)
            .into_values()
            .flat_map(|stock| stock.machines);
        let machines: Vec<PoolMachine> = machines.collect();
        if let Some(making) = &state.making {
            making.abandon.cancel();
        }
        machines
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    // What follows is for whoever keeps the stock.

    /// Returns when there may be something to do.
    pub(crate) async fn changed(&self) {
        tokio::select! {
            () = self.changed.notified() => {}
            () = self.closing.cancelled() => {}
        }
    }

    /// Machines that are to go: dead ones, and more than should wait.
    pub(crate) fn take_surplus(&self) -> Vec<PoolMachine> {
        let now = Instant::now();
        let most = self.settings.machines_per_version;
        let mut state = self.state();
        let mut surplus = std::mem::take(&mut state.condemned);
        for stock in state.stocks.values_mut() {
            let target = stock.target(now, most);
            while stock.machines.len() > target {
                surplus.extend(stock.machines.pop_front());
            }
        }
        state
            .stocks
            .retain(|_, stock| !stock.machines.is_empty() || now.duration_since(stock.used) < IDLE);
        surplus
    }

    /// The sources that are to be looked up again, where something changed.
    pub(crate) fn to_recheck(&self) -> Vec<Source> {
        let mut state = self.state();
        if !std::mem::take(&mut state.recheck) {
            return Vec::new();
        }
        let stocks = state.stocks.values();
        stocks.map(|stock| stock.source.clone()).collect()
    }

    /// Whether anything is kept or to be kept.
    pub(crate) fn is_in_use(&self) -> bool {
        let state = self.state();
        !state.stocks.is_empty() || !state.condemned.is_empty()
    }

    /// The version that lacks a machine most, unless something more important is under way.
    pub(crate) fn wanting(&self) -> Option<Source> {
        if !self.is_open() {
            return None;
        }
        let now = Instant::now();
        let most = self.settings.machines_per_version;
        let mut state = self.state();
        let waiting: usize = state
            .stocks
            .values()
            .map(|stock| stock.machines.len())
            .sum();
        let after = (waiting as u64 + 1) * MACHINE_MIB;
        if state.under_way > 0 || after > self.settings.memory_mib {
            return None;
        }
        let stocks = state.stocks.values_mut();
        stocks
            .filter_map(|stock| {
                let wants =
                    now >= stock.not_before && stock.machines.len() < stock.target(now, most);
                wants.then_some(stock)
            })
            .max_by_key(|stock| stock.used)
            .map(|stock| stock.source.clone())
    }

    /// A machine is being made; the token says that it is wanted no more.
    pub(crate) fn making(&self, source: &Source) -> CancellationToken {
        let making = Making {
            build_id: source.build_id.clone(),
            begun: Instant::now(),
            promised: false,
            abandon: self.closing.child_token(),
            ended: CancellationToken::new(),
        };
        let abandon = making.abandon.clone();
        self.state().making = Some(making);
        abandon
    }

    /// What came of it: kept where it is still wanted, otherwise the caller's to discard.
    pub(crate) fn made(&self, source: &Source, made: Option<PoolMachine>) -> Option<PoolMachine> {
        let mut state = self.state();
        let took = state.making.take().map(|making| {
            making.ended.cancel();
            making.begun.elapsed()
        });
        let is_open = self.is_open();
        let stock = state.stocks.get_mut(&source.build_id);
        match (stock.filter(|_| is_open), made) {
            (Some(stock), Some(machine)) => {
                stock.failures = 0;
                stock.took = took;
                stock.machines.push_back(machine);
                None
            }
            (Some(stock), None) => {
                let pause = FIRST_PAUSE * 2_u32.saturating_pow(stock.failures.min(10));
                stock.failures += 1;
                stock.not_before = Instant::now() + pause.min(LONGEST_PAUSE);
                None
            }
            (None, made) => made,
        }
    }
}

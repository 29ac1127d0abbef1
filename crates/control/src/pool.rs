//! The warm pool: machines that were launched from an image version, have run, and wait, paused, to
//! become a MicroVM; and spares, processes without a machine in them, which become one that wakes from the
//! disk or that the pool has no machine for. What there is, what there should be, and who takes what; how one
//! is made is in `pooled`, when in `stocking`.
//!
//! A machine of the pool belongs to nobody: nothing of it is recorded, and nothing of it survives the
//! daemon. How many there are depends on launches and on the host, never on what a tenant asks for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use colibri_network::Egress;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::capacity::MACHINE_MIB;
use crate::pooled::PoolMachine;
use crate::settings::{PoolSettings, SpareSettings};
use crate::stock::Stock;
pub(crate) use crate::stock::{Kind, Source};

/// Memory that a spare has for itself, MiB: a QEMU that has not run anything, and under software emulation
/// room for what it will translate.
const SPARE_MIB: u64 = 48;
/// That of a spare that has run: a machine that is not used, without what an application takes when it is.
const RUN_SPARE_MIB: u64 = 64;
/// A launch waits for a machine that should be made within this time. A launch from the base takes as
/// long under emulation, and twice as long while it competes with the making.
const PATIENCE: Duration = Duration::from_millis(500);
/// What that may take beyond the quarter more that is granted.
const SLACK: Duration = Duration::from_millis(100);
/// Pause after a machine could not be made; it doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// All machines that wait.
pub(crate) struct Pool {
    settings: PoolSettings,
    spare_settings: SpareSettings,
    /// Whether spares run before they wait.
    spares_have_run: bool,
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

impl State {
    /// The stock of a version that is used at this moment.
    fn use_stock(&mut self, source: &Source) -> &mut Stock {
        let now = Instant::now();
        let key = source.build_id.clone();
        let stock = self
            .stocks
            .entry(key)
            .or_insert_with(|| Stock::new(source.clone(), now));
        stock.used = now;
        stock
    }
}

/// What came of an attempt to make one.
pub(crate) enum Made {
    Machine(PoolMachine),
    /// Its place was wanted for something more important.
    Abandoned,
    Failed,
}

struct Making {
    build_id: String,
    kind: Kind,
    begun: Instant,
    /// A launch waits for it.
    promised: bool,
    abandon: CancellationToken,
    ended: CancellationToken,
}

/// A launch or wake under way: nothing is made in the background meanwhile.
pub(crate) struct UnderWay(Arc<Pool>);

/// A MicroVM that sleeps without a process.
pub(crate) struct Asleep {
    pool: Arc<Pool>,
    source: Source,
}

impl Drop for Asleep {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        // Its stock may have been drained meanwhile.
        if let Some(stock) = state.stocks.get_mut(&self.source.build_id) {
            stock.sleepers = stock.sleepers.saturating_sub(1);
            stock.used = Instant::now();
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.under_way = state.under_way.saturating_sub(1);
        drop(state);
        self.0.changed.notify_one();
    }
}

impl Pool {
    pub(crate) fn new(
        settings: PoolSettings,
        spare_settings: SpareSettings,
        spares_have_run: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            settings,
            spare_settings,
            spares_have_run,
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

    pub(crate) fn is_open(&self) -> bool {
        (self.settings.enabled || self.spare_settings.enabled) && !self.closing.is_cancelled()
    }

    /// Most of one version.
    fn most(&self, kind: Kind) -> usize {
        match kind {
            Kind::Machine if self.settings.enabled => self.settings.machines_per_version,
            Kind::Spare if self.spare_settings.enabled => self.spare_settings.processes_per_version,
            _ => 0,
        }
    }

    /// A launch of this version: a machine that waits for it, or will in a moment. Nobody else gets it.
    pub(crate) async fn claim(&self, source: &Source, reach: &Egress) -> Option<PoolMachine> {
        if !self.is_open() {
            return None;
        }
        self.note_launch(source);
        if let Some(machine) = self.take(Kind::Machine, source, reach) {
            return Some(machine);
        }
        let (made, left) = self.promise(source)?;
        // Late or failed: the launch begins from the base.
        let _ = timeout(left + left / 4 + SLACK, made.cancelled()).await;
        self.take(Kind::Machine, source, reach)
    }

    /// A spare that can become a machine of this version, where one waits.
    pub(crate) fn claim_spare(&self, source: &Source, reach: &Egress) -> Option<PoolMachine> {
        self.take(Kind::Spare, source, reach)
    }

    /// A MicroVM of this version sleeps and has no process: while this is held, a spare should wait for it.
    pub(crate) fn asleep(self: &Arc<Self>, source: &Source) -> Option<Asleep> {
        if !self.is_open() || !self.spare_settings.enabled {
            return None;
        }
        self.state().use_stock(source).sleepers += 1;
        self.changed.notify_one();
        Some(Asleep {
            pool: Arc::clone(self),
            source: source.clone(),
        })
    }

    fn note_launch(&self, source: &Source) {
        let now = Instant::now();
        let mut state = self.state();
        let stock = state.use_stock(source);
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
        let is_it = making.build_id == source.build_id && making.kind == Kind::Machine;
        if !is_it || making.promised || left > PATIENCE {
            return None;
        }
        making.promised = true;
        Some((making.ended.clone(), left))
    }

    fn take(&self, kind: Kind, source: &Source, reach: &Egress) -> Option<PoolMachine> {
        let mut state = self.state();
        let all = state.stocks.get_mut(&source.build_id)?.of(kind);
        let index = all.iter().position(|machine| machine.fits(reach))?;
        all.remove(index)
    }

    /// A version was built: its first launch should find a machine.
    pub(crate) fn built(&self, source: &Source) {
        if !self.is_open() {
            return;
        }
        let mut state = self.state();
        state.use_stock(source);
        state.recheck = true;
        drop(state);
        self.changed.notify_one();
    }

    /// A version was in use before this daemon started, with so many launches in its last minute.
    pub(crate) fn used_before(&self, source: &Source, launches: usize) {
        let launches = launches.min(self.settings.machines_per_version);
        let mut state = self.state();
        let stock = state.use_stock(source);
        let now = stock.used;
        // Launches that came before this was known are among them.
        let missing = launches.saturating_sub(stock.launches.len());
        stock.launches.extend(std::iter::repeat_n(now, missing));
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
        let lost = state.stocks.values_mut().find_map(|stock| stock.remove(id));
        state.condemned.extend(lost);
        drop(state);
        self.changed.notify_one();
    }

    /// Forgets a build; its machines are the caller's to discard. One that is being made of it is not kept.
    pub(crate) fn drain(&self, build_id: &str) -> Vec<PoolMachine> {
        let stock = self.state().stocks.remove(build_id);
        stock.map_or_else(Vec::new, |stock| stock.into_all().collect())
    }

    /// Whether launches use a build; where they do not, its machines are surplus.
    pub(crate) fn set_launched(&self, build_id: &str, is_launched: bool) {
        if let Some(stock) = self.state().stocks.get_mut(build_id) {
            stock.is_launched = is_launched;
        }
    }

    /// What the machines that wait or are being made take, MiB.
    pub(crate) fn memory_mib(&self) -> u64 {
        let state = self.state();
        let waiting: usize = state
            .stocks
            .values()
            .map(|stock| stock.machines.len())
            .sum();
        (waiting as u64 + u64::from(state.making.is_some())) * MACHINE_MIB
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

    /// The one that is missed least: a spare, or the oldest, of the version that was used longest ago.
    pub(crate) fn take_any(&self) -> Option<PoolMachine> {
        let mut state = self.state();
        let stocks = state.stocks.values_mut();
        let stock = stocks
            .filter(|stock| !stock.is_empty())
            .min_by_key(|stock| stock.used)?;
        let spare = stock.spares.pop_front();
        spare.or_else(|| stock.machines.pop_front())
    }

    /// Nothing is made or claimed any more; what waits is the caller's to discard.
    pub(crate) fn close(&self) -> Vec<PoolMachine> {
        self.closing.cancel();
        let mut state = self.state();
        let machines = std::mem::take(&mut state.stocks)
            .into_values()
            .flat_map(Stock::into_all);
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
        let mut state = self.state();
        let mut surplus = std::mem::take(&mut state.condemned);
        for stock in state.stocks.values_mut() {
            for kind in [Kind::Machine, Kind::Spare] {
                let target = stock.target(kind, now, self.most(kind));
                while stock.of(kind).len() > target {
                    surplus.extend(stock.of(kind).pop_front());
                }
            }
        }
        state
            .stocks
            .retain(|_, stock| !stock.is_empty() || stock.sleepers > 0 || !stock.is_idle(now));
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

    /// What is lacked most, and of which version, unless something more important is under way. A spare is
    /// made in a tenth of the time that a machine takes, so those come first; one that has run first takes as
    /// long, and is missed less.
    pub(crate) fn wanting(&self) -> Option<(Source, Kind)> {
        if !self.is_open() || self.state().under_way > 0 {
            return None;
        }
        let wanted = |kind| Some((self.wanting_of(kind)?, kind));
        let [first, then] = if self.spares_have_run {
            [Kind::Machine, Kind::Spare]
        } else {
            [Kind::Spare, Kind::Machine]
        };
        wanted(first).or_else(|| wanted(then))
    }

    fn wanting_of(&self, kind: Kind) -> Option<Source> {
        let now = Instant::now();
        let most = self.most(kind);
        let (each, budget) = match kind {
            Kind::Machine => (MACHINE_MIB, self.settings.memory_mib),
            Kind::Spare if self.spares_have_run => (RUN_SPARE_MIB, self.spare_settings.memory_mib),
            Kind::Spare => (SPARE_MIB, self.spare_settings.memory_mib),
        };
        let mut state = self.state();
        let stocks = state.stocks.values_mut();
        let waiting: usize = stocks.map(|stock| stock.of(kind).len()).sum();
        if (waiting as u64 + 1) * each > budget {
            return None;
        }
        let stocks = state.stocks.values_mut();
        stocks
            .filter_map(|stock| {
                let target = stock.target(kind, now, most);
                let wants = now >= stock.not_before && stock.of(kind).len() < target;
                wants.then_some(stock)
            })
            .max_by_key(|stock| stock.used)
            .map(|stock| stock.source.clone())
    }

    /// A machine is being made; the token says that it is wanted no more.
    pub(crate) fn making(&self, source: &Source, kind: Kind) -> CancellationToken {
        let making = Making {
            build_id: source.build_id.clone(),
            kind,
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
    pub(crate) fn made(&self, source: &Source, kind: Kind, made: Made) -> Option<PoolMachine> {
        let mut state = self.state();
        let took = state.making.take().map(|making| {
            making.ended.cancel();
            making.begun.elapsed()
        });
        let is_open = self.is_open();
        let stock = state.stocks.get_mut(&source.build_id);
        match (stock.filter(|_| is_open), made) {
            (Some(stock), Made::Machine(machine)) => {
                stock.failures = 0;
                if kind == Kind::Machine {
                    stock.took = took;
                }
                stock.of(kind).push_back(machine);
                None
            }
            // It says nothing of the version; but whoever needed its place needs it for a while.
            (Some(stock), Made::Abandoned) => {
                stock.not_before = Instant::now() + FIRST_PAUSE;
                None
            }
            (Some(stock), Made::Failed) => {
                let pause = FIRST_PAUSE * 2_u32.saturating_pow(stock.failures.min(10));
                stock.failures += 1;
                stock.not_before = Instant::now() + pause.min(LONGEST_PAUSE);
                None
            }
            (None, Made::Machine(machine)) => Some(machine),
            (None, Made::Abandoned | Made::Failed) => None,
        }
    }
}

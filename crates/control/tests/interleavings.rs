//! Thousands of short lives at random: calls, traffic, time, deaths, kills, reboots, full disks, damaged rows
//! and damaged suspensions, in any order and at once. When all has come to rest, everything that must hold is checked.
//!
//! `COLIBRI_INTERLEAVINGS=20000` plays more of them, `COLIBRI_SEED=123` one alone.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

mod common;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use colibri_control::{IfDamaged, Settings};
use colibri_testkit::Strike;
use common::invariants::{Known, check};
use common::trial::{Template, Trial, Trouble, runtime};
use common::{Daemon, all_hooks, requests};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Lives that are played when nobody says how many.
const LIVES: u64 = if cfg!(debug_assertions) { 200 } else { 1000 };
/// What is left of a suspension's memory that rotted.
const ROTTEN: &[u8] = b"rotten";
/// Most MicroVMs of a life.
const MOST: usize = 3;

/// A life under way.
struct Life {
    trial: Trial,
    random: StdRng,
    ids: Vec<String>,
    /// Calls and requests that nobody waits for.
    loose: JoinSet<()>,
    /// Rows that were damaged, with what they held.
    damaged: BTreeMap<String, String>,
    /// Memory of suspensions that were damaged, as it was.
    rotten: BTreeMap<String, Vec<u8>>,
    /// What happened, for who has to understand it.
    course: Arc<Mutex<Vec<String>>>,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Run,
    Suspend,
    Resume,
    Terminate,
    Traffic,
    Wait,
    SetClock,
    ExitApplication,
    KillProcess,
    KillDaemon,
    Reboot,
    Strike,
    FillDisk,
    FreeDisk,
    DamageRow,
    DamageSuspension,
    GoBack,
}

/// Every step as often as it stands here.
const STEPS: [Step; 30] = [
    Step::Run,
    Step::Run,
    Step::Run,
    Step::Suspend,
    Step::Suspend,
    Step::Suspend,
    Step::Resume,
    Step::Resume,
    Step::Terminate,
    Step::Traffic,
    Step::Traffic,
    Step::Traffic,
    Step::Wait,
    Step::Wait,
    Step::Wait,
    Step::SetClock,
    Step::ExitApplication,
    Step::KillProcess,
    Step::KillDaemon,
    Step::KillDaemon,
    Step::Reboot,
    Step::Strike,
    Step::Strike,
    Step::Strike,
    Step::FillDisk,
    Step::FreeDisk,
    Step::DamageRow,
    Step::DamageSuspension,
    Step::GoBack,
    Step::GoBack,
];

fn settings(seed: u64, settings: &mut Settings) {
    settings.pool.enabled = seed.is_multiple_of(3);
    settings.pool.memory_mib = 10_000;
    settings.hot.enabled = seed.is_multiple_of(2);
    settings.hot.memory_mib = 10_000;
}

impl Life {
    fn note(&self, what: String) {
        self.course.lock().unwrap().push(what);
    }

    fn request(&mut self) -> Value {
        let policy = |idle: u32, window: u32| {
            json!({ "idlePolicy": {
                "maxIdleDurationSeconds": idle, "suspendedDurationSeconds": window, "autoResumeEnabled": true,
            } })
        };
        match self.random.random_range(0..6) {
            0 => policy(60, 600),
            1 => policy(60, 0),
            2 => json!({ "maximumDurationInSeconds": 600 }),
            _ => policy(28_800, 28_800),
        }
    }

    fn any_id(&mut self) -> Option<String> {
        if self.ids.is_empty() {
            return None;
        }
        let index = self.random.random_range(0..self.ids.len());
        Some(self.ids[index].clone())
    }

    /// What a service that is struck or starved says is fine here; what must never happen is not.
    fn fine<T>(outcome: Result<T, Trouble>) -> Result<Option<T>, String> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(Trouble::Told(_)) => Ok(None),
            Err(Trouble::Violation(what)) => Err(what),
        }
    }

    async fn take(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Run if self.ids.len() < MOST => {
                let (token, request) = (format!("token-{}", self.ids.len()), self.request());
                let launched = self.trial.launch(&token, request).await;
                self.ids.extend(Self::fine(launched)?);
            }
            Step::Run => {}
            Step::Suspend | Step::Resume | Step::Terminate | Step::Traffic | Step::GoBack => {
                if let Some(id) = self.any_id() {
                    self.ask(step, id).await;
                }
            }
            Step::Wait => {
                let seconds = [0, 1, 10, 70, 700][self.random.random_range(0..5)];
                let nap = async |_: &Daemon| sleep(Duration::from_secs(seconds)).await;
                self.trial.call(nap).await;
            }
            Step::SetClock => {
                let hours = self.random.random_range(-6..=6);
                self.trial.daemon.clock.jump(hours * 3_600_000);
            }
            Step::ExitApplication => {
                let guest = self
                    .any_id()
                    .and_then(|id| self.trial.daemon.world.guest(&id));
                if let Some(guest) = guest {
                    guest.exit_application(1);
                }
            }
            Step::KillProcess => {
                if let Some(id) = self.any_id() {
                    self.trial.daemon.world.kill_process(&id);
                }
            }
            Step::KillDaemon => self.trial.kill().await,
            Step::Reboot => {
                self.trial.reboot = true;
                self.trial.daemon.clock.reboot();
                self.trial.kill().await;
            }
            Step::Strike => {
                let strikes = [
                    Strike::Crash,
                    Strike::Crash,
                    Strike::Fail,
                    Strike::StorageFull,
                ];
                let strike = strikes[self.random.random_range(0..strikes.len())];
                let passed = self.random.random_range(0..30);
                self.trial.daemon.world.points().plan(passed, strike);
            }
            Step::FillDisk => self.trial.daemon.world.points().fill_disk(true),
            Step::FreeDisk => self.trial.daemon.world.points().fill_disk(false),
            Step::DamageRow => {
                if let Some(id) = self.any_id() {
                    self.damage(id).await;
                }
            }
            Step::DamageSuspension => {
                if let Some(id) = self.any_id() {
                    self.sleep_twice(&id).await;
                    self.rot(id);
                }
            }
        }
        Ok(())
    }

    /// A call or a request: waited for, or left alone.
    async fn ask(&mut self, step: Step, id: String) {
        let asked = async move |daemon: &Daemon| {
            // Whatever it says: it is checked at rest.
            match step {
                Step::Suspend => drop(daemon.suspend(&id).await),
                Step::Resume => drop(daemon.resume(&id).await),
                Step::Terminate => drop(daemon.terminate(&id).await),
                Step::GoBack => drop(daemon.go_back(&id).await),
                _ => traffic(&daemon.control, &id).await,
            }
        };
        if self.random.random_bool(0.5) {
            return self.trial.call(asked).await;
        }
        let control = Arc::clone(&self.trial.daemon.control);
        let id = self.any_id().unwrap_or_default();
        self.loose.spawn(async move {
            let request = json!({ "microvmIdentifier": id });
            match step {
                Step::Suspend => drop(control.suspend_microvm(of(request)).await),
                Step::Resume => drop(control.resume_microvm(of(request)).await),
                Step::Terminate => drop(control.terminate_microvm(of(request)).await),
                Step::GoBack => {
                    drop(
                        control
                            .resume_or_go_back(of(request), IfDamaged::GoBack)
                            .await,
                    );
                }
                _ => traffic(&control, &id).await,
            }
        });
    }

    /// A row is damaged while no daemon runs.
    async fn damage(&mut self, id: String) {
        if self.damaged.contains_key(&id) {
            return;
        }
        self.trial.daemon.crash().await;
        let row = self.trial.daemon.store.microvm(id.clone()).await;
        if let Ok(Some(row)) = row {
            self.write(&id, "[]");
            self.damaged.insert(id, row.settings.to_string());
        }
        self.trial.kill().await;
    }

    /// Has a MicroVM sleep, with one suspension before its last, unless something comes in between.
    async fn sleep_twice(&mut self, id: &str) {
        let sleeps = async |daemon: &Daemon| {
            for _ in 0..2 {
                traffic(&daemon.control, id).await;
                drop(daemon.suspend(id).await);
                sleep(Duration::from_secs(5)).await;
            }
        };
        self.trial.call(sleeps).await;
    }

    /// The memory of a suspension rots on the disk. What it goes back to may have forgotten any request.
    fn rot(&mut self, id: String) {
        let memory = self.memory_of(&id);
        if let Ok(good) = std::fs::read(&memory)
            && good != ROTTEN
        {
            std::fs::write(memory, ROTTEN).unwrap();
            self.trial.served.insert(id.clone(), 0);
            self.rotten.insert(id, good);
        }
    }

    fn memory_of(&self, id: &str) -> PathBuf {
        let directory = self.trial.daemon.settings.microvm_directory(id);
        directory.join("memory.delta")
    }

    fn write(&self, id: &str, settings: &str) {
        let path = self.trial.daemon.directory().join("state.db");
        let database = rusqlite::Connection::open(path).unwrap();
        let statement = "UPDATE microvms SET settings = ?2 WHERE id = ?1";
        database.execute(statement, [id, settings]).unwrap();
    }

    /// What the operator does: frees the disk, mends the files and the rows, starts the daemon again.
    async fn mend(&mut self) {
        for (id, good) in std::mem::take(&mut self.rotten) {
            // It may have gone back, and slept again.
            if std::fs::read(self.memory_of(&id)).is_ok_and(|found| found == ROTTEN) {
                std::fs::write(self.memory_of(&id), good).unwrap();
            }
        }
        self.trial.daemon.world.points().forget();
        self.trial.daemon.world.points().fill_disk(false);
        if self.damaged.is_empty() {
            return;
        }
        self.trial.daemon.crash().await;
        for (id, settings) in std::mem::take(&mut self.damaged) {
            self.write(&id, &settings);
        }
        self.trial.kill().await;
    }
}

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

async fn traffic(control: &colibri_control::Control, id: &str) {
    if let Ok(ready) = control.ready(id).await {
        requests(&ready, "/").await;
    }
}

struct Ground {
    template: Template,
    bases: BTreeMap<String, Vec<u8>>,
}

impl Ground {
    fn play(&self, seed: u64) -> Result<usize, String> {
        let course = Arc::new(Mutex::new(Vec::new()));
        let lived = catch_unwind(AssertUnwindSafe(|| {
            runtime().block_on(self.live(seed, Arc::clone(&course)))
        }));
        let outcome = lived.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Err(format!("panicked: {}", text.unwrap_or_default()))
        });
        outcome.map_err(|what| {
            let course = course.lock().unwrap().join(", ");
            format!("COLIBRI_SEED={seed}: {what}\n  after {course}")
        })
    }

    async fn live(&self, seed: u64, course: Arc<Mutex<Vec<String>>>) -> Result<usize, String> {
        let daemon = Daemon::start_in(self.template.copy(), |it| settings(seed, it)).await;
        let mut life = Life {
            trial: Trial::of(daemon),
            random: StdRng::seed_from_u64(seed),
            ids: Vec::new(),
            loose: JoinSet::new(),
            damaged: BTreeMap::new(),
            rotten: BTreeMap::new(),
            course,
        };
        for _ in 0..life.random.random_range(3..=25) {
            let step = STEPS[life.random.random_range(0..STEPS.len())];
            life.note(format!("{step:?}"));
            life.take(step).await?;
        }
        life.loose.shutdown().await;
        life.mend().await;
        let known = Known {
            bases: Some(&self.bases),
            hooks: true,
            may_end: true,
        };
        let checked = check(&mut life.trial, known).await;
        checked.map(|()| life.trial.recoveries)
    }
}

#[test]
fn whatever_happens_in_whatever_order_nothing_is_lost() {
    let template = Template::make(&all_hooks(), |_| {});
    let ground = Ground {
        bases: Template::bases(template.path()),
        template,
    };
    if let Ok(seed) = std::env::var("COLIBRI_SEED") {
        ground.play(seed.parse().unwrap()).unwrap();
        return;
    }
    let lives = std::env::var("COLIBRI_INTERLEAVINGS").map_or(LIVES, |text| text.parse().unwrap());
    let (next, recoveries) = (AtomicU64::new(0), AtomicUsize::new(0));
    let violations = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= lives {
                        return;
                    }
                    match ground.play(seed) {
                        Ok(count) => drop(recoveries.fetch_add(count, Ordering::Relaxed)),
                        Err(what) => violations.lock().unwrap().push(what),
                    }
                }
            });
        }
    });
    let violations = violations.into_inner().unwrap();
    // Past the capture of the test harness: this is the figure that the specification names.
    let mut report = std::io::stderr();
    let recoveries = recoveries.into_inner();
    let count = violations.len();
    writeln!(
        report,
        "interleavings: {lives}, recoveries: {recoveries}, violations: {count}"
    )
    .unwrap();
    for violation in &violations {
        writeln!(report, "{violation}").unwrap();
    }
    assert!(violations.is_empty(), "see above; COLIBRI_SEED replays one");
}

//! Every point of every transition at which a daemon can be killed or a call can fail: a scenario is played
//! once for each of them, with that one struck, and everything that must hold is checked afterwards.
//!
//! `COLIBRI_CRASH_POINT=SuspendIdle/Crash/17` plays one of them alone.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

#[path = "../common/mod.rs"]
mod common;
mod scenario;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use colibri_testkit::Strike;
use common::invariants::{Known, check};
use common::trial::{Template, Trial, Trouble, runtime};
use common::{Daemon, all_hooks};
use scenario::Scenario;

/// More points than any scenario has.
const MOST_POINTS: usize = 1000;

/// What happens at the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hazard {
    /// The daemon is killed.
    Crash,
    /// … and so is the next one, in the middle of its recovery.
    CrashTwice,
    /// … and the host goes down with it.
    Reboot,
    /// The call fails.
    Fail,
    /// The call finds the disk full.
    StorageFull,
}

const HAZARDS: [Hazard; 5] = [
    Hazard::Crash,
    Hazard::CrashTwice,
    Hazard::Reboot,
    Hazard::Fail,
    Hazard::StorageFull,
];

impl Hazard {
    fn strike(self) -> Strike {
        match self {
            Self::Crash | Self::CrashTwice | Self::Reboot => Strike::Crash,
            Self::Fail => Strike::Fail,
            Self::StorageFull => Strike::StorageFull,
        }
    }

    /// A daemon that is killed, once or twice, must reach what it was on the way to. A host that goes down
    /// ends what ran, and a call that fails may be all that a client gets.
    fn must_succeed(self) -> bool {
        matches!(self, Self::Crash | Self::CrashTwice)
    }
}

/// One run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Case {
    scenario: Scenario,
    hazard: Hazard,
    point: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:?}/{}", self.scenario, self.hazard, self.point)
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let [scenario, hazard, point] = parts[..] else {
            return Err(format!("{text} is not SCENARIO/HAZARD/POINT"));
        };
        let named = |name: String, wanted: &str| name == wanted;
        let scenario = Scenario::ALL
            .iter()
            .find(|known| named(format!("{known:?}"), scenario));
        let hazard = HAZARDS
            .iter()
            .find(|known| named(format!("{known:?}"), hazard));
        Ok(Self {
            scenario: *scenario.ok_or("there is no such scenario")?,
            hazard: *hazard.ok_or("there is no such hazard")?,
            point: point.parse().map_err(|error| format!("{point}: {error}"))?,
        })
    }
}

/// What came of a run.
enum Ended {
    /// The scenario has no such point.
    Beyond,
    /// Nothing can be struck there in this way.
    Inapplicable,
    Struck {
        recoveries: usize,
    },
    Violated(String),
}

struct Ground {
    empty: Template,
    with_image: Template,
    bases: BTreeMap<String, Vec<u8>>,
}

impl Ground {
    fn make() -> Self {
        let with_image = Template::make(&all_hooks(), |_| {});
        Self {
            empty: Template::empty(),
            bases: Template::bases(with_image.path()),
            with_image,
        }
    }

    fn play(&self, case: Case) -> Ended {
        let played = catch_unwind(AssertUnwindSafe(|| runtime().block_on(self.attempt(case))));
        played.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Ended::Violated(format!("panicked: {}", text.unwrap_or_default()))
        })
    }

    async fn attempt(&self, case: Case) -> Ended {
        let Case {
            scenario,
            hazard,
            point,
        } = case;
        let template = if scenario.begins_empty() {
            &self.empty
        } else {
            &self.with_image
        };
        let daemon =
            Daemon::start_in(template.copy(), |settings| scenario.settings(settings)).await;
        let mut trial = Trial::of(daemon);
        let id = match scenario.prepare(&mut trial).await {
            Ok(id) => id,
            Err(trouble) => return Ended::Violated(format!("could not prepare: {trouble:?}")),
        };
        trial.reboot = hazard == Hazard::Reboot && scenario != Scenario::Restart;
        if hazard == Hazard::CrashTwice {
            // Over all points of the first crash, every point of a recovery is met.
            trial.later.push_back((point % 12, Strike::Crash));
        }
        trial.daemon.world.points().plan(point, hazard.strike());
        let played = scenario.play(&mut trial, &id).await;
        let struck = trial.all_struck();
        let passed = trial.daemon.world.points().passed();
        trial.later.clear();
        let known = Known {
            bases: (!scenario.changes_images()).then_some(&self.bases),
            hooks: true,
            may_end: false,
        };
        let checked = check(&mut trial, known).await;
        let at = struck.join(", then ");
        let violated = |what: String| Ended::Violated(format!("{at}: {what}"));
        match (played, checked) {
            (Err(Trouble::Violation(what)), _) | (_, Err(what)) => violated(what),
            (Err(Trouble::Told(what)), Ok(())) if hazard.must_succeed() => violated(what),
            _ if !struck.is_empty() => Ended::Struck {
                recoveries: trial.recoveries,
            },
            _ if passed <= point => Ended::Beyond,
            _ => Ended::Inapplicable,
        }
    }
}

#[derive(Default)]
struct Tally {
    points: usize,
    recoveries: usize,
    failures: usize,
    violations: Vec<String>,
}

#[test]
fn every_point_of_every_transition_can_be_struck_and_nothing_is_lost() {
    let ground = Ground::make();
    if let Ok(case) = std::env::var("COLIBRI_CRASH_POINT") {
        let case: Case = case.parse().unwrap();
        if let Ended::Violated(what) = ground.play(case) {
            panic!("{case}: {what}");
        }
        return;
    }
    let tally = strike_all(&ground);
    // Past the capture of the test harness: this is the figure that the specification names.
    let mut report = std::io::stderr();
    writeln!(
        report,
        "crash points: {}, recoveries: {}, failed calls: {}, violations: {}",
        tally.points,
        tally.recoveries,
        tally.failures,
        tally.violations.len()
    )
    .unwrap();
    for violation in &tally.violations {
        writeln!(report, "{violation}").unwrap();
    }
    assert!(
        tally.violations.is_empty(),
        "see above; COLIBRI_CRASH_POINT replays one"
    );
    // Fewer would mean that the points are not found any more.
    assert!(
        tally.points > 1000 && tally.failures > 300,
        "too few points"
    );
}

fn strike_all(ground: &Ground) -> Tally {
    let tracks: Vec<(Scenario, Hazard)> = Scenario::ALL
        .iter()
        .flat_map(|scenario| HAZARDS.map(|hazard| (*scenario, hazard)))
        .collect();
    let (next, tally) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(track) = tracks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    strike_each(ground, *track, &tally);
                }
            });
        }
    });
    tally.into_inner().unwrap()
}

fn strike_each(ground: &Ground, (scenario, hazard): (Scenario, Hazard), tally: &Mutex<Tally>) {
    for point in 0..MOST_POINTS {
        let case = Case {
            scenario,
            hazard,
            point,
        };
        let ended = ground.play(case);
        let mut tally = tally.lock().unwrap();
        match ended {
            Ended::Beyond => return,
            Ended::Inapplicable => {}
            Ended::Struck { recoveries } => {
                let is_crash = hazard.strike() == Strike::Crash;
                tally.points += usize::from(is_crash);
                tally.failures += usize::from(!is_crash);
                tally.recoveries += recoveries;
            }
            Ended::Violated(what) => {
                tally.violations.push(format!("{case}: {what}"));
            }
        }
    }
    let endless = format!("{scenario:?}/{hazard:?} has no end");
    tally.lock().unwrap().violations.push(endless);
}

#[test]
fn a_case_is_read_as_it_is_printed() {
    let case = Case {
        scenario: Scenario::Launch,
        hazard: Hazard::Crash,
        point: 3,
    };
    assert_eq!(case.to_string().parse(), Ok(case));
}

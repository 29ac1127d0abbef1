//! The table of docs/lifecycle.md, cell by cell: what a call or a request brings in each phase.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

mod common;

use std::time::Duration;

use colibri_control::NotReady;
use colibri_store::Phase;
use colibri_testkit::{Fault, Operation};
use colibri_wire::ApiError;
use colibri_wire::shape::microvm::MicrovmState;
use common::{Daemon, requests};
use serde_json::json;

const TABLE: &str = include_str!("../../../docs/lifecycle.md");

/// How long an operation that holds a phase takes, in simulated time.
const HELD: Duration = Duration::from_secs(10);

const PHASES: [Phase; 9] = [
    Phase::Launching,
    Phase::Running,
    Phase::Suspending,
    Phase::Captured,
    Phase::Suspended,
    Phase::Resuming,
    Phase::Continuing,
    Phase::Terminating,
    Phase::Terminated,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    Suspend,
    Resume,
    Terminate,
    Traffic { wakes: bool },
}

const ARRIVALS: [Arrival; 5] = [
    Arrival::Suspend,
    Arrival::Resume,
    Arrival::Terminate,
    Arrival::Traffic { wakes: true },
    Arrival::Traffic { wakes: false },
];

/// The cells of a row: the phase, then one for each arrival.
fn rows() -> Vec<(Phase, Vec<String>)> {
    let rows = TABLE.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let name = cells.next().unwrap().trim_matches('`');
        let phase = PHASES.into_iter().find(|phase| phase.as_str() == name);
        (phase.unwrap(), cells.map(str::to_owned).collect())
    })
    .collect()
}

/// A MicroVM in a phase, held there.
async fn in_phase(daemon: &Daemon, phase: Phase, wakes: bool) -> String {
    let policy = json!({ "idlePolicy": {
        "maxIdleDurationSeconds": 28_800, "suspendedDurationSeconds": 28_800, "autoResumeEnabled": wakes,
    } });
    let faults = daemon.world.faults();
    if phase == Phase::Launching {
        faults.next(Operation::Launch, Fault::Delay(HELD));
        return daemon.launch(policy).await;
    }
    let id = daemon.run(policy).await;
    let holding = match phase {
        Phase::Suspending => Some(Operation::Suspend),
        Phase::Captured | Phase::Terminating => Some(Operation::Kill),
        Phase::Resuming => Some(Operation::Launch),
        Phase::Continuing => Some(Operation::ForgetSuspension),
        _ => None,
    };
    if matches!(
        phase,
        Phase::Suspended | Phase::Resuming | Phase::Continuing
    ) {
        daemon.suspended(&id).await;
    }
    if let Some(operation) = holding {
        faults.next(operation, Fault::Delay(HELD));
    }
    match phase {
        Phase::Suspending | Phase::Captured => daemon.suspend(&id).await.unwrap(),
        Phase::Resuming | Phase::Continuing => daemon.resume(&id).await.unwrap(),
        Phase::Terminating | Phase::Terminated => daemon.terminate(&id).await.unwrap(),
        _ => {}
    }
    if phase == Phase::Terminated {
        daemon.terminated(&id).await;
    }
    id
}

async fn until_in(daemon: &Daemon, id: &str, phase: Phase) {
    loop {
        let row = daemon.store.microvm(id.to_owned()).await.unwrap().unwrap();
        if row.phase == phase {
            return;
        }
        tokio::task::yield_now().await;
    }
}

fn told(answer: Result<(), ApiError>) -> &'static str {
    match answer {
        Ok(()) => "accepted",
        Err(ApiError::Conflict { .. }) => "409",
        Err(other) => panic!("{other:?}"),
    }
}

async fn arrives(daemon: &Daemon, id: &str, arrival: Arrival) -> &'static str {
    match arrival {
        Arrival::Suspend => told(daemon.suspend(id).await),
        Arrival::Resume => told(daemon.resume(id).await),
        Arrival::Terminate => told(daemon.terminate(id).await),
        Arrival::Traffic { .. } => match daemon.control.ready(id).await {
            Ok(ready) => {
                assert!(requests(&ready, "/").await.is_some());
                "served"
            }
            Err(NotReady::Suspended | NotReady::Ended) => "refused",
            Err(other) => panic!("{other:?}"),
        },
    }
}

#[tokio::test(start_paused = true)]
async fn every_cell_of_the_table_of_outcomes_holds() {
    let rows = rows();
    let phases: Vec<Phase> = rows.iter().map(|(phase, _)| *phase).collect();
    assert_eq!(phases, PHASES, "the table has a row for every phase");
    for (phase, cells) in rows {
        assert_eq!(cells.len(), ARRIVALS.len(), "{phase:?}");
        for (arrival, expected) in ARRIVALS.into_iter().zip(cells) {
            let daemon = Daemon::with_image().await;
            let wakes = arrival == Arrival::Traffic { wakes: true };
            let id = in_phase(&daemon, phase, wakes).await;
            until_in(&daemon, &id, phase).await;
            let answer = arrives(&daemon, &id, arrival).await;
            tokio::time::sleep(HELD * 10).await;
            let state = match daemon.get(&id).await.state {
                MicrovmState::Running => "RUNNING",
                MicrovmState::Suspended => "SUSPENDED",
                MicrovmState::Terminated => "TERMINATED",
                other => panic!("{phase:?}, {arrival:?}: rests in {other:?}"),
            };
            assert_eq!(
                format!("{answer} → {state}"),
                expected,
                "{phase:?}, {arrival:?}"
            );
            daemon.terminate(&id).await.unwrap();
            daemon.terminated(&id).await;
            daemon.assert_nothing_left();
        }
    }
}

/// Everything at once, in every order: the end wins, and nobody waits for ever.
#[tokio::test(start_paused = true)]
async fn whoever_comes_together_with_a_terminate_is_answered_and_it_wins() {
    for phase in PHASES {
        let daemon = Daemon::with_image().await;
        let id = in_phase(&daemon, phase, true).await;
        until_in(&daemon, &id, phase).await;
        let traffic = async {
            if let Ok(ready) = daemon.control.ready(&id).await {
                requests(&ready, "/").await;
            }
        };
        let (ended, ..) = tokio::join!(
            daemon.terminate(&id),
            daemon.suspend(&id),
            daemon.resume(&id),
            daemon.resume(&id),
            daemon.suspend(&id),
            traffic,
        );
        ended.unwrap();
        daemon.terminated(&id).await;
        daemon.assert_nothing_left();
    }
}

//! What waits after a start, and after an attempt that was given up.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

mod common;

use std::time::Duration;

use colibri_control::Settings;
use colibri_testkit::{Fault, Operation};
use common::Daemon;
use serde_json::json;

async fn with_pool() -> Daemon {
    let daemon = Daemon::start_with(pool_only).await;
    daemon.create_image(json!({})).await;
    daemon
}

fn pool_only(settings: &mut Settings) {
    settings.pool.enabled = true;
    settings.pool.memory_mib = 10_000;
}

fn waiting(daemon: &Daemon) -> usize {
    let machines = daemon.world.machines().into_iter();
    let pool = daemon.directory().join("pool");
    machines
        .filter(|id| {
            let guest = daemon.world.guest(id);
            pool.join(id).is_dir()
                && guest.is_some_and(|guest| !guest.is_running() && guest.identities_assumed() > 0)
        })
        .count()
}

/// Waits for what happens in the background, for a simulated minute at most.
async fn stocked(daemon: &Daemon, count: usize) {
    for _ in 0..600 {
        if waiting(daemon) == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{} wait, not {count}", waiting(daemon));
}

#[tokio::test(start_paused = true)]
async fn a_restarted_daemon_stocks_what_was_in_use_as_its_last_launches_ask_for() {
    let mut daemon = with_pool().await;
    stocked(&daemon, 1).await;
    for _ in 0..2 {
        let id = daemon.run(json!({})).await;
        daemon.terminate(&id).await.unwrap();
        daemon.terminated(&id).await;
    }
    daemon.crash_and_restart().await;
    stocked(&daemon, 3).await;
    let launched = daemon.run(json!({})).await;
    let name = daemon.world.guest(&launched).unwrap().name();
    assert!(name.starts_with("pool-"), "{name}");
}

#[tokio::test(start_paused = true)]
async fn a_version_that_nobody_used_for_a_day_is_not_stocked_by_a_start() {
    let mut daemon = with_pool().await;
    stocked(&daemon, 1).await;
    tokio::time::sleep(Duration::from_secs(25 * 3600)).await;
    stocked(&daemon, 0).await;
    daemon.crash_and_restart().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(waiting(&daemon), 0);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_given_up_for_somebody_else_is_no_failure() {
    let daemon = Daemon::start_with(pool_only).await;
    daemon.world.set_slots(2);
    let faults = daemon.world.faults();
    let mut calls = faults.calls(Operation::Resume);
    let slow = Fault::Delay(Duration::from_secs(20));
    faults.next(Operation::Resume, slow);
    daemon.create_image(json!({})).await;
    for _ in 0..5 {
        let begun = tokio::time::Instant::now();
        while faults.calls(Operation::Resume) == calls {
            tokio::time::sleep(Duration::from_millis(100)).await;
            // Failures would have made the pause grow to half a minute by the last turn.
            assert!(begun.elapsed() < Duration::from_secs(10));
        }
        // The second one gets the slot of the machine that is being made.
        let ids = [daemon.run(json!({})).await, daemon.run(json!({})).await];
        calls = faults.calls(Operation::Resume);
        faults.next(Operation::Resume, slow);
        for id in ids {
            daemon.terminate(&id).await.unwrap();
            daemon.terminated(&id).await;
        }
    }
}

//! Spares: processes that wait without a machine in them. What they become is what a process of its own
//! would have been, and they cost nobody anything.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

mod common;

use std::time::Duration;

use colibri_control::Settings;
use colibri_testkit::{Fault, Operation};
use colibri_wire::shape::microvm::MicrovmState;
use common::{Daemon, all_hooks, auto};
use serde_json::json;

fn spares_only(settings: &mut Settings) {
    settings.spares.enabled = true;
    settings.spares.processes_per_version = 1;
    settings.spares.memory_mib = 10_000;
}

async fn with_spares() -> Daemon {
    let daemon = Daemon::start_with(spares_only).await;
    daemon.create_image(all_hooks()).await;
    daemon
}

fn waiting(daemon: &Daemon) -> Vec<String> {
    let pool = daemon.directory().join("pool");
    let machines = daemon.world.machines().into_iter();
    machines
        .filter(|id| id.starts_with("spare-") && pool.join(id).is_dir())
        .collect()
}

/// The spare that waits, once one does.
async fn spare(daemon: &Daemon) -> String {
    for _ in 0..100_000 {
        if let Some(spare) = waiting(daemon).pop() {
            return spare;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no spare came to wait");
}

async fn ends(daemon: &Daemon, id: &str) {
    daemon.terminate(id).await.unwrap();
    daemon.terminated(id).await;
}

async fn shut_down_without_a_trace(daemon: &Daemon) {
    daemon.control.shutdown().await;
    daemon.assert_nothing_left();
    let pool = std::fs::read_dir(daemon.directory().join("pool")).unwrap();
    assert_eq!(pool.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_launch_and_each_wake_from_the_disk_take_a_spare() {
    let daemon = with_spares().await;
    let mut expected = spare(&daemon).await;
    let id = daemon.run(auto()).await;
    for visits in 1..=3 {
        let guest = daemon.world.guest(&id).unwrap();
        assert_eq!(guest.name(), expected, "it runs in the spare");
        assert_eq!(guest.identity().unwrap().hostname, id);
        assert_eq!(daemon.request(&id).await, visits);
        daemon.suspended(&id).await;
        expected = spare(&daemon).await;
        daemon.resume(&id).await.unwrap();
        daemon.reaches(&id, MicrovmState::Running).await;
    }
    let names = daemon.world.guest(&id).unwrap().hook_names();
    assert_eq!(names.iter().filter(|name| *name == "run").count(), 1);
    ends(&daemon, &id).await;
    shut_down_without_a_trace(&daemon).await;
}

#[tokio::test(start_paused = true)]
async fn a_spare_waits_for_as_long_as_a_microvm_of_its_version_sleeps() {
    let daemon = with_spares().await;
    let long = json!({ "idlePolicy": {
        "maxIdleDurationSeconds": 60, "suspendedDurationSeconds": 7200, "autoResumeEnabled": true,
    } });
    let id = daemon.run(long).await;
    daemon.suspended(&id).await;
    spare(&daemon).await;
    tokio::time::sleep(Duration::from_secs(1500)).await;
    assert_eq!(waiting(&daemon).len(), 1);
    ends(&daemon, &id).await;
    tokio::time::sleep(Duration::from_secs(700)).await;
    assert_eq!(waiting(&daemon).len(), 0, "nobody sleeps, nobody launches");
    shut_down_without_a_trace(&daemon).await;
}

#[tokio::test(start_paused = true)]
async fn a_spare_that_is_of_no_use_costs_no_wake() {
    let daemon = with_spares().await;
    let id = daemon.run(auto()).await;
    assert_eq!(daemon.request(&id).await, 1);
    daemon.suspended(&id).await;
    let spare = spare(&daemon).await;
    daemon.world.faults().next(Operation::TakeUp, Fault::Fail);
    assert_eq!(daemon.request(&id).await, 2);
    assert_eq!(daemon.world.guest(&id).unwrap().name(), id);
    assert!(!daemon.world.machines().contains(&spare));
    ends(&daemon, &id).await;
    shut_down_without_a_trace(&daemon).await;
}

#[tokio::test(start_paused = true)]
async fn a_wake_in_a_spare_is_finished_whatever_step_it_was_cut_off_at() {
    for (operation, fault) in [
        (Operation::TakeUp, Fault::Hang),
        (Operation::TakeUp, Fault::HangAfter),
        (Operation::ForgetSuspension, Fault::Hang),
        (Operation::Resume, Fault::Hang),
        (Operation::Resume, Fault::HangAfter),
    ] {
        let mut daemon = with_spares().await;
        let id = daemon.run(auto()).await;
        assert_eq!(daemon.request(&id).await, 1);
        daemon.suspended(&id).await;
        spare(&daemon).await;
        daemon.world.faults().next(operation, fault);
        daemon.resume(&id).await.unwrap();
        daemon.world.faults().hanging(operation).await;
        daemon.crash_and_restart().await;
        assert_eq!(daemon.request(&id).await, 2, "{operation:?} {fault:?}");
        ends(&daemon, &id).await;
        shut_down_without_a_trace(&daemon).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_launch_without_a_free_slot_takes_a_spares() {
    let daemon = Daemon::start_with(spares_only).await;
    daemon.world.set_slots(4);
    daemon.create_image(all_hooks()).await;
    spare(&daemon).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(daemon.run(json!({})).await);
    }
    assert_eq!(daemon.world.slots().len(), 4);
    assert_eq!(waiting(&daemon).len(), 0);
    for id in &ids {
        ends(&daemon, id).await;
    }
    shut_down_without_a_trace(&daemon).await;
}

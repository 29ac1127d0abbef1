//! What a guest's application is told of its life, and what it finds after a restore.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

mod common;

use std::time::Duration;

use colibri_testkit::{Fault, Operation};
use colibri_wire::shape::microvm::MicrovmState;
use common::{Daemon, all_hooks, auto};
use serde_json::json;

/// A header of the hook that was called last.
fn header_of_last(daemon: &Daemon, id: &str, name: &str) -> Option<String> {
    let call = daemon.world.guest(id).unwrap().hooks().pop().unwrap();
    let found = call.headers.into_iter().find(|(each, _)| each == name);
    found.map(|(_, value)| value)
}

#[tokio::test(start_paused = true)]
async fn the_resume_hook_is_told_how_long_the_machine_slept_and_no_other_is() {
    let daemon = Daemon::with_image_of(all_hooks()).await;
    let id = daemon.run(json!({})).await;
    assert_eq!(
        header_of_last(&daemon, &id, "X-Colibri-Slept-Seconds"),
        None
    );
    daemon.suspended(&id).await;
    tokio::time::sleep(Duration::from_millis(90_250)).await;
    daemon.resume(&id).await.unwrap();
    daemon.reaches(&id, MicrovmState::Running).await;
    let slept = header_of_last(&daemon, &id, "X-Colibri-Slept-Seconds").unwrap();
    assert!(slept.starts_with("90.25"), "{slept}");
}

#[tokio::test(start_paused = true)]
async fn a_suspension_that_traffic_undoes_was_no_sleep_and_keeps_connections() {
    let daemon = Daemon::with_image_of(all_hooks()).await;
    let id = daemon.run(auto()).await;
    let guest = |daemon: &Daemon| daemon.world.guest(&id).unwrap().identity().unwrap();
    assert!(guest(&daemon).reset_connections, "launched from a snapshot");
    let slow = Fault::Delay(Duration::from_secs(2));
    daemon.world.faults().next(Operation::Suspend, slow);
    daemon.suspend(&id).await.unwrap();
    daemon.request(&id).await;
    let slept = header_of_last(&daemon, &id, "X-Colibri-Slept-Seconds");
    assert_eq!(slept.as_deref(), Some("0.000"));
    assert!(!guest(&daemon).reset_connections);
    daemon.suspended(&id).await;
    daemon.request(&id).await;
    assert!(guest(&daemon).reset_connections, "resumed");
}

#[tokio::test(start_paused = true)]
async fn a_hooks_call_has_nothing_but_what_the_agent_adds() {
    let daemon = Daemon::with_image_of(all_hooks()).await;
    let id = daemon.run(json!({ "runHookPayload": "x" })).await;
    daemon.suspended(&id).await;
    let hooks = daemon.world.guest(&id);
    assert!(hooks.is_none(), "no process is kept");
    daemon.resume(&id).await.unwrap();
    daemon.reaches(&id, MicrovmState::Running).await;
    let calls = daemon.world.guest(&id).unwrap().hooks();
    let bare: Vec<_> = calls
        .iter()
        .filter(|call| call.headers.is_empty())
        .map(|call| (call.hook.as_str(), call.body.is_some()))
        .collect();
    assert_eq!(bare, [("run", true), ("suspend", false)]);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_set_late_is_set_again_before_traffic() {
    let daemon = Daemon::with_image().await;
    let id = daemon.run(auto()).await;
    daemon.suspended(&id).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    daemon.world.delay_next_identity(Duration::from_millis(400));
    daemon.request(&id).await;
    let shown = daemon.world.guest(&id).unwrap().wall_clock().unwrap();
    let behind = daemon.clock.passed_since(shown);
    assert!(behind < Duration::from_millis(20), "{behind:?}");
}

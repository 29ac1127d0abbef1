//! A suspension that cannot be continued here and now is kept: it may be continued later.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

mod common;

use colibri_testkit::{Fault, Operation};
use colibri_wire::shape::microvm::MicrovmState;
use common::{Daemon, auto};
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn a_suspension_of_another_host_is_kept_with_a_reason_until_that_is_back() {
    let daemon = Daemon::with_image().await;
    let id = daemon.run(auto()).await;
    assert_eq!(daemon.request(&id).await, 1);
    daemon.suspended(&id).await;
    let faults = daemon.world.faults();
    faults.next(Operation::Launch, Fault::Foreign);
    assert!(daemon.control.ready(&id).await.is_err());
    daemon.reaches(&id, MicrovmState::Suspended).await;
    let reason = daemon.get(&id).await.state_reason.unwrap();
    assert!(
        reason.contains("simulated 1.0") && reason.contains("simulated 2.0"),
        "{reason}"
    );
    assert_eq!(
        daemon.request(&id).await,
        2,
        "what it was frozen on is back"
    );
}

#[tokio::test(start_paused = true)]
async fn a_damaged_suspension_is_kept_with_a_reason_and_a_mended_one_goes_on() {
    let daemon = Daemon::with_image().await;
    let id = daemon.run(auto()).await;
    assert_eq!(daemon.request(&id).await, 1);
    daemon.suspended(&id).await;
    let file = daemon.settings.microvm_directory(&id).join("memory.delta");
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, b"damaged").unwrap();
    assert!(daemon.control.ready(&id).await.is_err());
    daemon.reaches(&id, MicrovmState::Suspended).await;
    let reason = daemon.get(&id).await.state_reason.unwrap();
    assert!(reason.contains("cannot be used"), "{reason}");
    std::fs::write(&file, good).unwrap();
    assert_eq!(daemon.request(&id).await, 2);
    daemon.suspended(&id).await;
    std::fs::write(&file, b"damaged").unwrap();
    daemon.terminate(&id).await.unwrap();
    assert_eq!(daemon.terminated(&id).await, "Success.");
    daemon.assert_nothing_left();
}

/// One that has slept twice, with a request before each sleep, and whose second suspension is damaged.
async fn damaged_after_two_sleeps(daemon: &Daemon) -> String {
    let id = daemon.run(auto()).await;
    assert_eq!(daemon.request(&id).await, 1);
    daemon.suspended(&id).await;
    assert_eq!(daemon.request(&id).await, 2);
    daemon.suspended(&id).await;
    daemon.damage(&id);
    id
}

#[tokio::test(start_paused = true)]
async fn a_damaged_suspension_is_refused_with_the_offer_of_the_one_before_which_is_taken_when_asked_for()
 {
    for spares in [false, true] {
        let daemon = Daemon::start_with(|settings| {
            settings.spares.enabled = spares;
            settings.spares.memory_mib = 10_000;
        })
        .await;
        daemon.create_image(json!({})).await;
        let id = damaged_after_two_sleeps(&daemon).await;
        daemon.resume(&id).await.unwrap();
        daemon.reaches(&id, MicrovmState::Suspended).await;
        let reason = daemon.get(&id).await.state_reason.unwrap();
        assert!(reason.contains("cannot be used"), "{reason}");
        assert!(
            reason.contains("X-Colibri-If-Damaged: previous"),
            "{reason}"
        );
        assert!(
            daemon.control.ready(&id).await.is_err(),
            "traffic never goes back"
        );
        daemon.reaches(&id, MicrovmState::Suspended).await;
        daemon.go_back(&id).await.unwrap();
        daemon.reaches(&id, MicrovmState::Running).await;
        let reason = daemon.get(&id).await.state_reason.unwrap();
        assert!(
            reason.contains("went back to its suspension of"),
            "{reason}"
        );
        assert_eq!(daemon.request(&id).await, 2, "the second request is lost");
        daemon.suspended(&id).await;
        assert_eq!(daemon.get(&id).await.state_reason, None);
        assert_eq!(daemon.request(&id).await, 3);
        daemon.terminate(&id).await.unwrap();
        daemon.terminated(&id).await;
        daemon.control.shutdown().await;
        daemon.assert_nothing_left();
    }
}

#[tokio::test(start_paused = true)]
async fn a_good_suspension_is_never_given_up_for_the_one_before() {
    let daemon = Daemon::with_image().await;
    let id = daemon.run(auto()).await;
    assert_eq!(daemon.request(&id).await, 1);
    daemon.suspended(&id).await;
    assert_eq!(daemon.request(&id).await, 2);
    daemon.suspended(&id).await;
    daemon.go_back(&id).await.unwrap();
    daemon.reaches(&id, MicrovmState::Running).await;
    assert_eq!(daemon.request(&id).await, 3);
    assert_eq!(daemon.get(&id).await.state_reason, None);
    // Whoever asked for that once has not asked for all times.
    daemon.suspended(&id).await;
    daemon.damage(&id);
    daemon.resume(&id).await.unwrap();
    daemon.reaches(&id, MicrovmState::Suspended).await;
    assert!(daemon.get(&id).await.state_reason.is_some());
    assert_eq!(daemon.world.faults().calls(Operation::GoBack), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_offered_where_nothing_is_kept_or_that_is_damaged_too() {
    let off = Daemon::start_with(|settings| settings.keep_last_good_mib = 0).await;
    off.create_image(json!({})).await;
    let damaged = Daemon::with_image().await;
    for daemon in [off, damaged] {
        let id = damaged_after_two_sleeps(&daemon).await;
        let kept = daemon.settings.microvm_directory(&id).join("previous");
        assert_eq!(kept.is_dir(), daemon.settings.keep_last_good_mib > 0);
        if kept.is_dir() {
            std::fs::write(kept.join("memory.delta"), b"damaged").unwrap();
        }
        daemon.resume(&id).await.unwrap();
        daemon.reaches(&id, MicrovmState::Suspended).await;
        let reason = daemon.get(&id).await.state_reason.unwrap();
        assert!(!reason.contains("previous"), "{reason}");
        daemon.go_back(&id).await.unwrap();
        daemon.reaches(&id, MicrovmState::Suspended).await;
        let reason = daemon.get(&id).await.state_reason.unwrap();
        assert!(reason.contains("no earlier suspension"), "{reason}");
        daemon.terminate(&id).await.unwrap();
        daemon.terminated(&id).await;
        daemon.assert_nothing_left();
    }
}

#[tokio::test(start_paused = true)]
async fn a_wake_does_not_fail_where_its_suspension_cannot_be_kept() {
    let daemon = Daemon::with_image().await;
    let id = daemon.run(auto()).await;
    assert_eq!(daemon.request(&id).await, 1);
    daemon.suspended(&id).await;
    daemon
        .world
        .faults()
        .next(Operation::KeepSuspension, Fault::StorageFull);
    assert_eq!(daemon.request(&id).await, 2);
    daemon.terminate(&id).await.unwrap();
    daemon.terminated(&id).await;
    daemon.assert_nothing_left();
}

//! A suspension that cannot be continued here and now is kept: it may be continued later.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

mod common;

use colibri_testkit::{Fault, Operation};
use colibri_wire::shape::microvm::MicrovmState;
use common::{Daemon, auto};

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

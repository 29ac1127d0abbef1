//! What the next daemon cannot do at once for a MicroVM that runs, it tries again: the MicroVM runs on.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

mod common;

use colibri_testkit::{Fault, Operation};
use common::{Daemon, auto};
use serde_json::json;

/// The next daemon meets these failures: what is planned before it starts is forgotten.
async fn restart_with_failures(daemon: &mut Daemon, operation: Operation, failures: usize) {
    daemon.crash().await;
    daemon.world.daemon_restarts();
    let before = daemon.world.faults().calls(operation);
    for earlier in 0..failures {
        daemon.world.faults().after(operation, earlier, Fault::Fail);
    }
    daemon.reopen().await;
    while daemon.world.faults().calls(operation) == before {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_passes_ends_no_microvm_that_runs() {
    for operation in [
        Operation::AdoptMachine,
        Operation::AdoptSlot,
        Operation::ForgetSuspension,
        Operation::Control,
    ] {
        let mut daemon = Daemon::with_image().await;
        let id = daemon.run(auto()).await;
        assert_eq!(daemon.request(&id).await, 1);
        restart_with_failures(&mut daemon, operation, 3).await;
        assert_eq!(daemon.request(&id).await, 2, "{operation:?}");
        daemon.terminate(&id).await.unwrap();
        assert_eq!(daemon.terminated(&id).await, "Success.", "{operation:?}");
        daemon.assert_nothing_left();
    }
}

#[tokio::test(start_paused = true)]
async fn a_microvm_that_is_still_being_taken_over_ends_on_request_and_in_time() {
    for is_asked in [true, false] {
        let mut daemon = Daemon::with_image().await;
        let id = daemon.run(json!({ "maximumDurationInSeconds": 600 })).await;
        restart_with_failures(&mut daemon, Operation::AdoptMachine, 100).await;
        if is_asked {
            daemon.terminate(&id).await.unwrap();
        }
        let reason = daemon.terminated(&id).await;
        let expected = if is_asked {
            "Success."
        } else {
            "MicroVM exceeded maximum lifetime."
        };
        assert_eq!(reason, expected);
        daemon.assert_nothing_left();
    }
}

#[tokio::test(start_paused = true)]
async fn a_microvm_whose_process_ends_while_it_is_taken_over_has_ended() {
    let mut daemon = Daemon::with_image().await;
    let id = daemon.run(json!({})).await;
    restart_with_failures(&mut daemon, Operation::ForgetSuspension, 1).await;
    daemon.world.kill_process(&id);
    let reason = daemon.terminated(&id).await;
    assert_eq!(reason, "The MicroVM stopped unexpectedly.");
    daemon.assert_nothing_left();
}

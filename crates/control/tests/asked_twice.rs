//! The same thing asked for twice at once: both are answered, and it happens once. Whether the second comes
//! while the first is being written is the scheduler's choice, so each is asked for many times.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

mod common;

use colibri_testkit::Operation;
use colibri_wire::shape::microvm::MicrovmState;
use common::{Daemon, auto};

const ROUNDS: usize = 30;

#[tokio::test(start_paused = true)]
async fn two_suspends_at_once_are_both_answered_and_are_one() {
    let daemon = Daemon::with_image().await;
    let id = daemon.run(auto()).await;
    for round in 1..=ROUNDS {
        let (first, second) = tokio::join!(daemon.suspend(&id), daemon.suspend(&id));
        first.unwrap();
        second.unwrap();
        daemon.reaches(&id, MicrovmState::Suspended).await;
        daemon.request(&id).await;
        // What is left of a second intent would be acted on before the next command is answered.
        daemon.resume(&id).await.unwrap();
        assert_eq!(daemon.get(&id).await.state, MicrovmState::Running);
        assert_eq!(daemon.world.faults().calls(Operation::Suspend), round);
    }
}

#[tokio::test(start_paused = true)]
async fn two_resumes_at_once_are_both_answered_and_are_one() {
    let daemon = Daemon::with_image().await;
    let id = daemon.run(auto()).await;
    for _ in 0..ROUNDS {
        daemon.suspended(&id).await;
        let (first, second) = tokio::join!(daemon.resume(&id), daemon.resume(&id));
        first.unwrap();
        second.unwrap();
        daemon.reaches(&id, MicrovmState::Running).await;
        daemon.request(&id).await;
    }
    daemon.suspended(&id).await;
    // What is left of a second intent would wake it again.
    daemon.suspend(&id).await.unwrap();
    assert_eq!(daemon.get(&id).await.state, MicrovmState::Suspended);
}

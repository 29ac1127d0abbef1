//! A control session that the guest's agent does not take up is opened anew, within the session's bound.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

mod common;

use common::{Daemon, all_hooks, auto};

#[tokio::test(start_paused = true)]
async fn a_session_that_nobody_takes_up_is_opened_anew_and_costs_no_microvm() {
    let daemon = Daemon::with_image_of(all_hooks()).await;
    daemon.world.deafen_sessions(1);
    let id = daemon.run(auto()).await;
    assert_eq!(daemon.request(&id).await, 1);
    daemon.suspended(&id).await;
    daemon.world.deafen_sessions(3);
    assert_eq!(daemon.request(&id).await, 2);
    let hooks = daemon.world.guest(&id).unwrap().hook_names();
    assert_eq!(hooks, ["run", "suspend", "resume"], "each once");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_never_answers_ends_its_microvm_when_the_bound_is_over() {
    let daemon = Daemon::with_image_of(all_hooks()).await;
    daemon.world.deafen_sessions(1000);
    let id = daemon.launch(auto()).await;
    let reason = daemon.terminated(&id).await;
    assert_eq!(reason, "The MicroVM's guest did not answer.");
    daemon.assert_nothing_left();
}

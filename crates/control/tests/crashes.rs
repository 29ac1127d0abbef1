//! What a daemon that was killed at any moment leaves, and what the next one makes of it.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

mod common;

use std::time::Duration;

use colibri_testkit::{Fault, HookPlan, Operation};
use colibri_wire::shape::microvm::MicrovmState;
use common::{Daemon, IMAGE, all_hooks, auto};
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn a_running_microvm_notices_nothing() {
    let mut daemon = Daemon::with_image_of(all_hooks()).await;
    let id = daemon.run(auto()).await;
    assert_eq!(daemon.request(&id).await, 1);
    daemon.crash_and_restart().await;
    assert_eq!(daemon.get(&id).await.state, MicrovmState::Running);
    assert_eq!(daemon.request(&id).await, 2);
    assert_eq!(daemon.world.faults().calls(Operation::Launch), 1);
    assert_eq!(daemon.world.guest(&id).unwrap().hook_names(), ["run"]);
    daemon.suspended(&id).await;
    assert_eq!(daemon.request(&id).await, 3);
    daemon.terminate(&id).await.unwrap();
    daemon.terminated(&id).await;
    daemon.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn an_application_that_exits_while_no_daemon_looks_is_noticed_by_the_next() {
    let mut daemon = Daemon::with_image().await;
    let id = daemon.run(json!({})).await;
    daemon.crash().await;
    daemon.world.guest(&id).unwrap().exit_application(9);
    daemon.restart().await;
    assert_eq!(
        daemon.terminated(&id).await,
        "Container Stopped with Exit Code: 9"
    );
    daemon.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn after_a_reboot_the_running_have_ended_and_the_suspended_wake() {
    let mut daemon = Daemon::with_image().await;
    let (awake, asleep) = (daemon.run(auto()).await, daemon.run(auto()).await);
    assert_eq!(daemon.request(&asleep).await, 1);
    daemon.suspended(&asleep).await;
    daemon.crash().await;
    daemon.world.reboot();
    daemon.restart().await;
    assert_eq!(
        daemon.terminated(&awake).await,
        "The MicroVM stopped while the service was down."
    );
    assert_eq!(daemon.get(&asleep).await.state, MicrovmState::Suspended);
    assert_eq!(daemon.request(&asleep).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_launch_is_finished_whatever_step_it_was_cut_off_at() {
    for (operation, fault) in [
        (Operation::AcquireSlot, Fault::Hang),
        (Operation::Launch, Fault::Hang),
        (Operation::Launch, Fault::HangAfter),
        (Operation::Control, Fault::HangAfter),
        (Operation::Resume, Fault::Hang),
        (Operation::Resume, Fault::HangAfter),
    ] {
        let mut daemon = Daemon::with_image_of(all_hooks()).await;
        daemon.world.faults().next(operation, fault);
        let id = daemon.launch(json!({ "runHookPayload": "p" })).await;
        daemon.world.faults().hanging(operation).await;
        daemon.crash_and_restart().await;
        assert_eq!(
            daemon.reaches(&id, MicrovmState::Running).await,
            MicrovmState::Running,
            "{operation:?}"
        );
        let hooks = daemon.world.guest(&id).unwrap().hooks();
        assert!(
            hooks[0]
                .body
                .as_ref()
                .unwrap()
                .contains("\"runHookPayload\":\"p\"")
        );
        assert_eq!(
            (daemon.world.machines().len(), daemon.world.slots().len()),
            (1, 1),
            "{operation:?}"
        );
        daemon.terminate(&id).await.unwrap();
        daemon.terminated(&id).await;
        daemon.assert_nothing_left();
    }
}

#[tokio::test(start_paused = true)]
async fn a_suspend_is_finished_whatever_step_it_was_cut_off_at() {
    for (operation, fault) in [
        (Operation::Suspend, Fault::Hang),
        (Operation::Suspend, Fault::HangAfter),
        (Operation::Kill, Fault::Hang),
        (Operation::Kill, Fault::HangAfter),
        (Operation::ReleaseSlot, Fault::Hang),
    ] {
        let mut daemon = Daemon::with_image_of(all_hooks()).await;
        let id = daemon.run(auto()).await;
        assert_eq!(daemon.request(&id).await, 1);
        daemon.world.faults().next(operation, fault);
        daemon.suspend(&id).await.unwrap();
        daemon.world.faults().hanging(operation).await;
        daemon.crash_and_restart().await;
        assert_eq!(
            daemon.reaches(&id, MicrovmState::Suspended).await,
            MicrovmState::Suspended,
            "{operation:?}"
        );
        assert!(
            daemon.world.machines().is_empty() && daemon.world.slots().is_empty(),
            "{operation:?}"
        );
        assert_eq!(daemon.request(&id).await, 2, "{operation:?}");
        daemon.terminate(&id).await.unwrap();
        daemon.terminated(&id).await;
        daemon.assert_nothing_left();
    }
}

#[tokio::test(start_paused = true)]
async fn a_suspend_cut_off_by_a_reboot_counts_where_it_was_complete() {
    for (fault, ends) in [(Fault::Hang, true), (Fault::HangAfter, false)] {
        let mut daemon = Daemon::with_image().await;
        let id = daemon.run(auto()).await;
        assert_eq!(daemon.request(&id).await, 1);
        daemon.world.faults().next(Operation::Suspend, fault);
        daemon.suspend(&id).await.unwrap();
        daemon.world.faults().hanging(Operation::Suspend).await;
        daemon.crash().await;
        daemon.world.reboot();
        daemon.restart().await;
        if ends {
            daemon.terminated(&id).await;
            daemon.assert_nothing_left();
        } else {
            daemon.reaches(&id, MicrovmState::Suspended).await;
            assert_eq!(daemon.request(&id).await, 2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_resume_is_finished_whatever_step_it_was_cut_off_at() {
    for (operation, fault) in [
        (Operation::AcquireSlot, Fault::Hang),
        (Operation::Launch, Fault::Hang),
        (Operation::Launch, Fault::HangAfter),
        (Operation::Control, Fault::Hang),
        (Operation::Resume, Fault::Hang),
        (Operation::Resume, Fault::HangAfter),
        (Operation::ForgetSuspension, Fault::Hang),
        (Operation::ForgetSuspension, Fault::HangAfter),
    ] {
        let mut daemon = Daemon::with_image_of(all_hooks()).await;
        let id = daemon.run(auto()).await;
        assert_eq!(daemon.request(&id).await, 1);
        daemon.suspended(&id).await;
        daemon.world.faults().next(operation, fault);
        daemon.resume(&id).await.unwrap();
        daemon.world.faults().hanging(operation).await;
        daemon.crash_and_restart().await;
        assert_eq!(
            daemon.reaches(&id, MicrovmState::Running).await,
            MicrovmState::Running,
            "{operation:?} {fault:?}"
        );
        assert_eq!(daemon.request(&id).await, 2, "{operation:?}");
        let names = daemon.world.guest(&id).unwrap().hook_names();
        assert_eq!(names, ["run", "suspend", "resume"], "{operation:?}");
        daemon.suspended(&id).await;
        assert_eq!(daemon.request(&id).await, 3, "{operation:?}");
        daemon.terminate(&id).await.unwrap();
        daemon.terminated(&id).await;
        daemon.assert_nothing_left();
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_is_finished_with_its_reason() {
    let mut daemon = Daemon::with_image_of(all_hooks()).await;
    for operation in [Operation::Kill, Operation::ReleaseSlot] {
        let id = daemon.run(json!({})).await;
        daemon.world.faults().next(operation, Fault::Hang);
        daemon.terminate(&id).await.unwrap();
        daemon.world.faults().hanging(operation).await;
        daemon.crash_and_restart().await;
        assert_eq!(daemon.terminated(&id).await, "Success.");
        daemon.assert_nothing_left();
    }
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_that_passes_while_no_daemon_looks_is_over_with_the_next() {
    for host_goes_down in [false, true] {
        let mut daemon = Daemon::with_image().await;
        let id = daemon.run(json!({ "maximumDurationInSeconds": 100 })).await;
        daemon.suspended(&id).await;
        daemon.crash().await;
        if host_goes_down {
            daemon.world.reboot();
            daemon.clock.reboot();
        }
        tokio::time::sleep(Duration::from_secs(200)).await;
        daemon.restart().await;
        assert_eq!(
            daemon.terminated(&id).await,
            "MicroVM exceeded maximum lifetime."
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_of_the_wall_clock_neither_ends_a_lifetime_nor_lengthens_it() {
    for step in [5 * 3_600_000, -5 * 3_600_000] {
        for killed in [false, true] {
            let mut daemon = Daemon::with_image().await;
            let request = json!({ "maximumDurationInSeconds": 600 });
            let (awake, asleep) = (daemon.run(request.clone()).await, daemon.run(request).await);
            daemon.suspended(&asleep).await;
            if killed {
                daemon.crash().await;
            }
            daemon.clock.jump(step);
            if killed {
                daemon.restart().await;
            }
            tokio::time::sleep(Duration::from_secs(500)).await;
            assert_eq!(daemon.get(&awake).await.state, MicrovmState::Running);
            assert_eq!(daemon.get(&asleep).await.state, MicrovmState::Suspended);
            tokio::time::sleep(Duration::from_secs(110)).await;
            for id in [awake, asleep] {
                let reason = daemon.terminated(&id).await;
                assert_eq!(reason, "MicroVM exceeded maximum lifetime.");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_over_a_reboot_gives_no_more_than_a_whole_lifetime() {
    let mut daemon = Daemon::with_image().await;
    let id = daemon.run(json!({ "maximumDurationInSeconds": 600 })).await;
    daemon.suspended(&id).await;
    daemon.crash().await;
    daemon.world.reboot();
    daemon.clock.reboot();
    daemon.clock.jump(-5 * 3_600_000);
    daemon.restart().await;
    assert_eq!(daemon.get(&id).await.state, MicrovmState::Suspended);
    tokio::time::sleep(Duration::from_secs(601)).await;
    assert_eq!(
        daemon.terminated(&id).await,
        "MicroVM exceeded maximum lifetime."
    );
}

#[tokio::test(start_paused = true)]
async fn an_ended_microvm_stays_readable_over_a_restart() {
    let mut daemon = Daemon::with_image().await;
    let id = daemon.run(json!({})).await;
    daemon.terminate(&id).await.unwrap();
    daemon.terminated(&id).await;
    daemon.crash_and_restart().await;
    let described = daemon.get(&id).await;
    assert_eq!(
        (described.state, described.state_reason.as_deref()),
        (MicrovmState::Terminated, Some("Success."))
    );
    daemon.terminate(&id).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_build_begins_again_and_its_machine_is_gone() {
    let mut daemon = Daemon::start().await;
    daemon.world.faults().next(Operation::Build, Fault::Hang);
    daemon
        .control
        .create_microvm_image(Daemon::image_request(json!({})))
        .await
        .unwrap();
    daemon.world.faults().hanging(Operation::Build).await;
    assert_eq!(daemon.world.machines().len(), 1);
    daemon.crash_and_restart().await;
    daemon.control.image_settled(IMAGE).await.unwrap();
    assert_eq!(daemon.world.builds().len(), 2);
    daemon.run(json!({})).await;
    assert_eq!(
        (daemon.world.machines().len(), daemon.world.slots().len()),
        (1, 1)
    );
    assert_eq!(daemon.world.contract_breaches(), Vec::<String>::new());
}

fn write_settings(daemon: &Daemon, id: &str, settings: &str) {
    let state = daemon.directory().join("state.db");
    rusqlite::Connection::open(state)
        .unwrap()
        .execute(
            "UPDATE microvms SET settings = ?2 WHERE id = ?1",
            [id, settings],
        )
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_unreadable_row_keeps_no_other_microvm_from_living_on() {
    let mut daemon = Daemon::with_image().await;
    let (broken, sound) = (daemon.run(json!({})).await, daemon.run(json!({})).await);
    daemon.crash().await;
    write_settings(&daemon, &broken, "[]");
    daemon.restart().await;
    assert_eq!(daemon.request(&sound).await, 1);
    assert!(
        daemon.world.machines().contains(&broken),
        "kept for its repair"
    );
}

#[tokio::test(start_paused = true)]
async fn rows_that_were_unreadable_over_reboots_hold_no_slot_of_another_microvm() {
    let mut daemon = Daemon::with_image().await;
    let mut damaged = Vec::new();
    for _ in 0..2 {
        let id = daemon.run(json!({})).await;
        daemon.crash().await;
        let row = daemon.store.microvm(id.clone()).await.unwrap().unwrap();
        assert_eq!(row.slot, Some(0));
        write_settings(&daemon, &id, "[]");
        damaged.push((id, row.settings.to_string()));
        daemon.world.reboot();
        daemon.restart().await;
    }
    let sound = daemon.launch(json!({})).await;
    while daemon.world.slots().is_empty() {
        tokio::task::yield_now().await;
    }
    // Its slot is not written yet.
    daemon.crash_and_restart().await;
    assert_eq!(daemon.request(&sound).await, 1);
    assert_eq!(daemon.world.slots().len(), 1);
    daemon.crash().await;
    for (id, settings) in &damaged {
        write_settings(&daemon, id, settings);
    }
    daemon.restart().await;
    for (id, _) in &damaged {
        daemon.terminated(id).await;
    }
    assert_eq!(daemon.request(&sound).await, 2);
    assert_eq!(daemon.world.slots().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_resume_hook_cut_off_by_a_crash_is_called_again() {
    let mut daemon = Daemon::with_image_of(all_hooks()).await;
    let id = daemon.run(auto()).await;
    daemon.suspended(&id).await;
    daemon.world.plan_hook("resume", HookPlan::Silent);
    daemon.resume(&id).await.unwrap();
    while daemon
        .world
        .guest(&id)
        .is_none_or(|guest| guest.hook_names().len() < 3)
    {
        tokio::task::yield_now().await;
    }
    daemon.crash().await;
    daemon.world.plan_hook("resume", HookPlan::Status(200));
    daemon.restart().await;
    daemon.reaches(&id, MicrovmState::Running).await;
    let names = daemon.world.guest(&id).unwrap().hook_names();
    assert_eq!(names, ["run", "suspend", "resume", "resume"]);
}

#[tokio::test(start_paused = true)]
async fn a_microvm_can_be_suspended_the_moment_the_next_daemon_serves() {
    let mut daemon = Daemon::with_image().await;
    let id = daemon.run(json!({})).await;
    daemon.crash().await;
    daemon.world.daemon_restarts();
    daemon.restart().await;
    daemon.suspended(&id).await;
}

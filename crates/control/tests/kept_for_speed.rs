//! The pool and the hot tier: what they make faster, and that they cost nobody anything.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use colibri_control::Settings;
use colibri_testkit::{Fault, Operation};
use colibri_wire::ApiError;
use colibri_wire::shape::microvm::MicrovmState;
use common::{Daemon, IMAGE, all_hooks, auto};
use serde_json::{Value, json};

/// Waits for what happens in the background.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

fn both(settings: &mut Settings) {
    pool_only(settings);
    hot_only(settings);
}

fn pool_only(settings: &mut Settings) {
    settings.pool.enabled = true;
    settings.pool.memory_mib = 10_000;
}

fn hot_only(settings: &mut Settings) {
    settings.hot.enabled = true;
    settings.hot.memory_mib = 10_000;
}

async fn with_image(change: impl FnOnce(&mut Settings), more: Value) -> Daemon {
    let daemon = Daemon::start_with(change).await;
    daemon.create_image(more).await;
    daemon
}

fn waiting(daemon: &Daemon) -> Vec<String> {
    let machines = daemon.world.machines().into_iter();
    let pool = daemon.directory().join("pool");
    machines
        .filter(|id| id.starts_with("pool-") && pool.join(id).is_dir())
        .collect()
}

async fn stocked(daemon: &Daemon, count: usize) -> Vec<String> {
    until("machines wait", || {
        let waiting = waiting(daemon);
        waiting.len() == count
            && waiting
                .iter()
                .all(|id| !daemon.world.guest(id).unwrap().is_running())
    })
    .await;
    waiting(daemon)
}

async fn ends(daemon: &Daemon, id: &str) {
    daemon.terminate(id).await.unwrap();
    daemon.terminated(id).await;
}

/// Nothing is left once what is kept for speed is let go, as an orderly end does.
async fn shut_down_without_a_trace(daemon: &Daemon) {
    daemon.control.shutdown().await;
    daemon.assert_nothing_left();
    let pool = std::fs::read_dir(daemon.directory().join("pool")).unwrap();
    assert_eq!(pool.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_launch_takes_a_waiting_machine_which_becomes_itself_and_hears_run_once() {
    let mut image = all_hooks();
    image["environmentVariables"] = json!({ "COLIBRI_WARM_UP": "GET 8080 /?step=0" });
    let daemon = with_image(pool_only, image).await;
    let machine = stocked(&daemon, 1).await.remove(0);
    assert_eq!(daemon.world.guest(&machine).unwrap().requests(), 1);
    let nobody = daemon.world.guest(&machine).unwrap().identity().unwrap();

    let id = daemon.run(json!({ "runHookPayload": "p" })).await;
    let guest = daemon.world.guest(&id).unwrap();
    assert_eq!(guest.name(), machine, "it is the one that waited");
    let identity = guest.identity().unwrap();
    assert_eq!(identity.hostname, id);
    assert_ne!(identity.machine_id, nobody.machine_id);
    assert_ne!(identity.boot_id, nobody.boot_id);
    assert_eq!(
        (guest.hook_names(), guest.identities_assumed()),
        (vec!["run".to_owned()], 2)
    );
    assert_eq!(daemon.request(&id).await, 2, "warmed up by one request");
    ends(&daemon, &id).await;
    shut_down_without_a_trace(&daemon).await;
}

#[tokio::test(start_paused = true)]
async fn a_waiting_machine_is_never_given_to_two() {
    let daemon = with_image(pool_only, json!({})).await;
    for _ in 0..4 {
        let id = daemon.run(json!({})).await;
        ends(&daemon, &id).await;
    }
    stocked(&daemon, 4).await;
    let launches = (0..10).map(|_| daemon.launch(json!({})));
    let mut ids = Vec::new();
    for launch in launches {
        ids.push(launch.await);
    }
    let mut machines = BTreeSet::new();
    for id in &ids {
        daemon.reaches(id, MicrovmState::Running).await;
        let guest = daemon.world.guest(id).unwrap();
        assert_eq!(&guest.identity().unwrap().hostname, id);
        machines.insert(guest.name());
    }
    assert_eq!(machines.len(), ids.len());
    let pooled = machines.iter().filter(|name| name.starts_with("pool-"));
    assert!(pooled.count() >= 4);
    for id in &ids {
        assert_eq!(daemon.request(id).await, 1, "nobody else's requests");
        ends(&daemon, id).await;
    }
    shut_down_without_a_trace(&daemon).await;
}

#[tokio::test(start_paused = true)]
async fn the_stock_follows_the_launches_and_ends_when_there_are_none() {
    let daemon = with_image(pool_only, json!({})).await;
    stocked(&daemon, 1).await;
    let ids = [
        daemon.run(json!({})).await,
        daemon.run(json!({})).await,
        daemon.run(json!({})).await,
    ];
    stocked(&daemon, 4).await;
    // A minute later nothing foretells four more.
    stocked(&daemon, 1).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    stocked(&daemon, 0).await;
    for id in &ids {
        ends(&daemon, id).await;
    }
    daemon.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_beyond_the_memory_set_aside_or_while_the_host_is_short_of_it() {
    let daemon = with_image(
        |settings| {
            pool_only(settings);
            settings.pool.memory_mib = 200;
        },
        json!({}),
    )
    .await;
    let ids = [daemon.run(json!({})).await, daemon.run(json!({})).await];
    stocked(&daemon, 2).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(waiting(&daemon).len(), 2, "200 MiB are two machines");
    daemon.settings.host_memory.set_available_percent(5);
    stocked(&daemon, 0).await;
    for id in &ids {
        ends(&daemon, id).await;
    }
    daemon.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_newer_version_takes_the_older_ones_place() {
    let daemon = with_image(pool_only, json!({})).await;
    let old = stocked(&daemon, 1).await;
    let mut update = serde_json::to_value(Daemon::image_request(json!({}))).unwrap();
    update.as_object_mut().unwrap().remove("name");
    update["imageIdentifier"] = IMAGE.into();
    daemon
        .control
        .update_microvm_image(serde_json::from_value(update).unwrap())
        .await
        .unwrap();
    daemon.control.image_settled(IMAGE).await.unwrap();
    until("the old one's machine goes", || {
        !waiting(&daemon).contains(&old[0])
    })
    .await;
    let new = stocked(&daemon, 1).await;
    let id = daemon.run(json!({})).await;
    assert_eq!(daemon.get(&id).await.image_version, "2.0");
    assert_eq!(daemon.world.guest(&id).unwrap().name(), new[0]);
    // The older one can be launched, but nothing waits for it.
    let older = daemon.run(json!({ "imageVersion": "1.0" })).await;
    assert_eq!(daemon.world.guest(&older).unwrap().name(), older);
}

#[tokio::test(start_paused = true)]
async fn an_inactive_version_and_a_deleted_image_have_nothing_waiting() {
    let daemon = with_image(pool_only, json!({})).await;
    stocked(&daemon, 1).await;
    let version = |status: &str| {
        let request = json!({ "imageIdentifier": IMAGE, "imageVersion": "1.0", "status": status });
        daemon
            .control
            .update_microvm_image_version(serde_json::from_value(request).unwrap())
    };
    version("INACTIVE").await.unwrap();
    stocked(&daemon, 0).await;
    assert!(daemon.world.slots().is_empty());

    version("ACTIVE").await.unwrap();
    let id = daemon.run(json!({})).await;
    ends(&daemon, &id).await;
    stocked(&daemon, 2).await;
    let request = serde_json::from_value(json!({ "imageIdentifier": IMAGE })).unwrap();
    daemon.control.delete_microvm_image(request).await.unwrap();
    assert_eq!(daemon.control.image_settled(IMAGE).await.unwrap(), None);
    stocked(&daemon, 0).await;
    daemon.assert_nothing_left();
    let images = daemon.directory().join("images");
    until("its base is gone", || {
        std::fs::read_dir(&images).unwrap().count() == 0
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_dies_or_whose_application_ends_is_thrown_away() {
    let mut image = all_hooks();
    image["environmentVariables"] = json!({ "COLIBRI_WARM_UP": "GET 8080 /exit/3" });
    let daemon = with_image(pool_only, image).await;
    until("one was tried", || {
        daemon.world.faults().calls(Operation::Launch) > 0
    })
    .await;
    until("and thrown away", || daemon.world.machines().is_empty()).await;
    let id = daemon.run(json!({})).await;
    assert_eq!(daemon.world.guest(&id).unwrap().hook_names(), ["run"]);
    ends(&daemon, &id).await;
    shut_down_without_a_trace(&daemon).await;

    let daemon = with_image(pool_only, json!({})).await;
    let machine = stocked(&daemon, 1).await.remove(0);
    daemon.world.kill_process(&machine);
    until("another waits", || {
        waiting(&daemon).iter().any(|id| *id != machine)
    })
    .await;
    assert_eq!(stocked(&daemon, 1).await.len(), 1);
    assert_eq!(daemon.world.slots().len(), 1);
    shut_down_without_a_trace(&daemon).await;
}

#[tokio::test(start_paused = true)]
async fn a_waiting_machine_that_is_of_no_use_costs_no_launch() {
    for (operation, fault) in [
        (Operation::Relocate, Fault::Fail),
        (Operation::Control, Fault::Fail),
        (Operation::Resume, Fault::Fail),
    ] {
        let daemon = with_image(pool_only, all_hooks()).await;
        let machine = stocked(&daemon, 1).await.remove(0);
        daemon.world.faults().next(operation, fault);
        let id = daemon.run(json!({})).await;
        let guest = daemon.world.guest(&id).unwrap();
        assert_ne!(guest.name(), machine, "{operation:?}");
        assert_eq!(guest.hook_names(), ["run"], "{operation:?}");
        assert!(!daemon.world.machines().contains(&machine), "{operation:?}");
        ends(&daemon, &id).await;
        shut_down_without_a_trace(&daemon).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_microvm_with_another_reach_takes_no_waiting_machine() {
    let daemon = with_image(pool_only, json!({})).await;
    let machine = stocked(&daemon, 1).await.remove(0);
    let id = daemon.run(json!({ "egressNetworkConnectors": [] })).await;
    let guest = daemon.world.guest(&id).unwrap();
    if daemon.get(&id).await.egress_network_connectors == Some(Vec::new()) {
        assert_eq!(guest.name(), id);
        assert!(waiting(&daemon).contains(&machine));
    } else {
        assert_eq!(guest.name(), machine, "none given means the version's own");
    }
}

#[tokio::test(start_paused = true)]
async fn a_launch_without_a_free_slot_takes_what_is_kept_for_speed() {
    let daemon = Daemon::start_with(both).await;
    daemon.world.set_slots(8);
    daemon.create_image(all_hooks()).await;
    let asleep = [daemon.run(auto()).await, daemon.run(auto()).await];
    for id in &asleep {
        daemon.request(id).await;
        daemon.suspended(id).await;
    }
    stocked(&daemon, 3).await;
    let mut awake = Vec::new();
    for _ in 0..8 {
        awake.push(daemon.run(json!({})).await);
    }
    let machines: BTreeSet<String> = awake
        .iter()
        .map(|id| daemon.world.guest(id).unwrap().name())
        .collect();
    assert_eq!(machines.len(), 8);
    assert_eq!(daemon.world.slots().len(), 8);
    assert_eq!(waiting(&daemon).len(), 0, "the pool gave its slots");
    ends(&daemon, &awake.remove(0)).await;
    assert_eq!(daemon.request(&asleep[0]).await, 2, "it lost only time");
    for id in awake.iter().chain(&asleep) {
        ends(&daemon, id).await;
    }
    shut_down_without_a_trace(&daemon).await;
}

#[tokio::test(start_paused = true)]
async fn a_launch_takes_the_slot_of_a_machine_that_is_still_being_made() {
    let daemon = Daemon::start_with(pool_only).await;
    daemon.world.set_slots(2);
    daemon
        .world
        .faults()
        .next(Operation::Resume, Fault::Delay(Duration::from_secs(20)));
    daemon.create_image(json!({})).await;
    until("one is being made", || {
        daemon.world.faults().calls(Operation::Resume) > 0
    })
    .await;
    let begun = tokio::time::Instant::now();
    let (one, two) = (daemon.run(json!({})).await, daemon.run(json!({})).await);
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(daemon.world.machines().len(), 2);
    ends(&daemon, &one).await;
    ends(&daemon, &two).await;
    shut_down_without_a_trace(&daemon).await;
}

#[tokio::test(start_paused = true)]
async fn a_kept_process_wakes_with_everything_and_is_started_once() {
    let daemon = with_image(hot_only, all_hooks()).await;
    let id = daemon.run(auto()).await;
    assert_eq!(daemon.request(&id).await, 1);
    for requests in 2..5 {
        daemon.suspended(&id).await;
        assert_eq!(daemon.world.machines(), [id.as_str()]);
        assert!(!daemon.world.guest(&id).unwrap().is_running());
        let directory = daemon.directory().join("microvms").join(&id);
        assert!(
            directory.join("manifest.json").is_file(),
            "safe on the disk"
        );
        assert_eq!(daemon.request(&id).await, requests);
        assert!(!directory.join("manifest.json").exists(), "void");
    }
    daemon.suspended(&id).await;
    daemon.resume(&id).await.unwrap();
    daemon.reaches(&id, MicrovmState::Running).await;
    assert_eq!(daemon.world.faults().calls(Operation::Launch), 1);
    let guest = daemon.world.guest(&id).unwrap();
    assert_eq!(
        guest.identities_assumed(),
        5,
        "the clock is put right each time"
    );
    assert_eq!(guest.hook_names().last().unwrap(), "resume");
    ends(&daemon, &id).await;
    daemon.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_microvm_whose_process_is_kept_ends_like_any_other() {
    let daemon = with_image(hot_only, json!({})).await;
    let id = daemon.run(auto()).await;
    daemon.suspended(&id).await;
    ends(&daemon, &id).await;
    daemon.assert_nothing_left();

    let id = daemon.run(auto()).await;
    daemon.suspended(&id).await;
    assert_eq!(
        daemon.terminated(&id).await,
        "MicroVM exceeded maximum lifetime"
    );
    daemon.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn kept_processes_go_the_oldest_first_when_there_are_too_many() {
    for by_memory in [true, false] {
        let change = |settings: &mut Settings| {
            hot_only(settings);
            if by_memory {
                // Two of 50 MiB and the 4096 bytes of the simulated delta.
                settings.hot.memory_mib = 101;
            } else {
                settings.hot.machines = 2;
            }
        };
        let daemon = with_image(change, json!({})).await;
        let mut ids = Vec::new();
        for _ in 0..3 {
            let id = daemon.run(auto()).await;
            daemon.request(&id).await;
            daemon.suspended(&id).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            ids.push(id);
        }
        until("the first one's goes", || {
            daemon.world.machines().len() == 2
        })
        .await;
        assert!(!daemon.world.machines().contains(&ids[0]));
        assert_eq!(daemon.world.slots().len(), 2);
        for id in &ids {
            assert_eq!(daemon.request(id).await, 2, "kept or not");
            ends(&daemon, id).await;
        }
        daemon.assert_nothing_left();
    }
}

#[tokio::test(start_paused = true)]
async fn kept_processes_go_when_they_are_old_and_when_memory_is_short() {
    let daemon = with_image(hot_only, json!({})).await;
    let forever = json!({ "idlePolicy": {
        "maxIdleDurationSeconds": 3600, "suspendedDurationSeconds": 7200, "autoResumeEnabled": true,
    } });
    let ids = [daemon.run(forever.clone()).await, daemon.run(forever).await];
    for id in &ids {
        daemon.request(id).await;
        daemon.suspended(id).await;
    }
    assert_eq!(daemon.world.machines().len(), 2);
    tokio::time::sleep(Duration::from_secs(590)).await;
    assert_eq!(daemon.world.machines().len(), 2);
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(daemon.world.machines().len(), 0);
    assert!(daemon.world.slots().is_empty());
    for id in &ids {
        assert_eq!(daemon.request(id).await, 2);
        daemon.suspended(id).await;
    }
    assert_eq!(daemon.world.machines().len(), 2);
    daemon.settings.host_memory.set_available_percent(3);
    until("both go", || daemon.world.machines().is_empty()).await;
    assert_eq!(daemon.request(&ids[0]).await, 3);
    daemon.suspended(&ids[0]).await;
    assert_eq!(daemon.world.machines().len(), 0, "none is kept any more");
    for id in &ids {
        ends(&daemon, id).await;
    }
    daemon.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_kept_process_that_is_gone_or_of_no_use_costs_nothing_but_time() {
    let daemon = with_image(hot_only, json!({})).await;
    let id = daemon.run(auto()).await;
    assert_eq!(daemon.request(&id).await, 1);
    daemon.suspended(&id).await;
    daemon.world.kill_process(&id);
    until("its slot is given back", || daemon.world.slots().is_empty()).await;
    assert_eq!(daemon.get(&id).await.state, MicrovmState::Suspended);
    assert_eq!(daemon.request(&id).await, 2, "from the disk");

    // It dies at the very moment when it is wanted.
    daemon.suspended(&id).await;
    daemon.world.kill_process(&id);
    daemon.resume(&id).await.unwrap();
    daemon.reaches(&id, MicrovmState::Running).await;
    assert_eq!(daemon.request(&id).await, 3);
    ends(&daemon, &id).await;
    daemon.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_resume_that_comes_while_a_process_is_given_up_is_answered_and_done() {
    let daemon = with_image(hot_only, json!({})).await;
    let id = daemon.run(auto()).await;
    assert_eq!(daemon.request(&id).await, 1);
    daemon.suspended(&id).await;
    let slow = Fault::Delay(Duration::from_secs(2));
    daemon.world.faults().next(Operation::Kill, slow);
    daemon.settings.host_memory.set_available_percent(5);
    let calls = daemon.world.faults().calls(Operation::Kill);
    until("it is being given up", || {
        daemon.world.faults().calls(Operation::Kill) > calls
    })
    .await;
    daemon.resume(&id).await.unwrap();
    daemon.reaches(&id, MicrovmState::Running).await;
    assert_eq!(daemon.request(&id).await, 2);
    ends(&daemon, &id).await;
    daemon.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_crash_leaves_nothing_of_either_and_the_suspended_wake_from_the_disk() {
    let mut daemon = with_image(both, all_hooks()).await;
    stocked(&daemon, 1).await;
    let (awake, asleep) = (daemon.run(auto()).await, daemon.run(auto()).await);
    assert_eq!(daemon.request(&awake).await, 1);
    assert_eq!(daemon.request(&asleep).await, 1);
    daemon.suspended(&asleep).await;
    stocked(&daemon, 3).await;
    let runs = daemon.world.guest(&awake).unwrap().name();
    assert!(runs.starts_with("pool-"), "it came from the pool");
    let earlier = waiting(&daemon);
    daemon.crash_and_restart().await;
    assert!(
        daemon.world.machines().contains(&runs),
        "the running one lives on"
    );
    assert!(
        earlier.iter().all(|id| daemon.world.guest(id).is_none()),
        "what waited is gone"
    );
    assert_eq!(daemon.request(&awake).await, 2);
    assert_eq!(daemon.get(&asleep).await.state, MicrovmState::Suspended);
    assert_eq!(daemon.request(&asleep).await, 2);
    for id in [&awake, &asleep] {
        daemon.suspended(id).await;
        assert_eq!(daemon.request(id).await, 3);
        ends(&daemon, id).await;
    }
    shut_down_without_a_trace(&daemon).await;
}

#[tokio::test(start_paused = true)]
async fn a_launch_from_the_pool_is_finished_whatever_step_it_was_cut_off_at() {
    for (operation, fault) in [
        (Operation::Relocate, Fault::Hang),
        (Operation::Relocate, Fault::HangAfter),
        (Operation::Control, Fault::HangAfter),
        (Operation::Resume, Fault::Hang),
        (Operation::Resume, Fault::HangAfter),
    ] {
        let mut daemon = with_image(both, all_hooks()).await;
        stocked(&daemon, 1).await;
        daemon.world.faults().next(operation, fault);
        let id = daemon.launch(json!({})).await;
        daemon.world.faults().hanging(operation).await;
        daemon.crash_and_restart().await;
        daemon.reaches(&id, MicrovmState::Running).await;
        let guest = daemon.world.guest(&id).unwrap();
        assert_eq!(guest.hook_names(), ["run"], "{operation:?}");
        assert_eq!(guest.identity().unwrap().hostname, id);
        ends(&daemon, &id).await;
        shut_down_without_a_trace(&daemon).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_wake_of_a_kept_process_is_finished_whatever_step_it_was_cut_off_at() {
    for (operation, fault) in [
        (Operation::ForgetSuspension, Fault::Hang),
        (Operation::ForgetSuspension, Fault::HangAfter),
        (Operation::Control, Fault::Hang),
        (Operation::Resume, Fault::Hang),
        (Operation::Resume, Fault::HangAfter),
    ] {
        let mut daemon = with_image(hot_only, all_hooks()).await;
        let id = daemon.run(auto()).await;
        assert_eq!(daemon.request(&id).await, 1);
        daemon.suspended(&id).await;
        daemon.world.faults().next(operation, fault);
        daemon.resume(&id).await.unwrap();
        daemon.world.faults().hanging(operation).await;
        daemon.crash_and_restart().await;
        daemon.reaches(&id, MicrovmState::Running).await;
        assert_eq!(daemon.request(&id).await, 2, "{operation:?} {fault:?}");
        let names = daemon.world.guest(&id).unwrap().hook_names();
        assert_eq!(names, ["run", "suspend", "resume"], "{operation:?}");
        ends(&daemon, &id).await;
        shut_down_without_a_trace(&daemon).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_row_keeps_its_machine_wherever_that_came_from() {
    let mut daemon = with_image(pool_only, json!({})).await;
    stocked(&daemon, 1).await;
    let broken = daemon.run(json!({})).await;
    let machine = daemon.world.guest(&broken).unwrap().name();
    daemon.crash().await;
    let state = daemon.directory().join("state.db");
    rusqlite::Connection::open(state)
        .unwrap()
        .execute(
            "UPDATE microvms SET settings = '[]' WHERE id = ?1",
            [&broken],
        )
        .unwrap();
    daemon.restart().await;
    assert_eq!(daemon.world.machines(), [machine], "kept for its repair");
}

#[tokio::test(start_paused = true)]
async fn a_launch_waits_for_a_machine_that_is_nearly_made_and_not_for_one_that_takes_long() {
    for (millis, waits) in [(300, true), (30_000, false)] {
        let daemon = Daemon::start_with(pool_only).await;
        let faults = daemon.world.faults();
        let slow = Fault::Delay(Duration::from_millis(millis));
        faults.next(Operation::Pause, slow);
        daemon.create_image(json!({})).await;
        stocked(&daemon, 1).await;
        faults.next(Operation::Pause, slow);
        let first = daemon.run(json!({})).await;
        until("another is being made", || {
            faults.calls(Operation::Pause) == 2
        })
        .await;
        let begun = tokio::time::Instant::now();
        let second = daemon.run(json!({})).await;
        assert!(begun.elapsed() < Duration::from_millis(500));
        let name = daemon.world.guest(&second).unwrap().name();
        assert_eq!(name.starts_with("pool-"), waits);
        ends(&daemon, &first).await;
        ends(&daemon, &second).await;
        shut_down_without_a_trace(&daemon).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_made_while_somebody_waits() {
    let daemon = with_image(pool_only, all_hooks()).await;
    stocked(&daemon, 1).await;
    let calls = || daemon.world.faults().calls(Operation::Launch);
    let before = calls();
    daemon
        .world
        .plan_hook("run", colibri_testkit::HookPlan::Silent);
    let id = daemon.launch(json!({})).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(calls(), before, "the launch is not through yet");
    daemon.terminated(&id).await;
    stocked(&daemon, 2).await;
    shut_down_without_a_trace(&daemon).await;
}

#[tokio::test(start_paused = true)]
async fn a_warm_up_of_another_form_is_refused_with_the_form() {
    let daemon = Daemon::start().await;
    let request = Daemon::image_request(json!({
        "environmentVariables": { "COLIBRI_WARM_UP": "http://localhost:8080/" },
    }));
    let refusal = daemon.control.create_microvm_image(request).await;
    assert!(
        matches!(&refusal, Err(ApiError::Validation { message, .. }) if message.contains("'METHOD PORT PATH'")),
        "{refusal:?}"
    );
}

//! What a host takes and what it refuses: sizes, the account of memory, and the host's own word.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

mod common;

use std::num::NonZeroU8;

use colibri_testkit::{Fault, Operation};
use colibri_wire::ApiError;
use colibri_wire::shape::microvm::MicrovmState;
use common::{Daemon, IMAGE, auto};
use serde_json::{Value, json};

async fn refusal(daemon: &Daemon) -> String {
    let request = Daemon::run_request(json!({}));
    match daemon.control.run_microvm(request).await {
        Err(ApiError::InsufficientCapacity { message }) => message,
        other => panic!("{other:?}"),
    }
}

/// Builds an image of a size, MiB of baseline memory.
async fn build_of_size(daemon: &Daemon, baseline: u32) {
    let name = format!("size-{baseline}");
    let more = json!({ "name": name, "resources": [{ "minimumMemoryInMiB": baseline }] });
    let request = Daemon::image_request(more);
    daemon.control.create_microvm_image(request).await.unwrap();
    let arn = IMAGE.replace("hello", &name);
    daemon.control.image_settled(&arn).await.unwrap();
}

/// Asks for a wake that the host has no room for, and tells why the MicroVM stayed suspended.
async fn reason_of_a_wake_given_up(daemon: &Daemon, id: &str) -> String {
    daemon.resume(id).await.unwrap();
    daemon.reaches(id, MicrovmState::Suspended).await;
    daemon.get(id).await.state_reason.unwrap()
}

#[tokio::test(start_paused = true)]
async fn every_size_gives_the_guest_four_times_its_baseline_and_the_processors_and_disk_of_its_size()
 {
    let daemon = Daemon::start().await;
    let expected = [
        (512, 1, 8),
        (1024, 2, 8),
        (2048, 4, 8),
        (4096, 8, 16),
        (8192, 16, 32),
    ];
    for (baseline, _, _) in expected {
        build_of_size(&daemon, baseline).await;
    }
    let built: Vec<_> = daemon
        .world
        .builds()
        .iter()
        .map(|build| (build.shape.memory_mib, build.shape.vcpus, build.disk_bytes))
        .collect();
    let expected = expected.map(|(baseline, vcpus, gib)| (baseline * 4, vcpus, gib << 30));
    assert_eq!(built, expected);
}

#[tokio::test(start_paused = true)]
async fn a_guest_sees_no_more_processors_than_the_operator_says() {
    let daemon = Daemon::start_with(|settings| settings.vcpus_at_most = NonZeroU8::new(3)).await;
    for (baseline, vcpus) in [(512, 1), (1024, 2), (2048, 3), (8192, 3)] {
        build_of_size(&daemon, baseline).await;
        let shape = daemon.world.builds().last().unwrap().shape;
        assert_eq!((shape.memory_mib, shape.vcpus), (baseline * 4, vcpus));
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_host_refuses_a_launch_and_leaves_a_wake_suspended_until_there_is_room() {
    let daemon = Daemon::start_with(|settings| settings.max_memory_mib = 1024).await;
    daemon.create_image(json!({})).await;
    let (first, second) = (daemon.run(auto()).await, daemon.run(auto()).await);
    let message = refusal(&daemon).await;
    assert!(message.contains("1024 MiB of baseline memory"), "{message}");
    daemon.suspended(&first).await;
    let third = daemon.run(auto()).await;
    let reason = reason_of_a_wake_given_up(&daemon, &first).await;
    assert!(reason.starts_with("No capacity"), "{reason}");
    daemon.terminate(&third).await.unwrap();
    daemon.terminated(&third).await;
    assert_eq!(daemon.request(&first).await, 1);
    assert_eq!(daemon.request(&second).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_build_under_way_is_counted() {
    let daemon = Daemon::start_with(|settings| settings.max_memory_mib = 2048 + 512).await;
    daemon.create_image(json!({})).await;
    daemon.world.faults().next(Operation::Build, Fault::Hang);
    let mut update: Value = serde_json::to_value(Daemon::image_request(json!({}))).unwrap();
    update["imageIdentifier"] = json!(IMAGE);
    let update = serde_json::from_value(update).unwrap();
    daemon.control.update_microvm_image(update).await.unwrap();
    daemon.world.faults().hanging(Operation::Build).await;
    daemon.run(json!({})).await;
    let message = refusal(&daemon).await;
    assert!(message.contains("1 builds"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_for_speed_is_counted_and_goes_before_a_launch_is_refused() {
    let daemon = Daemon::start_with(|settings| {
        settings.hot.enabled = true;
        settings.hot.memory_mib = 1024;
        settings.max_memory_mib = 512 + 20;
    })
    .await;
    daemon.create_image(json!({})).await;
    let asleep = daemon.run(auto()).await;
    daemon.suspended(&asleep).await;
    assert!(daemon.world.guest(&asleep).is_some(), "its process is kept");
    daemon.run(json!({})).await;
    assert!(daemon.world.guest(&asleep).is_none(), "it made room");
    assert_eq!(daemon.get(&asleep).await.state, MicrovmState::Suspended);
}

#[tokio::test(start_paused = true)]
async fn a_host_short_of_memory_refuses_whatever_the_account_says() {
    let daemon = Daemon::start_with(|settings| settings.reserve_mib = 500).await;
    daemon.create_image(json!({})).await;
    let (awake, asleep) = (daemon.run(auto()).await, daemon.run(auto()).await);
    daemon.suspended(&asleep).await;
    // 3 % of the simulated 16 GiB.
    daemon.settings.host_memory.set_available_percent(3);
    let message = refusal(&daemon).await;
    assert!(message.contains("keeps 500 in reserve"), "{message}");
    let reason = reason_of_a_wake_given_up(&daemon, &asleep).await;
    assert_eq!(reason, "No capacity: this host is short of memory.");
    assert_eq!(daemon.request(&awake).await, 1);
    daemon.settings.host_memory.set_available_percent(50);
    assert_eq!(daemon.request(&asleep).await, 1);
    daemon.run(json!({})).await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_without_room_refuses_what_is_begun_and_leaves_what_there_is_alone() {
    let daemon = Daemon::start().await;
    daemon.create_image(json!({})).await;
    let (awake, asleep) = (daemon.run(auto()).await, daemon.run(auto()).await);
    daemon.suspended(&asleep).await;
    // One runs, one more would: 100 MiB in reserve and 64 for each.
    daemon.settings.host_disk.set_free_mib(227);
    let message = refusal(&daemon).await;
    assert!(message.contains("less than 228 MiB free"), "{message}");
    assert!(message.contains("keeps 100 in reserve"), "{message}");

    let reason = reason_of_a_wake_given_up(&daemon, &asleep).await;
    assert_eq!(reason, "No capacity: this host is short of disk.");

    let builds = daemon.world.builds().len();
    let name = json!({ "name": "another" });
    let request = Daemon::image_request(name);
    daemon.control.create_microvm_image(request).await.unwrap();
    let another = IMAGE.replace("hello", "another");
    daemon.control.image_settled(&another).await.unwrap();
    assert_eq!(daemon.world.builds().len(), builds, "nothing was built");
    let row = daemon.store.image("another".into()).await.unwrap().unwrap();
    let build = daemon.store.builds(row.id, 1, None, 1).await.unwrap().rows;
    let reason = build[0].reason.clone().unwrap();
    assert!(reason.starts_with("DISK_STORAGE_FULL: "), "{reason}");

    // What runs can be suspended and ended; what sleeps can be ended, or wakes when there is room.
    daemon.suspended(&awake).await;
    daemon.terminate(&awake).await.unwrap();
    daemon.terminated(&awake).await;
    daemon.settings.host_disk.set_free_mib(228);
    assert_eq!(daemon.request(&asleep).await, 1);
}

//! What an image's owner sees: versions, builds, deletion, repeated requests.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

mod common;

use std::sync::Arc;

use colibri_control::BaseVersion;
use colibri_image::{BuildFailure, FailureCode};
use colibri_testkit::{Fault, Operation};
use colibri_wire::ApiError;
use colibri_wire::shape::image::{ImageState, ImageVersionState, ImageVersionStatus};
use colibri_wire::shape::microvm::MicrovmState;
use common::{BASE, Daemon, EPOCH, IMAGE};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn of<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

async fn state(daemon: &Daemon) -> Result<ImageState, ApiError> {
    let request = of(json!({ "imageIdentifier": IMAGE }));
    daemon
        .control
        .get_microvm_image(request)
        .await
        .map(|response| response.image.state)
}

async fn update(daemon: &Daemon, more: Value) -> Result<String, ApiError> {
    let mut request = serde_json::to_value(Daemon::image_request(more)).unwrap();
    request.as_object_mut().unwrap().remove("name");
    request["imageIdentifier"] = IMAGE.into();
    daemon
        .control
        .update_microvm_image(of(request))
        .await
        .map(|response| response.image_version)
}

#[tokio::test(start_paused = true)]
async fn an_image_is_created_built_and_described_with_its_defaults() {
    let daemon = Daemon::start().await;
    let created = daemon
        .control
        .create_microvm_image(Daemon::image_request(json!({ "tags": { "a": "b" } })))
        .await;
    let created = created.unwrap();
    assert_eq!(
        (created.image.state, created.image_version.as_str()),
        (ImageState::Creating, "1.0")
    );
    assert_eq!(
        created.configuration.base_image_version.as_deref(),
        Some("1.0")
    );
    assert_eq!(
        daemon.control.image_settled(IMAGE).await.unwrap(),
        Some(ImageState::Created)
    );

    let version = of(json!({ "imageIdentifier": IMAGE, "imageVersion": "1" }));
    let version = daemon
        .control
        .get_microvm_image_version(version)
        .await
        .unwrap();
    assert_eq!(
        (version.state, version.status),
        (ImageVersionState::Successful, ImageVersionStatus::Active)
    );
    assert_eq!(version.configuration, created.configuration);
    let builds = of(json!({ "imageIdentifier": IMAGE, "imageVersion": "1.0" }));
    let builds = daemon
        .control
        .list_microvm_image_builds(builds)
        .await
        .unwrap()
        .items;
    assert_eq!(
        (builds.len(), builds[0].chipset_generation.as_str()),
        (1, "none-simulated")
    );
    let build =
        json!({ "imageIdentifier": IMAGE, "imageVersion": "1.0", "buildId": builds[0].build_id });
    let sizes = daemon
        .control
        .get_microvm_image_build(of(build))
        .await
        .unwrap()
        .snapshot_build
        .unwrap();
    assert_eq!(sizes.code_install_size_in_bytes, Some(12_345));
    let tags = daemon
        .control
        .list_tags(of(json!({ "Resource": IMAGE })))
        .await
        .unwrap()
        .tags;
    assert_eq!(tags["a"], "b");
}

#[tokio::test(start_paused = true)]
async fn a_build_gets_what_the_configuration_says() {
    let daemon = Daemon::with_image_of(json!({
        "environmentVariables": { "KEY": "value" },
        "additionalOsCapabilities": ["ALL"],
        "hooks": { "port": 9000, "microvmImageHooks": { "ready": "ENABLED", "readyTimeoutInSeconds": 7 } },
    }))
    .await;
    let request = daemon.world.builds().remove(0);
    assert_eq!(
        request.environment,
        [("KEY".to_owned(), "value".to_owned())]
    );
    assert_eq!(
        (request.bucket.as_str(), request.key.as_str()),
        ("artifacts", "hello.zip")
    );
    assert_eq!(
        (
            request.shape.memory_mib,
            request.shape.vcpus,
            request.all_capabilities
        ),
        (2048, 1, true)
    );
    assert_eq!(request.hooks.ready.unwrap().as_secs(), 7);
    assert!(
        request
            .log_stream
            .unwrap()
            .starts_with("2026/11/22[1.0]build-")
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_build_fails_its_image_and_says_why() {
    let daemon = Daemon::start().await;
    let sentence = "The container image build failed.".to_owned();
    daemon.world.fail_next_build(BuildFailure {
        code: FailureCode::ContainerBuildFailed,
        sentence,
    });
    daemon.create_image(json!({})).await;
    assert_eq!(state(&daemon).await.unwrap(), ImageState::CreateFailed);
    let builds = of(json!({ "imageIdentifier": IMAGE, "imageVersion": "1.0" }));
    let build = daemon
        .control
        .list_microvm_image_builds(builds)
        .await
        .unwrap()
        .items
        .remove(0);
    assert_eq!(
        build.state_reason.unwrap(),
        "CONTAINER_BUILD_FAILED: The container image build failed."
    );
    let refused = daemon
        .control
        .run_microvm(Daemon::run_request(json!({})))
        .await
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("No active version found for MicroVM image {IMAGE}")
    );
}

#[tokio::test(start_paused = true)]
async fn an_update_makes_the_next_version_and_the_old_one_launches_meanwhile() {
    let daemon = Daemon::with_image().await;
    daemon.world.faults().next(Operation::Build, Fault::Hang);
    assert_eq!(update(&daemon, json!({})).await.unwrap(), "2.0");
    daemon.world.faults().hanging(Operation::Build).await;
    assert_eq!(state(&daemon).await.unwrap(), ImageState::Updating);
    let busy = update(&daemon, json!({})).await.unwrap_err();
    assert_eq!(
        (busy.status(), busy.to_string().as_str()),
        (409, "MicroVM Image is already in state: UPDATING")
    );
    let id = daemon.run(json!({})).await;
    assert_eq!(daemon.get(&id).await.image_version, "1.0");
}

#[tokio::test(start_paused = true)]
async fn an_inactive_version_is_not_launched_and_the_latest_active_one_is() {
    let daemon = Daemon::with_image().await;
    update(&daemon, json!({})).await.unwrap();
    daemon.control.image_settled(IMAGE).await.unwrap();
    let latest = daemon.run(json!({})).await;
    assert_eq!(daemon.get(&latest).await.image_version, "2.0");
    let off = json!({ "imageIdentifier": IMAGE, "imageVersion": "2.0", "status": "INACTIVE" });
    let off = daemon
        .control
        .update_microvm_image_version(of(off))
        .await
        .unwrap();
    assert_eq!(off.status, ImageVersionStatus::Inactive);
    let latest = daemon.run(json!({})).await;
    assert_eq!(daemon.get(&latest).await.image_version, "1.0");
    let pinned = daemon
        .control
        .run_microvm(Daemon::run_request(json!({ "imageVersion": "2.0" })))
        .await;
    assert_eq!(pinned.unwrap_err().status(), 404);
}

#[tokio::test(start_paused = true)]
async fn an_image_in_use_can_be_deleted_and_its_microvms_live_on() {
    let daemon = Daemon::with_image().await;
    let (awake, asleep) = (
        daemon.run(common::auto()).await,
        daemon.run(common::auto()).await,
    );
    assert_eq!(daemon.request(&asleep).await, 1);
    daemon.suspended(&asleep).await;
    let deleting = daemon
        .control
        .delete_microvm_image(of(json!({ "imageIdentifier": IMAGE })))
        .await
        .unwrap();
    assert_eq!(deleting.state, ImageState::Deleting);
    assert_eq!(daemon.control.image_settled(IMAGE).await.unwrap(), None);
    assert_eq!(state(&daemon).await.unwrap_err().status(), 404);
    let again = daemon
        .control
        .delete_microvm_image(of(json!({ "imageIdentifier": IMAGE })))
        .await
        .unwrap();
    assert_eq!(again.state, ImageState::Deleted);
    assert_eq!(
        daemon
            .control
            .run_microvm(Daemon::run_request(json!({})))
            .await
            .unwrap_err()
            .status(),
        404
    );

    assert_eq!(daemon.request(&asleep).await, 2, "its base is still there");
    let images = daemon.directory().join("images");
    for id in [awake, asleep] {
        assert_eq!(std::fs::read_dir(&images).unwrap().count(), 1);
        daemon.terminate(&id).await.unwrap();
        daemon.terminated(&id).await;
    }
    while std::fs::read_dir(&images).unwrap().count() > 0 {
        tokio::task::yield_now().await;
    }
    daemon.assert_nothing_left();
    daemon.create_image(json!({})).await;
    daemon.run(json!({})).await;
}

#[tokio::test(start_paused = true)]
async fn the_last_version_is_deleted_with_its_image_only() {
    let daemon = Daemon::with_image().await;
    let delete = |version: &str| {
        let request = json!({ "imageIdentifier": IMAGE, "imageVersion": version });
        daemon.control.delete_microvm_image_version(of(request))
    };
    let refused = delete("1.0").await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "This is the last version. Please delete the entire image"
    );
    update(&daemon, json!({})).await.unwrap();
    daemon.control.image_settled(IMAGE).await.unwrap();
    assert_eq!(
        delete("1.0").await.unwrap().state,
        ImageVersionState::Deleting
    );
    assert_eq!(
        daemon.control.image_settled(IMAGE).await.unwrap(),
        Some(ImageState::Updated)
    );
    assert_eq!(
        delete("1.0").await.unwrap().state,
        ImageVersionState::Deleted
    );
    let versions = of(json!({ "imageIdentifier": IMAGE }));
    let versions = daemon
        .control
        .list_microvm_image_versions(versions)
        .await
        .unwrap()
        .items;
    assert_eq!(
        versions
            .iter()
            .map(|version| version.image_version.as_str())
            .collect::<Vec<_>>(),
        ["2.0"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_repeated_run_is_the_same_microvm_and_another_request_is_refused() {
    let daemon = Daemon::with_image().await;
    let once = || {
        let (control, request) = (
            Arc::clone(&daemon.control),
            Daemon::run_request(json!({ "clientToken": "t" })),
        );
        tokio::spawn(async move { control.run_microvm(request).await.unwrap() })
    };
    let (one, two) = (once(), once());
    let (one, two) = (one.await.unwrap(), two.await.unwrap());
    assert_eq!(one.microvm_id, two.microvm_id);
    daemon.reaches(&one.microvm_id, MicrovmState::Running).await;
    let later = once().await.unwrap();
    assert_eq!(
        (later.microvm_id, later.state),
        (one.microvm_id, MicrovmState::Running)
    );
    let other = Daemon::run_request(json!({ "clientToken": "t", "maximumDurationInSeconds": 5 }));
    assert_eq!(
        daemon
            .control
            .run_microvm(other)
            .await
            .unwrap_err()
            .status(),
        409
    );
    assert_eq!(daemon.world.machines().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_create_is_the_same_image() {
    let daemon = Daemon::start().await;
    let request = || Daemon::image_request(json!({ "clientToken": "t" }));
    daemon
        .control
        .create_microvm_image(request())
        .await
        .unwrap();
    daemon.control.image_settled(IMAGE).await.unwrap();
    let again = daemon
        .control
        .create_microvm_image(request())
        .await
        .unwrap();
    assert_eq!(
        (again.image.state, again.image_version.as_str()),
        (ImageState::Created, "1.0")
    );
    assert_eq!(daemon.world.builds().len(), 1);
    let taken = daemon
        .control
        .create_microvm_image(Daemon::image_request(json!({})))
        .await
        .unwrap_err();
    let text = "A MicroVM image with the name 'hello' already exists in this account";
    assert_eq!((taken.status(), taken.to_string().as_str()), (400, text));
}

#[tokio::test(start_paused = true)]
async fn builds_wait_for_their_turn_and_their_number_is_bounded() {
    let daemon =
        Daemon::start_with(|settings| (settings.concurrent_builds, settings.max_builds) = (1, 2))
            .await;
    daemon.world.faults().next(Operation::Build, Fault::Hang);
    let create = |name: &str| {
        daemon
            .control
            .create_microvm_image(Daemon::image_request(json!({ "name": name })))
    };
    create("one").await.unwrap();
    create("two").await.unwrap();
    daemon.world.faults().hanging(Operation::Build).await;
    assert_eq!(daemon.world.builds().len(), 1, "the second waits");
    let refused = create("three").await.unwrap_err();
    assert_eq!(
        (refused.status(), refused.wire_name()),
        (402, "ServiceQuotaExceededException")
    );
}

#[tokio::test(start_paused = true)]
async fn a_host_without_room_says_so() {
    let daemon = Daemon::start_with(|settings| settings.max_running = 1).await;
    daemon.create_image(json!({})).await;
    let id = daemon.run(json!({})).await;
    let refused = daemon
        .control
        .run_microvm(Daemon::run_request(json!({})))
        .await
        .unwrap_err();
    assert!(matches!(refused, ApiError::InsufficientCapacity { .. }));
    daemon.suspended(&id).await;
    daemon.run(json!({})).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_built_here_is_refused_with_its_cure() {
    let daemon = Daemon::start().await;
    let create = |more: Value| {
        daemon
            .control
            .create_microvm_image(Daemon::image_request(more))
    };
    let base = "arn:aws:lambda:us-east-1:aws:microvm-image:al2099-1";
    let refused = create(json!({ "baseImageArn": base }))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("does not exist") && refused.contains("al2023-1"),
        "{refused}"
    );
    let refused = create(json!({ "baseImageVersion": "9" }))
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("Available versions: 1"), "{refused}");
    if cfg!(target_arch = "x86_64") {
        let arm = json!({ "cpuConfigurations": [{ "architecture": "ARM_64" }] });
        assert!(
            create(arm)
                .await
                .unwrap_err()
                .to_string()
                .contains("arm64_requests = \"native\"")
        );
    }
    assert!(daemon.world.builds().is_empty());
}

#[tokio::test(start_paused = true)]
async fn lists_page_through_everything_once() {
    let daemon = Daemon::with_image().await;
    for _ in 0..5 {
        daemon.run(json!({})).await;
    }
    let mut token: Option<String> = None;
    let mut seen = Vec::new();
    loop {
        let mut request = json!({ "maxResults": 2 });
        if let Some(token) = &token {
            request["nextToken"] = token.as_str().into();
        }
        let page = daemon.control.list_microvms(of(request)).await.unwrap();
        seen.extend(page.items.into_iter().map(|item| item.microvm_id));
        token = page.next_token;
        if token.is_none() {
            break;
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 5);
}

/// Statuses of the base image's versions, as they are listed, one a page.
async fn base_versions(daemon: &Daemon) -> Vec<(String, Value)> {
    let (mut found, mut token) = (Vec::new(), None);
    loop {
        let request = json!({ "imageIdentifier": BASE, "maxResults": 1, "nextToken": token });
        let request = of(request);
        let page = daemon.control.list_managed_microvm_image_versions(request);
        let page = page.await.unwrap();
        assert!(page.items.len() <= 1);
        found.extend(page.items.into_iter().map(|item| {
            (
                item.image_version,
                serde_json::to_value(item.status).unwrap(),
            )
        }));
        token = page.next_token;
        if token.is_none() {
            return found;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_base_version_runs_out_for_builds_first_and_for_launches_later() {
    const DAY: u64 = 24 * 60 * 60;
    let moment = |day: u64| EPOCH + i64::try_from(day * DAY * 1000).unwrap();
    let daemon = Daemon::start_with(|settings| {
        let second = BaseVersion {
            number: 2,
            released: moment(10),
            deprecated: None,
            recalled: Some(moment(120)),
        };
        settings.base_versions[0].deprecated = Some(moment(10));
        settings.base_versions.push(second);
    })
    .await;
    let days = |days: u64| daemon.clock.jump(moment(days) - EPOCH);
    daemon.create_image(json!({})).await;
    let listed = |versions: &[(&str, &str)]| -> Vec<(String, Value)> {
        let one = |(number, status): &(&str, &str)| (number.to_string(), json!(status));
        versions.iter().map(one).collect()
    };
    assert_eq!(base_versions(&daemon).await, listed(&[("1", "AVAILABLE")]));
    let second = json!({ "baseImageVersion": "2" });
    let refused = update(&daemon, second.clone()).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .ends_with("does not exist. Available versions: 1"),
        "{refused}"
    );

    days(10);
    let both = listed(&[("2", "AVAILABLE"), ("1", "DEPRECATED")]);
    assert_eq!(base_versions(&daemon).await, both);
    let newest = json!({ "name": "newest" });
    let newest = daemon
        .control
        .create_microvm_image(Daemon::image_request(newest));
    let newest = newest.await.unwrap().configuration.base_image_version;
    assert_eq!(newest.as_deref(), Some("2.0"));
    let arn = IMAGE.replace("hello", "newest");
    daemon.control.image_settled(&arn).await.unwrap();
    let built: Vec<u32> = daemon
        .world
        .builds()
        .iter()
        .map(|build| build.base_version)
        .collect();
    assert_eq!(built, [1, 2]);
    let first = json!({ "baseImageVersion": "1" });
    update(&daemon, first.clone()).await.unwrap();
    daemon.control.image_settled(IMAGE).await.unwrap();

    days(60);
    assert_eq!(base_versions(&daemon).await, both);
    let refused = update(&daemon, first).await.unwrap_err().to_string();
    assert!(
        refused.contains("Version 1 ") && refused.contains(" is expiring"),
        "{refused}"
    );
    assert!(refused.ends_with("Available versions: 2"), "{refused}");
    let running = daemon.run(json!({})).await;

    days(30);
    assert_eq!(base_versions(&daemon).await, listed(&[("2", "AVAILABLE")]));
    let run = || daemon.control.run_microvm(Daemon::run_request(json!({})));
    let refused = run().await.unwrap_err();
    assert!(
        matches!(refused, ApiError::ResourceNotFound { .. }),
        "{refused}"
    );
    assert!(
        refused
            .to_string()
            .contains("version 1 of its base image, which is expired"),
        "{refused}"
    );
    assert_eq!(daemon.get(&running).await.state, MicrovmState::Running);
    update(&daemon, json!({})).await.unwrap();
    daemon.control.image_settled(IMAGE).await.unwrap();
    daemon.run(json!({})).await;

    days(20);
    assert_eq!(base_versions(&daemon).await, listed(&[("2", "RECALLED")]));
    assert!(
        run()
            .await
            .unwrap_err()
            .to_string()
            .contains("which is recalled")
    );
    let refused = update(&daemon, json!({})).await.unwrap_err().to_string();
    assert!(refused.contains("No version of base image"), "{refused}");
    assert_eq!(daemon.get(&running).await.state, MicrovmState::Running);
}

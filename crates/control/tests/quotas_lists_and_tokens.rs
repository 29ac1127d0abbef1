//! Quotas, lists that change while they are read, and calls that are repeated.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use colibri_testkit::{Fault, Operation};
use colibri_wire::ApiError;
use colibri_wire::shape::microvm::MicrovmState;
use common::{Daemon, IMAGE};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn of<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// All names of a list of images, page by page; `between` is done after each page.
async fn images(
    daemon: &Daemon,
    request: Value,
    mut between: impl AsyncFnMut(usize),
) -> (Vec<Vec<String>>, Vec<String>) {
    let (mut pages, mut token) = (Vec::new(), None::<String>);
    loop {
        let mut request = request.clone();
        if let Some(token) = &token {
            request["nextToken"] = token.as_str().into();
        }
        let page = daemon
            .control
            .list_microvm_images(of(request))
            .await
            .unwrap();
        pages.push(page.items.into_iter().map(|item| item.name).collect());
        token = page.next_token;
        if token.is_none() {
            let all = pages.iter().flatten().cloned().collect();
            return (pages, all);
        }
        between(pages.len()).await;
    }
}

async fn delete(daemon: &Daemon, name: &str) {
    let arn = IMAGE.replace("hello", name);
    daemon
        .control
        .delete_microvm_image(of(json!({ "imageIdentifier": arn })))
        .await
        .unwrap();
    assert_eq!(daemon.control.image_settled(&arn).await.unwrap(), None);
}

async fn create(daemon: &Daemon, name: &str) {
    daemon
        .control
        .create_microvm_image(Daemon::image_request(json!({ "name": name })))
        .await
        .unwrap();
    let arn = IMAGE.replace("hello", name);
    daemon.control.image_settled(&arn).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_number_of_microvms_is_bounded_suspended_ones_included() {
    let daemon = Daemon::start_with(|settings| settings.max_microvms = 1).await;
    daemon.create_image(json!({})).await;
    let only = daemon.run(json!({})).await;
    daemon.suspended(&only).await;
    let request = Daemon::run_request(json!({}));
    let refused = daemon.control.run_microvm(request).await.unwrap_err();
    assert_eq!(refused.status(), 402);
    let message = refused.to_string();
    assert!(
        message.contains("1 MicroVMs that have not ended"),
        "{message}"
    );
    daemon.terminate(&only).await.unwrap();
    daemon.terminated(&only).await;
    daemon.run(json!({})).await;
}

#[tokio::test(start_paused = true)]
async fn memory_that_is_kept_is_bounded_suspended_machines_included() {
    let daemon = Daemon::start_with(|settings| settings.max_kept_memory_mib = 1024).await;
    daemon.create_image(json!({})).await;
    let first = daemon.run(json!({})).await;
    daemon.run(json!({})).await;
    daemon.suspended(&first).await;
    let refused = daemon
        .control
        .run_microvm(Daemon::run_request(json!({})))
        .await
        .unwrap_err();
    assert_eq!(refused.status(), 402);
    let body = refused.body();
    assert_eq!(
        (&body["serviceCode"], &body["quotaCode"]),
        (&json!("lambda"), &json!("L-CD1C0CC4"))
    );
    let terminate = json!({ "microvmIdentifier": first });
    daemon
        .control
        .terminate_microvm(of(terminate))
        .await
        .unwrap();
    daemon.reaches(&first, MicrovmState::Terminated).await;
    daemon.run(json!({})).await;
}

#[tokio::test(start_paused = true)]
async fn memory_of_a_build_counts_until_it_is_built() {
    let daemon = Daemon::start_with(|settings| settings.max_kept_memory_mib = 1024).await;
    daemon.create_image(json!({})).await;
    daemon.run(json!({})).await;
    let hour = Duration::from_secs(3600);
    daemon
        .world
        .faults()
        .next(Operation::Build, Fault::Delay(hour));
    let second = Daemon::image_request(json!({ "name": "second" }));
    daemon.control.create_microvm_image(second).await.unwrap();
    let refused = daemon
        .control
        .run_microvm(Daemon::run_request(json!({})))
        .await
        .unwrap_err();
    assert_eq!(refused.status(), 402);
    let arn = IMAGE.replace("hello", "second");
    daemon.control.image_settled(&arn).await.unwrap();
    daemon.run(json!({})).await;
}

#[tokio::test(start_paused = true)]
async fn an_image_has_fifty_tags_at_most_from_the_beginning() {
    let daemon = Daemon::start().await;
    let create = |count: usize| {
        let tags: serde_json::Map<_, _> = (0..count)
            .map(|number| (format!("key-{number}"), json!("value")))
            .collect();
        let request = Daemon::image_request(json!({ "tags": tags }));
        daemon.control.create_microvm_image(request)
    };
    let refused = create(51).await.unwrap_err();
    assert!(matches!(refused, ApiError::Validation { .. }), "{refused}");
    create(50).await.unwrap();
}

/// What stays is listed once, whatever comes and goes between pages, for every page size.
#[tokio::test(start_paused = true)]
async fn a_list_that_changes_between_pages_shows_what_stays_exactly_once() {
    for size in 1..=4 {
        let daemon = Daemon::start().await;
        for number in 0..8 {
            create(&daemon, &format!("stays-{number}")).await;
            create(&daemon, &format!("goes-{number}")).await;
        }
        let request = json!({ "maxResults": size });
        let (pages, all) = images(&daemon, request, async |page: usize| {
            // Behind and before the place where the list goes on, and the very row that it stopped at.
            for number in [page % 8, 7 - page % 8] {
                let name = format!("goes-{number}");
                let arn = IMAGE.replace("hello", &name);
                let get = of(json!({ "imageIdentifier": arn }));
                if daemon.control.get_microvm_image(get).await.is_ok() {
                    delete(&daemon, &name).await;
                }
            }
            if page < 6 {
                create(&daemon, &format!("comes-{page}")).await;
            }
        })
        .await;
        assert!(pages.iter().all(|page| page.len() <= size));
        let unique: BTreeSet<&String> = all.iter().collect();
        assert_eq!(unique.len(), all.len(), "nothing twice");
        for number in 0..8 {
            let stays = format!("stays-{number}");
            assert!(unique.contains(&stays), "{stays} with pages of {size}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_filter_fills_its_pages_and_with_the_services_oddity_empties_them() {
    for quirks in [false, true] {
        let daemon = Daemon::start_with(|settings| settings.aws_quirks = quirks).await;
        for name in ["other-1", "other-2", "wanted-1", "other-3", "wanted-2"] {
            create(&daemon, name).await;
        }
        let request = json!({ "maxResults": 2, "nameFilter": "wanted" });
        let (pages, all) = images(&daemon, request, async |_| {}).await;
        assert_eq!(all, ["wanted-1", "wanted-2"]);
        assert_eq!(pages[0].is_empty(), quirks, "{pages:?}");
        assert_eq!(pages.len(), if quirks { 3 } else { 1 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_of_one_list_continues_no_other() {
    let daemon = Daemon::with_image().await;
    create(&daemon, "second").await;
    let first = daemon
        .control
        .list_microvm_images(of(json!({ "maxResults": 1 })))
        .await
        .unwrap();
    let token = first.next_token.unwrap();
    let elsewhere = daemon
        .control
        .list_microvms(of(json!({ "nextToken": token })))
        .await;
    assert!(matches!(elsewhere, Err(ApiError::Validation { .. })));
    let filtered = json!({ "nextToken": token, "nameFilter": "s" });
    let filtered = daemon.control.list_microvm_images(of(filtered)).await;
    assert!(matches!(filtered, Err(ApiError::Validation { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_crowd_with_one_token_makes_one_microvm_and_one_image() {
    let daemon = Daemon::with_image().await;
    let calls = (0..20).map(|_| {
        let control = Arc::clone(&daemon.control);
        async move {
            let run = Daemon::run_request(json!({ "clientToken": "once" }));
            let microvm = control.run_microvm(run).await.unwrap().microvm_id;
            let more = json!({ "name": "crowd", "clientToken": "once" });
            let image = control
                .create_microvm_image(Daemon::image_request(more))
                .await
                .unwrap();
            (microvm, image.image_version)
        }
    });
    let made: Vec<_> = futures::future::join_all(calls).await;
    assert!(made.iter().all(|one| *one == made[0]), "{made:?}");
    let listed = daemon.control.list_microvms(of(json!({}))).await.unwrap();
    assert_eq!(listed.items.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_survives_a_restart_and_refuses_another_request() {
    let mut daemon = Daemon::with_image().await;
    let id = daemon.run(json!({ "clientToken": "once" })).await;
    daemon.crash_and_restart().await;
    let again = daemon
        .control
        .run_microvm(Daemon::run_request(json!({ "clientToken": "once" })))
        .await
        .unwrap();
    assert_eq!(again.microvm_id, id);
    let other = json!({ "clientToken": "once", "maximumDurationInSeconds": 600 });
    let refused = daemon
        .control
        .run_microvm(Daemon::run_request(other))
        .await
        .unwrap_err();
    assert!(matches!(refused, ApiError::Conflict { .. }), "{refused}");
    // The same token names another call of another operation.
    let create = json!({ "name": "second", "clientToken": "once" });
    daemon
        .control
        .create_microvm_image(Daemon::image_request(create))
        .await
        .unwrap();
}

/// The service itself answers with the first creation, whose image never comes to be.
#[tokio::test(start_paused = true)]
async fn a_create_repeated_after_its_image_was_deleted_makes_the_image_anew() {
    let daemon = Daemon::start().await;
    let request = || Daemon::image_request(json!({ "clientToken": "once" }));
    daemon
        .control
        .create_microvm_image(request())
        .await
        .unwrap();
    daemon.control.image_settled(IMAGE).await.unwrap();
    delete(&daemon, "hello").await;
    daemon
        .control
        .create_microvm_image(request())
        .await
        .unwrap();
    let settled = daemon.control.image_settled(IMAGE).await.unwrap();
    assert_eq!(
        settled,
        Some(colibri_wire::shape::image::ImageState::Created)
    );
}

//! What a MicroVM's owner sees of its life.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use colibri_control::{NotReady, PortFailure};
use colibri_testkit::{Fault, HookPlan, Operation};
use colibri_wire::ApiError;
use colibri_wire::shape::microvm::MicrovmState;
use common::{Daemon, all_hooks, auto};
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn a_microvm_runs_sleeps_wakes_on_traffic_and_ends_without_a_trace() {
    let daemon = Daemon::with_image().await;
    let id = daemon.run(auto()).await;
    assert_eq!(daemon.request(&id).await, 1);
    daemon.suspended(&id).await;
    assert!(daemon.world.machines().is_empty() && daemon.world.slots().is_empty());
    assert_eq!(
        daemon.request(&id).await,
        2,
        "the application's memory survives"
    );
    daemon.terminate(&id).await.unwrap();
    assert_eq!(daemon.terminated(&id).await, "Success.");
    daemon.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_description_has_what_was_asked_for_and_the_defaults() {
    let daemon = Daemon::with_image().await;
    let first = daemon
        .control
        .run_microvm(Daemon::run_request(json!({})))
        .await
        .unwrap();
    assert_eq!(first.state, MicrovmState::Pending);
    assert!(
        first.microvm_id.starts_with("microvm-")
            && first.endpoint.ends_with(".microvm.localhost:8443")
    );
    assert!(
        !first
            .endpoint
            .contains(first.microvm_id.trim_start_matches("microvm-"))
    );
    assert_eq!(
        (
            first.image_version.as_str(),
            first.maximum_duration_in_seconds
        ),
        ("1.0", 28_800)
    );
    assert!(first.ingress_network_connectors.unwrap()[0].ends_with(":HTTP_INGRESS"));
    assert!(first.egress_network_connectors.unwrap()[0].ends_with(":INTERNET_EGRESS"));
    let label = first.endpoint.split('.').next().unwrap().to_owned();
    assert_eq!(
        daemon.control.by_label(&label).unwrap().microvm_id,
        first.microvm_id
    );
}

#[tokio::test(start_paused = true)]
async fn identity_comes_before_the_run_hook_and_stays_over_a_suspension() {
    let daemon = Daemon::with_image_of(all_hooks()).await;
    let id = daemon.run(json!({ "runHookPayload": "{\"job\":7}" })).await;
    let guest = daemon.world.guest(&id).unwrap();
    let identity = guest.identity().unwrap();
    assert_eq!(
        (identity.machine_id.len(), identity.hostname.as_str()),
        (32, id.as_str())
    );
    let call = &guest.hooks()[0];
    let body = format!("{{\"microvmId\":\"{id}\",\"runHookPayload\":\"{{\\\"job\\\":7}}\"}}");
    assert_eq!(
        (call.hook.as_str(), call.port, call.body.as_deref()),
        ("run", 9000, Some(body.as_str()))
    );

    daemon.suspended(&id).await;
    daemon.resume(&id).await.unwrap();
    daemon.reaches(&id, MicrovmState::Running).await;
    let guest = daemon.world.guest(&id).unwrap();
    let later = guest.identity().unwrap();
    assert_eq!(
        (later.machine_id, later.boot_id),
        (identity.machine_id, identity.boot_id)
    );
    assert_ne!(later.entropy, identity.entropy);
    assert_eq!(
        (guest.hook_names(), guest.identities_assumed()),
        (vec!["run".into(), "suspend".into(), "resume".into()], 2)
    );
}

#[tokio::test(start_paused = true)]
async fn two_microvms_of_an_image_are_not_each_other() {
    let daemon = Daemon::with_image().await;
    let (one, two) = (daemon.run(json!({})).await, daemon.run(json!({})).await);
    let identity = |id: &str| daemon.world.guest(id).unwrap().identity().unwrap();
    let (one, two) = (identity(&one), identity(&two));
    assert_ne!(one.machine_id, two.machine_id);
    assert_ne!(one.boot_id, two.boot_id);
    assert_ne!(one.hostname, two.hostname);
    assert_ne!(one.entropy, two.entropy);
}

#[tokio::test(start_paused = true)]
async fn an_idle_microvm_is_suspended_and_one_with_traffic_is_not() {
    let daemon = Daemon::with_image().await;
    let id = daemon.run(auto()).await;
    let begun = tokio::time::Instant::now();
    for _ in 0..5 {
        tokio::time::advance(Duration::from_secs(50)).await;
        daemon.request(&id).await;
        assert_eq!(daemon.get(&id).await.state, MicrovmState::Running);
    }
    daemon.reaches(&id, MicrovmState::Suspended).await;
    let idle = begun.elapsed().as_secs();
    assert!((310..=312).contains(&idle), "{idle}");
}

#[tokio::test(start_paused = true)]
async fn a_suspended_window_that_is_over_ends_the_microvm() {
    let daemon = Daemon::with_image().await;
    let id = daemon.run(auto()).await;
    daemon.reaches(&id, MicrovmState::Suspended).await;
    let begun = tokio::time::Instant::now();
    assert_eq!(
        daemon.terminated(&id).await,
        "MicroVM exceeded maximum lifetime"
    );
    assert!((600..=601).contains(&begun.elapsed().as_secs()));
    daemon.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_window_of_nothing_ends_an_idle_microvm_instead_of_suspending_it() {
    let daemon = Daemon::with_image().await;
    let policy = json!({ "idlePolicy": {
        "maxIdleDurationSeconds": 60, "suspendedDurationSeconds": 0, "autoResumeEnabled": false,
    } });
    let id = daemon.run(policy).await;
    daemon.terminated(&id).await;
    assert_eq!(daemon.world.faults().calls(Operation::Suspend), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_counts_the_time_asleep() {
    let daemon = Daemon::with_image().await;
    let begun = tokio::time::Instant::now();
    let id = daemon
        .run(json!({ "maximumDurationInSeconds": 1000 }))
        .await;
    daemon.suspended(&id).await;
    assert_eq!(
        daemon.terminated(&id).await,
        "MicroVM exceeded maximum lifetime."
    );
    assert!((1000..=1001).contains(&begun.elapsed().as_secs()));
    daemon.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_run_hook_that_fails_ends_the_microvm_with_the_services_reason() {
    let daemon = Daemon::with_image_of(all_hooks()).await;
    for (plan, reason) in [
        (
            HookPlan::Status(500),
            "Run lifecycle hook returned HTTP status 500. Please check",
        ),
        (
            HookPlan::Refused,
            "Run lifecycle hook connection was refused. Please check",
        ),
        (HookPlan::Silent, "Run lifecycle hook timed out"),
    ] {
        daemon.world.plan_hook("run", plan);
        let id = daemon.launch(json!({})).await;
        let actual = daemon.terminated(&id).await;
        assert!(actual.starts_with(reason), "{actual}");
    }
    daemon.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_suspend_hook_that_fails_ends_the_microvm() {
    let daemon = Daemon::with_image_of(all_hooks()).await;
    daemon.world.plan_hook("suspend", HookPlan::Status(500));
    let id = daemon.run(json!({})).await;
    daemon.suspend(&id).await.unwrap();
    let reason = daemon.terminated(&id).await;
    assert!(
        reason.starts_with("Suspend lifecycle hook returned HTTP status 500."),
        "{reason}"
    );
    daemon.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_resume_hook_that_fails_ends_the_microvm_and_fails_who_waits() {
    let daemon = Daemon::with_image_of(all_hooks()).await;
    daemon.world.plan_hook("resume", HookPlan::Refused);
    let id = daemon.run(auto()).await;
    daemon.suspended(&id).await;
    let refusal = daemon.control.ready(&id).await.unwrap_err();
    assert!(
        matches!(&refusal, NotReady::Failed(reason) if reason.starts_with("Resume lifecycle hook connection"))
    );
    assert!(
        daemon
            .terminated(&id)
            .await
            .starts_with("Resume lifecycle hook connection was refused.")
    );
    daemon.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn the_terminate_hook_is_called_and_its_failure_ignored() {
    let daemon = Daemon::with_image_of(all_hooks()).await;
    daemon.world.plan_hook("terminate", HookPlan::Silent);
    let id = daemon.run(json!({})).await;
    let guest = daemon.world.guest(&id).unwrap();
    daemon.terminate(&id).await.unwrap();
    assert_eq!(daemon.terminated(&id).await, "Success.");
    assert_eq!(guest.hook_names(), ["run", "terminate"]);
    daemon.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn an_application_that_exits_ends_its_microvm_without_a_terminate_hook() {
    let daemon = Daemon::with_image_of(all_hooks()).await;
    let id = daemon.run(json!({})).await;
    let guest = daemon.world.guest(&id).unwrap();
    guest.exit_application(3);
    assert_eq!(
        daemon.terminated(&id).await,
        "Container Stopped with Exit Code: 3"
    );
    assert_eq!(guest.hook_names(), ["run"]);
    daemon.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_ends_its_microvm() {
    let daemon = Daemon::with_image().await;
    let id = daemon.run(json!({})).await;
    daemon.world.kill_process(&id);
    assert_eq!(
        daemon.terminated(&id).await,
        "The MicroVM stopped unexpectedly."
    );
    daemon.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn states_and_commands_agree_with_the_service() {
    let daemon = Daemon::with_image().await;
    let id = daemon.run(json!({})).await;
    daemon.resume(&id).await.unwrap();
    daemon.suspend(&id).await.unwrap();
    daemon.suspend(&id).await.unwrap();
    daemon.reaches(&id, MicrovmState::Suspended).await;
    daemon.suspend(&id).await.unwrap();
    assert_eq!(daemon.world.faults().calls(Operation::Suspend), 1);
    daemon.resume(&id).await.unwrap();
    daemon.reaches(&id, MicrovmState::Running).await;
    daemon.terminate(&id).await.unwrap();
    daemon.terminated(&id).await;
    daemon.terminate(&id).await.unwrap();
    assert!(matches!(
        daemon.suspend(&id).await,
        Err(ApiError::Conflict { .. })
    ));
    assert!(matches!(
        daemon.resume(&id).await,
        Err(ApiError::Conflict { .. })
    ));
    let unknown = "microvm-00000000-0000-4000-8000-000000000000";
    assert!(matches!(
        daemon.terminate(unknown).await,
        Err(ApiError::ResourceNotFound { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_leaves_a_microvm_running_and_nothing_behind() {
    let daemon = Daemon::with_image_of(all_hooks()).await;
    let id = daemon.run(json!({})).await;
    daemon
        .world
        .faults()
        .next(Operation::Suspend, Fault::StorageFull);
    daemon.suspend(&id).await.unwrap();
    daemon.reaches(&id, MicrovmState::Running).await;
    let described = daemon.get(&id).await;
    assert!(described.state_reason.unwrap().contains("no space left"));
    assert_eq!(daemon.request(&id).await, 1);
    assert_eq!(
        daemon.world.guest(&id).unwrap().hook_names(),
        ["run", "suspend", "resume"]
    );
    daemon.suspended(&id).await;
    assert_eq!(daemon.get(&id).await.state_reason, None);
}

#[tokio::test(start_paused = true)]
async fn without_a_slot_a_microvm_stays_suspended_and_wakes_later() {
    let daemon = Daemon::with_image().await;
    let id = daemon.run(auto()).await;
    assert_eq!(daemon.request(&id).await, 1);
    daemon.suspended(&id).await;
    daemon.world.set_slots(0);
    assert!(matches!(
        daemon.control.ready(&id).await,
        Err(NotReady::Failed(_))
    ));
    assert_eq!(daemon.get(&id).await.state, MicrovmState::Suspended);
    daemon.world.set_slots(4);
    assert_eq!(daemon.request(&id).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_of_requests_wakes_a_microvm_once() {
    let daemon = Daemon::with_image_of(all_hooks()).await;
    let id = daemon.run(auto()).await;
    daemon.suspended(&id).await;
    let waiters: Vec<_> = (0..200)
        .map(|_| {
            let (control, id) = (Arc::clone(&daemon.control), id.clone());
            tokio::spawn(async move { control.ready(&id).await.map(|_| ()) })
        })
        .collect();
    for waiter in waiters {
        waiter.await.unwrap().unwrap();
    }
    assert_eq!(
        daemon.world.faults().calls(Operation::Launch),
        2,
        "the launch and one resume"
    );
    let names = daemon.world.guest(&id).unwrap().hook_names();
    assert_eq!(names, ["run", "suspend", "resume"]);
}

#[tokio::test(start_paused = true)]
async fn no_more_requests_wait_than_the_bound() {
    let daemon = Daemon::start_with(|settings| settings.max_waiting = 1).await;
    daemon.create_image(json!({})).await;
    daemon.world.faults().next(Operation::Launch, Fault::Hang);
    let id = daemon.launch(json!({})).await;
    daemon.world.faults().hanging(Operation::Launch).await;
    let first = daemon.control.ready(&id);
    let second = async {
        tokio::task::yield_now().await;
        daemon.control.ready(&id).await
    };
    let (first, second) = tokio::join!(first, second);
    assert!(matches!(first, Err(NotReady::Failed(_))), "bounded in time");
    assert!(matches!(second, Err(NotReady::TooMany)));
}

#[tokio::test(start_paused = true)]
async fn traffic_takes_a_microvm_back_while_it_is_being_captured() {
    let daemon = Daemon::with_image_of(all_hooks()).await;
    let id = daemon.run(auto()).await;
    daemon
        .world
        .faults()
        .next(Operation::Suspend, Fault::Delay(Duration::from_secs(2)));
    daemon.suspend(&id).await.unwrap();
    assert_eq!(daemon.request(&id).await, 1);
    assert_eq!(daemon.get(&id).await.state, MicrovmState::Running);
    assert_eq!(
        daemon.world.faults().calls(Operation::Launch),
        1,
        "never let go"
    );
    assert_eq!(
        daemon.world.guest(&id).unwrap().hook_names(),
        ["run", "suspend", "resume"]
    );
    assert_eq!(daemon.world.contract_breaches(), Vec::<String>::new());
    daemon.suspended(&id).await;
    assert_eq!(daemon.request(&id).await, 2);
}

#[tokio::test(start_paused = true)]
async fn without_auto_resume_traffic_wakes_nothing() {
    let daemon = Daemon::with_image().await;
    let id = daemon.run(json!({})).await;
    daemon.suspended(&id).await;
    assert_eq!(
        daemon.control.ready(&id).await.unwrap_err(),
        NotReady::Suspended
    );
}

#[tokio::test(start_paused = true)]
async fn connections_are_told_when_their_microvm_is_suspended() {
    let daemon = Daemon::with_image().await;
    let id = daemon.run(json!({})).await;
    let ready = daemon.control.ready(&id).await.unwrap();
    assert!(matches!(
        ready.connect(81).await,
        Err(PortFailure::Refused(81))
    ));
    daemon.suspend(&id).await.unwrap();
    ready.closed().await;
    assert!(matches!(
        ready.connect(8080).await,
        Err(PortFailure::Unreachable(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_microvm_without_ingress_takes_no_traffic() {
    let daemon = Daemon::with_image().await;
    let none = "arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:NO_INGRESS";
    let id = daemon
        .run(json!({ "ingressNetworkConnectors": [none] }))
        .await;
    assert_eq!(
        daemon.control.ready(&id).await.unwrap_err(),
        NotReady::Closed
    );
}

#[tokio::test(start_paused = true)]
async fn a_microvm_ends_from_every_state_and_leaves_nothing() {
    let daemon = Daemon::with_image_of(all_hooks()).await;
    let faults = daemon.world.faults();
    // Launching, at each step.
    for operation in [
        Operation::AcquireSlot,
        Operation::Launch,
        Operation::Control,
        Operation::Resume,
    ] {
        faults.next(operation, Fault::Delay(Duration::from_secs(3)));
        let id = daemon.launch(json!({})).await;
        daemon.terminate(&id).await.unwrap();
        assert_eq!(daemon.terminated(&id).await, "Success.", "{operation:?}");
        daemon.assert_nothing_left();
    }
    // A run hook that takes its time.
    daemon.world.plan_hook("run", HookPlan::Silent);
    let id = daemon.launch(json!({})).await;
    daemon.terminate(&id).await.unwrap();
    assert_eq!(daemon.terminated(&id).await, "Success.");
    daemon.world.plan_hook("run", HookPlan::Status(200));
    // Suspending, captured.
    for operation in [Operation::Suspend, Operation::Kill, Operation::ReleaseSlot] {
        let id = daemon.run(json!({})).await;
        faults.next(operation, Fault::Delay(Duration::from_secs(3)));
        daemon.suspend(&id).await.unwrap();
        daemon.terminate(&id).await.unwrap();
        assert_eq!(daemon.terminated(&id).await, "Success.", "{operation:?}");
        daemon.assert_nothing_left();
    }
    // Suspended, resuming.
    let id = daemon.run(json!({})).await;
    daemon.suspended(&id).await;
    daemon.terminate(&id).await.unwrap();
    daemon.terminated(&id).await;
    for operation in [
        Operation::AcquireSlot,
        Operation::Launch,
        Operation::Resume,
        Operation::ForgetSuspension,
    ] {
        let id = daemon.run(json!({})).await;
        daemon.suspended(&id).await;
        faults.next(operation, Fault::Delay(Duration::from_secs(3)));
        daemon.resume(&id).await.unwrap();
        daemon.terminate(&id).await.unwrap();
        assert_eq!(daemon.terminated(&id).await, "Success.", "{operation:?}");
        daemon.assert_nothing_left();
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_goes_on_until_everything_is_gone() {
    let daemon = Daemon::with_image().await;
    let id = daemon.run(json!({})).await;
    for operation in [Operation::Kill, Operation::Kill, Operation::ReleaseSlot] {
        daemon.world.faults().next(operation, Fault::Fail);
    }
    daemon.terminate(&id).await.unwrap();
    daemon.terminated(&id).await;
    daemon.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn the_applications_output_reaches_its_log_stream() {
    let daemon = Daemon::with_image().await;
    let id = daemon.run(json!({})).await;
    let guest = daemon.world.guest(&id).unwrap();
    guest.print("hello\nwor");
    guest.print("ld\n");
    guest.exit_application(0);
    daemon.terminated(&id).await;
    let stream = format!("2026/11/22[1.0]{id}");
    let line = |text: &str| {
        (
            "/aws/lambda-microvms/hello".to_owned(),
            stream.clone(),
            text.to_owned(),
        )
    };
    assert_eq!(daemon.logs.lines(), [line("hello"), line("world")]);
}

#[tokio::test(start_paused = true)]
async fn tokens_are_minted_awake_or_asleep_but_not_for_the_dead() {
    let daemon = Daemon::with_image().await;
    let id = daemon.run(json!({})).await;
    let request = |minutes: u32| {
        let body = json!({ "microvmIdentifier": id, "expirationInMinutes": minutes, "allowedPorts": [{"port": 8080}] });
        daemon
            .control
            .create_microvm_auth_token(serde_json::from_value(body).unwrap())
    };
    let token = request(30).await.unwrap();
    assert_eq!(token.auth_token["X-aws-proxy-auth"].0, format!("{id}/1/30"));
    let refused = request(61).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "ExpirationMinutes 61 exceeded max allowed of 60."
    );
    daemon.suspended(&id).await;
    request(1).await.unwrap();
    let shell =
        serde_json::from_value(json!({ "microvmIdentifier": id, "expirationInMinutes": 5 }))
            .unwrap();
    let refused = daemon
        .control
        .create_microvm_shell_auth_token(shell)
        .await
        .unwrap_err();
    assert!(matches!(refused, ApiError::Validation { .. }));
    daemon.terminate(&id).await.unwrap();
    daemon.terminated(&id).await;
    assert!(matches!(request(1).await, Err(ApiError::Conflict { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_goes_away_leaves_no_microvm_without_its_actor() {
    let daemon = Daemon::with_image().await;
    {
        let mut call = std::pin::pin!(daemon.control.run_microvm(Daemon::run_request(json!({}))));
        assert!(poll_once(call.as_mut()).await.is_none());
    }
    let list = || {
        daemon
            .control
            .list_microvms(serde_json::from_value(json!({})).unwrap())
    };
    while list().await.unwrap().items.is_empty() {
        tokio::task::yield_now().await;
    }
    let id = list().await.unwrap().items.remove(0).microvm_id;
    while daemon.control.by_id(&id).is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        daemon.reaches(&id, MicrovmState::Running).await,
        MicrovmState::Running
    );
}

async fn poll_once<F: Future + Unpin>(future: F) -> Option<F::Output> {
    let mut future = Some(future);
    std::future::poll_fn(move |context| {
        let polled = future
            .as_mut()
            .map(|future| std::pin::Pin::new(future).poll(context));
        std::task::Poll::Ready(match polled {
            Some(std::task::Poll::Ready(output)) => Some(output),
            _ => None,
        })
    })
    .await
}

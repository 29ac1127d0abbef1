//! What a guest's application is told of its life, and what it finds after a restore.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

mod common;

use std::time::Duration;

use colibri_control::SuspendHookFailure;
use colibri_testkit::{Fault, HookPlan, Operation};
use colibri_wire::shape::microvm::MicrovmState;
use common::{Daemon, all_hooks, auto};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

/// A header of the hook that was called last.
fn header_of_last(daemon: &Daemon, id: &str, name: &str) -> Option<String> {
    let call = daemon.world.guest(id).unwrap().hooks().pop().unwrap();
    let found = call.headers.into_iter().find(|(each, _)| each == name);
    found.map(|(_, value)| value)
}

#[tokio::test(start_paused = true)]
async fn the_resume_hook_is_told_how_long_the_machine_slept_and_no_other_is() {
    let daemon = Daemon::with_image_of(all_hooks()).await;
    let id = daemon.run(json!({})).await;
    assert_eq!(
        header_of_last(&daemon, &id, "X-Colibri-Slept-Seconds"),
        None
    );
    daemon.suspended(&id).await;
    tokio::time::sleep(Duration::from_millis(90_250)).await;
    daemon.resume(&id).await.unwrap();
    daemon.reaches(&id, MicrovmState::Running).await;
    let slept = header_of_last(&daemon, &id, "X-Colibri-Slept-Seconds").unwrap();
    assert!(slept.starts_with("90.25"), "{slept}");
}

#[tokio::test(start_paused = true)]
async fn a_suspension_that_traffic_undoes_was_no_sleep_and_keeps_connections() {
    let daemon = Daemon::with_image_of(all_hooks()).await;
    let id = daemon.run(auto()).await;
    let guest = |daemon: &Daemon| daemon.world.guest(&id).unwrap().identity().unwrap();
    assert!(guest(&daemon).reset_connections, "launched from a snapshot");
    let slow = Fault::Delay(Duration::from_secs(2));
    daemon.world.faults().next(Operation::Suspend, slow);
    daemon.suspend(&id).await.unwrap();
    daemon.request(&id).await;
    let slept = header_of_last(&daemon, &id, "X-Colibri-Slept-Seconds");
    assert_eq!(slept.as_deref(), Some("0.000"));
    assert!(!guest(&daemon).reset_connections);
    daemon.suspended(&id).await;
    daemon.request(&id).await;
    assert!(guest(&daemon).reset_connections, "resumed");
}

#[tokio::test(start_paused = true)]
async fn a_hooks_call_has_nothing_but_what_the_agent_adds() {
    let daemon = Daemon::with_image_of(all_hooks()).await;
    let id = daemon.run(json!({ "runHookPayload": "x" })).await;
    daemon.suspended(&id).await;
    let hooks = daemon.world.guest(&id);
    assert!(hooks.is_none(), "no process is kept");
    daemon.resume(&id).await.unwrap();
    daemon.reaches(&id, MicrovmState::Running).await;
    let calls = daemon.world.guest(&id).unwrap().hooks();
    let bare: Vec<_> = calls
        .iter()
        .filter(|call| call.headers.is_empty())
        .map(|call| (call.hook.as_str(), call.body.is_some()))
        .collect();
    assert_eq!(bare, [("run", true), ("suspend", false)]);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_set_late_is_set_again_before_traffic() {
    let daemon = Daemon::with_image().await;
    let id = daemon.run(auto()).await;
    daemon.suspended(&id).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    daemon.world.delay_next_identity(Duration::from_millis(400));
    daemon.request(&id).await;
    let shown = daemon.world.guest(&id).unwrap().wall_clock().unwrap();
    let behind = daemon.clock.passed_since(shown);
    assert!(behind < Duration::from_millis(20), "{behind:?}");
}

/// Asks the metadata address, as the guest; status and body.
async fn ask(daemon: &Daemon, id: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let ttl = "X-aws-ec2-metadata-token-ttl-seconds: 21600";
    let (status, token) = send(daemon, id, "PUT", "/latest/api/token", ttl, "").await;
    assert_eq!(status, 200, "{token}");
    let token = format!("X-aws-ec2-metadata-token: {token}");
    send(daemon, id, method, path, &token, body).await
}

async fn send(
    daemon: &Daemon,
    id: &str,
    method: &str,
    path: &str,
    header: &str,
    body: &str,
) -> (u16, String) {
    let mut stream = daemon.world.dial_metadata(id).unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\n{header}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    (answer[9..12].parse().unwrap(), body)
}

async fn idle_after(daemon: &Daemon, id: &str) -> u64 {
    let begun = Instant::now();
    assert_eq!(
        daemon.reaches(id, MicrovmState::Suspended).await,
        MicrovmState::Suspended
    );
    begun.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn a_busy_guest_is_not_idle_and_its_idleness_begins_when_it_stops() {
    let daemon = Daemon::with_image().await;
    let id = daemon.run(auto()).await;
    let busy = |seconds: u32| format!("{{\"seconds\": {seconds}}}");
    let path = "/colibri/v1/busy";
    assert_eq!(ask(&daemon, &id, "PUT", path, &busy(300)).await.0, 200);
    // Renewed before it is over.
    tokio::time::sleep(Duration::from_secs(250)).await;
    assert_eq!(daemon.get(&id).await.state, MicrovmState::Running);
    assert_eq!(ask(&daemon, &id, "PUT", path, &busy(300)).await.0, 200);
    let idle = idle_after(&daemon, &id).await;
    assert!((360..=365).contains(&idle), "{idle}");

    // Awake again, it is not busy any more.
    daemon.request(&id).await;
    assert_eq!(
        ask(&daemon, &id, "GET", path, "").await.1,
        "{\"seconds\":0}"
    );
    // One that says it is done is idle from then on.
    assert_eq!(ask(&daemon, &id, "PUT", path, &busy(3600)).await.0, 200);
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(ask(&daemon, &id, "DELETE", path, "").await.0, 200);
    let idle = idle_after(&daemon, &id).await;
    assert!((60..=65).contains(&idle), "{idle}");
}

#[tokio::test(start_paused = true)]
async fn a_guest_can_have_itself_suspended_and_wakes_as_after_any_suspension() {
    let daemon = Daemon::with_image_of(all_hooks()).await;
    let id = daemon.run(auto()).await;
    let asked = ask(&daemon, &id, "POST", "/colibri/v1/suspend", "").await;
    assert_eq!(asked.0, 202);
    daemon.reaches(&id, MicrovmState::Suspended).await;
    assert_eq!(daemon.request(&id).await, 1);
    let hooks = daemon.world.guest(&id).unwrap().hook_names();
    assert_eq!(hooks, ["run", "suspend", "resume"]);
}

#[tokio::test(start_paused = true)]
async fn a_guest_learns_who_it_is_and_speaks_for_nobody_else() {
    let daemon = Daemon::with_image().await;
    let (one, two) = (daemon.run(auto()).await, daemon.run(auto()).await);
    for id in [&one, &two] {
        let (status, body) = ask(&daemon, id, "GET", "/colibri/v1/identity", "").await;
        let about: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (status, about["microvmId"].as_str()),
            (200, Some(id.as_str()))
        );
        assert_eq!(about["imageArn"], common::IMAGE);
        let started = about["startedAt"].as_f64().unwrap();
        let ends = about["endsAt"].as_f64().unwrap();
        assert!((ends - started - 28_800.0).abs() < 0.001);
    }
    // What one suspends is itself.
    ask(&daemon, &one, "POST", "/colibri/v1/suspend", "").await;
    daemon.reaches(&one, MicrovmState::Suspended).await;
    assert_eq!(daemon.get(&two).await.state, MicrovmState::Running);
}

#[tokio::test(start_paused = true)]
async fn the_metadata_address_answers_after_a_crash_of_the_daemon_and_from_the_run_hook_on() {
    let mut daemon = Daemon::with_image_of(all_hooks()).await;
    daemon.world.plan_hook("run", HookPlan::Silent);
    let id = daemon.launch(auto()).await;
    while daemon
        .world
        .guest(&id)
        .is_none_or(|guest| guest.hooks().is_empty())
    {
        tokio::task::yield_now().await;
    }
    let busy = ask(&daemon, &id, "PUT", "/colibri/v1/busy", "{\"seconds\": 60}").await;
    let suspend = ask(&daemon, &id, "POST", "/colibri/v1/suspend", "").await;
    assert_eq!((busy.0, suspend.0), (200, 409));
    daemon.terminate(&id).await.unwrap();
    daemon.terminated(&id).await;

    daemon.world.plan_hook("run", HookPlan::Status(200));
    let id = daemon.run(auto()).await;
    daemon.crash_and_restart().await;
    daemon.control.ready(&id).await.unwrap();
    assert_eq!(
        ask(&daemon, &id, "GET", "/colibri/v1/identity", "").await.0,
        200
    );
}

/// A daemon with one image whose idleness is told by these signals too.
async fn with_signals(signals: &str) -> Daemon {
    Daemon::with_image_of(json!({ "environmentVariables": { "COLIBRI_IDLE_SIGNAL": signals } }))
        .await
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_computes_is_idle_unless_its_image_says_that_cpu_counts() {
    let daemon = Daemon::with_image().await;
    let id = daemon.run(auto()).await;
    daemon.world.guest(&id).unwrap().compute(true);
    let idle = idle_after(&daemon, &id).await;
    assert!((60..=61).contains(&idle), "{idle}");

    let daemon = with_signals("traffic,cpu").await;
    let id = daemon.run(auto()).await;
    let guest = daemon.world.guest(&id).unwrap();
    guest.compute(true);
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert_eq!(daemon.get(&id).await.state, MicrovmState::Running);
    guest.compute(false);
    let idle = idle_after(&daemon, &id).await;
    assert!((55..=70).contains(&idle), "{idle}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_keeps_awake_only_where_the_image_says_that_it_counts() {
    for (signals, kept_awake) in [("traffic,cpu", false), ("traffic,connections", true)] {
        let daemon = with_signals(signals).await;
        let id = daemon.run(auto()).await;
        let ready = daemon.control.ready(&id).await.unwrap();
        let open = ready.connect(8080).await.unwrap();
        tokio::time::sleep(Duration::from_secs(500)).await;
        let awake = daemon.get(&id).await.state == MicrovmState::Running;
        assert_eq!(awake, kept_awake, "{signals}");
        drop(open);
        let idle = idle_after(&daemon, &id).await;
        assert!(idle <= if kept_awake { 61 } else { 0 }, "{idle}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_operator_says_what_counts_where_the_image_does_not() {
    let daemon = Daemon::start_with(|settings| {
        settings.idle_signals = "cpu".parse().unwrap();
    })
    .await;
    daemon.create_image(json!({})).await;
    let id = daemon.run(auto()).await;
    daemon.world.guest(&id).unwrap().compute(true);
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert_eq!(daemon.get(&id).await.state, MicrovmState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_signal_that_is_none_is_refused_with_the_image() {
    let daemon = Daemon::start().await;
    let variables = json!({ "environmentVariables": { "COLIBRI_IDLE_SIGNAL": "traffic,disk" } });
    let refused = daemon
        .control
        .create_microvm_image(Daemon::image_request(variables))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("'disk'"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_may_be_longer_where_the_operator_says_so_and_includes_sleep() {
    let daemon = Daemon::start_with(|settings| settings.lifetime.maximum_seconds = 200_000).await;
    daemon.create_image(json!({})).await;
    let id = daemon
        .run(json!({ "maximumDurationInSeconds": 90_000 }))
        .await;
    daemon.suspended(&id).await;
    let begun = Instant::now();
    assert_eq!(
        daemon.terminated(&id).await,
        "MicroVM exceeded maximum lifetime."
    );
    let lived = begun.elapsed().as_secs();
    assert!((89_990..=90_030).contains(&lived), "{lived}");
}

#[tokio::test(start_paused = true)]
async fn a_suspend_hook_that_fails_ends_the_microvm_or_keeps_it_as_the_operator_says() {
    for (choice, survives) in [
        (SuspendHookFailure::Terminate, false),
        (SuspendHookFailure::KeepRunning, true),
    ] {
        let daemon = Daemon::start_with(|settings| settings.suspend_hook_failure = choice).await;
        daemon.create_image(all_hooks()).await;
        daemon.world.plan_hook("suspend", HookPlan::Status(500));
        let id = daemon.run(auto()).await;
        daemon.suspend(&id).await.unwrap();
        if survives {
            daemon.control.ready(&id).await.unwrap();
            let reason = daemon.get(&id).await.state_reason.unwrap();
            assert!(reason.starts_with("Suspend lifecycle hook returned HTTP status 500."));
            daemon.world.plan_hook("suspend", HookPlan::Status(200));
            daemon.suspended(&id).await;
        } else {
            daemon.terminated(&id).await;
        }
    }
}

const LIST: &str = "/latest/meta-data/iam/security-credentials/";

#[tokio::test(start_paused = true)]
async fn a_guest_is_given_its_own_roles_credentials_and_new_ones_before_they_end() {
    let daemon = Daemon::with_image().await;
    let role = "arn:aws:iam::000000000000:role/worker";
    let id = daemon.run(json!({ "executionRoleArn": role })).await;
    let other = daemon.run(json!({})).await;
    assert_eq!(ask(&daemon, &other, "GET", LIST, "").await.0, 404);
    let listed = ask(&daemon, &id, "GET", LIST, "").await;
    assert_eq!(listed, (200, "execution_role".to_owned()));
    let path = format!("{LIST}execution_role");
    assert_eq!(ask(&daemon, &other, "GET", &path, "").await.0, 404);
    let key = async || {
        let (status, body) = ask(&daemon, &id, "GET", &path, "").await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<serde_json::Value>(&body).unwrap()["AccessKeyId"].clone()
    };
    assert_eq!(key().await, "ASIA1");
    // A suspension does not end them.
    daemon.suspended(&id).await;
    tokio::time::sleep(Duration::from_secs(30 * 60)).await;
    daemon.resume(&id).await.unwrap();
    daemon.reaches(&id, MicrovmState::Running).await;
    assert_eq!(key().await, "ASIA1");
    tokio::time::sleep(Duration::from_secs(6 * 60)).await;
    assert_eq!(key().await, "ASIA2");
    let made = daemon.roles.made.lock().unwrap();
    assert!(
        made.iter()
            .all(|passed| passed.microvm_id == id && passed.role_arn == role)
    );
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_asked_for_again_at_once() {
    let daemon = Daemon::with_image().await;
    let role = "arn:aws:iam::000000000000:role/refused";
    let id = daemon.run(json!({ "executionRoleArn": role })).await;
    let path = format!("{LIST}execution_role");
    let ask_often = async || {
        for _ in 0..5 {
            let (status, body) = ask(&daemon, &id, "GET", &path, "").await;
            assert!(status == 200 && body.contains("InternalError"), "{body}");
        }
        daemon.roles.made.lock().unwrap().len()
    };
    assert_eq!(ask_often().await, 1);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(ask_often().await, 2);
}

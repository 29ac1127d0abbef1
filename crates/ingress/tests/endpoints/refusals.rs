//! Who is refused, and how; and that a refusal never touches the MicroVM.

use std::num::NonZeroUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, SystemTime};

use colibri_ingress::{AllowedPorts, Limits, Quota, Unready};
use http::StatusCode;

use crate::stage::{Answer, Stage, empty, get, get2, mirror, ports, soon};

fn assert_denied(answer: &Answer, status: u16, code: &str, body: &str) {
    assert_eq!(answer.status.as_u16(), status, "{answer:?}");
    assert_eq!(answer.header("x-aws-proxy-error"), code, "{answer:?}");
    assert_eq!(answer.body, body, "{answer:?}");
    assert_eq!(answer.header("cache-control"), "private, no-store");
    assert_eq!(answer.header("x-amzn-requestid").len(), 36);
}

const UNAUTHENTICATED: &str = "Request missing authentication";

#[tokio::test]
async fn missing_expired_foreign_and_forged_tokens_are_refused_alike() {
    let stage = Stage::new().await;
    stage.one.serve(8080, mirror);
    let old = SystemTime::now() - Duration::from_secs(61);
    let expired = stage
        .tokens
        .mint(
            &stage.one.id,
            &AllowedPorts::All,
            Duration::from_secs(60),
            old,
        )
        .unwrap();
    let mut forged = stage.token();
    forged.replace_range(200..201, if &forged[200..201] == "A" { "B" } else { "A" });
    let other_vm = stage.token_for(&stage.two, &AllowedPorts::All);
    for token in [
        None,
        Some(""),
        Some("x"),
        Some(&*expired),
        Some(&*forged),
        Some(&*other_vm),
    ] {
        let mut request = get("/");
        if let Some(token) = token {
            request = request.header("x-aws-proxy-auth", token);
        }
        let answer = stage.send(request.body(empty()).unwrap()).await;
        assert_denied(&answer, 403, "UNAUTHORIZED", UNAUTHENTICATED);
    }
    assert!(stage.one.untouched() && stage.two.untouched());
    assert_eq!(stage.counters.values().refused, 6);
}

#[tokio::test]
async fn a_host_that_nothing_is_behind_is_refused_like_a_wrong_token() {
    let stage = Stage::new().await;
    for host in ["nobody.microvm.localhost", "label-one.x.microvm.localhost"] {
        let mut sender = stage.http1("localhost").await;
        let request = get("/").header("x-aws-proxy-auth", stage.token());
        let mut request = request.body(empty()).unwrap();
        request.headers_mut().insert("host", host.parse().unwrap());
        let answer = Answer::of(sender.send_request(request).await.unwrap()).await;
        assert_denied(&answer, 403, "UNAUTHORIZED", UNAUTHENTICATED);
    }
    assert!(stage.one.untouched());
}

#[tokio::test]
async fn a_connection_made_for_another_microvm_is_misdirected() {
    let stage = Stage::new().await;
    let mut sender = stage.http1("label-two.microvm.localhost").await;
    let request = get("/")
        .header("x-aws-proxy-auth", stage.token())
        .body(empty())
        .unwrap();
    let answer = Answer::of(sender.send_request(request).await.unwrap()).await;
    assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST);
    assert!(stage.one.untouched() && stage.two.untouched());
}

#[tokio::test]
async fn a_port_must_be_one_and_be_allowed() {
    let stage = Stage::new().await;
    stage.one.serve(8080, mirror);
    stage.one.serve(9000, mirror);
    let token = stage.token_for(&stage.one, &ports(&[9000]));
    for port in ["0", "65536", "http", "+9000", ""] {
        let request = get("/")
            .header("x-aws-proxy-auth", &token)
            .header("x-aws-proxy-port", port);
        let answer = stage.send(request.body(empty()).unwrap()).await;
        assert_denied(
            &answer,
            400,
            "BAD_REQUEST",
            "A port is a number from 1 to 65535",
        );
    }
    for port in [None, Some("8080"), Some("9001")] {
        let mut request = get("/").header("x-aws-proxy-auth", &token);
        if let Some(port) = port {
            request = request.header("x-aws-proxy-port", port);
        }
        let answer = stage.send(request.body(empty()).unwrap()).await;
        assert_denied(&answer, 403, "UNAUTHORIZED", "Access to port denied");
    }
    assert!(stage.one.untouched());
    let request = get("/")
        .header("x-aws-proxy-auth", &token)
        .header("x-aws-proxy-port", "9000");
    assert_eq!(
        stage.send(request.body(empty()).unwrap()).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn every_request_of_a_connection_is_checked() {
    let stage = Stage::new().await;
    stage.one.serve(8080, mirror);
    let mut sender = stage.http2("label-one.microvm.localhost").await;
    let good = get2("/")
        .header("x-aws-proxy-auth", stage.token())
        .body(empty())
        .unwrap();
    let bad = get2("/").body(empty()).unwrap();
    assert_eq!(
        Answer::of(sender.send_request(good).await.unwrap())
            .await
            .status,
        200
    );
    let answer = Answer::of(sender.send_request(bad).await.unwrap()).await;
    assert_denied(&answer, 403, "UNAUTHORIZED", UNAUTHENTICATED);
}

#[tokio::test]
async fn a_shell_token_opens_no_port() {
    let stage = Stage::new().await;
    stage.one.serve(8080, mirror);
    let token = stage
        .tokens
        .mint_shell(&stage.one.id, Duration::from_secs(60), SystemTime::now())
        .unwrap();
    let request = get("/shell")
        .header("x-aws-proxy-auth", token)
        .body(empty())
        .unwrap();
    let answer = stage.send(request).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(stage.one.untouched());
}

#[tokio::test]
async fn a_machine_that_is_not_ready_answers_by_its_state() {
    let stage = Stage::new().await;
    for (unready, status, code, empty_body) in [
        (Unready::Suspended, 502, "MICROVM_CONNECT_FAILED", true),
        (Unready::Ended, 502, "MICROVM_CONNECT_FAILED", false),
        (
            Unready::Failed("boom".into()),
            502,
            "MICROVM_CONNECT_FAILED",
            false,
        ),
        (Unready::TooMany, 429, "TOO_MANY_REQUESTS", false),
        (Unready::Closed, 403, "UNAUTHORIZED", false),
    ] {
        *stage.one.unready.lock().unwrap() = Some(unready);
        let request = get("/")
            .header("x-aws-proxy-auth", stage.token())
            .body(empty())
            .unwrap();
        let answer = stage.send(request).await;
        let body = answer.body.clone();
        assert_denied(&answer, status, code, &body);
        assert_eq!(body.is_empty(), empty_body);
        assert!(!body.contains("boom"));
        assert_eq!(
            answer.header("retry-after"),
            if status == 429 { "1" } else { "" }
        );
    }
}

#[tokio::test]
async fn a_port_that_nothing_listens_on_is_a_bad_gateway() {
    let stage = Stage::new().await;
    let request = get("/")
        .header("x-aws-proxy-auth", stage.token())
        .body(empty())
        .unwrap();
    let answer = stage.send(request).await;
    let body = answer.body.clone();
    assert_denied(&answer, 502, "APP_CONNECT_FAILED", &body);
}

#[tokio::test]
async fn an_application_that_hangs_up_or_speaks_another_protocol_is_a_bad_gateway() {
    let stage = Stage::new().await;
    stage.one.listen(1000, drop);
    stage.one.listen(1001, |mut stream| {
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut first = [0; 16];
            stream.read_exact(&mut first).await.unwrap();
            stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
                .await
                .unwrap();
        });
    });
    stage.one.listen(1002, |mut stream| {
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut first = [0; 16];
            stream.read_exact(&mut first).await.unwrap();
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await;
        });
    });
    for (port, force) in [
        ("1000", "false"),
        ("1000", "true"),
        ("1001", "true"),
        ("1002", "false"),
    ] {
        let request = get("/")
            .header("x-aws-proxy-auth", stage.token())
            .header("x-aws-proxy-port", port)
            .header("x-aws-proxy-force-h2", force);
        let answer = stage.send(request.body(empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{port}");
        assert_eq!(
            answer.header("x-aws-proxy-error"),
            "APP_CONNECT_FAILED",
            "{port}"
        );
    }
}

#[tokio::test]
async fn more_requests_than_a_microvm_may_have_are_refused_and_the_others_unharmed() {
    let limits = Limits {
        max_requests_per_microvm: 1,
        ..Limits::default()
    };
    let stage = Stage::with(limits).await;
    stage.one.serve(8080, mirror);
    stage.two.serve(8080, mirror);
    stage.one.suspend();
    let mut sender = stage.http1("label-one.microvm.localhost").await;
    let request = get("/")
        .header("x-aws-proxy-auth", stage.token())
        .body(empty())
        .unwrap();
    let held = tokio::spawn(sender.send_request(request));
    soon(
        stage
            .one
            .waiting
            .subscribe()
            .wait_for(|&waiting| waiting == 1),
    )
    .await
    .unwrap();
    let request = get("/")
        .header("x-aws-proxy-auth", stage.token())
        .body(empty())
        .unwrap();
    assert_eq!(
        stage.send(request).await.status,
        StatusCode::TOO_MANY_REQUESTS
    );
    let mut request = get("/")
        .header(
            "x-aws-proxy-auth",
            stage.token_for(&stage.two, &AllowedPorts::All),
        )
        .body(empty())
        .unwrap();
    request
        .headers_mut()
        .insert("host", "label-two.microvm.localhost".parse().unwrap());
    assert_eq!(stage.send(request).await.status, StatusCode::OK);
    stage.one.wake();
    assert_eq!(soon(held).await.unwrap().unwrap().status(), StatusCode::OK);
}

fn with_token(stage: &Stage) -> http::Request<crate::stage::Body> {
    let request = get("/").header("x-aws-proxy-auth", stage.token());
    request.body(empty()).unwrap()
}

#[tokio::test]
async fn a_size_bounds_the_connections_that_are_open_to_a_microvm() {
    let stage = Stage::new().await;
    stage.one.serve(8080, mirror);
    stage.two.serve(8080, mirror);
    stage.one.limits.lock().unwrap().connections = NonZeroUsize::new(2);
    let name = "label-one.microvm.localhost";
    let mut first = stage.http1(name).await;
    let second = stage.http2(name).await;
    let ask = async |sender: &mut hyper::client::conn::http1::SendRequest<_>| {
        let answer = soon(sender.send_request(with_token(&stage))).await.unwrap();
        Answer::of(answer).await
    };
    for _ in 0..3 {
        assert_eq!(ask(&mut first).await.status, StatusCode::OK);
        let request = get2("/").header("x-aws-proxy-auth", stage.token());
        let mut sender = second.clone();
        let answer = sender.send_request(request.body(empty()).unwrap());
        assert_eq!(soon(answer).await.unwrap().status(), StatusCode::OK);
    }
    let touched = stage.one.connects.load(SeqCst);
    let mut third = stage.http1(name).await;
    let refused = ask(&mut third).await;
    let body = "Too many connections are open to the MicroVM";
    assert_denied(&refused, 429, "TOO_MANY_REQUESTS", body);
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(stage.one.connects.load(SeqCst), touched);
    let token = stage.token_for(&stage.two, &AllowedPorts::All);
    let other = http::Request::builder()
        .uri("/")
        .header("host", "label-two.microvm.localhost:8443")
        .header("x-aws-proxy-auth", token);
    let answer = stage.send(other.body(empty()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::OK);
    // The place is free when the server has seen the end of the connection.
    drop(first);
    let freed = async {
        while ask(&mut third).await.status != StatusCode::OK {
            tokio::task::yield_now().await;
        }
    };
    soon(freed).await;
}

#[tokio::test]
async fn a_size_bounds_the_requests_that_a_microvm_gets_in_a_time() {
    let stage = Stage::new().await;
    stage.one.serve(8080, mirror);
    let two = std::num::NonZeroU32::new(2).unwrap();
    stage.one.limits.lock().unwrap().requests = Some(Quota::per_hour(two));
    for _ in 0..2 {
        let answer = stage.send(with_token(&stage)).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    // One that is refused wakes nobody.
    stage.one.suspend();
    let readied = stage.one.readied.load(SeqCst);
    let refused = stage.send(with_token(&stage)).await;
    let body = "Too many requests a second for the MicroVM";
    assert_denied(&refused, 429, "TOO_MANY_REQUESTS", body);
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(stage.one.readied.load(SeqCst), readied);
}

#[tokio::test]
async fn malformed_requests_are_refused_before_anything_else() {
    let stage = Stage::new().await;
    let token = stage.token();
    let twice = |name: &'static str, value: &str| get("/").header(name, value).header(name, value);
    for request in [
        twice("x-aws-proxy-auth", &token),
        twice("x-aws-proxy-port", "8080").header("x-aws-proxy-auth", &token),
        twice("host", "label-one.microvm.localhost").header("x-aws-proxy-auth", &token),
        get("/")
            .method("CONNECT")
            .uri("a.example:443")
            .header("x-aws-proxy-auth", &token),
        get("/")
            .header("x-aws-proxy-auth", &token)
            .header("sec-websocket-key", "AAAA"),
        get("/")
            .header("x-aws-proxy-auth", &token)
            .header("sec-websocket-protocol", "chat"),
    ] {
        let mut sender = stage.http1("label-one.microvm.localhost").await;
        let response = sender
            .send_request(request.body(empty()).unwrap())
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    }
    assert!(stage.one.untouched());
}

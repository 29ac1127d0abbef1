//! Connections: TLS, bounds on time and number, the end of the daemon.

use std::time::Duration;

use colibri_ingress::Limits;
use http::{Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stage::{Answer, Stage, empty, full, get, get2, mirror, soon};

/// Reads until the other side has closed, however it did.
async fn closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    let _ = soon(stream.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn the_certificate_is_good_for_every_name_and_address() {
    let stage = Stage::new().await;
    for name in [
        "anything.microvm.localhost",
        "microvm.localhost",
        "localhost",
        "127.0.0.1",
        "::1",
    ] {
        stage.tls(name, &["h2"]).await;
    }
}

#[tokio::test]
async fn a_client_without_alpn_is_served_http1() {
    let stage = Stage::new().await;
    let mut stream = stage.tls("localhost", &[]).await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    let _ = soon(stream.read_to_string(&mut answer)).await;
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
}

#[tokio::test]
async fn who_says_nothing_is_hung_up_on() {
    let short = Duration::from_millis(100);
    let limits = Limits {
        handshake_timeout: short,
        header_timeout: short,
        idle_timeout: short,
        ..Limits::default()
    };
    let stage = Stage::with(limits).await;
    let mut silent = TcpStream::connect(stage.addresses[0]).await.unwrap();
    closed(&mut silent).await;
    for alpn in [&["http/1.1"][..], &["h2"], &[]] {
        let mut silent = stage.tls("localhost", alpn).await;
        closed(&mut silent).await;
    }
    let mut slow = stage.tls("localhost", &["http/1.1"]).await;
    slow.write_all(b"GET / HTTP/1.1\r\nhost: loc")
        .await
        .unwrap();
    closed(&mut slow).await;
}

#[tokio::test]
async fn a_request_that_waits_is_not_idle() {
    let short = Duration::from_millis(100);
    let limits = Limits {
        header_timeout: short,
        idle_timeout: short,
        ..Limits::default()
    };
    let stage = Stage::with(limits).await;
    stage.one.serve(8080, |_| async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Response::new(full("late"))
    });
    let mut sender = stage.http2("label-one.microvm.localhost").await;
    let request = get2("/")
        .header("x-aws-proxy-auth", stage.token())
        .body(empty())
        .unwrap();
    assert_eq!(
        Answer::of(soon(sender.send_request(request)).await.unwrap())
            .await
            .body,
        "late"
    );
    let request = get("/")
        .header("x-aws-proxy-auth", stage.token())
        .body(empty())
        .unwrap();
    assert_eq!(stage.send(request).await.body, "late");
}

#[tokio::test]
async fn too_large_a_head_is_refused() {
    let stage = Stage::new().await;
    let large = "x".repeat(70 * 1024);
    let request = get("/").header("x-large", &large).body(empty()).unwrap();
    let answer = stage.send(request).await;
    assert_eq!(answer.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let mut sender = stage.http2("localhost").await;
    let request = get2("/").header("x-large", &large).body(empty()).unwrap();
    let refused = soon(sender.send_request(request)).await;
    assert!(refused.is_err() || refused.unwrap().status() == 431);
}

#[tokio::test]
async fn connections_above_the_limit_wait_for_one_to_end() {
    let stage = Stage::with(Limits {
        max_connections: 1,
        ..Limits::default()
    })
    .await;
    let first = stage.tls("localhost", &["http/1.1"]).await;
    let mut second = std::pin::pin!(stage.tls("localhost", &["http/1.1"]));
    let early = tokio::time::timeout(Duration::from_millis(300), second.as_mut()).await;
    assert!(early.is_err());
    drop(first);
    soon(second).await;
}

#[tokio::test]
async fn shutdown_lets_requests_finish() {
    let stage = Stage::new().await;
    stage.one.serve(8080, mirror);
    stage.one.suspend();
    let mut sender = stage.http2("label-one.microvm.localhost").await;
    let mut idle = stage.tls("localhost", &["http/1.1"]).await;
    let request = get2("/")
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
    stage.shutdown.cancel();
    closed(&mut idle).await;
    stage.one.wake();
    assert_eq!(soon(held).await.unwrap().unwrap().status(), StatusCode::OK);
    soon(stage.served).await.unwrap();
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever() {
    let limits = Limits {
        drain_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let stage = Stage::with(limits).await;
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
    stage.shutdown.cancel();
    soon(stage.served).await.unwrap();
    assert!(soon(held).await.unwrap().is_err());
}

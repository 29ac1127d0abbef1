//! A request never fails because a machine was asleep.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use http::StatusCode;

use crate::stage::{Answer, Stage, empty, full, get, get2, mirror, soon};

#[tokio::test]
async fn a_request_is_held_while_the_machine_wakes() {
    let stage = Stage::new().await;
    stage.one.serve(8080, mirror);
    stage.one.suspend();
    let mut sender = stage.http1("label-one.microvm.localhost").await;
    let request = get("/")
        .method("POST")
        .header("x-aws-proxy-auth", stage.token());
    let held = tokio::spawn(sender.send_request(request.body(full("kept")).unwrap()));
    soon(
        stage
            .one
            .waiting
            .subscribe()
            .wait_for(|&waiting| waiting == 1),
    )
    .await
    .unwrap();
    assert_eq!(stage.one.active(), 0);
    stage.one.wake();
    let answer = Answer::of(soon(held).await.unwrap().unwrap()).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.body.ends_with("\n\nkept"));
    assert_eq!(stage.one.readied.load(SeqCst), 1);
    assert!(stage.one.active() >= 2);
}

#[tokio::test]
async fn a_client_that_leaves_gives_up_its_place() {
    let stage = Stage::new().await;
    stage.one.suspend();
    for http2 in [false, true] {
        let mut waiting = stage.one.waiting.subscribe();
        let held = if http2 {
            let mut sender = stage.http2("label-one.microvm.localhost").await;
            let request = get2("/")
                .header("x-aws-proxy-auth", stage.token())
                .body(empty())
                .unwrap();
            tokio::spawn(async move { drop(sender.send_request(request).await) })
        } else {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut stream = stage
                .tls("label-one.microvm.localhost", &["http/1.1"])
                .await;
            let token = stage.token();
            tokio::spawn(async move {
                let request = format!(
                    "GET / HTTP/1.1\r\nhost: label-one.microvm.localhost\r\nx-aws-proxy-auth: {token}\r\n\r\n"
                );
                stream.write_all(request.as_bytes()).await.unwrap();
                drop(stream.read_u8().await);
            })
        };
        soon(waiting.wait_for(|&waiting| waiting == 1))
            .await
            .unwrap();
        held.abort();
        soon(waiting.wait_for(|&waiting| waiting == 0))
            .await
            .unwrap();
    }
    assert_eq!(stage.one.connects.load(SeqCst), 0);
}

#[tokio::test]
async fn a_machine_that_fell_asleep_before_the_connection_is_woken_again() {
    let stage = Stage::new().await;
    stage.one.serve(8080, mirror);
    stage.one.unreachable.store(2, SeqCst);
    let request = get("/")
        .method("POST")
        .header("x-aws-proxy-auth", stage.token());
    let answer = stage.send(request.body(full("kept")).unwrap()).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.body.ends_with("\n\nkept"));
    assert_eq!(stage.one.readied.load(SeqCst), 3);
}

#[tokio::test]
async fn a_machine_that_cannot_be_reached_is_given_up() {
    let stage = Stage::new().await;
    stage.one.serve(8080, mirror);
    stage.one.unreachable.store(usize::MAX, SeqCst);
    let request = get("/")
        .header("x-aws-proxy-auth", stage.token())
        .body(empty())
        .unwrap();
    let answer = stage.send(request).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(answer.header("x-aws-proxy-error"), "MICROVM_CONNECT_FAILED");
    assert_eq!(stage.one.readied.load(SeqCst), 3);
}

#[tokio::test]
async fn a_request_that_the_application_may_have_seen_is_not_repeated() {
    let stage = Stage::new().await;
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    stage.one.listen(8080, move |mut stream| {
        let count = count.clone();
        tokio::spawn(async move {
            use tokio::io::AsyncReadExt;
            stream.read_u8().await.unwrap();
            count.fetch_add(1, SeqCst);
        });
    });
    let request = get("/")
        .header("x-aws-proxy-auth", stage.token())
        .body(empty())
        .unwrap();
    let answer = stage.send(request).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(seen.load(SeqCst), 1);
}

#[tokio::test]
async fn a_machine_that_stops_before_it_answers_is_a_bad_gateway() {
    let stage = Stage::new().await;
    let (asked, mut is_asked) = tokio::sync::watch::channel(0);
    let asked = Arc::new(asked);
    stage.one.serve(8080, move |_| {
        asked.send_modify(|count| *count += 1);
        std::future::pending()
    });
    for (index, force) in ["false", "true"].into_iter().enumerate() {
        stage.one.wake();
        let mut sender = stage.http1("label-one.microvm.localhost").await;
        let request = get("/")
            .header("x-aws-proxy-auth", stage.token())
            .header("x-aws-proxy-force-h2", force)
            .body(empty())
            .unwrap();
        let answer = tokio::spawn(sender.send_request(request));
        soon(is_asked.wait_for(|&asked| asked == index + 1))
            .await
            .unwrap();
        stage.one.suspend();
        let answer = Answer::of(soon(answer).await.unwrap().unwrap()).await;
        assert_eq!(answer.header("x-aws-proxy-error"), "MICROVM_CONNECT_FAILED");
    }
}

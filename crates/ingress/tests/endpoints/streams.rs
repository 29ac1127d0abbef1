//! Bodies pass as they come, both ways at once; they are what keeps a MicroVM awake, and nothing else.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt;
use futures::channel::mpsc;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};

use crate::stage::{Answer, Body, Stage, empty, full, get, get2, soon};

type Feed = mpsc::Sender<Result<Frame<Bytes>, io::Error>>;

/// A body that the test feeds.
fn fed() -> (Feed, Body) {
    let (sender, receiver) = mpsc::channel(0);
    (sender, StreamBody::new(receiver).boxed())
}

fn data(bytes: impl Into<Bytes>) -> Result<Frame<Bytes>, io::Error> {
    Ok(Frame::data(bytes.into()))
}

async fn next(body: &mut Incoming) -> Bytes {
    soon(body.frame())
        .await
        .unwrap()
        .unwrap()
        .into_data()
        .unwrap()
}

/// Answers at once, then every chunk back as it comes, then its trailers and one of its own.
async fn echo(request: Request<Incoming>) -> Response<Body> {
    let (mut feed, body) = fed();
    tokio::spawn(async move {
        let mut incoming = request.into_body();
        let mut trailers = HeaderMap::new();
        while let Some(Ok(frame)) = incoming.frame().await {
            match frame.into_data() {
                Ok(data) => {
                    if feed.send(Ok(Frame::data(data))).await.is_err() {
                        return;
                    }
                }
                Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
            }
        }
        trailers.insert("grpc-status", "0".parse().unwrap());
        let _ = feed.send(Ok(Frame::trailers(trailers))).await;
    });
    Response::builder()
        .header("trailer", "grpc-status")
        .body(body)
        .unwrap()
}

#[tokio::test]
async fn both_directions_stream_at_once_through_http2_with_trailers() {
    let stage = Stage::new().await;
    stage.one.serve(8080, echo);
    // Asked for, and implied by gRPC.
    for (name, value) in [
        ("x-aws-proxy-force-h2", "true"),
        ("content-type", "application/grpc"),
    ] {
        let mut sender = stage.http2("label-one.microvm.localhost").await;
        let (mut feed, body) = fed();
        let request = get2("/service/Method")
            .method("POST")
            .header("x-aws-proxy-auth", stage.token())
            .header("te", "trailers")
            .header(name, value)
            .body(body)
            .unwrap();
        let response = soon(sender.send_request(request)).await.unwrap();
        let mut answer = response.into_body();
        for message in ["one", "two", "three"] {
            feed.send(data(message)).await.unwrap();
            assert_eq!(next(&mut answer).await, message);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "3".parse().unwrap());
        feed.send(Ok(Frame::trailers(trailers))).await.unwrap();
        drop(feed);
        let rest = soon(answer.collect()).await.unwrap();
        let trailers = rest.trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        assert_eq!(trailers["x-sum"], "3");
    }
}

#[tokio::test]
async fn both_directions_stream_at_once_through_http1() {
    let stage = Stage::new().await;
    stage.one.serve(8080, echo);
    let mut sender = stage.http1("label-one.microvm.localhost").await;
    let (mut feed, body) = fed();
    let request = get("/")
        .method("POST")
        .header("x-aws-proxy-auth", stage.token());
    let response = soon(sender.send_request(request.body(body).unwrap()))
        .await
        .unwrap();
    let mut answer = response.into_body();
    for message in ["one", "two", "three"] {
        feed.send(data(message)).await.unwrap();
        assert_eq!(next(&mut answer).await, message);
    }
}

#[tokio::test]
async fn an_error_before_the_body_was_read_reaches_the_client() {
    let stage = Stage::new().await;
    stage.one.serve(8080, |_| async {
        let response = Response::builder().status(200).header("grpc-status", "16");
        response.body(empty()).unwrap()
    });
    let mut sender = stage.http2("label-one.microvm.localhost").await;
    let (_feed, body) = fed();
    let request = get2("/service/Method")
        .method("POST")
        .header("x-aws-proxy-auth", stage.token())
        .header("content-type", "application/grpc")
        .body(body)
        .unwrap();
    let response = soon(sender.send_request(request)).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "16");
    assert!(
        soon(response.into_body().collect())
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
}

#[tokio::test]
async fn large_bodies_pass_whole_both_ways() {
    const SIZE: usize = 8 * 1024 * 1024;
    let stage = Stage::new().await;
    stage
        .one
        .serve(8080, |request: Request<Incoming>| async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Response::new(full(body))
        });
    let sent: Bytes = (0..SIZE)
        .map(|index| ((index * 31) >> 7) as u8)
        .collect::<Vec<_>>()
        .into();
    for (http2, force) in [
        (false, "false"),
        (true, "false"),
        (false, "true"),
        (true, "true"),
    ] {
        let request = if http2 { get2("/") } else { get("/") }
            .method("PUT")
            .header("x-aws-proxy-auth", stage.token())
            .header("x-aws-proxy-force-h2", force)
            .body(full(sent.clone()))
            .unwrap();
        let response = if http2 {
            soon(
                stage
                    .http2("label-one.microvm.localhost")
                    .await
                    .send_request(request),
            )
            .await
        } else {
            soon(
                stage
                    .http1("label-one.microvm.localhost")
                    .await
                    .send_request(request),
            )
            .await
        };
        let body = soon(response.unwrap().into_body().collect())
            .await
            .unwrap()
            .to_bytes();
        assert!(body == sent, "{http2} {force}");
    }
    assert!(stage.counters.values().received >= 4 * SIZE as u64);
}

#[tokio::test]
async fn an_application_that_does_not_read_stops_the_client() {
    const CHUNK: usize = 64 * 1024;
    // Less than this is held between client and application: windows, socket and pipe buffers.
    const BOUND: usize = 32 * 1024 * 1024;
    let stage = Stage::new().await;
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let opened = gate.clone();
    stage.one.serve(8080, move |request: Request<Incoming>| {
        let gate = opened.clone();
        async move {
            drop(gate.acquire().await.unwrap());
            let length = request
                .into_body()
                .collect()
                .await
                .unwrap()
                .to_bytes()
                .len();
            Response::new(full(length.to_string()))
        }
    });
    for http2 in [false, true] {
        let sent = Arc::new(AtomicUsize::new(0));
        let (mut feed, body) = fed();
        let builder = if http2 { get2("/") } else { get("/") };
        let request = builder
            .method("PUT")
            .header("x-aws-proxy-auth", stage.token())
            .body(body)
            .unwrap();
        let answer = if http2 {
            let mut sender = stage.http2("label-one.microvm.localhost").await;
            tokio::spawn(async move { sender.send_request(request).await })
        } else {
            let mut sender = stage.http1("label-one.microvm.localhost").await;
            tokio::spawn(async move { sender.send_request(request).await })
        };
        // Feed until a chunk is not taken for a while.
        let stalled = async {
            loop {
                let chunk = data(vec![7; CHUNK]);
                if tokio::time::timeout(Duration::from_secs(1), feed.send(chunk))
                    .await
                    .is_err()
                {
                    return;
                }
                assert!(
                    sent.fetch_add(CHUNK, SeqCst) < BOUND,
                    "the proxy buffers without bound"
                );
            }
        };
        soon(stalled).await;
        gate.add_permits(1);
        drop(feed);
        let answer = Answer::of(soon(answer).await.unwrap().unwrap()).await;
        assert!(answer.body.parse::<usize>().unwrap() >= sent.load(SeqCst));
        gate.forget_permits(1);
    }
}

#[tokio::test]
async fn a_silent_stream_is_no_activity_and_each_chunk_is() {
    let stage = Stage::new().await;
    let (feeds, mut fed_streams) = tokio::sync::mpsc::unbounded_channel();
    stage.one.serve(8080, move |_| {
        let (feed, body) = fed();
        feeds.send(feed).unwrap();
        async { Response::new(body) }
    });
    let mut sender = stage.http2("label-one.microvm.localhost").await;
    let request = get2("/")
        .header("x-aws-proxy-auth", stage.token())
        .body(empty())
        .unwrap();
    let mut answer = soon(sender.send_request(request))
        .await
        .unwrap()
        .into_body();
    let mut feed = soon(fed_streams.recv()).await.unwrap();
    let opened = stage.one.active();
    let silent = tokio::time::timeout(Duration::from_millis(300), answer.frame()).await;
    assert!(silent.is_err());
    assert_eq!(stage.one.active(), opened);
    for count in 1..=3 {
        feed.send(data("event")).await.unwrap();
        assert_eq!(next(&mut answer).await, "event");
        assert_eq!(stage.one.active(), opened + count);
    }
}

#[tokio::test]
async fn a_machine_that_stops_cuts_its_streams() {
    let stage = Stage::new().await;
    stage.one.serve(8080, echo);
    for (http2, force) in [
        (false, "false"),
        (true, "false"),
        (false, "true"),
        (true, "true"),
    ] {
        stage.one.wake();
        let (mut feed, body) = fed();
        let request = if http2 { get2("/") } else { get("/") }
            .method("POST")
            .header("x-aws-proxy-auth", stage.token())
            .header("x-aws-proxy-force-h2", force)
            .body(body)
            .unwrap();
        let response = if http2 {
            let mut sender = stage.http2("label-one.microvm.localhost").await;
            soon(sender.send_request(request)).await
        } else {
            let mut sender = stage.http1("label-one.microvm.localhost").await;
            soon(sender.send_request(request)).await
        };
        let mut answer = response.unwrap().into_body();
        feed.send(data("before")).await.unwrap();
        assert_eq!(next(&mut answer).await, "before");
        stage.one.suspend();
        // Cut, not ended: the client can tell that something is missing.
        let end = soon(answer.frame()).await;
        assert!(matches!(end, Some(Err(_))), "{http2} {force}: {end:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_ends_the_connection_to_the_application() {
    let stage = Stage::new().await;
    let (gone, mut is_gone) = tokio::sync::mpsc::unbounded_channel();
    stage.one.serve(8080, move |_| {
        let (mut feed, body) = fed();
        let gone = gone.clone();
        tokio::spawn(async move {
            while feed.send(data("tick")).await.is_ok() {
                tokio::task::yield_now().await;
            }
            gone.send(()).unwrap();
        });
        async { Response::new(body) }
    });
    for force in ["false", "true"] {
        let mut sender = stage.http2("label-one.microvm.localhost").await;
        let request = get2("/")
            .header("x-aws-proxy-auth", stage.token())
            .header("x-aws-proxy-force-h2", force)
            .body(empty())
            .unwrap();
        let mut answer = soon(sender.send_request(request))
            .await
            .unwrap()
            .into_body();
        next(&mut answer).await;
        drop((answer, sender));
        soon(is_gone.recv()).await.unwrap();
    }
}

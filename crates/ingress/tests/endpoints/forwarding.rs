//! What of a request an application sees, and what of its answer a client.

use std::sync::{Arc, Mutex};

use colibri_ingress::AllowedPorts;
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::stage::{Answer, Body, Stage, empty, full, get, get2, mirror, ports, soon};

/// Sends bytes as they are, and reads to the end of the connection.
async fn raw(stage: &Stage, request: String) -> String {
    let mut stream = stage
        .tls("label-one.microvm.localhost", &["http/1.1"])
        .await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A close without a TLS goodbye is a close all the same.
    let _ = soon(stream.read_to_end(&mut answer)).await;
    String::from_utf8(answer).unwrap()
}

/// Listens on 8080 and answers with fixed bytes; keeps the head of what it was sent.
fn recorder(stage: &Stage, answer: &'static str) -> Arc<Mutex<String>> {
    let seen = Arc::new(Mutex::new(String::new()));
    let record = seen.clone();
    stage.one.listen(8080, move |mut stream| {
        let record = record.clone();
        tokio::spawn(async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            *record.lock().unwrap() = String::from_utf8(head).unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
    });
    seen
}

#[tokio::test]
async fn bytes_case_and_order_of_header_fields_pass_unchanged() {
    let stage = Stage::new().await;
    let seen = recorder(
        &stage,
        "HTTP/1.1 203 Fine By Me\r\nX-Answer: Yes\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nx-aws-proxy-error: forged\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
    );
    let answer = raw(
        &stage,
        format!(
            "GET /a%2Fb/../c?q=%20+&r=[] HTTP/1.1\r\nAccept: */*\r\nHost: Label-One.microvm.localhost:8443\r\nX-AWS-Proxy-Auth: {}\r\nX-CamelCase:  a \"b\"; c=\u{e9} \r\nX-aws-proxy-whatever: 1\r\ntraceparent: 00-1-2-01\r\nConnection: close\r\n\r\n",
            stage.token()
        ),
    )
    .await;
    let seen = seen.lock().unwrap().clone();
    let (head, id) = seen.trim_end().rsplit_once("\r\n").unwrap();
    assert_eq!(
        head,
        "GET /a%2Fb/../c?q=%20+&r=[] HTTP/1.1\r\nAccept: */*\r\nHost: Label-One.microvm.localhost:8443\r\nX-CamelCase: a \"b\"; c=\u{e9}\r\ntraceparent: 00-1-2-01"
    );
    let id = id.strip_prefix("x-amzn-requestid: ").unwrap();
    assert!(
        answer.starts_with(
            "HTTP/1.1 203 Fine By Me\r\nX-Answer: Yes\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n"
        ),
        "{answer}"
    );
    assert!(
        answer.contains(&format!("x-amzn-requestid: {id}\r\n")),
        "{answer}"
    );
    assert!(!answer.contains("forged"));
}

#[tokio::test]
async fn the_port_is_the_headers_or_8080() {
    let stage = Stage::new().await;
    for port in [8080, 3000] {
        stage.one.serve(port, move |_| async move {
            Response::new(full(port.to_string()))
        });
    }
    for (port, expected) in [(None, "8080"), (Some("3000"), "3000")] {
        let mut request = get("/").header("x-aws-proxy-auth", stage.token());
        if let Some(port) = port {
            request = request.header("x-aws-proxy-port", port);
        }
        assert_eq!(
            stage.send(request.body(empty()).unwrap()).await.body,
            expected
        );
    }
}

#[tokio::test]
async fn both_loopback_addresses_answer_and_the_token_routes_where_the_host_does_not() {
    let stage = Stage::new().await;
    stage
        .one
        .serve(8080, |_| async { Response::new(full("one")) });
    stage
        .two
        .serve(8080, |_| async { Response::new(full("two")) });
    for &address in &stage.addresses {
        let name = address.ip().to_string();
        for (vm, expected) in [(&stage.one, "one"), (&stage.two, "two")] {
            let stream = stage.tls_to(address, &name, &["http/1.1"]).await;
            let stream = hyper_util::rt::TokioIo::new(stream);
            let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Body>(stream)
                .await
                .unwrap();
            tokio::spawn(connection);
            let request = Request::builder()
                .header("host", address.to_string())
                .header("x-aws-proxy-auth", stage.token_for(vm, &ports(&[8080])))
                .body(empty())
                .unwrap();
            let answer = Answer::of(sender.send_request(request).await.unwrap()).await;
            assert_eq!(answer.body, expected);
        }
    }
}

#[tokio::test]
async fn an_http2_request_reaches_an_http1_application_whole() {
    let stage = Stage::new().await;
    stage.one.serve(8080, mirror);
    let mut sender = stage.http2("label-one.microvm.localhost").await;
    let request = get2("/path?x=1")
        .method("POST")
        .header("x-aws-proxy-auth", stage.token())
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(full("body"))
        .unwrap();
    let answer = Answer::of(sender.send_request(request).await.unwrap()).await;
    let mut lines = answer.body.lines();
    assert_eq!(lines.next(), Some("POST /path?x=1 HTTP/1.1"));
    assert_eq!(lines.next(), Some("host: label-one.microvm.localhost:8443"));
    assert!(
        answer.body.contains("cookie: a=1; b=2\n"),
        "{}",
        answer.body
    );
    assert!(answer.body.ends_with("\n\nbody"), "{}", answer.body);
    assert!(!answer.body.contains("x-aws-proxy"));
}

#[tokio::test]
async fn forced_http2_reaches_the_application_as_http2() {
    let stage = Stage::new().await;
    stage.one.serve(8080, mirror);
    let request = get("/path?x=1")
        .header("x-aws-proxy-auth", stage.token())
        .header("x-aws-proxy-force-h2", "true")
        .header("te", "trailers")
        .header("connection", "te")
        .body(empty())
        .unwrap();
    let answer = stage.send(request).await;
    let first = "GET http://label-one.microvm.localhost:8443/path?x=1 HTTP/2.0\n";
    assert!(answer.body.starts_with(first), "{}", answer.body);
    assert!(answer.body.contains("te: trailers\n"));
}

#[tokio::test]
async fn a_get_with_a_body_keeps_it() {
    let stage = Stage::new().await;
    stage.one.serve(8080, mirror);
    let token = stage.token();
    let answer = raw(
        &stage,
        format!("GET / HTTP/1.1\r\nHost: label-one.microvm.localhost\r\nx-aws-proxy-auth: {token}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
    )
    .await;
    assert!(answer.ends_with("\n\nbody"), "{answer}");
}

#[tokio::test]
async fn an_expectation_is_answered_once_the_application_is_reached_and_not_before() {
    let stage = Stage::new().await;
    stage.one.serve(8080, mirror);
    let head = |token: &str| {
        format!(
            "POST / HTTP/1.1\r\nHost: label-one.microvm.localhost\r\nx-aws-proxy-auth: {token}\r\nExpect: 100-continue\r\nContent-Length: 4\r\nConnection: close\r\n\r\n"
        )
    };
    let refused = raw(&stage, head("none")).await;
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    let mut stream = stage
        .tls("label-one.microvm.localhost", &["http/1.1"])
        .await;
    stream
        .write_all(head(&stage.token()).as_bytes())
        .await
        .unwrap();
    let mut interim = [0; 25];
    soon(stream.read_exact(&mut interim)).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"body").await.unwrap();
    let mut answer = Vec::new();
    let _ = soon(stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.ends_with("\n\nbody") && !answer.contains("expect:"),
        "{answer}"
    );
}

#[tokio::test]
async fn ambiguous_framing_does_not_smuggle_a_request() {
    let stage = Stage::new().await;
    stage.one.serve(8080, mirror);
    let token = stage.token();
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    for framing in [
        format!(
            "Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}",
            smuggled.len() + 5
        ),
        format!("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{smuggled}"),
        format!("Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n{smuggled}"),
        format!("Content-Length: 0\r\nContent-Length: 5\r\n\r\n{smuggled}"),
        format!("Content-Length: 0, 5\r\n\r\n{smuggled}"),
        format!("Content-Length: +0\r\n\r\n{smuggled}"),
        format!("Content-Length : 5\r\n\r\n{smuggled}"),
        format!("X: a\r\n b\r\nContent-Length: 0\r\n\r\n{smuggled}"),
    ] {
        let request = format!(
            "POST /first HTTP/1.1\r\nHost: label-one.microvm.localhost\r\nx-aws-proxy-auth: {token}\r\n{framing}"
        );
        let before = stage.one.connects.load(std::sync::atomic::Ordering::SeqCst);
        let mut stream = stage
            .tls("label-one.microvm.localhost", &["http/1.1"])
            .await;
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = soon(stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8(answer).unwrap();
        // The second request has no token: it may be answered with 403, never by the application.
        assert!(!answer.contains("/smuggled HTTP"), "{framing}\n{answer}");
        let connects = stage.one.connects.load(std::sync::atomic::Ordering::SeqCst) - before;
        assert!(connects <= 1, "{framing}");
    }
}

#[tokio::test]
async fn a_response_whose_framing_contradicts_itself_is_read_by_its_chunks() {
    let stage = Stage::new().await;
    recorder(
        &stage,
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n",
    );
    let request = get("/")
        .header("x-aws-proxy-auth", stage.token())
        .body(empty())
        .unwrap();
    let answer = stage.send(request).await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (StatusCode::OK, "whole")
    );
}

#[tokio::test]
async fn an_answer_in_http_1_0_is_passed_on_in_the_clients_version() {
    let stage = Stage::new().await;
    recorder(&stage, "HTTP/1.0 200 OK\r\n\r\nuntil the end");
    for _ in 0..2 {
        let mut sender = stage.http2("label-one.microvm.localhost").await;
        let request = get2("/")
            .header("x-aws-proxy-auth", stage.token())
            .body(empty())
            .unwrap();
        let answer = Answer::of(sender.send_request(request).await.unwrap()).await;
        assert_eq!(answer.body, "until the end");
    }
    let request = get("/")
        .header("x-aws-proxy-auth", stage.token())
        .body(empty())
        .unwrap();
    assert_eq!(stage.send(request).await.body, "until the end");
}

#[tokio::test]
async fn the_answer_to_head_keeps_its_length() {
    let stage = Stage::new().await;
    recorder(&stage, "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n");
    let request = get("/")
        .method("HEAD")
        .header("x-aws-proxy-auth", stage.token());
    let answer = stage.send(request.body(empty()).unwrap()).await;
    assert_eq!(answer.header("content-length"), "1234");
}

#[tokio::test]
async fn a_token_for_a_few_ports_opens_those() {
    let stage = Stage::new().await;
    stage.one.serve(8080, mirror);
    let token = stage.token_for(&stage.one, &ports(&[80, 8080]));
    let request = get("/")
        .header("x-aws-proxy-auth", token)
        .body(empty())
        .unwrap();
    assert_eq!(stage.send(request).await.status, StatusCode::OK);
    let all = stage.token_for(&stage.one, &AllowedPorts::All);
    let request = get("/")
        .header("x-aws-proxy-auth", all)
        .body(empty())
        .unwrap();
    assert_eq!(stage.send(request).await.status, StatusCode::OK);
}

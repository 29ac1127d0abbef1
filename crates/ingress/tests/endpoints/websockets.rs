//! WebSockets, with the token in a header or in a subprotocol, over HTTP/1.1 and HTTP/2.

use futures::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::stage::{Body, Stage, Tls, empty, get2, ports, soon};

/// An application that echoes messages, and says first which subprotocols it was offered. It chooses
/// `chat` when that is among them.
async fn echo(mut request: Request<Incoming>) -> Response<Body> {
    let offered = request.headers().get("sec-websocket-protocol").cloned();
    let offered = offered.map_or_else(String::new, |value| value.to_str().unwrap().to_owned());
    let leaked = request
        .headers()
        .keys()
        .any(|name| name.as_str().starts_with("x-aws-proxy"));
    let key = request.headers()["sec-websocket-key"].as_bytes().to_owned();
    assert_eq!(request.method(), "GET");
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("upgrade", "websocket")
        .header("connection", "Upgrade")
        .header("sec-websocket-accept", derive_accept_key(&key));
    if offered.split(", ").any(|name| name == "chat") {
        response = response.header("sec-websocket-protocol", "chat");
    }
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let stream = TokioIo::new(upgraded.await.unwrap());
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        socket
            .send(Message::text(format!(
                "offered [{offered}] leaked {leaked}"
            )))
            .await
            .unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await.unwrap();
            }
        }
    });
    response.body(empty()).unwrap()
}

async fn open(
    stage: &Stage,
    headers: &[(&'static str, String)],
) -> Result<(WebSocketStream<Tls>, Option<HeaderValue>), Error> {
    let stream = stage
        .tls("label-one.microvm.localhost", &["http/1.1"])
        .await;
    let mut request = Request::builder()
        .uri("wss://label-one.microvm.localhost:8443/socket")
        .header("host", "label-one.microvm.localhost:8443")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let (socket, response) = soon(client_async(request.body(()).unwrap(), stream)).await?;
    Ok((
        socket,
        response.headers().get("sec-websocket-protocol").cloned(),
    ))
}

async fn hear<S>(socket: &mut WebSocketStream<S>) -> Message
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    soon(socket.next()).await.unwrap().unwrap()
}

fn subprotocols(token: &str, more: &str) -> (&'static str, String) {
    let offered = format!("lambda-microvms, lambda-microvms.authentication.{token}{more}");
    ("sec-websocket-protocol", offered)
}

#[tokio::test]
async fn the_token_may_be_in_a_header() {
    let stage = Stage::new().await;
    stage.one.serve(8080, echo);
    let headers = [("x-aws-proxy-auth", stage.token())];
    let (mut socket, chosen) = open(&stage, &headers).await.unwrap();
    assert_eq!(chosen, None);
    assert_eq!(
        hear(&mut socket).await,
        Message::text("offered [] leaked false")
    );
    let before = stage.one.active();
    for message in [Message::text("text"), Message::binary(vec![0, 255, 10])] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(hear(&mut socket).await, message);
    }
    assert!(stage.one.active() >= before + 4);
    socket.close(None).await.unwrap();
    assert!(matches!(hear(&mut socket).await, Message::Close(_)));
}

#[tokio::test]
async fn token_and_port_may_be_in_subprotocols() {
    let stage = Stage::new().await;
    stage.one.serve(9000, echo);
    let token = stage.token_for(&stage.one, &ports(&[9000]));
    let headers = [subprotocols(&token, ", lambda-microvms.port.9000")];
    let (mut socket, chosen) = open(&stage, &headers).await.unwrap();
    assert_eq!(chosen.unwrap(), "lambda-microvms");
    assert_eq!(
        hear(&mut socket).await,
        Message::text("offered [] leaked false")
    );
}

#[tokio::test]
async fn the_applications_choice_of_a_subprotocol_stands() {
    let stage = Stage::new().await;
    stage.one.serve(8080, echo);
    let headers = [subprotocols(&stage.token(), ", v2, chat")];
    let (mut socket, chosen) = open(&stage, &headers).await.unwrap();
    assert_eq!(chosen.unwrap(), "chat");
    assert_eq!(
        hear(&mut socket).await,
        Message::text("offered [v2, chat] leaked false")
    );
}

#[tokio::test]
async fn a_large_message_passes_whole() {
    let stage = Stage::new().await;
    stage.one.serve(8080, echo);
    let (socket, _) = open(&stage, &[("x-aws-proxy-auth", stage.token())])
        .await
        .unwrap();
    let (mut write, mut read) = socket.split();
    soon(read.next()).await.unwrap().unwrap();
    let message = Message::binary(vec![42; 4 * 1024 * 1024]);
    let sent = message.clone();
    let writing = tokio::spawn(async move { write.send(sent).await });
    assert!(soon(read.next()).await.unwrap().unwrap() == message);
    soon(writing).await.unwrap().unwrap();
}

#[tokio::test]
async fn handshakes_are_refused_with_a_status_and_touch_nothing() {
    let stage = Stage::new().await;
    stage.one.serve(8080, echo);
    let token = stage.token();
    let narrow = stage.token_for(&stage.one, &ports(&[9000]));
    let unmarked = format!("lambda-microvms.authentication.{token}");
    for (headers, status) in [
        (vec![], 403),
        (
            vec![("sec-websocket-protocol", "lambda-microvms".to_owned())],
            403,
        ),
        (vec![subprotocols("bad", "")], 403),
        (vec![subprotocols(&narrow, "")], 403),
        (vec![("sec-websocket-protocol", unmarked)], 400),
        (vec![subprotocols(&token, ", lambda-microvms.port.x")], 400),
        (vec![subprotocols(&token, ", lambda-microvms.port.0")], 400),
    ] {
        let Err(Error::Http(response)) = open(&stage, &headers).await else {
            panic!("not refused: {headers:?}");
        };
        assert_eq!(response.status().as_u16(), status, "{headers:?}");
    }
    assert!(stage.one.untouched());
    let headers = [subprotocols(&token, ", lambda-microvms.port.81")];
    let Err(Error::Http(response)) = open(&stage, &headers).await else {
        panic!("nothing listens there");
    };
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn an_application_that_wants_no_websocket_answers_for_itself() {
    let stage = Stage::new().await;
    stage.one.serve(8080, |_| async {
        Response::builder()
            .status(404)
            .body(crate::stage::full("no socket here"))
            .unwrap()
    });
    let headers = [("x-aws-proxy-auth", stage.token())];
    let Err(Error::Http(response)) = open(&stage, &headers).await else {
        panic!("not refused");
    };
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_machine_that_stops_cuts_its_websockets() {
    let stage = Stage::new().await;
    stage.one.serve(8080, echo);
    let (mut socket, _) = open(&stage, &[("x-aws-proxy-auth", stage.token())])
        .await
        .unwrap();
    hear(&mut socket).await;
    stage.one.suspend();
    assert!(!matches!(soon(socket.next()).await, Some(Ok(_))));
}

#[tokio::test]
async fn an_application_that_leaves_ends_the_websocket() {
    let stage = Stage::new().await;
    stage.one.serve(8080, |mut request: Request<Incoming>| {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move { drop(upgraded.await.unwrap()) });
        let key = request.headers()["sec-websocket-key"].as_bytes().to_owned();
        async move {
            Response::builder()
                .status(101)
                .header("upgrade", "websocket")
                .header("connection", "upgrade")
                .header("sec-websocket-accept", derive_accept_key(&key))
                .body(empty())
                .unwrap()
        }
    });
    let (mut socket, _) = open(&stage, &[("x-aws-proxy-auth", stage.token())])
        .await
        .unwrap();
    assert!(!matches!(soon(socket.next()).await, Some(Ok(_))));
}

#[tokio::test]
async fn a_websocket_may_be_opened_over_http2() {
    let stage = Stage::new().await;
    stage.one.serve(8080, echo);
    let mut sender = stage.http2("label-one.microvm.localhost").await;
    // The server says that it knows extended CONNECT in its first settings: one answer later they
    // have been read.
    let probe = get2("/").body(empty()).unwrap();
    assert_eq!(
        soon(sender.send_request(probe)).await.unwrap().status(),
        403
    );
    let (name, offered) = subprotocols(&stage.token(), ", v2");
    let mut request = get2("/socket")
        .method("CONNECT")
        .header("sec-websocket-version", "13")
        .header(name, offered)
        .body(empty())
        .unwrap();
    request
        .extensions_mut()
        .insert(hyper::ext::Protocol::from_static("websocket"));
    let mut response = soon(sender.send_request(request)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        response.headers()["sec-websocket-protocol"],
        "lambda-microvms"
    );
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    let stream = TokioIo::new(soon(hyper::upgrade::on(&mut response)).await.unwrap());
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    assert_eq!(
        hear(&mut socket).await,
        Message::text("offered [v2] leaked false")
    );
    socket.send(Message::text("over HTTP/2")).await.unwrap();
    assert_eq!(hear(&mut socket).await, Message::text("over HTTP/2"));
    stage.one.suspend();
    assert!(!matches!(soon(socket.next()).await, Some(Ok(_))));
}

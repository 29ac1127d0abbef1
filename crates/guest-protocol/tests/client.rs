//! The client against guests that behave, and guests that do not.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::time::Duration;

use colibri_guest_protocol::SESSION_MAGIC;
use colibri_guest_protocol::client::{
    ClientError, FrameReader, GuestClient, GuestEvent, await_session, write_frame,
    write_session_magic,
};
use colibri_guest_protocol::frame::{FrameKind, header};
use colibri_guest_protocol::message::{
    AgentFailure, Answer, Call, Event, Hello, HelloAnswer, HookCall, HookOutcome, Request, Response,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;

const SOON: Duration = Duration::from_secs(5);

/// A guest's end of the channel, after the handshake.
struct Guest {
    stream: DuplexStream,
    reader: FrameReader,
}

impl Guest {
    async fn greet(mut stream: DuplexStream, leftover: &[u8]) -> Self {
        let mut reader = await_session(&mut stream).await.unwrap();
        let hello = read_hello(&mut reader, &mut stream).await;
        stream.write_all(leftover).await.unwrap();
        write_session_magic(&mut stream).await.unwrap();
        write_frame(
            &mut stream,
            FrameKind::Response,
            &hello_response(hello.session, 1),
        )
        .await
        .unwrap();
        Self { stream, reader }
    }

    async fn request(&mut self) -> Request {
        let frame = self.reader.next(&mut self.stream).await.unwrap();
        serde_json::from_slice(&frame.payload).unwrap()
    }

    async fn answer(&mut self, id: u32, result: Result<Answer, AgentFailure>) {
        let response = serde_json::to_vec(&Response { id, result }).unwrap();
        write_frame(&mut self.stream, FrameKind::Response, &response)
            .await
            .unwrap();
    }
}

async fn read_hello(reader: &mut FrameReader, stream: &mut DuplexStream) -> Hello {
    let request: Request =
        serde_json::from_slice(&reader.next(stream).await.unwrap().payload).unwrap();
    match request.call {
        Call::Hello(hello) => hello,
        other => panic!("the first request was {other:?}"),
    }
}

fn hello_response(session: u64, protocol_version: u16) -> Vec<u8> {
    let hello = HelloAnswer {
        protocol_version,
        session,
        agent_version: "test".to_owned(),
        application_exit: None,
    };
    serde_json::to_vec(&Response {
        id: 0,
        result: Ok(Answer::Hello(hello)),
    })
    .unwrap()
}

/// A client and a guest that behaves so far.
async fn session() -> (GuestClient, Guest, mpsc::Receiver<GuestEvent>) {
    session_after(b"").await
}

async fn session_after(leftover: &[u8]) -> (GuestClient, Guest, mpsc::Receiver<GuestEvent>) {
    let (host, guest) = duplex(64 * 1024);
    let (events, received) = mpsc::channel(1);
    let (client, guest) = tokio::join!(
        GuestClient::connect(host, events, SOON),
        Guest::greet(guest, leftover)
    );
    (client.unwrap(), guest, received)
}

fn hook(timeout_ms: u64) -> HookCall {
    HookCall {
        port: 8080,
        path: "/run".to_owned(),
        body: None,
        headers: Vec::new(),
        timeout_ms,
    }
}

#[tokio::test]
async fn concurrent_calls_get_their_own_answers_in_any_order() {
    let (client, mut guest, _events) = session().await;
    let serve = async {
        let (first, second) = (guest.request().await, guest.request().await);
        for request in [second, first] {
            let answer = match request.call {
                Call::CallHook(_) => Answer::Hook(HookOutcome::Status { status: 200 }),
                _ => Answer::Done,
            };
            guest.answer(request.id, Ok(answer)).await;
        }
    };
    let (outcome, pinged, ()) =
        tokio::join!(client.call_hook(hook(1000), SOON), client.ping(SOON), serve);
    assert_eq!(outcome, Ok(HookOutcome::Status { status: 200 }));
    assert_eq!(pinged, Ok(()));
}

#[tokio::test]
async fn a_forged_session_in_the_leftover_is_passed_over() {
    let forged = hello_response(7, 1);
    let leftover = [
        b"the end of a frame".as_slice(),
        &SESSION_MAGIC,
        &header(FrameKind::Response, forged.len()),
        &forged,
        // A header that would swallow the true session, were it believed.
        &SESSION_MAGIC,
        &header(FrameKind::Response, 4000),
        &SESSION_MAGIC,
    ]
    .concat();
    let (client, mut guest, _events) = session_after(&leftover).await;
    let (pinged, ()) = tokio::join!(client.ping(SOON), async {
        let request = guest.request().await;
        guest.answer(request.id, Ok(Answer::Done)).await;
    });
    assert_eq!(pinged, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_silent_guest_ends_in_an_error_that_says_so() {
    let (host, _guest) = duplex(1024);
    let (events, _received) = mpsc::channel(1);
    let refused = GuestClient::connect(host, events, SOON).await.unwrap_err();
    assert_eq!(refused, ClientError::NoSession { millis: 5000 });

    let (client, _guest, _events) = session().await;
    let refused = client.ping(Duration::from_millis(20)).await.unwrap_err();
    assert_eq!(
        refused,
        ClientError::TimedOut {
            call: "Ping",
            millis: 20
        }
    );
}

#[tokio::test]
async fn endless_garbage_instead_of_a_session_is_given_up() {
    let (host, mut guest) = duplex(64 * 1024);
    let (events, _received) = mpsc::channel(1);
    let flood =
        tokio::spawn(async move { while guest.write_all(&[0; 64 * 1024]).await.is_ok() {} });
    let refused = GuestClient::connect(host, events, Duration::from_secs(60))
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, ClientError::Disconnected { reason } if reason.contains("no session"))
    );
    flood.await.unwrap();
}

#[tokio::test]
async fn a_version_from_the_future_is_refused() {
    let (host, mut guest) = duplex(64 * 1024);
    let (events, _received) = mpsc::channel(1);
    let serve = async {
        let mut reader = await_session(&mut guest).await.unwrap();
        let hello = read_hello(&mut reader, &mut guest).await;
        write_session_magic(&mut guest).await.unwrap();
        write_frame(
            &mut guest,
            FrameKind::Response,
            &hello_response(hello.session, 9),
        )
        .await
        .unwrap();
    };
    let (client, ()) = tokio::join!(GuestClient::connect(host, events, SOON), serve);
    assert_eq!(
        client.unwrap_err(),
        ClientError::UnknownVersion { version: 9 }
    );
}

#[tokio::test]
async fn what_no_agent_sends_ends_the_session_for_everyone() {
    for (bad, expected) in [
        (vec![77, 0, 0, 0, 0], "unknown frame kind 77"),
        (vec![4, 0xff, 0, 0, 0], "exceeds the limit"),
        (vec![1, 0, 0, 0, 2, b'{', b'}'], "only a host does"),
        (vec![2, 0, 0, 0, 2, b'{', b'}'], "cannot be read"),
    ] {
        let (client, mut guest, mut events) = session().await;
        let (pinged, ()) = tokio::join!(client.ping(SOON), async {
            guest.request().await;
            guest.stream.write_all(&bad).await.unwrap();
        });
        assert!(
            pinged.unwrap_err().to_string().contains(expected),
            "{expected}"
        );
        assert!(client.disconnected().await.contains(expected));
        assert!(matches!(
            events.recv().await,
            Some(GuestEvent::Disconnected(_))
        ));
        assert!(matches!(
            client.ping(SOON).await,
            Err(ClientError::Disconnected { .. })
        ));
    }
}

#[tokio::test]
async fn wrong_numbers_and_wrong_answers_hurt_nobody_else() {
    let (client, mut guest, _events) = session().await;
    let serve = async {
        let request = guest.request().await;
        guest.answer(request.id + 1000, Ok(Answer::Done)).await;
        guest
            .answer(request.id, Ok(Answer::Started { pid: 1 }))
            .await;
        let request = guest.request().await;
        guest.answer(request.id, Ok(Answer::Done)).await;
    };
    let calls = async {
        assert_eq!(
            client.ping(SOON).await,
            Err(ClientError::WrongAnswer { call: "Ping" })
        );
        assert_eq!(client.ping(SOON).await, Ok(()));
    };
    tokio::join!(calls, serve);
}

#[tokio::test]
async fn the_agents_failure_reaches_the_caller() {
    let (client, mut guest, _events) = session().await;
    let failure = AgentFailure {
        attempted: "fly".to_owned(),
        reason: "no wings".to_owned(),
    };
    let (pinged, ()) = tokio::join!(client.ping(SOON), async {
        let request = guest.request().await;
        guest.answer(request.id, Err(failure)).await;
    });
    assert_eq!(
        pinged.unwrap_err().to_string(),
        "the guest agent could not fly: no wings"
    );
}

#[tokio::test]
async fn output_that_nobody_reads_does_not_hold_an_answer_back() {
    let (client, mut guest, mut events) = session().await;
    let piece = vec![b'x'; 200 * 1024];
    let serve = async {
        let request = guest.request().await;
        for _ in 0..20 {
            write_frame(&mut guest.stream, FrameKind::Stdout, &piece)
                .await
                .unwrap();
        }
        guest.answer(request.id, Ok(Answer::Done)).await;
        write_frame(
            &mut guest.stream,
            FrameKind::Event,
            br#"{"event":"unheard_of"}"#,
        )
        .await
        .unwrap();
    };
    let (pinged, ()) = tokio::join!(client.ping(SOON), serve);
    assert_eq!(pinged, Ok(()));
    drop(guest);

    let (mut kept, mut lost) = (0, 0);
    loop {
        match events.recv().await.unwrap() {
            GuestEvent::Stdout(bytes) => kept += bytes.len() as u64,
            GuestEvent::Event(Event::OutputDropped { bytes }) => lost += bytes,
            GuestEvent::Disconnected(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(kept + lost, 20 * piece.len() as u64);
    assert!(kept < 2 * 1024 * 1024 && lost > 0);
}

#[tokio::test]
async fn without_a_waiting_call_the_guest_is_held_back_and_nothing_is_lost() {
    let (client, mut guest, mut events) = session().await;
    let piece = vec![b'x'; 200 * 1024];
    let write = async {
        for _ in 0..20 {
            write_frame(&mut guest.stream, FrameKind::Stderr, &piece)
                .await
                .unwrap();
        }
        drop(guest);
    };
    let read = async {
        let mut kept = 0;
        while let Some(GuestEvent::Stderr(bytes)) = events.recv().await {
            kept += bytes.len();
        }
        kept
    };
    let ((), kept) = tokio::join!(write, read);
    assert_eq!(kept, 20 * piece.len());
    drop(client);
}

#[tokio::test]
async fn dropping_the_client_closes_the_stream() {
    let (client, mut guest, _events) = session().await;
    drop(client);
    assert_eq!(guest.stream.read(&mut [0; 16]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_request_beyond_the_limit_is_refused_before_it_is_sent() {
    let (client, _guest, _events) = session().await;
    let call = HookCall {
        body: Some("x".repeat(5 * 1024 * 1024)),
        ..hook(1000)
    };
    let refused = client.call_hook(call, SOON).await.unwrap_err();
    assert!(matches!(
        refused,
        ClientError::TooLong {
            call: "CallHook",
            ..
        }
    ));
}

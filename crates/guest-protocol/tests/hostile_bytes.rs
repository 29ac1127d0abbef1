//! Bytes that no agent sends, many and with fixed seeds: every one of them ends in an error or in nothing,
//! never in a panic, an endless wait or unbounded memory.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::time::Duration;

use colibri_guest_protocol::SESSION_MAGIC;
use colibri_guest_protocol::client::{
    ClientError, FrameReader, GuestClient, GuestEvent, await_session, write_frame,
    write_session_magic,
};
use colibri_guest_protocol::frame::{FrameKind, MagicFinder, header, parse_header};
use colibri_guest_protocol::message::{
    AgentFailure, Answer, ApplicationSpec, Call, Hello, HelloAnswer, HookCall, Identity, Request,
    Response,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;

const BOUND: Duration = Duration::from_secs(20);

/// Noise that looks like the protocol here and there: headers, marks, JSON, cut off at any place.
fn noise(random: &mut StdRng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.random_range(1..12) {
        match random.random_range(0..6) {
            0 => bytes.extend(SESSION_MAGIC),
            1 => bytes.extend(&SESSION_MAGIC[..random.random_range(0..16)]),
            2 => bytes.extend([
                random.random_range(0..7),
                0,
                0,
                random.random_range(0..3),
                random.random(),
            ]),
            3 => {
                let texts = [
                    r#"{"id":0,"result":{"Ok":{"answer":"hello","value":{"protocol_version":1,"session":1,"agent_version":"x","application_exit":null}}}}"#,
                    r#"{"id":1,"result":{"Err":{"attempted":"x","reason":"y"}}}"#,
                    r#"{"event":"output_dropped","value":{"bytes":18446744073709551615}}"#,
                    r#"{"id":4294967296}"#,
                    "[[[[[[[[",
                ];
                let text = texts[random.random_range(0..texts.len())];
                let kind = [FrameKind::Response, FrameKind::Event][random.random_range(0..2)];
                bytes.extend(header(kind, text.len()));
                bytes.extend(text.as_bytes());
            }
            4 => bytes.extend([4, 0, 0, 0, 0].repeat(random.random_range(0..50))),
            _ => bytes.extend((0..random.random_range(0..600)).map(|_| random.random::<u8>())),
        }
    }
    bytes
}

#[tokio::test]
async fn a_frame_reader_survives_any_bytes() {
    let mut random = StdRng::seed_from_u64(1);
    for _ in 0..3000 {
        let bytes = noise(&mut random);
        let mut stream = bytes.as_slice();
        let mut reader = FrameReader::default();
        while reader.next(&mut stream).await.is_ok() {}
        let mut stream = bytes.as_slice();
        if let Ok(mut reader) = await_session(&mut stream).await {
            while reader.next(&mut stream).await.is_ok() {}
        }
        let mut finder = MagicFinder::default();
        let marks = bytes.iter().filter(|byte| finder.push(**byte)).count();
        let there = bytes
            .windows(16)
            .filter(|window| *window == SESSION_MAGIC)
            .count();
        assert_eq!(marks, there);
    }
    for _ in 0..10_000 {
        if let Ok((kind, length)) = parse_header(random.random()) {
            assert!(length <= kind.limit());
        }
    }
}

/// Opens a session as an agent would; what comes after is the caller's.
async fn greet(stream: &mut DuplexStream) {
    let mut reader = await_session(stream).await.unwrap();
    let hello: Request =
        serde_json::from_slice(&reader.next(stream).await.unwrap().payload).unwrap();
    let Call::Hello(Hello { session, .. }) = hello.call else {
        panic!("the first request is a hello")
    };
    let answer = Response {
        id: hello.id,
        result: Ok(Answer::Hello(HelloAnswer {
            protocol_version: 1,
            session,
            agent_version: "1\n2".to_owned(),
            application_exit: None,
        })),
    };
    write_session_magic(stream).await.unwrap();
    write_frame(
        stream,
        FrameKind::Response,
        &serde_json::to_vec(&answer).unwrap(),
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn a_client_survives_any_bytes_before_and_in_a_session() {
    let mut random = StdRng::seed_from_u64(2);
    for round in 0..400 {
        let (mut guest, host) = duplex(64 * 1024);
        let (events, mut received) = mpsc::channel(4);
        let (before, after) = (noise(&mut random), noise(&mut random));
        let in_session = round % 2 == 0;
        let guest = tokio::spawn(async move {
            let _ = guest.write_all(&before).await;
            if in_session {
                greet(&mut guest).await;
            }
            let _ = guest.write_all(&after).await;
        });
        let drained = tokio::spawn(async move { while received.recv().await.is_some() {} });
        let used = async {
            match GuestClient::connect(host, events, BOUND).await {
                Ok(client) => {
                    assert!(in_session);
                    assert_eq!(client.hello().agent_version, "1 2");
                    let _ = client.ping(BOUND).await;
                    client.disconnected().await;
                }
                Err(error) => assert!(!in_session, "{error}"),
            }
        };
        tokio::time::timeout(BOUND, used).await.unwrap();
        guest.await.unwrap();
        drained.await.unwrap();
    }
}

#[tokio::test]
async fn a_guests_words_come_as_one_short_line() {
    let (mut guest, host) = duplex(1024 * 1024);
    let (events, mut received) = mpsc::channel::<GuestEvent>(4);
    tokio::spawn(async move { while received.recv().await.is_some() {} });
    let guest = tokio::spawn(async move {
        greet(&mut guest).await;
        let answer = Response {
            id: 1,
            result: Err(AgentFailure {
                attempted: "x\n2026-01-01 INFO forged\u{1b}[2J".to_owned(),
                reason: "y".repeat(100_000),
            }),
        };
        write_frame(
            &mut guest,
            FrameKind::Response,
            &serde_json::to_vec(&answer).unwrap(),
        )
        .await
        .unwrap();
        guest
    });
    let client = GuestClient::connect(host, events, BOUND).await.unwrap();
    let Err(ClientError::Failed(failure)) = client.ping(BOUND).await else {
        panic!("a failure")
    };
    assert_eq!(failure.attempted, "x 2026-01-01 INFO forged [2J");
    assert_eq!(failure.reason.len(), 2000);
    drop(guest.await.unwrap());
}

#[tokio::test]
async fn a_large_environment_reaches_the_guest() {
    let (mut guest, host) = duplex(64 * 1024);
    let (events, _received) = mpsc::channel(4);
    let guest = tokio::spawn(async move {
        let mut reader = await_session(&mut guest).await.unwrap();
        let hello: Request =
            serde_json::from_slice(&reader.next(&mut guest).await.unwrap().payload).unwrap();
        let Call::Hello(Hello { session, .. }) = hello.call else {
            panic!("the first request is a hello")
        };
        let hello = HelloAnswer {
            protocol_version: 1,
            session,
            agent_version: "1".to_owned(),
            application_exit: None,
        };
        let send = |id, answer| {
            serde_json::to_vec(&Response {
                id,
                result: Ok(answer),
            })
            .unwrap()
        };
        write_session_magic(&mut guest).await.unwrap();
        let answer = send(0, Answer::Hello(hello));
        write_frame(&mut guest, FrameKind::Response, &answer)
            .await
            .unwrap();
        let frame = reader.next(&mut guest).await.unwrap();
        let answer = send(1, Answer::Started { pid: 7 });
        write_frame(&mut guest, FrameKind::Response, &answer)
            .await
            .unwrap();
        frame.payload.len()
    });
    let client = GuestClient::connect(host, events, BOUND).await.unwrap();
    let large = ApplicationSpec {
        environment: vec![format!("A={}", "v".repeat(4000)); 100],
        ..spec()
    };
    assert_eq!(client.start_application(large, BOUND).await, Ok(7));
    assert!(guest.await.unwrap() > 400_000);
    let beyond = ApplicationSpec {
        environment: vec!["A=".to_owned() + &"v".repeat(5_000_000)],
        ..spec()
    };
    let refused = client.start_application(beyond, BOUND).await;
    assert!(matches!(refused, Err(ClientError::TooLong { .. })));
}

fn spec() -> ApplicationSpec {
    ApplicationSpec {
        arguments: vec!["/run".to_owned()],
        environment: vec!["TOKEN=hunter2".to_owned()],
        working_directory: "/".to_owned(),
        user: String::new(),
        all_capabilities: false,
        stop_signal: 15,
        name_servers: Vec::new(),
    }
}

#[test]
fn secrets_are_not_shown() {
    let hook = HookCall {
        port: 9000,
        path: "/run".to_owned(),
        body: Some("hunter2".to_owned()),
        headers: vec![("a".to_owned(), "hunter2".to_owned())],
        timeout_ms: 1,
    };
    let identity = Identity {
        microvm_id: "microvm-1".to_owned(),
        hostname: "h".to_owned(),
        machine_id: "m".to_owned(),
        boot_id: "b".to_owned(),
        entropy: "hunter2".to_owned(),
        wall_clock_unix_nanos: 1,
        reset_connections: true,
    };
    for call in [
        Call::CallHook(hook),
        Call::AssumeIdentity(identity),
        Call::StartApplication(spec()),
    ] {
        let shown = format!("{:?}", Request { id: 1, call });
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

//! The operations on logs of the test's own, as bytes in and bytes out.

use colibri_logs::{GroupName, Logs, Settings};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::fault::LogsFault;
use super::live_tail::LiveTails;
use super::place::LogsPlace;
use super::{Call, Operation, answer_operation};
use crate::answer::AnswerBody;

const GROUP: &str = "/aws/lambda-microvms/image";

struct World {
    call: Call,
    _directory: TempDir,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            call: Call {
                logs: Logs::open(directory.path(), Settings::default()).unwrap(),
                place: LogsPlace::new("us-east-1", "000000000000"),
            },
            _directory: directory,
        }
    }

    async fn write(&self, stream: &str, time: i64, lines: &str) {
        let (group, stream) = (
            GroupName::parse(GROUP).unwrap(),
            colibri_logs::StreamName::parse(stream).unwrap(),
        );
        let mut writer = self.call.logs.writer(&group, &stream).unwrap();
        writer.append(time, lines.as_bytes()).await;
        writer.finish().await;
    }

    async fn tail(&self, tails: &LiveTails, more: Value) -> Listening {
        let arn = self.call.place.group_arn(&GroupName::parse(GROUP).unwrap());
        let mut request = json!({"logGroupIdentifiers": [arn]});
        request
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let call = Call {
            logs: self.call.logs.clone(),
            place: self.call.place.clone(),
        };
        let started = tails.start(call, request.to_string().into(), "id").await;
        let mut listening = Listening(started.unwrap().into_body());
        listening.hears("initial-response").await;
        listening.hears("sessionStart").await;
        listening
    }

    fn ask(&self, operation: &str, request: &Value) -> Result<Value, LogsFault> {
        let operation = Operation::parse(operation).ok_or(LogsFault::UnknownOperation)?;
        let body = answer_operation(&self.call, operation, request.to_string().as_bytes())?;
        Ok(if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).unwrap()
        })
    }

    fn refusal(&self, operation: &str, request: &Value) -> &'static str {
        self.ask(operation, request).unwrap_err().wire_name()
    }
}

/// The client's end of a live tail.
struct Listening(AnswerBody);

impl Listening {
    /// The next message, without what surrounds its text; `None` at the end.
    async fn message(&mut self) -> Option<String> {
        let frame = self.0.frame().await?.unwrap();
        Some(String::from_utf8_lossy(frame.data_ref().unwrap()).into_owned())
    }

    /// The messages up to the one with a text; one comes every second.
    async fn hears(&mut self, text: &str) -> String {
        let mut heard = String::new();
        for _ in 0..10 {
            heard += &self.message().await.expect(text);
            if heard.contains(text) {
                return heard;
            }
        }
        panic!("not heard: {text}; but {heard}");
    }
}

fn all<'a>(list: &'a Value, member: &str) -> Vec<&'a str> {
    let items = list.as_array().unwrap().iter();
    items.map(|item| item[member].as_str().unwrap()).collect()
}

#[test]
fn groups_are_listed_page_by_page_with_their_arns() {
    let world = World::new();
    for name in ["/a/3", "/a/1", "/a/2", "/b"] {
        let made = world.ask("CreateLogGroup", &json!({"logGroupName": name}));
        assert_eq!(made.unwrap(), Value::Null);
    }
    let request = json!({"logGroupNamePrefix": "/a/", "limit": 2});
    let first = world.ask("DescribeLogGroups", &request).unwrap();
    assert_eq!(all(&first["logGroups"], "logGroupName"), ["/a/1", "/a/2"]);
    assert_eq!(
        first["logGroups"][0]["arn"],
        "arn:aws:logs:us-east-1:000000000000:log-group:/a/1:*"
    );
    let request = json!({"logGroupNamePrefix": "/a/", "limit": 2, "nextToken": first["nextToken"]});
    let second = world.ask("DescribeLogGroups", &request).unwrap();
    assert_eq!(all(&second["logGroups"], "logGroupName"), ["/a/3"]);
    assert_eq!(second["nextToken"], Value::Null);
    let found = world.ask("DescribeLogGroups", &json!({"logGroupNamePattern": "b"}));
    assert_eq!(all(&found.unwrap()["logGroups"], "logGroupName"), ["/b"]);
}

#[test]
fn a_retention_is_listed_whoever_chose_it() {
    let world = World::new();
    let group = json!({"logGroupName": GROUP});
    world.ask("CreateLogGroup", &group).unwrap();
    let days = || {
        world.ask("DescribeLogGroups", &json!({})).unwrap()["logGroups"][0]["retentionInDays"]
            .as_u64()
    };
    assert_eq!(days(), Some(30));
    let seven = json!({"logGroupName": GROUP, "retentionInDays": 7});
    world.ask("PutRetentionPolicy", &seven).unwrap();
    assert_eq!(days(), Some(7));
    world.ask("DeleteRetentionPolicy", &group).unwrap();
    assert_eq!(days(), Some(30));
    let eight = json!({"logGroupName": GROUP, "retentionInDays": 8});
    assert_eq!(
        world.refusal("PutRetentionPolicy", &eight),
        "InvalidParameterException"
    );
}

#[tokio::test]
async fn streams_are_listed_in_either_order_and_direction() {
    let world = World::new();
    world.write("b", 1_000, "x\n").await;
    world.write("a", 3_000, "x\n").await;
    world.write("c", 2_000, "x\n").await;
    let order = |order: &str, descending: bool| {
        let mut names = Vec::new();
        let mut token = Value::Null;
        loop {
            let request = json!({"logGroupName": GROUP, "orderBy": order, "descending": descending,
                                 "limit": 1, "nextToken": token});
            let page = world.ask("DescribeLogStreams", &request).unwrap();
            names.push(all(&page["logStreams"], "logStreamName").concat());
            token = page["nextToken"].clone();
            if token.is_null() {
                return names.concat();
            }
        }
    };
    assert_eq!(order("LogStreamName", false), "abc");
    assert_eq!(order("LogStreamName", true), "cba");
    assert_eq!(order("LastEventTime", false), "bca");
    assert_eq!(order("LastEventTime", true), "acb");
    let both =
        json!({"logGroupName": GROUP, "orderBy": "LastEventTime", "logStreamNamePrefix": "a"});
    assert_eq!(
        world.refusal("DescribeLogStreams", &both),
        "InvalidParameterException"
    );
}

#[tokio::test]
async fn a_stream_is_read_from_either_end_and_its_end_gives_the_token_back() {
    let world = World::new();
    world.write("s", 1_000, "one\ntwo\nthree\n").await;
    let read = |more: Value| {
        let mut request = json!({"logGroupName": GROUP, "logStreamName": "s", "limit": 2});
        request
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        world.ask("GetLogEvents", &request).unwrap()
    };
    let newest = read(json!({}));
    assert_eq!(all(&newest["events"], "message"), ["two", "three"]);
    let older = read(json!({"nextToken": newest["nextBackwardToken"]}));
    assert_eq!(all(&older["events"], "message"), ["one"]);
    let oldest = read(json!({"startFromHead": true}));
    assert_eq!(all(&oldest["events"], "message"), ["one", "two"]);
    let rest = read(json!({"startFromHead": true, "nextToken": oldest["nextForwardToken"]}));
    assert_eq!(all(&rest["events"], "message"), ["three"]);
    let end = read(json!({"startFromHead": true, "nextToken": rest["nextForwardToken"]}));
    assert_eq!(end["events"], json!([]));
    assert_eq!(end["nextForwardToken"], rest["nextForwardToken"]);
    world.write("s", 2_000, "four\n").await;
    let live = read(json!({"startFromHead": true, "nextToken": end["nextForwardToken"]}));
    assert_eq!(all(&live["events"], "message"), ["four"]);
}

#[tokio::test]
async fn a_groups_events_come_in_the_order_of_time_filtered_and_paged() {
    let world = World::new();
    world.write("a", 1_000, "a ERROR one\na two\n").await;
    world.write("b", 1_000, "b ERROR one\n").await;
    world.write("b", 2_000, "b ERROR three\n").await;
    let filter = |more: Value| {
        let mut request = json!({"logGroupName": GROUP});
        request
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        world.ask("FilterLogEvents", &request).unwrap()
    };
    let whole = filter(json!({"interleaved": true}));
    assert_eq!(
        all(&whole["events"], "message"),
        ["a ERROR one", "a two", "b ERROR one", "b ERROR three"]
    );
    let ids: std::collections::BTreeSet<_> = all(&whole["events"], "eventId").into_iter().collect();
    assert_eq!(ids.len(), 4);
    let errors = filter(json!({"filterPattern": "ERROR -three"}));
    assert_eq!(
        all(&errors["events"], "message"),
        ["a ERROR one", "b ERROR one"]
    );
    let first = filter(json!({"limit": 3}));
    let rest = filter(json!({"limit": 3, "nextToken": first["nextToken"]}));
    assert_eq!(all(&rest["events"], "message"), ["b ERROR three"]);
    assert_eq!(rest["nextToken"], Value::Null);
    let at_end = filter(json!({"startTime": 1_500, "endTime": 2_000}));
    assert_eq!(all(&at_end["events"], "message"), ["b ERROR three"]);
    let named = filter(json!({"logStreamNames": ["a"]}));
    assert_eq!(named["events"].as_array().unwrap().len(), 2);
    let missing = json!({"logGroupName": GROUP, "logStreamNames": ["a", "none"]});
    assert_eq!(
        world.refusal("FilterLogEvents", &missing),
        "ResourceNotFoundException"
    );
}

#[test]
fn what_is_wrong_is_refused_by_its_name() {
    let world = World::new();
    let group = json!({"logGroupName": GROUP});
    world.ask("CreateLogGroup", &group).unwrap();
    let invalid = "InvalidParameterException";
    let absent = "ResourceNotFoundException";
    for (operation, request, expected) in [
        (
            "CreateLogGroup",
            group.clone(),
            "ResourceAlreadyExistsException",
        ),
        ("CreateLogGroup", json!({"logGroupName": "a b"}), invalid),
        (
            "CreateLogGroup",
            json!({"logGroupName": "a", "kmsKeyId": "k"}),
            invalid,
        ),
        ("CreateLogGroup", json!({}), "SerializationException"),
        ("DeleteLogGroup", json!({"logGroupName": "none"}), absent),
        ("DescribeLogGroups", json!({"limit": 51}), invalid),
        ("DescribeLogGroups", json!({"nextToken": "forged"}), invalid),
        (
            "DescribeLogStreams",
            json!({"logGroupName": "none"}),
            absent,
        ),
        ("DescribeLogStreams", json!({}), invalid),
        (
            "GetLogEvents",
            json!({"logGroupName": GROUP, "logStreamName": "none"}),
            absent,
        ),
        ("FilterLogEvents", json!({"logGroupName": "none"}), absent),
        (
            "FilterLogEvents",
            json!({"logGroupName": GROUP, "startTime": -1}),
            invalid,
        ),
        (
            "FilterLogEvents",
            json!({"logGroupName": GROUP, "startTime": 2, "endTime": 1}),
            invalid,
        ),
        (
            "FilterLogEvents",
            json!({"logGroupName": GROUP, "filterPattern": "{ $.a = 1 }"}),
            invalid,
        ),
        (
            "FilterLogEvents",
            json!({"logGroupName": GROUP, "nextToken": "x"}),
            invalid,
        ),
        (
            "FilterLogEvents",
            json!({"logGroupName": GROUP, "startFromHead": false}),
            invalid,
        ),
        ("PutLogEvents", json!({}), "UnknownOperationException"),
    ] {
        assert_eq!(
            world.refusal(operation, &request),
            expected,
            "{operation} {request}"
        );
    }
    let faulty = answer_operation(&world.call, Operation::DescribeLogGroups, b"[1").unwrap_err();
    assert_eq!(faulty.wire_name(), "SerializationException");
    assert!(answer_operation(&world.call, Operation::DescribeLogGroups, b"").is_ok());
}

#[tokio::test]
async fn a_live_tail_tells_what_is_written_from_now_on_also_to_new_streams() {
    let world = World::new();
    world.write("old", 1_000, "before\n").await;
    let tails = LiveTails::new();
    let mut all = world.tail(&tails, json!({})).await;
    let mut some = world
        .tail(
            &tails,
            json!({"logStreamNamePrefixes": ["n"], "logEventFilterPattern": "-two"}),
        )
        .await;
    world.write("old", 2_000, "one\n").await;
    world.write("new", 3_000, "two\nthree\n").await;
    let heard = all.hears("three").await;
    assert!(
        heard.contains("one") && !heard.contains("before"),
        "{heard}"
    );
    let heard = some.hears("three").await;
    assert!(!heard.contains("one") && !heard.contains("two"), "{heard}");
    assert!(heard.contains("\"logStreamName\":\"new\""), "{heard}");
}

#[tokio::test]
async fn a_live_tail_gives_every_event_of_a_burst_in_updates_of_five_hundred() {
    let world = World::new();
    world.write("s", 1_000, "before\n").await;
    let mut tail = world.tail(&LiveTails::new(), json!({})).await;
    let lines: String = (0..1_234)
        .map(|number| format!("line-{number};\n"))
        .collect();
    world.write("s", 2_000, &lines).await;
    let mut told = Vec::new();
    while told.len() < 1_234 {
        let message = tail.message().await.unwrap();
        let update: Vec<&str> = message.split("\"message\":\"").skip(1).collect();
        assert!(update.len() <= 500);
        told.extend(
            update
                .iter()
                .map(|rest| rest.split('"').next().unwrap().to_owned()),
        );
    }
    let expected: Vec<String> = (0..1_234).map(|number| format!("line-{number};")).collect();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_live_tail_ends_with_its_group_and_with_the_server() {
    let world = World::new();
    world.write("s", 1_000, "before\n").await;
    let tails = LiveTails::new();
    let mut one = world.tail(&tails, json!({})).await;
    world
        .ask("DeleteLogGroup", &json!({"logGroupName": GROUP}))
        .unwrap();
    one.hears("SessionStreamingException").await;
    assert_eq!(one.message().await, None);
    world.write("s", 1_000, "again\n").await;
    let mut other = world.tail(&tails, json!({})).await;
    tails.end();
    while other.message().await.is_some() {}
}

#[tokio::test]
async fn there_are_only_so_many_live_tails_and_leaving_makes_room() {
    let world = World::new();
    world.write("s", 1_000, "before\n").await;
    let tails = LiveTails::new();
    let mut open = Vec::new();
    for _ in 0..15 {
        open.push(world.tail(&tails, json!({})).await);
    }
    let call = || Call {
        logs: world.call.logs.clone(),
        place: world.call.place.clone(),
    };
    let refused = tails.start(call(), "{}".into(), "id").await.map(|_| ());
    assert_eq!(refused.unwrap_err().wire_name(), "LimitExceededException");
    open.pop();
    let invalid = tails
        .start(call(), "{\"logGroupIdentifiers\":[]}".into(), "id")
        .await;
    assert_eq!(
        invalid.map(|_| ()).unwrap_err().wire_name(),
        "InvalidParameterException"
    );
    world.tail(&tails, json!({})).await;
}

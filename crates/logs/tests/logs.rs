//! What a user of the logs can rely on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ops::Range;

use colibri_logs::{
    Event, Filter, From, GroupName, Logs, LogsError, Query, Settings, StreamName, Streams, Token,
};
use tempfile::TempDir;

fn logs() -> (TempDir, Logs) {
    let directory = tempfile::tempdir().unwrap();
    let logs = Logs::open(directory.path(), Settings::default()).unwrap();
    (directory, logs)
}

fn group() -> GroupName {
    GroupName::parse("/aws/lambda-microvms/demo").unwrap()
}

fn stream(name: &str) -> StreamName {
    StreamName::parse(name).unwrap()
}

async fn write(logs: &Logs, name: &str, timestamps: Range<i64>) {
    let mut writer = logs.writer(&group(), &stream(name)).unwrap();
    for timestamp in timestamps {
        writer
            .append(timestamp, format!("{name} {timestamp}\n").as_bytes())
            .await;
    }
    writer.finish().await;
}

fn query(from: From, limit: usize) -> Query {
    Query {
        from,
        start_ms: None,
        end_ms: None,
        limit,
    }
}

fn times(events: &[Event]) -> Vec<i64> {
    events.iter().map(|event| event.timestamp_ms).collect()
}

#[tokio::test]
async fn output_becomes_events_wherever_it_is_cut() {
    let (_directory, logs) = logs();
    let mut writer = logs.writer(&group(), &stream("s")).unwrap();
    writer.append(1, b"hel").await;
    writer.append(2, b"lo\nwor").await;
    writer.append(3, b"ld").await;
    writer.finish().await;
    let page = logs
        .events(&group(), &stream("s"), &query(From::Oldest, 10))
        .unwrap();
    let found: Vec<_> = page
        .events
        .iter()
        .map(|event| (event.timestamp_ms, event.message.as_str()))
        .collect();
    assert_eq!(found, [(2, "hello"), (3, "world")]);
    assert!(
        page.events
            .iter()
            .all(|event| event.ingestion_ms > 1_700_000_000_000)
    );
}

#[tokio::test]
async fn pages_forward_and_back_give_every_event_once() {
    let (_directory, logs) = logs();
    write(&logs, "s", 0..25).await;
    let read = |from| {
        logs.events(&group(), &stream("s"), &query(from, 10))
            .unwrap()
    };

    let mut page = read(From::Oldest);
    let mut forward = times(&page.events);
    while forward.len() < 25 {
        let text = page.forward.to_string();
        page = read(From::Token(text.parse().unwrap()));
        forward.extend(times(&page.events));
    }
    assert_eq!(forward, (0..25).collect::<Vec<_>>());
    let end = read(From::Token(page.forward));
    assert_eq!(
        (end.events.len(), end.forward),
        (0, page.forward),
        "the end repeats its token"
    );

    let mut page = read(From::Newest);
    assert_eq!(times(&page.events), (15..25).collect::<Vec<_>>());
    let mut back = times(&page.events);
    while back.len() < 25 {
        page = read(From::Token(page.backward));
        back.splice(0..0, times(&page.events));
    }
    assert_eq!(back, forward);
    let start = read(From::Token(page.backward));
    assert_eq!((start.events.len(), start.backward), (0, page.backward));
}

#[tokio::test]
async fn a_token_at_the_end_goes_on_when_more_is_written() {
    let (_directory, logs) = logs();
    write(&logs, "s", 0..3).await;
    let page = logs
        .events(&group(), &stream("s"), &query(From::Newest, 10))
        .unwrap();
    write(&logs, "s", 3..5).await;
    let more = logs
        .events(
            &group(),
            &stream("s"),
            &query(From::Token(page.forward), 10),
        )
        .unwrap();
    assert_eq!(times(&more.events), [3, 4]);
}

#[tokio::test]
async fn a_time_range_includes_its_start_and_excludes_its_end() {
    let (_directory, logs) = logs();
    write(&logs, "s", 0..20).await;
    for from in [From::Oldest, From::Newest] {
        let wanted = Query {
            start_ms: Some(5),
            end_ms: Some(8),
            ..query(from, 10)
        };
        let page = logs.events(&group(), &stream("s"), &wanted).unwrap();
        assert_eq!(times(&page.events), [5, 6, 7]);
    }
}

#[tokio::test]
async fn everything_is_there_after_opening_again() {
    let (directory, logs) = logs();
    write(&logs, "2026/01/31[1.0]microvm-1", 0..3).await;
    logs.set_retention(&group(), Some(3)).unwrap();
    let streams = logs.streams(&group()).unwrap();
    let again = Logs::open(directory.path(), Settings::default()).unwrap();
    assert_eq!(again.streams(&group()).unwrap(), streams);
    assert_eq!(again.groups().unwrap(), logs.groups().unwrap());
    assert_eq!(
        streams[0].first_event_ms.zip(streams[0].last_event_ms),
        Some((0, 2))
    );
    assert!(streams[0].stored_bytes > 0);
}

#[tokio::test]
async fn streams_of_a_group_are_read_together_in_the_order_of_time() {
    let (_directory, logs) = logs();
    write(&logs, "b", 0..10).await;
    write(&logs, "a", 5..15).await;
    write(&logs, "other", 0..3).await;
    let mut found = Vec::new();
    let mut token = None;
    loop {
        let filter = Filter {
            streams: Streams::Named(vec![stream("a"), stream("b")]),
            start_ms: Some(2),
            end_ms: Some(13),
            matches: &|message| !message.ends_with('7'),
            limit: 3,
            token,
        };
        let page = logs.filter(&group(), &filter).unwrap();
        found.extend(
            page.events
                .iter()
                .map(|(name, event)| (event.timestamp_ms, name.to_string())),
        );
        let Some(next) = page.next else { break };
        token = Some(next.to_string().parse().unwrap());
    }
    let mut expected: Vec<(i64, String)> = (2..10).map(|time| (time, "b".to_owned())).collect();
    expected.extend((5..13).map(|time| (time, "a".to_owned())));
    expected.retain(|(time, _)| *time != 7);
    expected.sort();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_follower_is_woken_by_a_write() {
    let (_directory, logs) = logs();
    write(&logs, "s", 0..1).await;
    let mut subscription = logs.subscribe(&group()).unwrap();
    let follower = tokio::spawn(async move { subscription.changed().await });
    write(&logs, "new", 1..2).await;
    assert!(follower.await.unwrap());
    let mut subscription = logs.subscribe(&group()).unwrap();
    logs.delete_group(&group()).unwrap();
    assert!(
        !subscription.changed().await,
        "a follower of a deleted group is told"
    );
}

#[tokio::test]
async fn two_writers_of_one_stream_do_not_tear_each_others_lines() {
    let (_directory, logs) = logs();
    let mut first = logs.writer(&group(), &stream("s")).unwrap();
    let mut second = logs.writer(&group(), &stream("s")).unwrap();
    first.append(1, b"first ").await;
    second.append(1, b"second ").await;
    first.append(1, b"line\n").await;
    second.append(1, b"line\n").await;
    first.finish().await;
    second.finish().await;
    let page = logs
        .events(&group(), &stream("s"), &query(From::Oldest, 10))
        .unwrap();
    let messages: Vec<_> = page
        .events
        .iter()
        .map(|event| event.message.as_str())
        .collect();
    assert_eq!(messages, ["first line", "second line"]);
}

#[tokio::test]
async fn lines_offered_faster_than_they_are_written_are_lost_and_counted() {
    let (_directory, logs) = logs();
    let writer = logs.writer(&group(), &stream("s")).unwrap();
    // Nothing is written before this test waits for the first time.
    for number in 0..1000 {
        writer.offer(number, "line");
    }
    writer.flush().await;
    writer.offer(2000, "last");
    writer.flush().await;
    let page = logs
        .events(&group(), &stream("s"), &query(From::Newest, 10_000))
        .unwrap();
    let kept = page
        .events
        .iter()
        .filter(|event| event.message == "line")
        .count();
    assert!(kept > 0 && kept < 1000);
    let note = format!("{} lines were lost", 1000 - kept);
    assert!(
        page.events
            .iter()
            .any(|event| event.message.contains(&note)),
        "{note}"
    );
}

#[tokio::test]
async fn a_deleted_stream_takes_no_more_and_can_be_made_again() {
    let (_directory, logs) = logs();
    let mut writer = logs.writer(&group(), &stream("s")).unwrap();
    writer.append(1, b"before\n").await;
    writer.flush().await;
    logs.delete_stream(&group(), &stream("s")).unwrap();
    writer.append(2, b"nowhere\n").await;
    writer.finish().await;
    let gone = logs.events(&group(), &stream("s"), &query(From::Oldest, 1));
    assert!(matches!(gone, Err(LogsError::NoSuchStream { .. })));
    write(&logs, "s", 5..6).await;
    let page = logs
        .events(&group(), &stream("s"), &query(From::Oldest, 10))
        .unwrap();
    assert_eq!(times(&page.events), [5]);
}

#[tokio::test]
async fn old_events_expire_and_new_ones_stay() {
    let (directory, logs) = logs();
    write(&logs, "old", 0..3).await;
    let now = i64::try_from(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_millis(),
    )
    .unwrap();
    write(&logs, "new", now..now + 1).await;
    let again = Logs::open(directory.path(), Settings::default()).unwrap();
    again.expire().unwrap();
    let streams = again.streams(&group()).unwrap();
    // The stream itself is younger than the retention, so it stays, empty.
    let left: Vec<_> = streams
        .iter()
        .map(|s| (s.name.as_str(), s.last_event_ms))
        .collect();
    assert_eq!(left, [("new", Some(now)), ("old", None)]);
}

#[test]
fn tokens_that_this_store_did_not_give_are_refused() {
    for text in [
        "",
        "f/",
        "f/1",
        "x/1",
        "b/-1",
        &format!("f/{}", "9".repeat(56)),
    ] {
        assert!(text.parse::<Token>().is_err(), "{text:?}");
    }
}

#[test]
fn what_exists_is_not_made_twice() {
    let (_directory, logs) = logs();
    assert!(matches!(
        logs.create_stream(&group(), &stream("s")),
        Err(LogsError::NoSuchGroup { .. })
    ));
    logs.create_group(&group()).unwrap();
    assert!(matches!(
        logs.create_group(&group()),
        Err(LogsError::GroupExists { .. })
    ));
    logs.create_stream(&group(), &stream("s")).unwrap();
    assert!(matches!(
        logs.create_stream(&group(), &stream("s")),
        Err(LogsError::StreamExists { .. })
    ));
}

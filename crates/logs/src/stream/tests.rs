use std::io::Write as _;

use tempfile::TempDir;

use super::*;

fn stream(bound: u64) -> (TempDir, StreamFiles) {
    let directory = tempfile::tempdir().unwrap();
    let record = StreamRecord {
        name: StreamName::parse("s").unwrap(),
        created_ms: 0,
    };
    let files = StreamFiles::create(directory.path().join("s"), record, bound).unwrap();
    (directory, files)
}

fn add(files: &StreamFiles, timestamps: std::ops::Range<i64>) {
    for timestamp in timestamps {
        files
            .append(
                &[(timestamp, format!("message {timestamp}"))],
                timestamp + 1,
            )
            .unwrap();
    }
}

fn all(files: &StreamFiles) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    loop {
        let from = events.last().map_or(0, |event| event.next);
        let more = files.read_from(from).unwrap();
        if more.is_empty() {
            return events;
        }
        events.extend(more);
    }
}

fn times(events: &[Event]) -> Vec<i64> {
    events.iter().map(|event| event.timestamp_ms).collect()
}

#[test]
fn what_is_appended_is_read_in_order_across_segments() {
    let (_directory, files) = stream(8 * 400);
    add(&files, 0..40);
    let segments = files.segments().unwrap();
    assert!(segments.len() > 2, "{}", segments.len());
    assert_eq!(times(&all(&files)), (0..40).collect::<Vec<_>>());
}

#[test]
fn reading_backwards_gives_the_same_events() {
    let (_directory, files) = stream(8 * 400);
    add(&files, 0..40);
    let mut backwards: Vec<Event> = Vec::new();
    let mut until = files.end().unwrap();
    loop {
        let mut earlier = files.read_until(until).unwrap();
        let Some(first) = earlier.first() else { break };
        until = first.position;
        earlier.append(&mut backwards);
        backwards = earlier;
    }
    assert_eq!(backwards, all(&files));
}

#[test]
fn a_stream_keeps_to_its_bound_and_positions_stay() {
    let (_directory, files) = stream(4000);
    add(&files, 0..20);
    let early = all(&files).pop().unwrap();
    add(&files, 20..500);
    assert!(files.stored_bytes().unwrap() <= 4000 + 500);
    let kept = all(&files);
    assert_eq!(kept.last().map(|event| event.timestamp_ms), Some(499));
    assert!(kept.len() > 20);
    // A position that was dropped goes on with the oldest event there is.
    assert_eq!(files.read_from(early.next).unwrap().first(), kept.first());
}

#[test]
fn a_torn_last_line_is_not_read_and_is_cut_off() {
    let (_directory, files) = stream(1 << 20);
    add(&files, 0..3);
    let path = files.segments().unwrap()[0].path.clone();
    files.close();
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(b"{\"t\":9,\"i\":9,\"m\":\"to").unwrap();
    let reopened = StreamFiles::open(files.directory.clone(), 1 << 20).unwrap();
    assert_eq!(times(&all(&reopened)), [0, 1, 2]);
    add(&reopened, 5..6);
    assert_eq!(times(&all(&reopened)), [0, 1, 2, 5]);
}

#[test]
fn a_damaged_line_is_left_out_and_the_rest_is_read() {
    let (_directory, files) = stream(1 << 20);
    add(&files, 0..1);
    let path = files.segments().unwrap()[0].path.clone();
    OpenOptions::new()
        .append(true)
        .open(path)
        .unwrap()
        .write_all(b"\0\0\xff\n")
        .unwrap();
    files.close();
    add(&files, 1..2);
    assert_eq!(times(&all(&files)), [0, 1]);
}

#[test]
fn time_never_goes_back_within_a_stream_even_after_a_restart() {
    let (_directory, files) = stream(1 << 20);
    add(&files, 100..101);
    files.close();
    add(&files, 50..51);
    assert_eq!(times(&all(&files)), [100, 100]);
}

#[test]
fn seeking_finds_the_first_event_of_a_time() {
    let (_directory, files) = stream(8 * 400);
    add(&files, 0..20);
    add(&files, 30..40);
    for (wanted, found) in [(-5, 0), (0, 0), (7, 7), (25, 30), (39, 39)] {
        let position = files.seek(wanted).unwrap();
        assert_eq!(files.read_from(position).unwrap()[0].timestamp_ms, found);
    }
    assert_eq!(files.seek(40).unwrap(), files.end().unwrap());
}

#[test]
fn the_longest_messages_can_be_read_both_ways() {
    let (_directory, files) = stream(64 << 20);
    // Every character of it becomes six on disk.
    let message = "\u{1}".repeat(crate::line::LARGEST_MESSAGE_BYTES);
    for timestamp in 0..3 {
        files.append(&[(timestamp, message.clone())], 0).unwrap();
    }
    assert_eq!(times(&all(&files)), [0, 1, 2]);
    let end = files.end().unwrap();
    assert_eq!(
        files.read_until(end).unwrap().pop().unwrap().message,
        message
    );
}

#[test]
fn expired_events_go_and_their_positions_are_not_used_again() {
    let (_directory, files) = stream(8 * 400);
    add(&files, 0..40);
    assert!(!files.expire(20).unwrap());
    let kept = all(&files);
    assert!(kept[0].timestamp_ms > 0 && kept[0].timestamp_ms <= 20);
    let end = files.end().unwrap();
    files.close();
    assert!(files.expire(1000).unwrap());
    assert!(files.expire(1000).unwrap());
    assert!(all(&files).is_empty());
    assert_eq!(files.end().unwrap(), end);
    add(&files, 50..51);
    assert_eq!(all(&files)[0].position, end);
}

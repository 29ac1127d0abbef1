use std::fs;

use tempfile::TempDir;
use time::Duration;

use super::*;
use crate::checksum::{Algorithm, Checksums, Kind, finish, hasher};
use crate::etag::hex;
use s3s::crypto::{Checksum as _, Md5};

/// Keys that a file system could not take, or would take for something else.
const HOSTILE: [&str; 10] = [
    "a",
    "a/b",
    "a/b/",
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "con\nline",
    "é☃",
    "//",
];

fn store() -> (TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.create_bucket("code").unwrap();
    (directory, store)
}

fn written(bucket: &Bucket, bytes: &[u8]) -> (Arc<Segment>, SegmentRecord) {
    let segment = Segment::create(&bucket.data_directory());
    fs::write(segment.path(), bytes).unwrap();
    let record = SegmentRecord {
        id: segment.id().to_owned(),
        size: bytes.len() as u64,
    };
    (Arc::new(segment), record)
}

fn object(bucket: &Bucket, key: &str, bytes: &[u8]) -> Object {
    let (segment, listed) = written(bucket, bytes);
    let record = ObjectRecord {
        format: FORMAT,
        key: key.to_owned(),
        size: bytes.len() as u64,
        etag: hex(&Md5::checksum(bytes)),
        modified: OffsetDateTime::now_utc(),
        headers: Headers::default(),
        checksums: Checksums::new(),
        checksum_kind: Kind::FullObject,
        multipart: false,
        segments: vec![listed],
    };
    Object {
        record,
        segments: vec![segment],
    }
}

fn put(bucket: &Bucket, key: &str, bytes: &[u8]) {
    bucket
        .put(object(bucket, key, bytes), &Condition::Always)
        .unwrap();
}

fn part(bucket: &Bucket, number: u16, bytes: &[u8]) -> Part {
    let (segment, listed) = written(bucket, bytes);
    let mut sums = hasher([Algorithm::Crc64Nvme]);
    sums.update(bytes);
    let record = PartRecord {
        number,
        etag: hex(&Md5::checksum(bytes)),
        modified: OffsetDateTime::now_utc(),
        checksums: finish(sums),
        segment: listed,
    };
    Part { record, segment }
}

fn wanted(parts: &[&Part]) -> Completion {
    let parts = parts
        .iter()
        .map(|part| WantedPart {
            number: part.record.number,
            etag: part.record.etag.clone(),
            checksums: Checksums::new(),
        })
        .collect();
    Completion {
        parts,
        ..Completion::default()
    }
}

fn bytes(object: &Object) -> Vec<u8> {
    object
        .segments
        .iter()
        .flat_map(|segment| fs::read(segment.path()).unwrap())
        .collect()
}

fn files(bucket: &Bucket) -> usize {
    fs::read_dir(bucket.data_directory()).unwrap().count()
}

#[test]
fn hostile_keys_are_different_objects_and_stay_in_the_store() {
    let (directory, store) = store();
    let bucket = store.bucket("code").unwrap();
    let long = "k".repeat(1024);
    let keys: Vec<&str> = HOSTILE.into_iter().chain([long.as_str()]).collect();
    for key in &keys {
        put(&bucket, key, key.as_bytes());
    }
    let reopened = Store::open(directory.path()).unwrap();
    let bucket = reopened.bucket("code").unwrap();
    for key in &keys {
        assert_eq!(
            bytes(&bucket.object(key).unwrap()),
            key.as_bytes(),
            "{key:?}"
        );
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn replacing_an_object_leaves_its_readers_alone_and_then_frees_the_disk() {
    let (_directory, store) = store();
    let bucket = store.bucket("code").unwrap();
    put(&bucket, "k", b"old");
    let reading = bucket.object("k").unwrap();
    put(&bucket, "k", b"new");
    assert_eq!(bytes(&reading), b"old");
    assert_eq!(bytes(&bucket.object("k").unwrap()), b"new");
    assert_eq!(files(&bucket), 2);
    drop(reading);
    assert_eq!(files(&bucket), 1);
}

#[test]
fn an_upload_that_is_never_recorded_leaves_no_file() {
    let (_directory, store) = store();
    let bucket = store.bucket("code").unwrap();
    drop(object(&bucket, "k", b"cancelled"));
    put(&bucket, "there", b"");
    let refused = bucket.put(object(&bucket, "there", b"x"), &Condition::Absent);
    assert!(matches!(refused, Err(StoreError::PreconditionFailed)));
    assert_eq!(files(&bucket), 1);
}

#[test]
fn what_a_crash_leaves_is_swept_at_the_next_start() {
    let (directory, store) = store();
    let bucket = store.bucket("code").unwrap();
    put(&bucket, "k", b"kept");
    let root = directory.path();
    fs::write(root.join("code/data/orphan"), b"x").unwrap();
    fs::write(root.join("code/objects/.unfinished-1"), b"{").unwrap();
    fs::create_dir_all(root.join(".removed-1/data")).unwrap();
    fs::create_dir_all(root.join(".unfinished-2")).unwrap();
    fs::create_dir_all(root.join("code/uploads/half-made")).unwrap();
    let reopened = Store::open(root).unwrap();
    let bucket = reopened.bucket("code").unwrap();
    assert_eq!(bytes(&bucket.object("k").unwrap()), b"kept");
    assert_eq!(files(&bucket), 1);
    assert_eq!(fs::read_dir(root).unwrap().count(), 1);
    assert_eq!(fs::read_dir(root.join("code/objects")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(root.join("code/uploads")).unwrap().count(), 0);
}

#[test]
fn a_record_that_cannot_be_read_costs_no_data() {
    let (directory, store) = store();
    let bucket = store.bucket("code").unwrap();
    put(&bucket, "k", b"kept");
    put(&bucket, "damaged", b"kept, too");
    let name = format!("{}.json", blake3::hash(b"damaged").to_hex());
    fs::write(directory.path().join("code/objects").join(name), b"{}").unwrap();
    let reopened = Store::open(directory.path()).unwrap();
    let bucket = reopened.bucket("code").unwrap();
    assert!(matches!(
        bucket.object("damaged"),
        Err(StoreError::NoSuchKey)
    ));
    assert_eq!(files(&bucket), 2);
}

#[test]
fn a_bucket_goes_only_when_it_is_empty_and_takes_its_uploads_along() {
    let (directory, store) = store();
    let bucket = store.bucket("code").unwrap();
    put(&bucket, "k", b"x");
    assert!(matches!(
        store.delete_bucket("code"),
        Err(StoreError::BucketNotEmpty)
    ));
    bucket
        .delete(&["k".to_owned(), "never".to_owned()])
        .unwrap();
    let upload = bucket.create_upload("k", Headers::default(), None).unwrap();
    bucket
        .put_part("k", &upload.id, part(&bucket, 1, b"x"))
        .unwrap();
    store.delete_bucket("code").unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    assert!(matches!(
        store.delete_bucket("code"),
        Err(StoreError::NoSuchBucket)
    ));
    assert!(matches!(
        bucket.create_upload("k", Headers::default(), None),
        Err(StoreError::NoSuchBucket)
    ));
}

#[test]
fn completing_an_upload_joins_the_wanted_parts_and_drops_the_others() {
    let (directory, store) = store();
    let bucket = store.bucket("code").unwrap();
    let upload = bucket.create_upload("k", Headers::default(), None).unwrap();
    let big = vec![7; 5 * 1024 * 1024];
    let parts = [
        part(&bucket, 2, &big),
        part(&bucket, 5, b"end"),
        part(&bucket, 3, b"unwanted"),
    ];
    for part in &parts {
        bucket.put_part("k", &upload.id, part.clone()).unwrap();
    }
    let completion = wanted(&[&parts[0], &parts[1]]);
    let object = bucket
        .complete_upload("k", &upload.id, &completion)
        .unwrap();
    assert_eq!(bytes(&object), [big.as_slice(), b"end"].concat());
    assert!(object.record.etag.ends_with("-2"));
    let mut whole = hasher([Algorithm::Crc64Nvme]);
    whole.update(&bytes(&object));
    assert_eq!(object.record.checksums, finish(whole));
    drop(parts);
    assert_eq!(files(&bucket), 2);
    let reopened = Store::open(directory.path()).unwrap();
    assert_eq!(
        bytes(&reopened.bucket("code").unwrap().object("k").unwrap()),
        bytes(&object)
    );
}

#[test]
fn a_crash_between_completing_and_clearing_an_upload_keeps_the_object() {
    let (directory, store) = store();
    let bucket = store.bucket("code").unwrap();
    let upload = bucket.create_upload("k", Headers::default(), None).unwrap();
    let only = part(&bucket, 1, b"only");
    bucket.put_part("k", &upload.id, only.clone()).unwrap();
    let uploads = directory.path().join("code/uploads");
    let saved = fs::read(uploads.join(&upload.id).join("1.json")).unwrap();
    let record = fs::read(uploads.join(&upload.id).join("upload.json")).unwrap();
    bucket
        .complete_upload("k", &upload.id, &wanted(&[&only]))
        .unwrap();
    fs::create_dir(uploads.join(&upload.id)).unwrap();
    fs::write(uploads.join(&upload.id).join("1.json"), saved).unwrap();
    fs::write(uploads.join(&upload.id).join("upload.json"), record).unwrap();

    let reopened = Store::open(directory.path()).unwrap();
    reopened.abort_uploads_before(OffsetDateTime::now_utc() + Duration::DAY);
    let bucket = reopened.bucket("code").unwrap();
    assert!(bucket.uploads().is_empty());
    assert_eq!(bytes(&bucket.object("k").unwrap()), b"only");
}

#[test]
fn an_upload_survives_a_restart_and_is_dropped_when_it_is_abandoned() {
    let (directory, store) = store();
    let bucket = store.bucket("code").unwrap();
    let upload = bucket.create_upload("k", Headers::default(), None).unwrap();
    bucket
        .put_part("k", &upload.id, part(&bucket, 1, b"first"))
        .unwrap();
    bucket
        .put_part("k", &upload.id, part(&bucket, 1, b"again"))
        .unwrap();
    let reopened = Store::open(directory.path()).unwrap();
    let bucket = reopened.bucket("code").unwrap();
    reopened.abort_uploads_before(upload.initiated - Duration::HOUR);
    assert_eq!(bucket.parts("k", &upload.id).unwrap().len(), 1);
    reopened.abort_uploads_before(OffsetDateTime::now_utc() + Duration::HOUR);
    assert!(matches!(
        bucket.parts("k", &upload.id),
        Err(StoreError::NoSuchUpload)
    ));
    assert_eq!(files(&bucket), 0);
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let (_directory, store) = store();
    let bucket = store.bucket("code").unwrap();
    let upload = bucket.create_upload("k", Headers::default(), None).unwrap();
    let parts = [part(&bucket, 1, b"small"), part(&bucket, 2, b"last")];
    for part in &parts {
        bucket.put_part("k", &upload.id, part.clone()).unwrap();
    }
    let complete = |completion: &Completion| {
        bucket
            .complete_upload("k", &upload.id, completion)
            .map(drop)
            .unwrap_err()
    };
    let small = complete(&wanted(&[&parts[0], &parts[1]]));
    assert!(matches!(
        small,
        StoreError::PartTooSmall {
            number: 1,
            size: 5,
            ..
        }
    ));
    let disordered = complete(&wanted(&[&parts[1], &parts[0]]));
    assert!(matches!(disordered, StoreError::InvalidPartOrder));
    assert!(matches!(
        complete(&Completion::default()),
        StoreError::InvalidPart
    ));
    let mut wrong = wanted(&[&parts[1]]);
    wrong.parts[0].etag = "0".repeat(32);
    assert!(matches!(complete(&wrong), StoreError::InvalidPart));
    let other_key = bucket.complete_upload("other", &upload.id, &wanted(&[&parts[1]]));
    assert!(matches!(other_key, Err(StoreError::NoSuchUpload)));
    let sized = Completion {
        size: Some(99),
        ..wanted(&[&parts[1]])
    };
    assert!(matches!(
        complete(&sized),
        StoreError::WrongSize {
            expected: 99,
            found: 4
        }
    ));
}

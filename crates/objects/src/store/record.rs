//! What is kept about an object besides its bytes, and the form that it has on disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::segment::Segment;
use crate::checksum::{Checksums, Kind};

/// Version of the records on disk.
pub(crate) const FORMAT: u32 = 1;

/// The headers that S3 stores with an object and gives back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Headers {
    pub(crate) content_type: Option<String>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) content_disposition: Option<String>,
    pub(crate) content_language: Option<String>,
    pub(crate) cache_control: Option<String>,
    #[serde(with = "time::serde::timestamp::option")]
    pub(crate) expires: Option<OffsetDateTime>,
    /// `x-amz-meta-*`, without the prefix.
    pub(crate) metadata: BTreeMap<String, String>,
}

/// A bucket on disk: `bucket.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BucketRecord {
    pub(crate) format: u32,
    pub(crate) name: String,
    #[serde(with = "time::serde::timestamp::milliseconds")]
    pub(crate) created: OffsetDateTime,
}

/// An object on disk: `objects/<blake3 of the key>.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ObjectRecord {
    pub(crate) format: u32,
    pub(crate) key: String,
    /// Bytes.
    pub(crate) size: u64,
    /// Without the quotation marks.
    pub(crate) etag: String,
    #[serde(with = "time::serde::timestamp::milliseconds")]
    pub(crate) modified: OffsetDateTime,
    pub(crate) headers: Headers,
    pub(crate) checksums: Checksums,
    pub(crate) checksum_kind: Kind,
    /// Whether the object came as a multipart upload: its segments are then its parts.
    pub(crate) multipart: bool,
    pub(crate) segments: Vec<SegmentRecord>,
}

/// A file of bytes, in `data/`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SegmentRecord {
    pub(crate) id: String,
    /// Bytes.
    pub(crate) size: u64,
}

/// A multipart upload on disk: `uploads/<id>/upload.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct UploadRecord {
    pub(crate) format: u32,
    pub(crate) id: String,
    pub(crate) key: String,
    #[serde(with = "time::serde::timestamp::milliseconds")]
    pub(crate) initiated: OffsetDateTime,
    pub(crate) headers: Headers,
    /// What the client asked for at the start.
    pub(crate) checksum: Option<(crate::checksum::Algorithm, Kind)>,
}

/// A part on disk: `uploads/<id>/<number>.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PartRecord {
    pub(crate) number: u16,
    /// Without the quotation marks: the MD5 in hexadecimal.
    pub(crate) etag: String,
    #[serde(with = "time::serde::timestamp::milliseconds")]
    pub(crate) modified: OffsetDateTime,
    pub(crate) checksums: Checksums,
    pub(crate) segment: SegmentRecord,
}

/// An object that can be read: it holds its bytes in place, also when it is replaced meanwhile.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) record: ObjectRecord,
    pub(crate) segments: Vec<Arc<Segment>>,
}

impl Object {
    /// Finds the bytes of a record read from disk. `None` when some are missing.
    pub(crate) fn load(record: ObjectRecord, data: &Path) -> Option<Self> {
        let segments = record
            .segments
            .iter()
            .map(|listed| load_segment(listed, data).map(Arc::new))
            .collect::<Option<_>>()?;
        Some(Self { record, segments })
    }

    pub(crate) fn keep(&self) {
        for segment in &self.segments {
            segment.keep();
        }
    }

    pub(crate) fn dispose(&self) {
        for segment in &self.segments {
            segment.dispose();
        }
    }
}

/// A part of an upload, with its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) record: PartRecord,
    pub(crate) segment: Arc<Segment>,
}

impl Part {
    pub(crate) fn load(record: PartRecord, data: &Path) -> Option<Self> {
        let segment = Arc::new(load_segment(&record.segment, data)?);
        Some(Self { record, segment })
    }
}

fn load_segment(listed: &SegmentRecord, data: &Path) -> Option<Segment> {
    let segment = Segment::listed(data, &listed.id)?;
    let whole = segment
        .path()
        .metadata()
        .is_ok_and(|found| found.len() == listed.size);
    whole.then_some(segment)
}

/// Name of an object's record. A key may be longer than a file name, contain `..` or a slash, or be
/// the beginning of another key; its hash is none of that.
pub(crate) fn record_name(key: &str) -> String {
    format!("{}.json", blake3::hash(key.as_bytes()).to_hex())
}

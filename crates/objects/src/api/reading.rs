//! How an object's bytes go out: preconditions, which part of them, and the stream.

use std::collections::VecDeque;
use std::io::{self, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream;
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use http_body_util::StreamBody;
use s3s::dto::{ETagCondition, StreamingBlob, Timestamp};
use s3s::{Body, S3Error, S3Result, dto, s3_error};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::store::{Object, Segment};

/// Bytes of one read.
const READ_BYTES: usize = 256 * 1024;

/// The preconditions of a read.
pub(super) struct Preconditions<'a> {
    pub(super) if_match: Option<&'a ETagCondition>,
    pub(super) if_none_match: Option<&'a ETagCondition>,
    pub(super) if_modified_since: Option<&'a Timestamp>,
    pub(super) if_unmodified_since: Option<&'a Timestamp>,
}

impl Preconditions<'_> {
    /// In the order of RFC 9110, 13.2.2.
    pub(super) fn check(&self, object: &Object) -> S3Result<()> {
        let etag = dto::ETag::Strong(object.record.etag.clone());
        // HTTP dates have no fractions of a second.
        let modified = object
            .record
            .modified
            .replace_nanosecond(0)
            .unwrap_or(object.record.modified);
        let modified = Timestamp::from(modified);
        let matches = |condition: &ETagCondition| {
            condition
                .as_etag()
                .is_none_or(|wanted| wanted.weak_cmp(&etag))
        };
        let failed = match (self.if_match, self.if_unmodified_since) {
            (Some(condition), _) => !matches(condition),
            (None, Some(since)) => modified > *since,
            (None, None) => false,
        };
        if failed {
            return Err(s3_error!(
                PreconditionFailed,
                "At least one of the pre-conditions you specified did not hold"
            ));
        }
        let unchanged = match (self.if_none_match, self.if_modified_since) {
            (Some(condition), _) => matches(condition),
            (None, Some(since)) => modified <= *since,
            (None, None) => false,
        };
        if unchanged {
            Err(not_modified(&object.record.etag))
        } else {
            Ok(())
        }
    }
}

fn not_modified(etag: &str) -> S3Error {
    let mut error = s3_error!(NotModified, "Not Modified");
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{etag}\"")) {
        error.set_headers(HeaderMap::from_iter([(header::ETAG, etag)]));
    }
    error
}

/// Which bytes of an object are wanted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) bytes: Range<u64>,
    /// `Content-Range`, when not simply all of them were asked for.
    pub(super) content_range: Option<String>,
    /// Number of parts, when one was asked for.
    pub(super) parts: Option<usize>,
}

impl Extent {
    pub(super) fn wanted(
        object: &Object,
        range: Option<dto::Range>,
        part: Option<i32>,
    ) -> S3Result<Self> {
        let size = object.record.size;
        let (bytes, parts) = match (range, part) {
            (Some(_), Some(_)) => {
                return Err(s3_error!(
                    InvalidRequest,
                    "Cannot specify both Range header and partNumber query parameter"
                ));
            }
            (None, None) => {
                return Ok(Self {
                    bytes: 0..size,
                    content_range: None,
                    parts: None,
                });
            }
            (Some(range), None) => (range.check(size)?, None),
            (None, Some(number)) => {
                let (bytes, parts) = part_extent(object, number)?;
                (bytes, object.record.multipart.then_some(parts))
            }
        };
        let content_range =
            (!bytes.is_empty()).then(|| format!("bytes {}-{}/{size}", bytes.start, bytes.end - 1));
        Ok(Self {
            bytes,
            content_range,
            parts,
        })
    }

    pub(super) fn length(&self) -> u64 {
        self.bytes.end - self.bytes.start
    }

    pub(super) fn is_whole(&self, object: &Object) -> bool {
        self.length() == object.record.size
    }
}

fn part_extent(object: &Object, number: i32) -> S3Result<(Range<u64>, usize)> {
    let sizes: Vec<u64> = if object.record.multipart {
        object
            .record
            .segments
            .iter()
            .map(|segment| segment.size)
            .collect()
    } else {
        vec![object.record.size]
    };
    let index = usize::try_from(number)
        .ok()
        .and_then(|number| number.checked_sub(1));
    let Some(index) = index.filter(|index| *index < sizes.len()) else {
        return Err(s3_error!(
            InvalidRange,
            "The requested partnumber is not satisfiable"
        ));
    };
    let start: u64 = sizes[..index].iter().sum();
    Ok((start..start + sizes[index], sizes.len()))
}

/// A file of the object and which of its bytes go out.
type Piece = (Arc<Segment>, Range<u64>);

/// The files that hold the bytes of an extent.
pub(crate) fn pieces(object: &Object, bytes: &Range<u64>) -> VecDeque<Piece> {
    let mut start = 0;
    let mut pieces = VecDeque::new();
    for (segment, record) in object.segments.iter().zip(&object.record.segments) {
        let end = start + record.size;
        let wanted = bytes.start.max(start)..bytes.end.min(end);
        if !wanted.is_empty() {
            pieces.push_back((
                Arc::clone(segment),
                wanted.start - start..wanted.end - start,
            ));
        }
        start = end;
    }
    pieces
}

struct Reading {
    pieces: VecDeque<Piece>,
    current: Option<(File, u64)>,
}

/// Streams bytes of an object. The object may be replaced or deleted meanwhile: its files stay until
/// the stream ends.
pub(super) fn stream(object: &Object, bytes: &Range<u64>) -> StreamingBlob {
    let reading = Reading {
        pieces: pieces(object, bytes),
        current: None,
    };
    let frames = stream::try_unfold(
        (reading, Vec::new()),
        |(mut reading, mut held)| async move {
            let Some(chunk) = reading.next(&mut held).await? else {
                return Ok::<_, io::Error>(None);
            };
            Ok(Some((Frame::data(chunk), (reading, held))))
        },
    );
    StreamingBlob::from(Body::http_body_unsync(StreamBody::new(frames)))
}

impl Reading {
    async fn next(&mut self, held: &mut Vec<Arc<Segment>>) -> io::Result<Option<Bytes>> {
        loop {
            if let Some((file, left)) = &mut self.current
                && *left > 0
            {
                let chunk = read_chunk(file, *left).await?;
                *left -= chunk.len() as u64;
                return Ok(Some(chunk));
            }
            let Some((segment, bytes)) = self.pieces.pop_front() else {
                return Ok(None);
            };
            let mut file = File::open(segment.path()).await?;
            file.seek(SeekFrom::Start(bytes.start)).await?;
            self.current = Some((file, bytes.end - bytes.start));
            *held = vec![segment];
        }
    }
}

async fn read_chunk(file: &mut File, left: u64) -> io::Result<Bytes> {
    let wanted = usize::try_from(left).map_or(READ_BYTES, |left| left.min(READ_BYTES));
    let mut buffer = BytesMut::with_capacity(wanted);
    let mut limited = file.take(wanted as u64);
    if limited.read_buf(&mut buffer).await? == 0 {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "an object's file is cut",
        ));
    }
    Ok(buffer.freeze())
}

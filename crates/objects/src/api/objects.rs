//! Writing, reading and deleting single objects.

use std::sync::Arc;

use s3s::dto::ETagCondition;
use s3s::{S3Request, S3Response, S3Result, dto, s3_error};
use time::OffsetDateTime;

use super::reading::{self, Extent, Preconditions};
use super::{Answer, Api, kind_of, set_checksums, size, stored_headers};
use crate::access::Undeletable;
use crate::checksum::{Algorithm, Checksums, Kind};
use crate::etag;
use crate::receive::{Declared, Received, check_space, receive};
use crate::store::{Condition, FORMAT, Headers, Object, ObjectRecord, SegmentRecord};

/// What S3 calls an object whose type nobody said.
const DEFAULT_TYPE: &str = "binary/octet-stream";

/// Fills what GetObject and HeadObject both say of an object: their outputs have the members in
/// common and no type.
macro_rules! describe {
    ($output:ident, $object:ident, $extent:ident, $checksum_mode:expr) => {{
        let record = &$object.record;
        $output.accept_ranges = Some("bytes".to_owned());
        $output.content_length = Some(size($extent.length()));
        $output.content_range = $extent.content_range.clone();
        $output.parts_count = $extent.parts.map(super::count);
        $output.e_tag = Some(dto::ETag::Strong(record.etag.clone()));
        $output.last_modified = Some(record.modified.into());
        let content_type = record
            .headers
            .content_type
            .as_deref()
            .unwrap_or(DEFAULT_TYPE);
        $output.content_type = Some(content_type.to_owned());
        $output.content_encoding = record.headers.content_encoding.clone();
        $output.content_disposition = record.headers.content_disposition.clone();
        $output.content_language = record.headers.content_language.clone();
        $output.cache_control = record.headers.cache_control.clone();
        $output.expires = record.headers.expires.map(Into::into);
        $output.metadata = Some(record.headers.metadata.clone().into_iter().collect());
        let asked = $checksum_mode.is_some_and(|mode| mode.as_str() == dto::ChecksumMode::ENABLED);
        // A checksum is of the whole object: with a part of it the client could not verify it.
        if asked && $extent.is_whole(&$object) {
            set_checksums!($output, &record.checksums);
            $output.checksum_type = kind_of(&record.checksums, record.checksum_kind);
        }
    }};
}

/// The condition of a write.
pub(super) fn condition(
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<Condition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Condition::Always),
        (None, Some(ETagCondition::Any)) => Ok(Condition::Absent),
        (Some(ETagCondition::ETag(etag)), None) => Ok(Condition::Etag(etag.value().to_owned())),
        _ => Err(s3_error!(
            NotImplemented,
            "A write can be conditional on If-None-Match: * or on If-Match with an ETag"
        )),
    }
}

pub(super) fn single_object(key: String, headers: Headers, received: Received) -> Object {
    let record = ObjectRecord {
        format: FORMAT,
        key,
        size: received.size,
        etag: etag::hex(&received.md5),
        modified: OffsetDateTime::now_utc(),
        headers,
        checksums: received.checksums,
        checksum_kind: Kind::FullObject,
        multipart: false,
        segments: vec![SegmentRecord {
            id: received.segment.id().to_owned(),
            size: received.size,
        }],
    };
    Object {
        record,
        segments: vec![received.segment],
    }
}

impl Api {
    pub(super) async fn answer_put_object(
        &self,
        mut req: S3Request<dto::PutObjectInput>,
    ) -> Answer<dto::PutObjectOutput> {
        let input = &mut req.input;
        let bucket = self.store.bucket(&input.bucket)?;
        let length = input.content_length;
        let declared = Declared::parse(&req.headers, length, input.content_md5.as_deref())?;
        let condition = condition(input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let headers = stored_headers!(input);
        check_space(self.store.root(), length, self.settings.reserved_bytes)?;
        // S3 gives every object a checksum, and this one when the client chose none.
        let algorithm = declared.algorithm().unwrap_or(Algorithm::Crc64Nvme);
        let directory = bucket.data_directory();
        let trailers = req.trailing_headers.take();
        let body = input.body.take();
        let received = receive(&directory, body, &declared, Some(algorithm), trailers).await?;
        let object = single_object(std::mem::take(&mut input.key), headers, received);
        let object = self
            .on_disk(move |_| bucket.put(object, &condition))
            .await?;
        Ok(S3Response::new(put_output(&object.record)))
    }

    fn object(&self, bucket: &str, key: &str) -> S3Result<Arc<Object>> {
        Ok(self.store.bucket(bucket)?.object(key)?)
    }

    pub(super) fn answer_get_object(
        &self,
        input: &dto::GetObjectInput,
    ) -> Answer<dto::GetObjectOutput> {
        let object = self.object(&input.bucket, &input.key)?;
        let preconditions = Preconditions {
            if_match: input.if_match.as_ref(),
            if_none_match: input.if_none_match.as_ref(),
            if_modified_since: input.if_modified_since.as_ref(),
            if_unmodified_since: input.if_unmodified_since.as_ref(),
        };
        preconditions.check(&object)?;
        let extent = Extent::wanted(&object, input.range, input.part_number)?;
        let mut output = dto::GetObjectOutput {
            body: Some(reading::stream(&object, &extent.bytes)),
            ..Default::default()
        };
        describe!(output, object, extent, input.checksum_mode.as_ref());
        Ok(S3Response::new(output))
    }

    pub(super) fn answer_head_object(
        &self,
        input: &dto::HeadObjectInput,
    ) -> Answer<dto::HeadObjectOutput> {
        let object = self.object(&input.bucket, &input.key)?;
        let preconditions = Preconditions {
            if_match: input.if_match.as_ref(),
            if_none_match: input.if_none_match.as_ref(),
            if_modified_since: input.if_modified_since.as_ref(),
            if_unmodified_since: input.if_unmodified_since.as_ref(),
        };
        preconditions.check(&object)?;
        let extent = Extent::wanted(&object, input.range, input.part_number)?;
        let mut output = dto::HeadObjectOutput::default();
        describe!(output, object, extent, input.checksum_mode.as_ref());
        let mut response = S3Response::new(output);
        if extent.content_range.is_some() {
            response.status = Some(http::StatusCode::PARTIAL_CONTENT);
        }
        Ok(response)
    }

    pub(super) async fn answer_delete_object(
        &self,
        input: dto::DeleteObjectInput,
    ) -> Answer<dto::DeleteObjectOutput> {
        let conditional = input.if_match.is_some()
            || input.if_match_size.is_some()
            || input.if_match_last_modified_time.is_some();
        if conditional {
            return Err(s3_error!(
                NotImplemented,
                "Conditional deletes are not supported here"
            ));
        }
        self.on_disk(move |store| store.bucket(&input.bucket)?.delete(&[input.key]))
            .await?;
        Ok(S3Response::new(dto::DeleteObjectOutput::default()))
    }

    pub(super) async fn answer_delete_objects(
        &self,
        input: dto::DeleteObjectsInput,
        Undeletable(undeletable): Undeletable,
    ) -> Answer<dto::DeleteObjectsOutput> {
        /// S3: "The request can contain a list of up to 1,000 keys".
        const KEYS: usize = 1000;
        let objects = input.delete.objects;
        if objects.is_empty() || objects.len() > KEYS {
            return Err(s3_error!(
                MalformedXML,
                "The XML you provided must name from 1 to {KEYS} keys"
            ));
        }
        let versioned = |version: &Option<String>| version.as_ref().is_some_and(|id| id != "null");
        let special = objects.iter().any(|object| {
            object.e_tag.is_some()
                || object.size.is_some()
                || object.last_modified_time.is_some()
                || versioned(&object.version_id)
        });
        if special {
            return Err(s3_error!(
                NotImplemented,
                "Deleting versions and conditional deletes are not supported here"
            ));
        }
        let allowed = |key: &String| !undeletable.iter().any(|(refused, _)| refused == key);
        let keys: Vec<String> = objects
            .into_iter()
            .map(|object| object.key)
            .filter(allowed)
            .collect();
        let quiet = input.delete.quiet == Some(true);
        let keys = self
            .on_disk(move |store| store.bucket(&input.bucket)?.delete(&keys).map(|()| keys))
            .await?;
        let deleted = keys
            .into_iter()
            .map(|key| dto::DeletedObject {
                key: Some(key),
                ..Default::default()
            })
            .collect();
        let errors: Vec<dto::Error> = undeletable
            .into_iter()
            .map(|(key, message)| dto::Error {
                key: Some(key),
                code: Some("AccessDenied".to_owned()),
                message: Some(message),
                ..Default::default()
            })
            .collect();
        Ok(S3Response::new(dto::DeleteObjectsOutput {
            deleted: (!quiet).then_some(deleted),
            errors: (!errors.is_empty()).then_some(errors),
            ..Default::default()
        }))
    }
}

fn put_output(record: &ObjectRecord) -> dto::PutObjectOutput {
    let mut output = dto::PutObjectOutput {
        e_tag: Some(dto::ETag::Strong(record.etag.clone())),
        checksum_type: kind_of(&record.checksums, record.checksum_kind),
        ..Default::default()
    };
    set_checksums!(output, &record.checksums);
    output
}

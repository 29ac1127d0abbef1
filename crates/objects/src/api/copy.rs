//! Copies within the endpoint. A whole object is copied by links to its files; a part of one by
//! reading it.

use std::fs;
use std::sync::Arc;

use s3s::dto::CopySource;
use s3s::{S3ErrorCode, S3Response, S3Result, dto, s3_error};
use time::OffsetDateTime;

use super::multipart::{part, part_number};
use super::reading::{self, Extent, Preconditions};
use super::{Answer, Api, kind_of, set_checksums, size, stored_headers};
use crate::checksum::Checksums;
use crate::etag;
use crate::receive::{Declared, check_space, receive};
use crate::store::{
    Bucket, Condition, DEFAULT_CHECKSUM, Headers, Object, Segment, SegmentRecord, StoreError,
};

/// The preconditions on the source: what stops a read is, for a copy, simply a failure.
macro_rules! check_source {
    ($input:ident, $source:ident) => {
        Preconditions {
            if_match: $input.copy_source_if_match.as_ref(),
            if_none_match: $input.copy_source_if_none_match.as_ref(),
            if_modified_since: $input.copy_source_if_modified_since.as_ref(),
            if_unmodified_since: $input.copy_source_if_unmodified_since.as_ref(),
        }
        .check(&$source)
        .map_err(|error| match error.code() {
            S3ErrorCode::NotModified => s3_error!(
                PreconditionFailed,
                "At least one of the pre-conditions you specified did not hold"
            ),
            _ => error,
        })
    };
}

impl Api {
    fn copy_source(&self, source: &CopySource) -> S3Result<Arc<Object>> {
        let CopySource::Bucket {
            bucket,
            key,
            version_id,
        } = source
        else {
            return Err(s3_error!(
                NotImplemented,
                "A copy's source must be <bucket>/<key>"
            ));
        };
        if version_id.as_deref().is_some_and(|id| id != "null") {
            return Err(s3_error!(
                NotImplemented,
                "Object versions are not supported here"
            ));
        }
        Ok(self.store.bucket(bucket)?.object(key)?)
    }

    pub(super) async fn answer_copy_object(
        &self,
        mut input: dto::CopyObjectInput,
    ) -> Answer<dto::CopyObjectOutput> {
        let source = self.copy_source(&input.copy_source)?;
        check_source!(input, source)?;
        let bucket = self.store.bucket(&input.bucket)?;
        let headers = match input
            .metadata_directive
            .as_ref()
            .map(dto::MetadataDirective::as_str)
        {
            None | Some(dto::MetadataDirective::COPY) => {
                refuse_copy_onto_itself(&input)?;
                source.record.headers.clone()
            }
            Some(dto::MetadataDirective::REPLACE) => stored_headers!(input),
            Some(_) => return Err(s3_error!(InvalidArgument, "Unknown metadata directive.")),
        };
        let key = input.key;
        let object = self
            .on_disk(move |_| link(&source, &bucket, key, headers))
            .await?;
        let record = &object.record;
        let mut result = dto::CopyObjectResult {
            e_tag: Some(dto::ETag::Strong(record.etag.clone())),
            last_modified: Some(record.modified.into()),
            checksum_type: kind_of(&record.checksums, record.checksum_kind),
            ..Default::default()
        };
        set_checksums!(result, &record.checksums);
        Ok(S3Response::new(dto::CopyObjectOutput {
            copy_object_result: Some(result),
            ..Default::default()
        }))
    }

    pub(super) async fn answer_upload_part_copy(
        &self,
        input: dto::UploadPartCopyInput,
    ) -> Answer<dto::UploadPartCopyOutput> {
        let number = part_number(input.part_number)?;
        let bucket = self.store.bucket(&input.bucket)?;
        let upload = bucket.upload(&input.key, &input.upload_id)?;
        let source = self.copy_source(&input.copy_source)?;
        check_source!(input, source)?;
        let range = input
            .copy_source_range
            .as_deref()
            .map(dto::Range::parse)
            .transpose();
        let range = range.map_err(|_| {
            s3_error!(
                InvalidArgument,
                "The x-amz-copy-source-range value must be of the form bytes=first-last"
            )
        })?;
        let extent = Extent::wanted(&source, range, None)?;
        let length = Some(size(extent.length()));
        check_space(self.store.root(), length, self.settings.reserved_bytes)?;
        let declared = Declared::parse(&http::HeaderMap::new(), length, None)?;
        let (algorithm, _) = upload.checksum.unwrap_or(DEFAULT_CHECKSUM);
        let body = Some(reading::stream(&source, &extent.bytes));
        let directory = bucket.data_directory();
        let received = receive(&directory, body, &declared, Some(algorithm), None).await?;
        let mut result = dto::CopyPartResult {
            e_tag: Some(dto::ETag::Strong(etag::hex(&received.md5))),
            last_modified: Some(OffsetDateTime::now_utc().into()),
            ..Default::default()
        };
        set_checksums!(result, &received.checksums);
        let part = part(number, received);
        self.on_disk(move |_| bucket.put_part(&upload.key, &upload.id, part))
            .await?;
        Ok(S3Response::new(dto::UploadPartCopyOutput {
            copy_part_result: Some(result),
            ..Default::default()
        }))
    }
}

fn refuse_copy_onto_itself(input: &dto::CopyObjectInput) -> S3Result<()> {
    match &input.copy_source {
        CopySource::Bucket { bucket, key, .. }
            if **bucket == *input.bucket && **key == *input.key =>
        {
            Err(s3_error!(
                InvalidRequest,
                "This copy request is illegal because it is trying to copy an object to itself \
                 without changing the object's metadata, storage class, website redirect location \
                 or encryption attributes."
            ))
        }
        _ => Ok(()),
    }
}

fn link(
    source: &Object,
    bucket: &Bucket,
    key: String,
    headers: Headers,
) -> Result<Arc<Object>, StoreError> {
    let mut record = source.record.clone();
    record.key = key;
    record.headers = headers;
    record.modified = OffsetDateTime::now_utc();
    let mut segments = Vec::with_capacity(source.segments.len());
    for (original, listed) in source.segments.iter().zip(&mut record.segments) {
        let copy = Segment::create(&bucket.data_directory());
        fs::hard_link(original.path(), copy.path()).map_err(StoreError::io(format!(
            "copy an object to bucket {}",
            bucket.name()
        )))?;
        *listed = SegmentRecord {
            id: copy.id().to_owned(),
            size: listed.size,
        };
        segments.push(Arc::new(copy));
    }
    bucket.put(Object { record, segments }, &Condition::Always)
}

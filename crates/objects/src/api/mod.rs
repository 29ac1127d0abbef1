//! The S3 operations, over the store. Each trait method only hands over to the room of its subject;
//! who may call it is decided before, in `admission` and `access`.

mod buckets;
mod copy;
mod listings;
mod multipart;
mod objects;
mod reading;

use std::collections::BTreeMap;
use std::sync::Arc;

use s3s::{S3, S3Error, S3Request, S3Response, S3Result, dto, s3_error};

use crate::access::Undeletable;
use crate::checksum::{Checksums, Kind};
use crate::settings::Settings;
use crate::store::{Store, StoreError};

/// The S3 operations.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) store: Arc<Store>,
    pub(crate) settings: Arc<Settings>,
}

impl Api {
    /// Runs something that waits for the disk. It ends also when the client goes away meanwhile, so
    /// a change is never half done.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> S3Result<T> {
        let store = Arc::clone(&self.store);
        tokio::task::spawn_blocking(move || work(&store))
            .await
            .map_err(S3Error::internal_error)?
            .map_err(S3Error::from)
    }
}

type Answer<T> = S3Result<S3Response<T>>;

#[async_trait::async_trait]
impl S3 for Api {
    async fn list_buckets(
        &self,
        req: S3Request<dto::ListBucketsInput>,
    ) -> Answer<dto::ListBucketsOutput> {
        self.answer_list_buckets(req.input)
    }

    async fn create_bucket(
        &self,
        req: S3Request<dto::CreateBucketInput>,
    ) -> Answer<dto::CreateBucketOutput> {
        self.answer_create_bucket(req.input).await
    }

    async fn head_bucket(
        &self,
        req: S3Request<dto::HeadBucketInput>,
    ) -> Answer<dto::HeadBucketOutput> {
        self.answer_head_bucket(&req.input)
    }

    async fn delete_bucket(
        &self,
        req: S3Request<dto::DeleteBucketInput>,
    ) -> Answer<dto::DeleteBucketOutput> {
        self.answer_delete_bucket(req.input).await
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<dto::GetBucketLocationInput>,
    ) -> Answer<dto::GetBucketLocationOutput> {
        self.answer_get_bucket_location(&req.input)
    }

    async fn get_bucket_versioning(
        &self,
        req: S3Request<dto::GetBucketVersioningInput>,
    ) -> Answer<dto::GetBucketVersioningOutput> {
        self.store.bucket(&req.input.bucket)?;
        Ok(S3Response::new(dto::GetBucketVersioningOutput::default()))
    }

    async fn list_objects(
        &self,
        req: S3Request<dto::ListObjectsInput>,
    ) -> Answer<dto::ListObjectsOutput> {
        self.answer_list_objects(req.input)
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<dto::ListObjectsV2Input>,
    ) -> Answer<dto::ListObjectsV2Output> {
        self.answer_list_objects_v2(req.input)
    }

    async fn put_object(
        &self,
        req: S3Request<dto::PutObjectInput>,
    ) -> Answer<dto::PutObjectOutput> {
        self.answer_put_object(req).await
    }

    async fn get_object(
        &self,
        req: S3Request<dto::GetObjectInput>,
    ) -> Answer<dto::GetObjectOutput> {
        self.answer_get_object(&req.input)
    }

    async fn head_object(
        &self,
        req: S3Request<dto::HeadObjectInput>,
    ) -> Answer<dto::HeadObjectOutput> {
        self.answer_head_object(&req.input)
    }

    async fn get_object_tagging(
        &self,
        req: S3Request<dto::GetObjectTaggingInput>,
    ) -> Answer<dto::GetObjectTaggingOutput> {
        // Tags are refused when an object is written, so none has any. The AWS CLI asks before it
        // copies a large object.
        self.store
            .bucket(&req.input.bucket)?
            .object(&req.input.key)?;
        Ok(S3Response::new(dto::GetObjectTaggingOutput::default()))
    }

    async fn copy_object(
        &self,
        req: S3Request<dto::CopyObjectInput>,
    ) -> Answer<dto::CopyObjectOutput> {
        self.answer_copy_object(req.input).await
    }

    async fn delete_object(
        &self,
        req: S3Request<dto::DeleteObjectInput>,
    ) -> Answer<dto::DeleteObjectOutput> {
        self.answer_delete_object(req.input).await
    }

    async fn delete_objects(
        &self,
        req: S3Request<dto::DeleteObjectsInput>,
    ) -> Answer<dto::DeleteObjectsOutput> {
        let undeletable = req.extensions.get::<Undeletable>().cloned();
        self.answer_delete_objects(req.input, undeletable.unwrap_or_default())
            .await
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<dto::CreateMultipartUploadInput>,
    ) -> Answer<dto::CreateMultipartUploadOutput> {
        self.answer_create_multipart_upload(req.input).await
    }

    async fn upload_part(
        &self,
        req: S3Request<dto::UploadPartInput>,
    ) -> Answer<dto::UploadPartOutput> {
        self.answer_upload_part(req).await
    }

    async fn upload_part_copy(
        &self,
        req: S3Request<dto::UploadPartCopyInput>,
    ) -> Answer<dto::UploadPartCopyOutput> {
        self.answer_upload_part_copy(req.input).await
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<dto::CompleteMultipartUploadInput>,
    ) -> Answer<dto::CompleteMultipartUploadOutput> {
        self.answer_complete_multipart_upload(req.input).await
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<dto::AbortMultipartUploadInput>,
    ) -> Answer<dto::AbortMultipartUploadOutput> {
        self.answer_abort_multipart_upload(req.input).await
    }

    async fn list_parts(
        &self,
        req: S3Request<dto::ListPartsInput>,
    ) -> Answer<dto::ListPartsOutput> {
        self.answer_list_parts(req.input)
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<dto::ListMultipartUploadsInput>,
    ) -> Answer<dto::ListMultipartUploadsOutput> {
        self.answer_list_multipart_uploads(req.input)
    }
}

/// S3: user metadata of a request is at most 2 KB, the sum of names and values.
const METADATA_BYTES: usize = 2 * 1024;

fn stored_metadata(metadata: Option<dto::Metadata>) -> S3Result<BTreeMap<String, String>> {
    let metadata: BTreeMap<String, String> = metadata.unwrap_or_default().into_iter().collect();
    let bytes: usize = metadata
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes > METADATA_BYTES {
        return Err(s3_error!(
            MetadataTooLarge,
            "Your metadata headers exceed the maximum allowed metadata size of {METADATA_BYTES} bytes"
        ));
    }
    Ok(metadata)
}

/// `aws-chunked` says how the body travelled, not what the object is.
fn stored_encoding(encoding: Option<String>) -> Option<String> {
    let kept: Vec<String> = encoding?
        .split(',')
        .map(str::trim)
        .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("aws-chunked"))
        .map(str::to_owned)
        .collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

/// Collects the headers that S3 stores from any of the inputs that carry them.
macro_rules! stored_headers {
    ($input:expr) => {
        $crate::store::Headers {
            content_type: $input.content_type.take(),
            content_encoding: $crate::api::stored_encoding($input.content_encoding.take()),
            content_disposition: $input.content_disposition.take(),
            content_language: $input.content_language.take(),
            cache_control: $input.cache_control.take(),
            expires: $input.expires.take().map(Into::into),
            metadata: $crate::api::stored_metadata($input.metadata.take())?,
        }
    };
}
use stored_headers;

/// Spreads checksums over the five members that every output spells out.
macro_rules! set_checksums {
    ($output:expr, $checksums:expr) => {{
        let checksums: &Checksums = $checksums;
        let sum = |algorithm| checksums.get(&algorithm).cloned();
        $output.checksum_crc32 = sum($crate::checksum::Algorithm::Crc32);
        $output.checksum_crc32c = sum($crate::checksum::Algorithm::Crc32c);
        $output.checksum_crc64nvme = sum($crate::checksum::Algorithm::Crc64Nvme);
        $output.checksum_sha1 = sum($crate::checksum::Algorithm::Sha1);
        $output.checksum_sha256 = sum($crate::checksum::Algorithm::Sha256);
    }};
}
use set_checksums;

fn kind_of(checksums: &Checksums, kind: Kind) -> Option<dto::ChecksumType> {
    (!checksums.is_empty()).then(|| kind.dto())
}

fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::stored_encoding;

    #[test]
    fn the_transfer_encoding_of_the_upload_is_not_stored() {
        assert_eq!(stored_encoding(Some("aws-chunked".into())), None);
        assert_eq!(
            stored_encoding(Some("gzip, aws-chunked".into())),
            Some("gzip".into())
        );
        assert_eq!(stored_encoding(None), None);
    }
}

//! Multipart uploads.

use s3s::{S3Request, S3Response, S3Result, dto, s3_error};
use time::OffsetDateTime;

use super::listings::{Spelling, not_empty, page_limit};
use super::objects::condition;
use super::{Answer, Api, count, kind_of, set_checksums, size, stored_headers};
use crate::checksum::{Algorithm, Checksums, Kind, named};
use crate::etag;
use crate::receive::{Declared, Received, check_space, receive};
use crate::store::{
    Completion, DEFAULT_CHECKSUM, Part, PartRecord, SegmentRecord, UploadRecord, WantedPart,
};

/// S3: "Part numbers: 1 to 10,000 (inclusive)".
const PARTS: u16 = 10_000;

pub(super) fn part_number(number: i32) -> S3Result<u16> {
    u16::try_from(number)
        .ok()
        .filter(|number| (1..=PARTS).contains(number))
        .ok_or_else(|| {
            s3_error!(
                InvalidArgument,
                "Part number must be an integer between 1 and {PARTS}, inclusive"
            )
        })
}

pub(super) fn part(number: u16, received: Received) -> Part {
    let record = PartRecord {
        number,
        etag: etag::hex(&received.md5),
        modified: OffsetDateTime::now_utc(),
        checksums: received.checksums,
        segment: SegmentRecord {
            id: received.segment.id().to_owned(),
            size: received.size,
        },
    };
    Part {
        record,
        segment: received.segment,
    }
}

/// The algorithm and kind that a new upload asks for.
fn wanted_checksum(
    algorithm: Option<&dto::ChecksumAlgorithm>,
    kind: Option<&dto::ChecksumType>,
) -> S3Result<Option<(Algorithm, Kind)>> {
    let Some(algorithm) = algorithm else {
        return match kind {
            None => Ok(None),
            Some(_) => Err(s3_error!(
                InvalidRequest,
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm \
                 header"
            )),
        };
    };
    let Some(algorithm) = Algorithm::from_name(algorithm.as_str()) else {
        return Err(s3_error!(
            InvalidRequest,
            "Checksum algorithm provided is unsupported. Please try again with any of the valid \
             types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]"
        ));
    };
    let wanted = kind.map_or(Some(algorithm.default_kind()), |kind| {
        Kind::from_name(kind.as_str())
    });
    match wanted.filter(|kind| algorithm.allows(*kind)) {
        Some(kind) => Ok(Some((algorithm, kind))),
        None => Err(s3_error!(
            InvalidRequest,
            "The checksum type cannot be used with the {} checksum algorithm.",
            algorithm.name()
        )),
    }
}

fn sum_algorithm(upload: &UploadRecord) -> Option<dto::ChecksumAlgorithm> {
    upload
        .checksum
        .map(|(algorithm, _)| dto::ChecksumAlgorithm::from_static(algorithm.name()))
}

fn sum_kind(upload: &UploadRecord) -> Option<dto::ChecksumType> {
    upload.checksum.map(|(_, kind)| kind.dto())
}

impl Api {
    pub(super) async fn answer_create_multipart_upload(
        &self,
        mut input: dto::CreateMultipartUploadInput,
    ) -> Answer<dto::CreateMultipartUploadOutput> {
        let checksum = wanted_checksum(
            input.checksum_algorithm.as_ref(),
            input.checksum_type.as_ref(),
        )?;
        let headers = stored_headers!(input);
        let (bucket, key) = (input.bucket.clone(), input.key.clone());
        let before = OffsetDateTime::now_utc() - self.settings.abandoned_after;
        let upload = self
            .on_disk(move |store| {
                let bucket = store.bucket(&bucket)?;
                store.abort_uploads_before(before);
                bucket.create_upload(&key, headers, checksum)
            })
            .await?;
        Ok(S3Response::new(dto::CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            checksum_algorithm: sum_algorithm(&upload),
            checksum_type: sum_kind(&upload),
            upload_id: Some(upload.id),
            ..Default::default()
        }))
    }

    pub(super) async fn answer_upload_part(
        &self,
        mut req: S3Request<dto::UploadPartInput>,
    ) -> Answer<dto::UploadPartOutput> {
        let input = &mut req.input;
        let number = part_number(input.part_number)?;
        let bucket = self.store.bucket(&input.bucket)?;
        let upload = bucket.upload(&input.key, &input.upload_id)?;
        let length = input.content_length;
        let declared = Declared::parse(&req.headers, length, input.content_md5.as_deref())?;
        if let (Some((wanted, _)), Some(found)) = (upload.checksum, declared.algorithm())
            && wanted != found
        {
            return Err(s3_error!(
                InvalidRequest,
                "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum \
                 Type: {}",
                wanted.name(),
                found.name()
            ));
        }
        check_space(self.store.root(), length, self.settings.reserved_bytes)?;
        let (algorithm, _) = upload.checksum.unwrap_or(DEFAULT_CHECKSUM);
        let directory = bucket.data_directory();
        let trailers = req.trailing_headers.take();
        let body = input.body.take();
        let received = receive(&directory, body, &declared, Some(algorithm), trailers).await?;
        let shown = declared.algorithm().unwrap_or(algorithm);
        let mut output = dto::UploadPartOutput {
            e_tag: Some(dto::ETag::Strong(etag::hex(&received.md5))),
            ..Default::default()
        };
        let shown: Checksums = received
            .checksums
            .iter()
            .filter(|(found, _)| **found == shown)
            .map(own)
            .collect();
        set_checksums!(output, &shown);
        let part = part(number, received);
        self.on_disk(move |_| bucket.put_part(&upload.key, &upload.id, part))
            .await?;
        Ok(S3Response::new(output))
    }

    pub(super) async fn answer_complete_multipart_upload(
        &self,
        mut input: dto::CompleteMultipartUploadInput,
    ) -> Answer<dto::CompleteMultipartUploadOutput> {
        let completion = read_completion(&mut input)?;
        let bucket = self.store.bucket(&input.bucket)?;
        let (key, id) = (input.key.clone(), input.upload_id);
        let object = self
            .on_disk(move |_| bucket.complete_upload(&key, &id, &completion))
            .await?;
        let record = &object.record;
        let mut output = dto::CompleteMultipartUploadOutput {
            e_tag: Some(dto::ETag::Strong(record.etag.clone())),
            checksum_type: kind_of(&record.checksums, record.checksum_kind),
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            ..Default::default()
        };
        set_checksums!(output, &record.checksums);
        Ok(S3Response::new(output))
    }

    pub(super) async fn answer_abort_multipart_upload(
        &self,
        input: dto::AbortMultipartUploadInput,
    ) -> Answer<dto::AbortMultipartUploadOutput> {
        self.on_disk(move |store| {
            store
                .bucket(&input.bucket)?
                .abort_upload(&input.key, &input.upload_id)
        })
        .await?;
        Ok(S3Response::new(dto::AbortMultipartUploadOutput::default()))
    }

    pub(super) fn answer_list_parts(
        &self,
        input: dto::ListPartsInput,
    ) -> Answer<dto::ListPartsOutput> {
        let bucket = self.store.bucket(&input.bucket)?;
        let upload = bucket.upload(&input.key, &input.upload_id)?;
        let limit = page_limit(input.max_parts)?;
        let marker = input.part_number_marker.unwrap_or(0);
        let mut parts: Vec<dto::Part> = bucket
            .parts(&input.key, &input.upload_id)?
            .iter()
            .filter(|part| i32::from(part.record.number) > marker)
            .map(|part| listed_part(&part.record))
            .collect();
        let truncated = parts.len() > limit;
        parts.truncate(limit);
        let next = parts
            .last()
            .and_then(|part| part.part_number)
            .filter(|_| truncated);
        Ok(S3Response::new(dto::ListPartsOutput {
            checksum_algorithm: sum_algorithm(&upload),
            checksum_type: sum_kind(&upload),
            is_truncated: Some(truncated),
            max_parts: Some(count(limit)),
            next_part_number_marker: next,
            part_number_marker: Some(marker),
            parts: Some(parts),
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            storage_class: Some(dto::StorageClass::from_static(dto::StorageClass::STANDARD)),
            ..Default::default()
        }))
    }

    pub(super) fn answer_list_multipart_uploads(
        &self,
        input: dto::ListMultipartUploadsInput,
    ) -> Answer<dto::ListMultipartUploadsOutput> {
        if not_empty(input.delimiter.as_ref()).is_some() {
            return Err(s3_error!(
                NotImplemented,
                "Listing multipart uploads with a delimiter is not supported here"
            ));
        }
        let bucket = self.store.bucket(&input.bucket)?;
        let spelling = Spelling::wanted(input.encoding_type.as_ref())?;
        let limit = page_limit(input.max_uploads)?;
        let prefix = input.prefix.as_deref().unwrap_or_default();
        let mut uploads: Vec<UploadRecord> = bucket
            .uploads()
            .into_iter()
            .filter(|upload| upload.key.starts_with(prefix) && comes_after(upload, &input))
            .collect();
        let truncated = uploads.len() > limit;
        uploads.truncate(limit);
        let last = uploads.last().filter(|_| truncated);
        Ok(S3Response::new(dto::ListMultipartUploadsOutput {
            is_truncated: Some(truncated),
            max_uploads: Some(count(limit)),
            next_key_marker: last.map(|upload| spelling.write(&upload.key)),
            next_upload_id_marker: last.map(|upload| upload.id.clone()),
            uploads: Some(
                uploads
                    .iter()
                    .map(|upload| listed_upload(upload, spelling))
                    .collect(),
            ),
            key_marker: spelling.write_optional(input.key_marker.as_ref()),
            upload_id_marker: input.upload_id_marker,
            prefix: spelling.write_optional(input.prefix.as_ref()),
            bucket: Some(input.bucket),
            encoding_type: input.encoding_type,
            ..Default::default()
        }))
    }
}

/// Whether an upload is beyond the markers of a listing.
fn comes_after(upload: &UploadRecord, input: &dto::ListMultipartUploadsInput) -> bool {
    let Some(key) = not_empty(input.key_marker.as_ref()) else {
        return true;
    };
    match not_empty(input.upload_id_marker.as_ref()) {
        None => upload.key.as_str() > key,
        Some(_) if upload.key.as_str() != key => upload.key.as_str() > key,
        Some(id) => upload.id.as_str() > id,
    }
}

fn own((algorithm, sum): (&Algorithm, &String)) -> (Algorithm, String) {
    (*algorithm, sum.clone())
}

fn read_completion(input: &mut dto::CompleteMultipartUploadInput) -> S3Result<Completion> {
    let parts = input
        .multipart_upload
        .take()
        .and_then(|upload| upload.parts)
        .unwrap_or_default();
    let whole = named(
        input.checksum_crc32.take(),
        input.checksum_crc32c.take(),
        input.checksum_crc64nvme.take(),
        input.checksum_sha1.take(),
        input.checksum_sha256.take(),
    );
    Ok(Completion {
        parts: parts
            .into_iter()
            .map(wanted_part)
            .collect::<S3Result<_>>()?,
        condition: condition(input.if_match.as_ref(), input.if_none_match.as_ref())?,
        size: input
            .mpu_object_size
            .map(u64::try_from)
            .transpose()
            .map_err(|_| {
                s3_error!(
                    InvalidRequest,
                    "Value for x-amz-mp-object-size header is invalid."
                )
            })?,
        checksums: whole,
    })
}

fn wanted_part(part: dto::CompletedPart) -> S3Result<WantedPart> {
    let incomplete = || s3_error!(MalformedXML, "Every part needs a PartNumber and an ETag");
    Ok(WantedPart {
        number: part_number(part.part_number.ok_or_else(incomplete)?)?,
        etag: part.e_tag.ok_or_else(incomplete)?.into_value(),
        checksums: named(
            part.checksum_crc32,
            part.checksum_crc32c,
            part.checksum_crc64nvme,
            part.checksum_sha1,
            part.checksum_sha256,
        ),
    })
}

fn listed_part(record: &PartRecord) -> dto::Part {
    let mut part = dto::Part {
        part_number: Some(i32::from(record.number)),
        e_tag: Some(dto::ETag::Strong(record.etag.clone())),
        last_modified: Some(record.modified.into()),
        size: Some(size(record.segment.size)),
        ..Default::default()
    };
    set_checksums!(part, &record.checksums);
    part
}

fn listed_upload(upload: &UploadRecord, spelling: Spelling) -> dto::MultipartUpload {
    dto::MultipartUpload {
        key: Some(spelling.write(&upload.key)),
        upload_id: Some(upload.id.clone()),
        initiated: Some(upload.initiated.into()),
        storage_class: Some(dto::StorageClass::from_static(dto::StorageClass::STANDARD)),
        checksum_algorithm: sum_algorithm(upload),
        checksum_type: sum_kind(upload),
        ..Default::default()
    }
}

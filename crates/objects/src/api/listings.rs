//! Listings of objects, in both forms of S3.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::{S3Response, S3Result, dto, s3_error};

use super::{Answer, Api, count, kind_of, size};
use crate::listing::{self, Entry, Page, Query};
use crate::store::Object;

/// The most entries of a page, in S3.
const PAGE: usize = 1000;

/// What S3 leaves as it is under `encoding-type=url`.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'*')
    .remove(b'/');

/// How names are spelled in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    Plain,
    /// XML cannot carry every character of a key; clients therefore ask for this.
    Url,
}

impl Spelling {
    pub(super) fn wanted(encoding: Option<&dto::EncodingType>) -> S3Result<Self> {
        match encoding.map(dto::EncodingType::as_str) {
            None | Some("") => Ok(Self::Plain),
            Some(dto::EncodingType::URL) => Ok(Self::Url),
            Some(_) => Err(s3_error!(
                InvalidArgument,
                "Invalid Encoding Method specified in Request"
            )),
        }
    }

    pub(super) fn write(self, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Url => utf8_percent_encode(text, ENCODED).to_string(),
        }
    }

    pub(super) fn write_optional(self, text: Option<&String>) -> Option<String> {
        text.map(|text| self.write(text))
    }
}

pub(super) fn page_limit(wanted: Option<i32>) -> S3Result<usize> {
    let wanted = usize::try_from(wanted.unwrap_or(count(PAGE)))
        .map_err(|_| s3_error!(InvalidArgument, "The bound of a page must not be negative"))?;
    Ok(wanted.min(PAGE))
}

pub(super) fn not_empty(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}

impl Api {
    fn page(&self, bucket: &str, query: &Query<'_>) -> S3Result<Page<Arc<Object>>> {
        let bucket = self.store.bucket(bucket)?;
        Ok(bucket.with_objects(|objects| listing::page(objects, query)))
    }

    fn listed(&self, entries: Vec<Entry<Arc<Object>>>, spelling: Spelling, owner: bool) -> Listed {
        let mut listed = Listed::default();
        for entry in entries {
            match entry {
                Entry::CommonPrefix(prefix) => listed.prefixes.push(dto::CommonPrefix {
                    prefix: Some(spelling.write(&prefix)),
                }),
                Entry::Item(object) => {
                    let mut summary = summary(&object, spelling);
                    summary.owner = owner.then(|| dto::Owner {
                        id: Some(self.settings.account_id.clone()),
                        display_name: None,
                    });
                    listed.objects.push(summary);
                }
            }
        }
        listed
    }

    pub(super) fn answer_list_objects_v2(
        &self,
        input: dto::ListObjectsV2Input,
    ) -> Answer<dto::ListObjectsV2Output> {
        let spelling = Spelling::wanted(input.encoding_type.as_ref())?;
        let token = not_empty(input.continuation_token.as_ref())
            .map(read_token)
            .transpose()?;
        let limit = page_limit(input.max_keys)?;
        let query = Query {
            prefix: input.prefix.as_deref().unwrap_or_default(),
            delimiter: not_empty(input.delimiter.as_ref()),
            after: token.as_deref().or(not_empty(input.start_after.as_ref())),
            limit,
        };
        let page = self.page(&input.bucket, &query)?;
        let owner = input.fetch_owner == Some(true);
        let listed = self.listed(page.entries, spelling, owner);
        Ok(S3Response::new(dto::ListObjectsV2Output {
            key_count: Some(count(listed.objects.len() + listed.prefixes.len())),
            max_keys: Some(count(limit)),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.map(|next| URL_SAFE_NO_PAD.encode(next)),
            contents: Some(listed.objects),
            common_prefixes: Some(listed.prefixes),
            prefix: Some(spelling.write(input.prefix.as_deref().unwrap_or_default())),
            delimiter: spelling.write_optional(input.delimiter.as_ref()),
            start_after: spelling.write_optional(input.start_after.as_ref()),
            name: Some(input.bucket),
            encoding_type: input.encoding_type,
            continuation_token: input.continuation_token,
            request_charged: None,
        }))
    }

    pub(super) fn answer_list_objects(
        &self,
        input: dto::ListObjectsInput,
    ) -> Answer<dto::ListObjectsOutput> {
        let spelling = Spelling::wanted(input.encoding_type.as_ref())?;
        let limit = page_limit(input.max_keys)?;
        let query = Query {
            prefix: input.prefix.as_deref().unwrap_or_default(),
            delimiter: not_empty(input.delimiter.as_ref()),
            after: not_empty(input.marker.as_ref()),
            limit,
        };
        let page = self.page(&input.bucket, &query)?;
        let listed = self.listed(page.entries, spelling, true);
        // Without a delimiter the client takes the last key as the next marker.
        let next = page.next.as_ref().filter(|_| query.delimiter.is_some());
        Ok(S3Response::new(dto::ListObjectsOutput {
            max_keys: Some(count(limit)),
            is_truncated: Some(page.next.is_some()),
            next_marker: next.map(|next| spelling.write(next)),
            contents: Some(listed.objects),
            common_prefixes: Some(listed.prefixes),
            prefix: Some(spelling.write(input.prefix.as_deref().unwrap_or_default())),
            marker: Some(spelling.write(input.marker.as_deref().unwrap_or_default())),
            delimiter: spelling.write_optional(input.delimiter.as_ref()),
            name: Some(input.bucket),
            encoding_type: input.encoding_type,
            request_charged: None,
        }))
    }
}

#[derive(Default)]
struct Listed {
    objects: Vec<dto::Object>,
    prefixes: Vec<dto::CommonPrefix>,
}

fn summary(object: &Object, spelling: Spelling) -> dto::Object {
    let record = &object.record;
    dto::Object {
        key: Some(spelling.write(&record.key)),
        size: Some(size(record.size)),
        e_tag: Some(dto::ETag::Strong(record.etag.clone())),
        last_modified: Some(record.modified.into()),
        storage_class: Some(dto::ObjectStorageClass::from_static(
            dto::ObjectStorageClass::STANDARD,
        )),
        checksum_algorithm: Some(
            record
                .checksums
                .keys()
                .map(|algorithm| dto::ChecksumAlgorithm::from_static(algorithm.name()))
                .collect(),
        ),
        checksum_type: kind_of(&record.checksums, record.checksum_kind),
        ..Default::default()
    }
}

fn read_token(token: &str) -> S3Result<String> {
    URL_SAFE_NO_PAD
        .decode(token)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| {
            s3_error!(
                InvalidArgument,
                "The continuation token provided is incorrect"
            )
        })
}

//! Multipart uploads of a bucket: parts arrive in any order, and completing one writes a record that
//! lists the parts' files; no byte is copied.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use time::OffsetDateTime;
use uuid::Uuid;

use super::bucket::{Bucket, Condition};
use super::record::{FORMAT, Headers, Object, ObjectRecord, Part, UploadRecord};
use super::{StoreError, durable, read, write};
use crate::checksum::{Algorithm, Checksums, Kind, combine};
use crate::etag;

/// S3: "Amazon S3 multipart upload limits". Every part but the last.
pub(crate) const MINIMUM_PART_BYTES: u64 = 5 * 1024 * 1024;

/// An upload under way.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(super) record: UploadRecord,
    pub(super) parts: BTreeMap<u16, Part>,
}

/// A part as the completing request names it.
#[derive(Debug, Clone)]
pub(crate) struct WantedPart {
    pub(crate) number: u16,
    /// Without the quotation marks.
    pub(crate) etag: String,
    pub(crate) checksums: Checksums,
}

/// What the completing request says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Completion {
    pub(crate) parts: Vec<WantedPart>,
    pub(crate) condition: Condition,
    /// `x-amz-mp-object-size`, bytes.
    pub(crate) size: Option<u64>,
    /// Of the whole object; verified when the object's checksum is of the same algorithm.
    pub(crate) checksums: Checksums,
}

/// What S3 computes for an upload that asked for no checksum.
pub(crate) const DEFAULT_CHECKSUM: (Algorithm, Kind) = (Algorithm::Crc64Nvme, Kind::FullObject);

impl Bucket {
    pub(crate) fn create_upload(
        &self,
        key: &str,
        headers: Headers,
        checksum: Option<(Algorithm, Kind)>,
    ) -> Result<UploadRecord, StoreError> {
        let _state = self.change()?;
        let record = UploadRecord {
            format: FORMAT,
            id: Uuid::new_v4().simple().to_string(),
            key: key.to_owned(),
            initiated: OffsetDateTime::now_utc(),
            headers,
            checksum,
        };
        let directory = self.upload_directory(&record.id);
        let written = fs::create_dir(&directory)
            .and_then(|()| durable::write_json(&directory, "upload.json", &record));
        if let Err(source) = written {
            // Swept at the next start if this fails, too.
            let _ = fs::remove_dir_all(&directory);
            let attempted = format!("begin a multipart upload in bucket {}", self.name());
            return Err(StoreError::Io { attempted, source });
        }
        let upload = Upload {
            record: record.clone(),
            parts: BTreeMap::new(),
        };
        write(&self.contents)
            .uploads
            .insert(record.id.clone(), upload);
        Ok(record)
    }

    /// Uploads under way, by key and then by id.
    pub(crate) fn uploads(&self) -> Vec<UploadRecord> {
        let mut uploads: Vec<UploadRecord> = read(&self.contents)
            .uploads
            .values()
            .map(|upload| upload.record.clone())
            .collect();
        uploads.sort_by(|a, b| (&a.key, &a.id).cmp(&(&b.key, &b.id)));
        uploads
    }

    pub(crate) fn upload(&self, key: &str, id: &str) -> Result<UploadRecord, StoreError> {
        read(&self.contents)
            .uploads
            .get(id)
            .filter(|upload| upload.record.key == key)
            .map(|upload| upload.record.clone())
            .ok_or(StoreError::NoSuchUpload)
    }

    /// Parts that have arrived, by number.
    pub(crate) fn parts(&self, key: &str, id: &str) -> Result<Vec<Part>, StoreError> {
        read(&self.contents)
            .uploads
            .get(id)
            .filter(|upload| upload.record.key == key)
            .map(|upload| upload.parts.values().cloned().collect())
            .ok_or(StoreError::NoSuchUpload)
    }

    /// Adds a part, in place of one of the same number. Its bytes have been synced.
    pub(crate) fn put_part(&self, key: &str, id: &str, part: Part) -> Result<(), StoreError> {
        let _state = self.change()?;
        self.upload(key, id)?;
        let name = format!("{}.json", part.record.number);
        durable::sync_directory(&self.data_directory())
            .and_then(|()| durable::write_json(&self.upload_directory(id), &name, &part.record))
            .map_err(StoreError::io(format!(
                "record a part in bucket {}",
                self.name()
            )))?;
        part.segment.keep();
        let mut contents = write(&self.contents);
        let replaced = contents
            .uploads
            .get_mut(id)
            .and_then(|upload| upload.parts.insert(part.record.number, part));
        if let Some(replaced) = replaced {
            replaced.segment.dispose();
        }
        Ok(())
    }

    pub(crate) fn abort_upload(&self, key: &str, id: &str) -> Result<(), StoreError> {
        let _state = self.change()?;
        self.upload(key, id)?;
        self.remove_upload_files(id)
            .map_err(StoreError::io(format!(
                "abort a multipart upload in {}",
                self.name()
            )))?;
        if let Some(upload) = write(&self.contents).uploads.remove(id) {
            for part in upload.parts.values() {
                part.segment.dispose();
            }
        }
        Ok(())
    }

    /// The record goes first: without it the next start sweeps the rest.
    fn remove_upload_files(&self, id: &str) -> std::io::Result<()> {
        let directory = self.upload_directory(id);
        durable::remove(&directory.join("upload.json"))?;
        fs::remove_dir_all(&directory)
    }

    /// Makes an object of the wanted parts and ends the upload; the other parts are dropped.
    pub(crate) fn complete_upload(
        &self,
        key: &str,
        id: &str,
        completion: &Completion,
    ) -> Result<Arc<Object>, StoreError> {
        let state = self.change()?;
        let upload = self.upload(key, id)?;
        let arrived = self.parts(key, id)?;
        let parts = select(&arrived, &completion.parts)?;
        let object = assemble(upload, &parts, completion)?;
        let object = self.put_while_changing(&state, object, &completion.condition)?;
        if let Err(error) = self.remove_upload_files(id) {
            // The next start sees that the parts belong to an object and clears the upload.
            tracing::warn!(upload = id, %error, "could not clear a completed multipart upload");
        }
        write(&self.contents).uploads.remove(id);
        for part in arrived.iter().filter(|part| !listed(&object, part)) {
            part.segment.dispose();
        }
        Ok(object)
    }
}

fn listed(object: &Object, part: &Part) -> bool {
    object
        .segments
        .iter()
        .any(|segment| segment.id() == part.segment.id())
}

fn select<'a>(arrived: &'a [Part], wanted: &[WantedPart]) -> Result<Vec<&'a Part>, StoreError> {
    if wanted.is_empty() {
        return Err(StoreError::InvalidPart);
    }
    if !wanted.is_sorted_by(|a, b| a.number < b.number) {
        return Err(StoreError::InvalidPartOrder);
    }
    let parts: Vec<&Part> = wanted
        .iter()
        .map(|wanted| find(arrived, wanted).ok_or(StoreError::InvalidPart))
        .collect::<Result<_, _>>()?;
    let all_but_last = parts.split_last().map_or(&[][..], |(_, rest)| rest);
    match all_but_last
        .iter()
        .find(|part| part.record.segment.size < MINIMUM_PART_BYTES)
    {
        None => Ok(parts),
        Some(part) => Err(StoreError::PartTooSmall {
            number: part.record.number,
            size: part.record.segment.size,
            minimum: MINIMUM_PART_BYTES,
        }),
    }
}

fn find<'a>(arrived: &'a [Part], wanted: &WantedPart) -> Option<&'a Part> {
    let index = arrived
        .binary_search_by_key(&wanted.number, |part| part.record.number)
        .ok()?;
    let part = &arrived[index];
    let same_etag = part.record.etag == wanted.etag;
    let same_sums = wanted.checksums.iter().all(|(algorithm, sum)| {
        part.record
            .checksums
            .get(algorithm)
            .is_none_or(|arrived| arrived == sum)
    });
    (same_etag && same_sums).then_some(part)
}

fn assemble(
    upload: UploadRecord,
    parts: &[&Part],
    completion: &Completion,
) -> Result<Object, StoreError> {
    let size = parts.iter().map(|part| part.record.segment.size).sum();
    if let Some(expected) = completion.size.filter(|expected| *expected != size) {
        return Err(StoreError::WrongSize {
            expected,
            found: size,
        });
    }
    let (algorithm, kind) = upload.checksum.unwrap_or(DEFAULT_CHECKSUM);
    let etags: Vec<&str> = parts.iter().map(|part| part.record.etag.as_str()).collect();
    let record = ObjectRecord {
        format: FORMAT,
        key: upload.key,
        size,
        etag: etag::of_parts(&etags),
        modified: OffsetDateTime::now_utc(),
        headers: upload.headers,
        checksums: whole_checksum(algorithm, kind, parts, &completion.checksums)?,
        checksum_kind: kind,
        multipart: true,
        segments: parts
            .iter()
            .map(|part| part.record.segment.clone())
            .collect(),
    };
    Ok(Object {
        record,
        segments: parts.iter().map(|part| Arc::clone(&part.segment)).collect(),
    })
}

fn whole_checksum(
    algorithm: Algorithm,
    kind: Kind,
    parts: &[&Part],
    declared: &Checksums,
) -> Result<Checksums, StoreError> {
    let listed: Vec<(Option<&str>, u64)> = parts
        .iter()
        .map(|part| {
            let sum = part.record.checksums.get(&algorithm).map(String::as_str);
            (sum, part.record.segment.size)
        })
        .collect();
    let Some(whole) = combine(algorithm, kind, &listed) else {
        return Ok(Checksums::new());
    };
    if declared
        .get(&algorithm)
        .is_some_and(|declared| *declared != whole)
    {
        return Err(StoreError::WrongChecksum {
            algorithm: algorithm.name(),
        });
    }
    Ok(Checksums::from([(algorithm, whole)]))
}

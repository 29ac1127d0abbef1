//! Takes the body of an upload to a file, and believes nothing that was declared about it: length,
//! MD5, checksums and the payload's signature must all hold before anything can refer to the file.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::StreamExt;
use http::HeaderMap;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::StreamingBlob;
use s3s::{S3Error, S3ErrorCode, S3Result, TrailingHeaders, s3_error};
use tokio::fs::File;
use tokio::io::{AsyncWriteExt, BufWriter};

use crate::checksum::{self, Algorithm, Checksums};
use crate::errors::{disk_error, storage_full};
use crate::store::Segment;

/// The longest that a client may send nothing in the middle of a body. S3 gives up after 20 s; this
/// is more generous to a laptop that changes networks.
const IDLE: Duration = Duration::from_secs(60);

/// Bytes gathered for one write to the file.
const WRITE_BYTES: usize = 256 * 1024;

/// What the request says about its body.
#[derive(Debug, Default)]
pub(crate) struct Declared {
    /// Bytes, decoded.
    length: Option<u64>,
    md5: Option<Vec<u8>>,
    /// In headers.
    checksums: Checksums,
    /// To come in trailers.
    trailing: Option<Algorithm>,
}

impl Declared {
    /// # Errors
    /// Of the type and text that S3 gives for a malformed or unknown declaration.
    pub(crate) fn parse(
        headers: &HeaderMap,
        length: Option<i64>,
        md5: Option<&str>,
    ) -> S3Result<Self> {
        let declared = Self {
            length: length
                .map(u64::try_from)
                .transpose()
                .map_err(|_| bad_length())?,
            md5: md5.map(parse_md5).transpose()?,
            checksums: declared_checksums(headers)?,
            trailing: trailing_checksum(headers)?,
        };
        let named = usize::from(declared.trailing.is_some()) + declared.checksums.len();
        if named > 1 {
            return Err(s3_error!(
                InvalidRequest,
                "Expecting a single x-amz-checksum- header"
            ));
        }
        Ok(declared)
    }

    /// The algorithm that the client chose.
    pub(crate) fn algorithm(&self) -> Option<Algorithm> {
        self.trailing
            .or_else(|| self.checksums.keys().next().copied())
    }

    fn verify(&self, arrived: &Arrived, trailers: Option<&HeaderMap>) -> S3Result<()> {
        if self.length.is_some_and(|length| length != arrived.size) {
            return Err(incomplete());
        }
        if self.md5.as_ref().is_some_and(|md5| *md5 != arrived.md5) {
            return Err(s3_error!(
                BadDigest,
                "The Content-MD5 you specified did not match what we received."
            ));
        }
        for (algorithm, sum) in &self.checksums {
            verify_checksum(*algorithm, sum, arrived)?;
        }
        let Some(algorithm) = self.trailing else {
            return Ok(());
        };
        let name = format!("x-amz-checksum-{}", algorithm.name().to_ascii_lowercase());
        let trailer = trailers.and_then(|trailers| trailers.get(&name)?.to_str().ok());
        match trailer {
            Some(sum) => verify_checksum(algorithm, sum, arrived),
            None => Err(malformed_trailer()),
        }
    }
}

fn bad_length() -> S3Error {
    s3_error!(InvalidArgument, "Content-Length must not be negative")
}

fn incomplete() -> S3Error {
    s3_error!(
        IncompleteBody,
        "You did not provide the number of bytes specified by the Content-Length HTTP header"
    )
}

fn malformed_trailer() -> S3Error {
    let code = S3ErrorCode::Custom("MalformedTrailerError".into());
    let mut error = S3Error::with_message(
        code,
        "The request contained trailing data that was not well-formed or did not conform to our \
         published schema.",
    );
    error.set_status_code(http::StatusCode::BAD_REQUEST);
    error
}

fn parse_md5(text: &str) -> S3Result<Vec<u8>> {
    STANDARD
        .decode(text)
        .ok()
        .filter(|md5| md5.len() == 16)
        .ok_or_else(|| s3_error!(InvalidDigest, "The Content-MD5 you specified is not valid."))
}

fn declared_checksums(headers: &HeaderMap) -> S3Result<Checksums> {
    let mut checksums = Checksums::new();
    for (name, value) in headers {
        let name = name.as_str();
        // These two choose; they carry no sum.
        let chooses = matches!(name, "x-amz-checksum-algorithm" | "x-amz-checksum-type");
        if !name.starts_with("x-amz-checksum-") || chooses || name == "x-amz-checksum-mode" {
            continue;
        }
        let algorithm = Algorithm::from_header(name).ok_or_else(|| unknown_algorithm(name))?;
        let value = value.to_str().unwrap_or_default();
        if STANDARD.decode(value).is_err() {
            return Err(s3_error!(
                InvalidRequest,
                "Value for {name} header is invalid."
            ));
        }
        checksums.insert(algorithm, value.to_owned());
    }
    Ok(checksums)
}

fn trailing_checksum(headers: &HeaderMap) -> S3Result<Option<Algorithm>> {
    let Some(name) = headers.get("x-amz-trailer") else {
        return Ok(None);
    };
    let name = name.to_str().unwrap_or_default();
    Algorithm::from_header(name)
        .map(Some)
        .ok_or_else(|| unknown_algorithm(name))
}

fn unknown_algorithm(name: &str) -> S3Error {
    s3_error!(
        NotImplemented,
        "{name} is not supported here; use CRC32, CRC32C, CRC64NVME, SHA1 or SHA256"
    )
}

fn verify_checksum(algorithm: Algorithm, declared: &str, arrived: &Arrived) -> S3Result<()> {
    if arrived
        .checksums
        .get(&algorithm)
        .is_some_and(|found| found == declared)
    {
        return Ok(());
    }
    Err(s3_error!(
        BadDigest,
        "The {} you specified did not match the calculated checksum.",
        algorithm.name()
    ))
}

/// A body that arrived whole and right, synced to the disk.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) segment: Arc<Segment>,
    pub(crate) size: u64,
    pub(crate) md5: Vec<u8>,
    pub(crate) checksums: Checksums,
}

#[derive(Debug)]
struct Arrived {
    size: u64,
    md5: Vec<u8>,
    checksums: Checksums,
}

/// Writes a body to a new file in `directory`. Whatever goes wrong, and also when the client goes
/// away, no file stays. Computes the checksums that were declared and those of `wanted`.
pub(crate) async fn receive(
    directory: &Path,
    body: Option<StreamingBlob>,
    declared: &Declared,
    wanted: Option<Algorithm>,
    trailers: Option<TrailingHeaders>,
) -> S3Result<Received> {
    let segment = Arc::new(Segment::create(directory));
    let mut hasher = checksum::hasher(wanted.into_iter().chain(declared.algorithm()));
    let file = File::create_new(segment.path())
        .await
        .map_err(disk_error("create an upload"))?;
    let mut file = BufWriter::with_capacity(WRITE_BYTES, file);
    let (size, md5) = write_body(&mut file, body, declared, &mut hasher).await?;
    let arrived = Arrived {
        size,
        md5,
        checksums: checksum::finish(hasher),
    };
    let trailers = trailers.and_then(|trailers| trailers.take());
    declared.verify(&arrived, trailers.as_ref())?;
    file.flush().await.map_err(disk_error("write an upload"))?;
    file.get_ref()
        .sync_all()
        .await
        .map_err(disk_error("write an upload"))?;
    Ok(Received {
        segment,
        size,
        md5: arrived.md5,
        checksums: arrived.checksums,
    })
}

async fn write_body(
    file: &mut BufWriter<File>,
    body: Option<StreamingBlob>,
    declared: &Declared,
    hasher: &mut ChecksumHasher,
) -> S3Result<(u64, Vec<u8>)> {
    let mut md5 = Md5::new();
    let mut size = 0_u64;
    let Some(mut body) = body else {
        return Ok((size, md5.finalize().to_vec()));
    };
    while let Some(chunk) = next_chunk(&mut body).await? {
        size += chunk.len() as u64;
        if declared.length.is_some_and(|length| size > length) {
            return Err(incomplete());
        }
        md5.update(&chunk);
        hasher.update(&chunk);
        file.write_all(&chunk)
            .await
            .map_err(disk_error("write an upload"))?;
    }
    Ok((size, md5.finalize().to_vec()))
}

async fn next_chunk(body: &mut StreamingBlob) -> S3Result<Option<bytes::Bytes>> {
    match tokio::time::timeout(IDLE, body.next()).await {
        Ok(chunk) => chunk.transpose().map_err(body_error),
        Err(_) => Err(s3_error!(
            RequestTimeout,
            "Your socket connection to the server was not read from or written to within the \
             timeout period. Idle connections will be closed."
        )),
    }
}

/// What is wrong with a body, by the name that s3s gives it: its types are private. The tests of this
/// crate hold the names to what they are in the pinned version.
fn body_error(error: s3s::StdError) -> S3Error {
    let text = error.to_string();
    let mut translated = if text.contains("Sha256Mismatch") {
        payload_mismatch()
    } else if text.contains("SignatureMismatch") {
        s3_error!(
            SignatureDoesNotMatch,
            "The request signature we calculated does not match the signature you provided. \
             Check your key and signing method."
        )
    } else if text.contains("Trailer") {
        malformed_trailer()
    } else if text.contains("FormatError") || text.contains("ChunkMetaTooLarge") {
        s3_error!(
            InvalidRequest,
            "The aws-chunked encoding of the body is malformed"
        )
    } else {
        incomplete()
    };
    translated.set_source(error);
    translated
}

/// The error of a body that is not the one that was signed.
pub(crate) fn payload_mismatch() -> S3Error {
    let code = S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into());
    let mut error = S3Error::with_message(
        code,
        "The provided 'x-amz-content-sha256' header does not match what was computed.",
    );
    error.set_status_code(http::StatusCode::BAD_REQUEST);
    error
}

/// Refuses a body that would leave less than `reserve` bytes of the disk: the rest of the daemon
/// lives on it.
pub(crate) fn check_space(directory: &Path, body: Option<i64>, reserve: u64) -> S3Result<()> {
    let found = rustix::fs::statvfs(directory)
        .map_err(|error| disk_error("ask how much of the disk is free")(error.into()))?;
    let available = found.f_bavail.saturating_mul(found.f_frsize);
    let needed = body
        .and_then(|length| u64::try_from(length).ok())
        .unwrap_or(0);
    if available.saturating_sub(reserve) < needed {
        return Err(storage_full());
    }
    Ok(())
}

//! What a signed request must be: the signature, the clock, and every form in which a client can
//! declare its body. The requests are signed here, by the book, and given to the service directly.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use colibri_objects::{
    Callers, CopyError, ObjectCall, Objects, ResponseBody, SessionFault, Settings,
};
use hmac::{Hmac, KeyInit, Mac};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime, macros::format_description};

const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

struct OneKey;

impl Callers for OneKey {
    fn secret_key(&self, access_key_id: &str) -> Option<String> {
        (access_key_id == "test").then(|| "secret".to_owned())
    }

    fn check_session(&self, _: &str, given: Option<&str>) -> Result<(), SessionFault> {
        given.map_or(Ok(()), |_| Err(SessionFault::WrongToken))
    }

    fn permits(&self, _: &ObjectCall<'_>) -> Result<(), String> {
        Ok(())
    }
}

fn objects(directory: &Path) -> Objects {
    Objects::open(directory, Arc::new(OneKey), Settings::new("us-east-1")).unwrap()
}

async fn with_bucket() -> (TempDir, Objects) {
    let directory = tempfile::tempdir().unwrap();
    let objects = objects(directory.path());
    let made = Signed::new("PUT", "/code").call(&objects, b"").await;
    assert_eq!(made.0, 200, "{}", made.1);
    (directory, objects)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// A request to be signed.
#[derive(Clone)]
struct Signed {
    method: &'static str,
    path: String,
    key: &'static str,
    secret: &'static str,
    time: OffsetDateTime,
    headers: Vec<(String, String)>,
}

impl Signed {
    fn new(method: &'static str, path: &str) -> Self {
        Self {
            method,
            path: path.to_owned(),
            key: "test",
            secret: "secret",
            time: OffsetDateTime::now_utc(),
            headers: vec![("host".into(), "127.0.0.1:4570".into())],
        }
    }

    fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn date(&self) -> String {
        self.time
            .format(format_description!(
                "[year][month][day]T[hour][minute][second]Z"
            ))
            .unwrap()
    }

    fn scope(&self) -> String {
        format!("{}/us-east-1/s3/aws4_request", &self.date()[..8])
    }

    fn sign(&self, text: &str) -> String {
        let key = hmac(format!("AWS4{}", self.secret).as_bytes(), &self.date()[..8]);
        let key = ["us-east-1", "s3", "aws4_request"]
            .iter()
            .fold(key, |key, text| hmac(&key, text));
        hex(&hmac(&key, text))
    }

    /// The signature of a chunk or trailer that follows another.
    fn sign_next(&self, kind: &str, before: &str, hashes: &str) -> String {
        self.sign(&format!(
            "{kind}\n{}\n{}\n{before}\n{hashes}",
            self.date(),
            self.scope()
        ))
    }

    /// The headers to send, and the signature.
    fn finish(&self, payload: &str) -> (Vec<(String, String)>, String) {
        let mut headers = self.headers.clone();
        headers.push(("x-amz-date".into(), self.date()));
        headers.push(("x-amz-content-sha256".into(), payload.into()));
        headers.sort();
        let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(";");
        let canonical: String = headers
            .iter()
            .map(|(name, value)| format!("{name}:{value}\n"))
            .collect();
        let (path, query) = self.path.split_once('?').unwrap_or((&self.path, ""));
        let query = if query.is_empty() || query.contains('=') {
            query.to_owned()
        } else {
            format!("{query}=")
        };
        let request = format!(
            "{}\n{path}\n{query}\n{canonical}\n{names}\n{payload}",
            self.method
        );
        let signature = self.sign(&format!(
            "AWS4-HMAC-SHA256\n{}\n{}\n{}",
            self.date(),
            self.scope(),
            sha256(request.as_bytes())
        ));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{}, SignedHeaders={names}, Signature={signature}",
            self.key,
            self.scope()
        );
        headers.push(("authorization".into(), authorization));
        (headers, signature)
    }

    async fn send(
        &self,
        objects: &Objects,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    ) -> (u16, String) {
        let mut request = Request::builder().method(self.method).uri(&self.path);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.header("content-length", body.len());
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        text(objects.service().call(request).await).await
    }

    /// Signs for `body` and sends it.
    async fn call(&self, objects: &Objects, body: &[u8]) -> (u16, String) {
        self.call_with(objects, body, body).await
    }

    /// Signs for one body and sends another.
    async fn call_with(&self, objects: &Objects, signed: &[u8], sent: &[u8]) -> (u16, String) {
        let (headers, _) = self.finish(&sha256(signed));
        self.send(objects, headers, sent.to_vec()).await
    }
}

async fn text(response: Response<ResponseBody>) -> (u16, String) {
    assert!(response.headers().contains_key("x-amz-request-id"));
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

fn assert_error(answer: &(u16, String), status: u16, code: &str) {
    assert_eq!(answer.0, status, "{}", answer.1);
    assert!(
        answer.1.contains(&format!("<Code>{code}</Code>")),
        "{}",
        answer.1
    );
}

fn files(directory: &TempDir) -> usize {
    std::fs::read_dir(directory.path().join("code/data"))
        .unwrap()
        .count()
}

#[tokio::test]
async fn each_fault_of_a_signature_has_the_error_of_s3() {
    let (_directory, objects) = with_bucket().await;
    let good = Signed::new("GET", "/code");
    assert_eq!(good.call(&objects, b"").await.0, 200);
    let unknown = Signed {
        key: "nobody",
        ..good.clone()
    };
    assert_error(
        &unknown.call(&objects, b"").await,
        403,
        "InvalidAccessKeyId",
    );
    let wrong = Signed {
        secret: "wrong",
        ..good.clone()
    };
    assert_error(
        &wrong.call(&objects, b"").await,
        403,
        "SignatureDoesNotMatch",
    );
    for skew in [Duration::minutes(-16), Duration::minutes(16)] {
        let skewed = Signed {
            time: good.time + skew,
            ..good.clone()
        };
        assert_error(
            &skewed.call(&objects, b"").await,
            403,
            "RequestTimeTooSkewed",
        );
    }
    let anonymous = Request::get("/code")
        .header("host", "x")
        .body(Full::new(Bytes::new()))
        .unwrap();
    assert_error(
        &text(objects.service().call(anonymous).await).await,
        403,
        "AccessDenied",
    );
    let (headers, _) = good.finish(EMPTY);
    let moved = Signed {
        path: "/other".into(),
        ..good
    };
    assert_error(
        &moved.send(&objects, headers, vec![]).await,
        403,
        "SignatureDoesNotMatch",
    );
}

#[tokio::test]
async fn a_body_that_is_not_the_signed_one_is_refused_and_leaves_nothing() {
    let (directory, objects) = with_bucket().await;
    let put = Signed::new("PUT", "/code/k");
    for size in [10, 200_000] {
        let body = vec![b'x'; size];
        let mut tampered = body.clone();
        tampered[size / 2] = b'y';
        let answer = put.call_with(&objects, &body, &tampered).await;
        assert_error(&answer, 400, "XAmzContentSHA256Mismatch");
    }
    let delete = Signed::new("POST", "/code?delete");
    let xml = b"<Delete><Object><Key>k</Key></Object></Delete>";
    let other = b"<Delete><Object><Key>m</Key></Object></Delete>";
    assert_error(
        &delete.call_with(&objects, xml, other).await,
        400,
        "XAmzContentSHA256Mismatch",
    );
    assert_eq!(files(&directory), 0);
}

#[tokio::test]
async fn a_checksum_that_does_not_match_is_refused() {
    let (directory, objects) = with_bucket().await;
    for (name, value) in [
        ("content-md5", "AAAAAAAAAAAAAAAAAAAAAA=="),
        ("x-amz-checksum-crc32", "AAAAAA=="),
        ("x-amz-checksum-crc64nvme", "AAAAAAAAAAA="),
    ] {
        for size in [4, 200_000] {
            let put = Signed::new("PUT", "/code/k").header(name, value);
            assert_error(&put.call(&objects, &vec![1; size]).await, 400, "BadDigest");
        }
        let delete = Signed::new("POST", "/code?delete").header(name, value);
        let xml = b"<Delete><Object><Key>k</Key></Object></Delete>";
        assert_error(&delete.call(&objects, xml).await, 400, "BadDigest");
    }
    let unknown = Signed::new("PUT", "/code/k").header("x-amz-checksum-xxhash64", "AAAAAAAAAAA=");
    assert_error(&unknown.call(&objects, b"x").await, 501, "NotImplemented");
    assert_eq!(files(&directory), 0);
}

/// A body in the form aws-chunked, one chunk, with a checksum after it when asked.
struct Chunked<'a> {
    data: &'a [u8],
    signed: bool,
    crc32: Option<&'a str>,
}

impl Chunked<'_> {
    fn payload(&self) -> &'static str {
        match (self.signed, self.crc32.is_some()) {
            (true, true) => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
            (true, false) => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            (false, _) => "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        }
    }

    fn request(&self) -> Signed {
        let request = Signed::new("PUT", "/code/k")
            .header("content-encoding", "aws-chunked")
            .header("x-amz-decoded-content-length", &self.data.len().to_string());
        if self.crc32.is_some() {
            request.header("x-amz-trailer", "x-amz-checksum-crc32")
        } else {
            request
        }
    }

    fn body(&self, request: &Signed, seed: &str) -> Vec<u8> {
        let mut body = Vec::new();
        let mut before = seed.to_owned();
        for data in [self.data, b""] {
            let signature = request.sign_next(
                "AWS4-HMAC-SHA256-PAYLOAD",
                &before,
                &format!("{EMPTY}\n{}", sha256(data)),
            );
            let extension = if self.signed {
                format!(";chunk-signature={signature}")
            } else {
                String::new()
            };
            body.extend(format!("{:x}{extension}\r\n", data.len()).bytes());
            body.extend(data);
            let last_before_trailer = data.is_empty() && self.crc32.is_some();
            body.extend(if last_before_trailer {
                &b""[..]
            } else {
                b"\r\n"
            });
            before = signature;
        }
        if let Some(crc32) = self.crc32 {
            body.extend(format!("x-amz-checksum-crc32:{crc32}\r\n").bytes());
            if self.signed {
                let hash = sha256(format!("x-amz-checksum-crc32:{crc32}\n").as_bytes());
                let signature = request.sign_next("AWS4-HMAC-SHA256-TRAILER", &before, &hash);
                body.extend(format!("x-amz-trailer-signature:{signature}\r\n").bytes());
            }
            body.extend(b"\r\n");
        }
        body
    }

    async fn send(&self, objects: &Objects, change: impl FnOnce(&mut Vec<u8>)) -> (u16, String) {
        let request = self.request();
        let (headers, seed) = request.finish(self.payload());
        let mut body = self.body(&request, &seed);
        change(&mut body);
        request.send(objects, headers, body).await
    }
}

/// CRC32 of `hello`.
const CRC32: &str = "NhCmhg==";

#[tokio::test]
async fn bodies_in_chunks_are_taken_with_and_without_signatures_and_trailers() {
    let (directory, objects) = with_bucket().await;
    for (signed, crc32) in [(true, None), (true, Some(CRC32)), (false, Some(CRC32))] {
        let chunked = Chunked {
            data: b"hello",
            signed,
            crc32,
        };
        let answer = chunked.send(&objects, |_| {}).await;
        assert_eq!(answer.0, 200, "{} {}", chunked.payload(), answer.1);
        let got = Signed::new("GET", "/code/k").call(&objects, b"").await;
        assert_eq!(got, (200, "hello".to_owned()));
    }
    assert_eq!(files(&directory), 1);
}

#[tokio::test]
async fn bodies_in_chunks_that_were_changed_or_cut_are_refused() {
    let (directory, objects) = with_bucket().await;
    let change = |body: &mut Vec<u8>| {
        let at = body
            .windows(5)
            .position(|window| window == b"hello")
            .unwrap();
        body[at] = b'j';
    };
    let cut = |body: &mut Vec<u8>| {
        let at = body
            .windows(5)
            .position(|window| window == b"hello")
            .unwrap();
        body.truncate(at + 7);
    };
    let signed = Chunked {
        data: b"hello",
        signed: true,
        crc32: None,
    };
    assert_error(
        &signed.send(&objects, change).await,
        403,
        "SignatureDoesNotMatch",
    );
    let trailed = Chunked {
        data: b"hello",
        signed: true,
        crc32: Some(CRC32),
    };
    assert_error(
        &trailed.send(&objects, cut).await,
        400,
        "MalformedTrailerError",
    );
    let unsigned = Chunked {
        data: b"hello",
        signed: false,
        crc32: Some(CRC32),
    };
    assert_error(&unsigned.send(&objects, change).await, 400, "BadDigest");
    assert_error(
        &unsigned.send(&objects, cut).await,
        400,
        "MalformedTrailerError",
    );
    let short = |body: &mut Vec<u8>| body.truncate(4);
    assert_error(&signed.send(&objects, short).await, 400, "IncompleteBody");
    assert_error(
        &signed.send(&objects, Vec::clear).await,
        400,
        "IncompleteBody",
    );
    let garbage = |body: &mut Vec<u8>| body[0] = b'z';
    assert_error(&signed.send(&objects, garbage).await, 400, "InvalidRequest");
    assert_eq!(files(&directory), 0);
}

#[tokio::test]
async fn an_upload_that_the_disk_has_no_room_for_is_refused_before_it_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings {
        reserved_bytes: u64::MAX,
        ..Settings::new("us-east-1")
    };
    let objects = Objects::open(directory.path(), Arc::new(OneKey), settings).unwrap();
    assert_eq!(Signed::new("PUT", "/code").call(&objects, b"").await.0, 200);
    let answer = Signed::new("PUT", "/code/k").call(&objects, b"data").await;
    assert_error(&answer, 507, "InsufficientStorage");
    assert_eq!(files(&directory), 0);
}

#[tokio::test]
async fn an_object_is_copied_to_a_file_within_its_limit() {
    let (directory, objects) = with_bucket().await;
    assert_eq!(
        Signed::new("PUT", "/code/a/b.zip")
            .call(&objects, b"artifact")
            .await
            .0,
        200
    );
    let path = directory.path().join("copy");
    let copy = |bucket, key, limit| objects.copy_to_file(bucket, key, &path, limit);
    assert!(matches!(
        copy("none", "k", 9).await,
        Err(CopyError::NoSuchBucket { .. })
    ));
    assert!(matches!(
        copy("code", "k", 9).await,
        Err(CopyError::NoSuchKey { .. })
    ));
    let large = copy("code", "a/b.zip", 7).await;
    assert!(matches!(
        large,
        Err(CopyError::TooLarge {
            size: 8,
            limit: 7,
            ..
        })
    ));
    assert!(!path.exists());
    assert_eq!(copy("code", "a/b.zip", 8).await.unwrap(), 8);
    assert_eq!(std::fs::read(&path).unwrap(), b"artifact");
    assert!(matches!(
        copy("code", "a/b.zip", 8).await,
        Err(CopyError::Io { .. })
    ));
    assert_eq!(
        std::fs::read(&path).unwrap(),
        b"artifact",
        "a file that was there is left alone"
    );
}

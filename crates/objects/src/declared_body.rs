//! Checks the small XML bodies (deletes, completions, bucket settings) against what was declared of
//! them. s3s reports a wrong payload there as its own failure, and does not look at MD5 or checksums;
//! this stands between the network and s3s and remembers what was wrong.

use std::error::Error;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Md5, Sha256};
use s3s::{S3Error, StdError, s3_error};

use crate::checksum::{self, Algorithm};
use crate::etag::hex;
use crate::receive::payload_mismatch;

/// What was wrong with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Payload,
    Md5,
    Checksum(Algorithm),
}

impl Fault {
    pub(crate) fn error(self) -> S3Error {
        match self {
            Self::Payload => payload_mismatch(),
            Self::Md5 => s3_error!(
                BadDigest,
                "The Content-MD5 you specified did not match what we received."
            ),
            Self::Checksum(algorithm) => s3_error!(
                BadDigest,
                "The {} you specified did not match the calculated checksum.",
                algorithm.name()
            ),
        }
    }
}

/// Where the fault is left for who asks after the request.
pub(crate) type FoundFault = Arc<OnceLock<Fault>>;

/// A body, and what it should amount to.
pub(crate) struct DeclaredBody<B> {
    inner: B,
    left: u64,
    sha256: Option<(String, Sha256)>,
    md5: Option<(Vec<u8>, Md5)>,
    checksums: Vec<(Algorithm, String)>,
    hasher: Option<ChecksumHasher>,
    found: FoundFault,
}

#[derive(Debug, thiserror::Error)]
#[error("the body is not the one that was declared")]
struct NotAsDeclared;

impl<B> DeclaredBody<B> {
    /// `None` when the headers leave nothing to check here.
    pub(crate) fn new(inner: B, headers: &HeaderMap) -> Result<(Self, FoundFault), B> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let length = text("content-length").and_then(|length| length.parse::<u64>().ok());
        let Some(left) = length.filter(|length| *length > 0) else {
            return Err(inner);
        };
        let sha256 = text("x-amz-content-sha256").filter(|sum| sum.len() == 64);
        let md5 = text("content-md5").map(|md5| STANDARD.decode(md5).unwrap_or_default());
        let checksums: Vec<(Algorithm, String)> = headers
            .iter()
            .filter_map(|(name, value)| {
                let algorithm = Algorithm::from_header(name.as_str())?;
                Some((algorithm, value.to_str().unwrap_or_default().to_owned()))
            })
            .collect();
        let found = FoundFault::default();
        let body = Self {
            inner,
            left,
            sha256: sha256.map(|sum| (sum.to_ascii_lowercase(), Sha256::new())),
            md5: md5.map(|md5| (md5, Md5::new())),
            hasher: Some(checksum::hasher(
                checksums.iter().map(|(algorithm, _)| *algorithm),
            )),
            checksums,
            found: Arc::clone(&found),
        };
        Ok((body, found))
    }

    fn update(&mut self, chunk: &[u8]) {
        self.left = self.left.saturating_sub(chunk.len() as u64);
        if let Some((_, sha256)) = &mut self.sha256 {
            sha256.update(chunk);
        }
        if let Some((_, md5)) = &mut self.md5 {
            md5.update(chunk);
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(chunk);
        }
    }

    /// Before the last bytes are handed on: whoever has them all may act on them.
    fn finish(&mut self) -> Result<(), Fault> {
        if let Some((declared, sha256)) = self.sha256.take()
            && hex(&sha256.finalize()) != declared
        {
            return Err(Fault::Payload);
        }
        if let Some((declared, md5)) = self.md5.take()
            && md5.finalize().as_slice() != declared.as_slice()
        {
            return Err(Fault::Md5);
        }
        let arrived = self.hasher.take().map(checksum::finish).unwrap_or_default();
        match self
            .checksums
            .iter()
            .find(|(name, sum)| arrived.get(name) != Some(sum))
        {
            Some((algorithm, _)) => Err(Fault::Checksum(*algorithm)),
            None => Ok(()),
        }
    }
}

impl<B> Body for DeclaredBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)) else {
            return Poll::Ready(None);
        };
        let frame = frame.map_err(Into::into)?;
        if let Some(chunk) = frame.data_ref().filter(|_| self.left > 0) {
            self.update(&chunk.clone());
            if self.left == 0
                && let Err(fault) = self.finish()
            {
                // Set once: a body ends once.
                let _ = self.found.set(fault);
                return Poll::Ready(Some(Err(Box::new(NotAsDeclared))));
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

//! What an answer tells whoever serves the endpoint of its request: for an audit. It travels in the
//! response's extensions and never to the client.

use std::sync::{Arc, OnceLock};

use s3s::access::S3AccessContext;

/// What is known of a request that was answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The operation; none when the request was refused before it was found.
    pub operation: Option<String>,
    /// Whose signature was right; none when nobody's was.
    pub access_key: Option<String>,
    /// The bucket.
    pub bucket: Option<String>,
    /// The object's key.
    pub key: Option<String>,
    /// Code and message of the error.
    pub error: Option<(String, String)>,
}

/// Goes with a request until its signature and operation are known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Witness(Arc<OnceLock<Seen>>);

impl Witness {
    /// The request's signature is right: this is whose it is and what it asks for.
    pub(crate) fn sees(cx: &mut S3AccessContext<'_>) {
        let seen = Seen {
            operation: Some(cx.s3_op().name().to_owned()),
            access_key: cx
                .credentials()
                .map(|credentials| credentials.access_key.clone()),
            bucket: cx.s3_path().get_bucket_name().map(str::to_owned),
            key: cx.s3_path().get_object_key().map(str::to_owned),
            error: None,
        };
        if let Some(witness) = cx.extensions_mut().get::<Self>() {
            // A request has one operation.
            let _ = witness.0.set(seen);
        }
    }

    pub(crate) fn seen(&self) -> Seen {
        self.0.get().cloned().unwrap_or_default()
    }
}

/// Code and message of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: String,
    pub(crate) message: String,
}

impl Failure {
    /// Out of an error as S3 writes it.
    pub(crate) fn of(xml: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(xml).ok()?;
        let between = |start: &str, end: &str| {
            let (_, rest) = text.split_once(start)?;
            rest.split_once(end).map(|(value, _)| value.to_owned())
        };
        Some(Self {
            code: between("<Code>", "</Code>")?,
            message: between("<Message>", "</Message>").unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Failure;

    #[test]
    fn an_errors_code_and_message_are_found() {
        let xml =
            b"<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code><Message>none</Message></Error>";
        let found = Failure::of(xml).map(|failure| (failure.code, failure.message));
        assert_eq!(found, Some(("NoSuchKey".into(), "none".into())));
        assert_eq!(Failure::of(b""), None);
    }
}

//! Why a request's signature is not accepted, as the AWS services say it.

/// A request that nobody known has signed. `Display` is the `message` that the client reads; it never
/// holds a secret, a signature or a header's content beyond dates and the credential scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Not signed at all.
    #[error("Missing Authentication Token")]
    MissingToken,
    /// The `Authorization` header lacks something or cannot be read.
    #[error("{0}")]
    Incomplete(String),
    /// Signed with a key, or with a session token, that does not exist.
    #[error("The security token included in the request is invalid.")]
    UnknownClient,
    /// Signed as it should be, with a temporary key whose time is over.
    #[error("The security token included in the request is expired")]
    Ended,
    /// The signature is not the request's.
    #[error(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret \
         Access Key and signing method. Consult the service documentation for details."
    )]
    Mismatch,
    /// Signed too long ago, too early, for another region or service, or without its body.
    #[error("{0}")]
    OutOfScope(String),
}

impl Rejection {
    /// HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Incomplete(_) => 400,
            _ => 403,
        }
    }

    /// Value of `x-amzn-ErrorType`.
    #[must_use]
    pub fn wire_name(&self) -> &'static str {
        match self {
            Self::MissingToken => "MissingAuthenticationTokenException",
            Self::Incomplete(_) => "IncompleteSignatureException",
            Self::UnknownClient => "UnrecognizedClientException",
            Self::Ended => "ExpiredTokenException",
            Self::Mismatch | Self::OutOfScope(_) => "InvalidSignatureException",
        }
    }

    /// Headers and JSON body of the answer, as rest-json services give it.
    #[must_use]
    pub fn render(&self) -> (u16, [(&'static str, &'static str); 2], Vec<u8>) {
        let body = serde_json::json!({ "message": self.to_string() })
            .to_string()
            .into_bytes();
        let headers = [
            ("content-type", "application/json"),
            ("x-amzn-errortype", self.wire_name()),
        ];
        (self.status(), headers, body)
    }
}

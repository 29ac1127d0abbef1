//! Computes a request's signature anew, with the official signer over exactly the headers that the
//! request says it signs, and compares.
//!
//! The signer is the one of the AWS SDK for Rust. It takes the canonical path twice encoded, as
//! every service but S3 does.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SigningParams, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use http::header::{DATE, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use time::format_description::well_known::Rfc2822;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};
use tracing::subscriber::{NoSubscriber, with_default};

use crate::authorization::{Authorization, incomplete};
use crate::credential::{Credential, CredentialSource};
use crate::identity::Identity;
use crate::rejection::Rejection;

const AMZ_DATE: &str = "x-amz-date";
const AMZ_CONTENT_SHA256: &str = "x-amz-content-sha256";
const AMZ_SECURITY_TOKEN: &str = "x-amz-security-token";
/// How the names of headers begin that say what the service knows nothing of.
const EXTENSIONS: &str = "x-colibri-";
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";

/// How far a request's clock may be from this one's, either way.
pub const MAX_SKEW: Duration = Duration::from_secs(5 * 60);

/// SHA-256 of a request's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayloadHash(String);

impl PayloadHash {
    /// The hash of a body; of no bytes for a request without one.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        Self::from_digest(Sha256::digest(body).into())
    }

    /// A hash that was computed while the body was read.
    #[must_use]
    pub fn from_digest(digest: [u8; 32]) -> Self {
        Self(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Whether a signature must cover the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadRule {
    /// It must.
    Signed,
    /// `UNSIGNED-PAYLOAD` will do.
    UnsignedAllowed,
}

/// What a request must be signed for.
#[derive(Debug, Clone, Copy)]
pub struct Expectation<'a> {
    /// Region of this server.
    pub region: &'a str,
    /// Service that the request was given to.
    pub service: &'a str,
    /// Whether the signature must cover the body.
    pub payload: PayloadRule,
}

/// Who signed a request.
///
/// The body's own hash must be given: a signature that covers another body does not match.
///
/// # Errors
/// [`Rejection`] when nobody known signed this request for this server at this time.
pub fn verify(
    parts: &Parts,
    body: &PayloadHash,
    expected: &Expectation<'_>,
    credentials: &dyn CredentialSource,
    now: SystemTime,
) -> Result<Identity, Rejection> {
    let authorization = Authorization::of(&parts.headers)?;
    let host = host(parts)?;
    let signed_at = signing_time(&parts.headers, &authorization)?;
    covers_what_it_must(&parts.headers, &authorization)?;
    is_in_scope(
        &authorization,
        expected,
        signed_at,
        OffsetDateTime::from(now),
    )?;
    let credential = credentials
        .credential(&authorization.scope.access_key_id)
        .ok_or(Rejection::UnknownClient)?;
    check_session_token(&parts.headers, &credential)?;
    let payload = signed_payload(&parts.headers, body, expected.payload)?;
    let signature = signature(
        parts,
        &host,
        &authorization,
        &credential,
        payload,
        signed_at,
    )?;
    if !bool::from(
        signature
            .as_bytes()
            .ct_eq(authorization.signature.as_bytes()),
    ) {
        return Err(Rejection::Mismatch);
    }
    // Last, so that only its holder learns of it.
    if credential.has_ended(now) {
        return Err(Rejection::Ended);
    }
    Ok(credential.identity)
}

/// The only value of a header; a signed header that matters here and comes twice is read by one
/// program this way and by another that way.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Rejection> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(incomplete(&format!(
            "Header '{name}' must be given once only."
        )));
    }
    value
        .to_str()
        .map(Some)
        .map_err(|_| incomplete(&format!("Header '{name}' must be ASCII.")))
}

/// The host that was asked for: HTTP/2 carries it in the target.
fn host(parts: &Parts) -> Result<String, Rejection> {
    let header = only(&parts.headers, HOST.as_str())?;
    let authority = || parts.uri.authority().map(http::uri::Authority::as_str);
    header
        .or_else(authority)
        .map(str::to_owned)
        .ok_or_else(|| incomplete("Host header is missing."))
}

fn signing_time(
    headers: &HeaderMap,
    authorization: &Authorization,
) -> Result<OffsetDateTime, Rejection> {
    let (name, time) = if let Some(text) = only(headers, AMZ_DATE)? {
        let format = format_description!("[year][month][day]T[hour][minute][second]Z");
        (
            AMZ_DATE,
            PrimitiveDateTime::parse(text, format)
                .ok()
                .map(PrimitiveDateTime::assume_utc),
        )
    } else if let Some(text) = only(headers, DATE.as_str())? {
        (DATE.as_str(), OffsetDateTime::parse(text, &Rfc2822).ok())
    } else {
        return Err(incomplete(
            "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.",
        ));
    };
    if !authorization.signs(name) {
        return Err(incomplete(&format!(
            "'{name}' must be a 'SignedHeader' in the AWS Authorization."
        )));
    }
    time.ok_or_else(|| {
        incomplete(&format!(
            "Date in header '{name}' could not be read: use a form such as 20261122T120000Z."
        ))
    })
}

/// The list of signed headers must be canonical, so that it is the one that was signed; and a header
/// that changes who is asking, or what for, must be in it where it is there.
fn covers_what_it_must(
    headers: &HeaderMap,
    authorization: &Authorization,
) -> Result<(), Rejection> {
    if !authorization
        .signed_headers
        .is_sorted_by(|one, next| one < next)
    {
        return Err(incomplete(
            "SignedHeaders must be in alphabetical order, each name once.",
        ));
    }
    // The map finds a name in any case; a list that holds upper case is not the one that was signed.
    let there = |name: &String| {
        let lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
        lower && (name == HOST.as_str() || headers.contains_key(name))
    };
    if !authorization.signed_headers.iter().all(there) {
        return Err(Rejection::Mismatch);
    }
    let needed = headers.keys().map(HeaderName::as_str).filter(|name| {
        [AMZ_CONTENT_SHA256, AMZ_SECURITY_TOKEN].contains(name) || name.starts_with(EXTENSIONS)
    });
    for name in [HOST.as_str()].into_iter().chain(needed) {
        if !authorization.signs(name) {
            return Err(incomplete(&format!(
                "'{name}' must be a 'SignedHeader' in the AWS Authorization."
            )));
        }
    }
    Ok(())
}

fn is_in_scope(
    authorization: &Authorization,
    expected: &Expectation<'_>,
    signed_at: OffsetDateTime,
    now: OffsetDateTime,
) -> Result<(), Rejection> {
    let scope = &authorization.scope;
    let refused = |message: String| Err(Rejection::OutOfScope(message));
    let stamp = stamp(signed_at);
    let day = stamp.get(..8).unwrap_or_default();
    if day != scope.date {
        return refused(format!(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: \
             '{}' != '{day}', from '{stamp}'.",
            scope.date
        ));
    }
    // Dates at the ends of what can be represented have no such bound; they are out of range anyway.
    let (earliest, latest) = (now.checked_sub(time_skew()), now.checked_add(time_skew()));
    if let Some(earliest) = earliest.filter(|earliest| signed_at < *earliest) {
        return refused(format!(
            "Signature expired: {stamp} is now earlier than {} ({} - 5 min.)",
            self::stamp(earliest),
            self::stamp(now)
        ));
    }
    if let Some(latest) = latest.filter(|latest| signed_at > *latest) {
        return refused(format!(
            "Signature not yet current: {stamp} is still later than {} ({} + 5 min.)",
            self::stamp(latest),
            self::stamp(now)
        ));
    }
    if scope.region != expected.region {
        return refused(format!(
            "Credential should be scoped to a valid region: '{}'.",
            expected.region
        ));
    }
    if scope.service != expected.service {
        return refused(format!(
            "Credential should be scoped to correct service: '{}'.",
            expected.service
        ));
    }
    Ok(())
}

fn time_skew() -> time::Duration {
    time::Duration::new(MAX_SKEW.as_secs().cast_signed(), 0)
}

fn stamp(time: OffsetDateTime) -> String {
    let time = time.to_offset(time::UtcOffset::UTC);
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

/// A temporary key is good with its own token only, and a lasting one with none.
fn check_session_token(headers: &HeaderMap, credential: &Credential) -> Result<(), Rejection> {
    match (
        &credential.session_token,
        only(headers, AMZ_SECURITY_TOKEN)?,
    ) {
        (None, None) => Ok(()),
        (Some(token), Some(given)) if token.matches(given) => Ok(()),
        _ => Err(Rejection::UnknownClient),
    }
}

fn signed_payload(
    headers: &HeaderMap,
    body: &PayloadHash,
    rule: PayloadRule,
) -> Result<SignableBody<'static>, Rejection> {
    match only(headers, AMZ_CONTENT_SHA256)? {
        None => Ok(SignableBody::Precomputed(body.0.clone())),
        Some(UNSIGNED_PAYLOAD) if rule == PayloadRule::UnsignedAllowed => Ok(SignableBody::UnsignedPayload),
        Some(hash) if hash == body.0 => Ok(SignableBody::Precomputed(body.0.clone())),
        Some(hash) if hash.len() == body.0.len() => Err(Rejection::Mismatch),
        Some(_) => Err(Rejection::OutOfScope(
            "The value of x-amz-content-sha256 must be the SHA-256 of the request's body for this service.".to_owned(),
        )),
    }
}

fn signature(
    parts: &Parts,
    host: &str,
    authorization: &Authorization,
    credential: &Credential,
    payload: SignableBody<'_>,
    signed_at: OffsetDateTime,
) -> Result<String, Rejection> {
    let headers = signed_headers(&parts.headers, host, authorization)?;
    let mut settings = SigningSettings::default();
    // The signer always adds x-amz-date; a request that signs `date` instead does not sign it.
    settings.excluded_headers =
        (!authorization.signs(AMZ_DATE)).then(|| vec![Cow::Borrowed(AMZ_DATE)]);
    let key = Credentials::new(
        &credential.identity.access_key_id,
        credential.secret.expose(),
        None,
        None,
        "colibri",
    )
    .into();
    let parameters = v4::SigningParams::builder()
        .identity(&key)
        .region(&authorization.scope.region)
        .name(&authorization.scope.service)
        .time(signed_at.into())
        .settings(settings)
        .build()
        .map_err(|_| Rejection::Mismatch)?;
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    let headers = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    // A target or header that the signer cannot take has no signature, so none can match.
    let request = SignableRequest::new(parts.method.as_str(), target, headers, payload)
        .map_err(|_| Rejection::Mismatch)?;
    let parameters = SigningParams::V4(parameters);
    // The signer traces the headers as they are, a session token among them: not into these logs.
    let signed = with_default(NoSubscriber::new(), || sign(request, &parameters))
        .map_err(|_| Rejection::Mismatch)?;
    Ok(signed.signature().to_owned())
}

/// The headers that the request says it signs, with `host` first.
fn signed_headers(
    headers: &HeaderMap,
    host: &str,
    authorization: &Authorization,
) -> Result<Vec<(String, String)>, Rejection> {
    let mut signed = vec![(HOST.as_str().to_owned(), host.to_owned())];
    for (name, value) in headers {
        if name != HOST && authorization.signs(name.as_str()) {
            let value = value.to_str().map_err(|_| Rejection::Mismatch)?;
            signed.push((name.as_str().to_owned(), value.to_owned()));
        }
    }
    Ok(signed)
}

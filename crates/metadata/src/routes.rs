//! What is where, who may ask, and the answers.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::token::TokenKey;
use crate::{NoCredentials, NotRunning, RoleCredentials, Subject};

const TOKEN: &str = "x-aws-ec2-metadata-token";
const TOKEN_TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const FORWARDED: &str = "x-forwarded-for";
/// Where a guest finds the name of its role, which is always the same, and below that its credentials.
const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials";
const ROLE_NAME: &str = "execution_role";
/// Longest life of a token, seconds: EC2's.
const MAX_TTL: u64 = 21_600;
/// Longest time that a guest may say it is busy, seconds; it can say so again.
const MAX_BUSY: u64 = 3600;
/// Longest body of a request, bytes.
const MAX_BODY: usize = 1024;

/// An answer, and what is to be done when it has been given.
pub(crate) struct Reply {
    pub(crate) response: Response<Full<Bytes>>,
    pub(crate) then_suspend: bool,
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("a request with X-Forwarded-For is refused: it came through a proxy")]
    Forwarded,
    #[error("the header {TOKEN_TTL} must say from 1 to {MAX_TTL}")]
    BadTtl,
    #[error("the header {TOKEN} must hold a token of PUT /latest/api/token")]
    NoToken,
    #[error("there is nothing here")]
    NotFound,
    #[error("the method must be one of: {0}")]
    WrongMethod(&'static str),
    #[error("the body must be {{\"seconds\": n}}, n from 1 to {MAX_BUSY}")]
    BadBusy,
    #[error(transparent)]
    NotRunning(#[from] NotRunning),
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Forwarded => StatusCode::FORBIDDEN,
            Self::BadTtl | Self::BadBusy => StatusCode::BAD_REQUEST,
            Self::NoToken => StatusCode::UNAUTHORIZED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::WrongMethod(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotRunning(_) => StatusCode::CONFLICT,
        }
    }

    fn response(&self) -> Response<Full<Bytes>> {
        let body = json!({ "message": self.to_string() }).to_string();
        let mut response = of(self.status(), "application/json", body);
        if let Self::WrongMethod(methods) = self {
            let methods = HeaderValue::from_static(methods);
            response.headers_mut().insert(ALLOW, methods);
        }
        response
    }
}

/// Answers a request of a MicroVM's guest.
pub(crate) async fn answer(
    request: Request<Incoming>,
    key: &TokenKey,
    subject: &dyn Subject,
) -> Reply {
    let answered = route(request, key, subject).await;
    let response = answered.unwrap_or_else(|refusal| refusal.response());
    Reply {
        then_suspend: response.status() == StatusCode::ACCEPTED,
        response,
    }
}

async fn route(
    request: Request<Incoming>,
    key: &TokenKey,
    subject: &dyn Subject,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let (head, body) = request.into_parts();
    if head.headers.contains_key(FORWARDED) {
        return Err(Refusal::Forwarded);
    }
    let path = head.uri.path();
    if path == "/latest/api/token" {
        only(&head.method, "PUT")?;
        return token(&head.headers, key, subject);
    }
    let shown = head.headers.get(TOKEN).map(HeaderValue::as_bytes);
    if !shown.is_some_and(|token| key.opens(&subject.about().microvm_id, token)) {
        return Err(Refusal::NoToken);
    }
    match path {
        "/colibri/v1/identity" => {
            only(&head.method, "GET, HEAD")?;
            // Strings and numbers: there is nothing that could fail.
            let about = serde_json::to_string(subject.about()).unwrap_or_default();
            Ok(of(StatusCode::OK, "application/json", about))
        }
        "/colibri/v1/busy" => busy(&head.method, body, subject).await,
        "/colibri/v1/suspend" => {
            only(&head.method, "POST")?;
            subject.may_suspend()?;
            let body = json!({ "message": "The MicroVM is about to be suspended" });
            Ok(of(
                StatusCode::ACCEPTED,
                "application/json",
                body.to_string(),
            ))
        }
        _ if subject.has_role() && role_of(path) == Some(ROLE_NAME) => {
            only(&head.method, "GET, HEAD")?;
            let document = credentials(subject.credentials().await);
            Ok(of(StatusCode::OK, "application/json", document))
        }
        _ => {
            let text = described(path, subject).ok_or(Refusal::NotFound)?;
            only(&head.method, "GET, HEAD")?;
            Ok(of(StatusCode::OK, "text/plain", text))
        }
    }
}

fn token(
    headers: &HeaderMap,
    key: &TokenKey,
    subject: &dyn Subject,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let asked = headers.get(TOKEN_TTL).and_then(|value| value.to_str().ok());
    let seconds = asked.and_then(|text| text.parse::<u64>().ok());
    let seconds = seconds
        .filter(|seconds| (1..=MAX_TTL).contains(seconds))
        .ok_or(Refusal::BadTtl)?;
    let token = key.mint(&subject.about().microvm_id, Duration::from_secs(seconds));
    let mut response = of(StatusCode::OK, "text/plain", token);
    let seconds = HeaderValue::from(seconds);
    response.headers_mut().insert(TOKEN_TTL, seconds);
    Ok(response)
}

/// The last part of a path below the list of credentials.
fn role_of(path: &str) -> Option<&str> {
    path.strip_prefix(CREDENTIALS)?.strip_prefix('/')
}

/// The document in which clients look for credentials. What stands against them is told in EC2's form, which
/// clients log.
fn credentials(given: Result<RoleCredentials, NoCredentials>) -> String {
    let document = match given {
        Ok(credentials) => json!({
            "Code": "Success",
            "LastUpdated": date(credentials.issued_at),
            "Type": "AWS-HMAC",
            "AccessKeyId": credentials.access_key_id,
            "SecretAccessKey": credentials.secret_access_key,
            "Token": credentials.session_token,
            "Expiration": date(credentials.expires_at),
        }),
        Err(refusal) => json!({
            "Code": match refusal {
                NoCredentials::Untrusted { .. } => "AssumeRoleUnauthorizedAccess",
                NoCredentials::Failed => "InternalError",
            },
            "Message": refusal.to_string(),
        }),
    };
    document.to_string()
}

/// Whole seconds in UTC.
fn date(unix_millis: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(unix_millis.div_euclid(1000));
    let time = time.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(&Rfc3339).unwrap_or_default()
}

/// EC2's paths that have a meaning here. Without a role the list of credentials is not there, which is what
/// clients take for a machine without one.
fn described(path: &str, subject: &dyn Subject) -> Option<String> {
    let about = subject.about();
    let has_role = subject.has_role();
    let text = match path.trim_end_matches('/') {
        "/latest/meta-data" if has_role => "hostname\niam/\ninstance-id\nplacement/",
        "/latest/meta-data" => "hostname\ninstance-id\nplacement/",
        "/latest/meta-data/iam" if has_role => "security-credentials/",
        CREDENTIALS if has_role => ROLE_NAME,
        "/latest/meta-data/hostname" | "/latest/meta-data/instance-id" => &about.microvm_id,
        "/latest/meta-data/placement" => "region",
        "/latest/meta-data/placement/region" => &about.region,
        _ => return None,
    };
    Some(text.to_owned())
}

async fn busy(
    method: &Method,
    body: Incoming,
    subject: &dyn Subject,
) -> Result<Response<Full<Bytes>>, Refusal> {
    match *method {
        Method::PUT => subject.be_busy(busy_time(body).await.ok_or(Refusal::BadBusy)?),
        Method::DELETE => subject.be_busy(Duration::ZERO),
        Method::GET | Method::HEAD => {}
        _ => return Err(Refusal::WrongMethod("GET, HEAD, PUT, DELETE")),
    }
    let left = subject.busy_for();
    let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    let body = json!({ "seconds": seconds });
    Ok(of(StatusCode::OK, "application/json", body.to_string()))
}

async fn busy_time(body: Incoming) -> Option<Duration> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Busy {
        seconds: u64,
    }
    let bytes = Limited::new(body, MAX_BODY)
        .collect()
        .await
        .ok()?
        .to_bytes();
    let Busy { seconds } = serde_json::from_slice(&bytes).ok()?;
    (1..=MAX_BUSY)
        .contains(&seconds)
        .then(|| Duration::from_secs(seconds))
}

fn only(method: &Method, allowed: &'static str) -> Result<(), Refusal> {
    if allowed.split(", ").any(|each| each == method.as_str()) {
        Ok(())
    } else {
        Err(Refusal::WrongMethod(allowed))
    }
}

fn of(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

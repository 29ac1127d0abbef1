//! The endpoint as something to call with an HTTP request.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use s3s::auth::{S3Auth, SecretKey};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpResponse, S3Error, S3Result, s3_error};
use uuid::Uuid;

use crate::access::Access;
use crate::admission::{Refusal, admit};
use crate::api::Api;
use crate::callers::Callers;
use crate::declared_body::{DeclaredBody, FoundFault};
use crate::host::BucketHost;
use crate::seen::{Failure, Seen, Witness};

/// Body of a response.
pub type ResponseBody = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// Largest body that is checked twice.
const SMALL_BYTES: u64 = 64 * 1024;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");

/// The S3 endpoint. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ObjectsService {
    s3: S3Service,
    region: Arc<str>,
}

struct Keys(Arc<dyn Callers>);

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        self.0
            .secret_key(access_key)
            .map(SecretKey::from)
            .ok_or_else(|| {
                s3_error!(
                    InvalidAccessKeyId,
                    "The AWS Access Key Id you provided does not exist in our records."
                )
            })
    }
}

impl ObjectsService {
    pub(crate) fn new(api: Api, callers: Arc<dyn Callers>) -> Self {
        let settings = Arc::clone(&api.settings);
        let mut builder = S3ServiceBuilder::new(api);
        builder.set_auth(Keys(Arc::clone(&callers)));
        builder.set_host(BucketHost {
            domains: settings.domains.clone(),
        });
        builder.set_access(Access {
            settings: Arc::clone(&settings),
            callers,
        });
        Self {
            s3: builder.build(),
            region: settings.region.as_str().into(),
        }
    }

    /// Answers a request. Whatever is wrong is told in the response, as S3 tells it.
    ///
    /// The request must be the one that was signed: path, query and the `Host` header as they came.
    /// The response's extensions hold what it was about ([`Seen`]).
    pub async fn call<B>(&self, mut request: Request<B>) -> Response<ResponseBody>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>> + 'static,
    {
        let witness = Witness::default();
        request.extensions_mut().insert(witness.clone());
        let mut response = self.answer(request).await;
        let error = response.extensions_mut().remove::<Failure>();
        response.extensions_mut().insert(Seen {
            error: error.map(|failure| (failure.code, failure.message)),
            ..witness.seen()
        });
        response
    }

    async fn answer<B>(&self, request: Request<B>) -> Response<ResponseBody>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>> + 'static,
    {
        let (parts, body) = request.into_parts();
        if let Err(refusal) = admit(&parts, &self.region) {
            return finish(refusal_response(refusal));
        }
        let (body, found) = if is_upload(&parts) {
            (plain(body), None)
        } else {
            declared(body, &parts.headers)
        };
        let answer = self.s3.call(Request::from_parts(parts, body)).await;
        if let Some(fault) = found.and_then(|found| found.get().copied()) {
            return finish(error_response(fault.error()));
        }
        finish(answer.unwrap_or_else(|error| {
            tracing::error!(?error, "the S3 library could not answer a request");
            error_response(s3_error!(InternalError))
        }))
    }
}

/// Whether the body is checked where it is written: it is the bytes of an object, or framed by
/// aws-chunked. A small one is checked here as well, which costs nothing and spares finding out
/// whether it is an object's or the XML of a setting.
fn is_upload(request: &Parts) -> bool {
    let value = |name: &str| {
        request
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let framed = value("x-amz-content-sha256").is_some_and(|sum| sum.starts_with("STREAMING-"));
    let length = value("content-length").and_then(|length| length.parse::<u64>().ok());
    framed || (request.method == Method::PUT && length.is_none_or(|length| length > SMALL_BYTES))
}

fn plain<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>> + 'static,
{
    Body::http_body_unsync(body.map_err(Into::into))
}

fn declared<B>(body: B, headers: &http::HeaderMap) -> (Body, Option<FoundFault>)
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>> + 'static,
{
    match DeclaredBody::new(body, headers) {
        Ok((body, found)) => (Body::http_body_unsync(body), Some(found)),
        Err(body) => (plain(body), None),
    }
}

/// As S3 tells it: with the region to sign for, when it was that.
fn refusal_response(refusal: Refusal) -> HttpResponse {
    let Some(region) = refusal.region else {
        return error_response(refusal.error);
    };
    let escape = |text: &str| {
        text.replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
    };
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{}</Code><Message>{}</Message>\
         <Region>{}</Region></Error>",
        refusal.error.code().as_str(),
        escape(refusal.error.message().unwrap_or_default()),
        escape(&region),
    );
    let mut response = Response::new(Body::from(Bytes::from(xml)));
    *response.status_mut() = refusal
        .error
        .status_code()
        .unwrap_or(StatusCode::BAD_REQUEST);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/xml"),
    );
    if let Ok(region) = HeaderValue::from_str(&region) {
        headers.insert("x-amz-bucket-region", region);
    }
    response
}

fn error_response(error: S3Error) -> HttpResponse {
    error.to_http_response().unwrap_or_else(|_| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}

/// What s3s says without a message of its own. The AWS clients would print "Unknown".
fn explain(code: &str) -> Option<&'static str> {
    Some(match code {
        "SignatureDoesNotMatch" => {
            "The request signature we calculated does not match the signature you provided. Check \
             your key and signing method."
        }
        "InvalidBucketName" => "The specified bucket is not valid.",
        "KeyTooLongError" => "Your key is too long: the limit is 1024 bytes of UTF-8",
        "InvalidURI" => "Couldn't parse the specified URI.",
        "MethodNotAllowed" => "The specified method is not allowed against this resource.",
        "MissingContentLength" => "You must provide the Content-Length HTTP header.",
        "MaxMessageLengthExceeded" => "Your request was too big.",
        "InternalError" => "We encountered an internal error. Please try again.",
        _ => return None,
    })
}

fn with_message(body: Body) -> Body {
    let explained = body.bytes().and_then(|xml| {
        let text = std::str::from_utf8(&xml).ok()?;
        let (before, after) = text.split_once("</Code>")?;
        let message = explain(before.rsplit_once("<Code>")?.1)?;
        let silent = !after.contains("<Message>");
        silent.then(|| format!("{before}</Code><Message>{message}</Message>{after}"))
    });
    explained.map_or(body, |xml| Body::from(Bytes::from(xml)))
}

fn finish(response: HttpResponse) -> Response<ResponseBody> {
    let (mut parts, body) = response.into_parts();
    let failed = parts.status.is_client_error() || parts.status.is_server_error();
    let body = if failed { with_message(body) } else { body };
    if let Some(failure) = failed
        .then(|| body.bytes())
        .flatten()
        .and_then(|xml| Failure::of(&xml))
    {
        parts.extensions.insert(failure);
    }
    let id = Uuid::new_v4().simple().to_string().to_uppercase();
    if let Ok(id) = HeaderValue::from_str(&id[..16]) {
        parts.headers.insert(REQUEST_ID, id);
    }
    let body = if parts.status == StatusCode::NOT_MODIFIED {
        Full::new(Bytes::new())
            .map_err(|never| match never {})
            .boxed_unsync()
    } else {
        body.boxed_unsync()
    };
    Response::from_parts(parts, body)
}

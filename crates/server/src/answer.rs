//! Answers of the front itself, and of services that answer with bytes at once.

use std::error::Error;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};

use crate::audit::tell;

/// Body of every answer.
pub(crate) type AnswerBody = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// Name of the header that carries a request's id.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");

/// An answer of known content. A header that HTTP does not allow is left out.
pub(crate) fn answer<'a>(
    status: u16,
    headers: impl IntoIterator<Item = (&'a str, String)>,
    body: Vec<u8>,
) -> Response<AnswerBody> {
    let body = Full::new(Bytes::from(body))
        .map_err(|never| match never {})
        .boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// An error that no service of ours words: JSON with its name in the header, as rest-json has it.
pub(crate) fn refusal(status: u16, name: &str, message: &str) -> Response<AnswerBody> {
    let body = serde_json::json!({ "message": message })
        .to_string()
        .into_bytes();
    let headers = [
        (header::CONTENT_TYPE.as_str(), "application/json".to_owned()),
        ("x-amzn-errortype", name.to_owned()),
    ];
    let mut response = answer(status, headers, body);
    tell(&mut response, |told| {
        told.error = Some((name.to_owned(), message.to_owned()));
    });
    response
}

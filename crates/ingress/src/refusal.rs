//! The answers that the proxy gives itself: which status, body and headers say what.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;

use crate::gateway::Unready;

/// Names the reason of a refusal to a client.
pub(crate) const PROXY_ERROR: HeaderName = HeaderName::from_static("x-aws-proxy-error");

/// Why a request does not reach an application, or its answer not the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The request is not one that can be forwarded; says what is wrong with it.
    Malformed(&'static str),
    /// No token, or one that does not open this MicroVM. The same for all causes, and for a host
    /// name that nothing is behind: nobody learns from it which MicroVMs exist.
    Unauthenticated,
    /// The token does not open the port.
    PortDenied,
    /// The MicroVM takes no inbound traffic.
    IngressClosed,
    /// The connection was made for another MicroVM's host name (RFC 9110 section 15.5.20): a browser
    /// that shares connections between names opens another one.
    Misdirected,
    /// Too many requests are in flight to the MicroVM.
    TooMany,
    /// As many connections are open to the MicroVM as its size allows.
    TooManyConnections,
    /// The MicroVM got as many requests of late as its size allows.
    TooFast,
    /// It is suspended and traffic does not wake it.
    Suspended,
    /// Its application does not listen on the port, or does not speak the protocol.
    ApplicationUnreachable,
    /// It has ended, failed, or stopped while the request was in flight.
    MicrovmUnreachable,
    /// A token for a shell opens no port.
    ShellToken,
}

/// Status, value of `x-aws-proxy-error`, body.
///
/// What is known of the service is kept to the letter: the bodies of the two kinds of 403, the empty
/// one of a suspended MicroVM, and `UNAUTHORIZED`, `APP_CONNECT_FAILED`, `MICROVM_CONNECT_FAILED`.
type Answer = (StatusCode, &'static str, &'static str);

impl Refusal {
    fn answer(self) -> Answer {
        match self {
            Self::Malformed(what) => (StatusCode::BAD_REQUEST, "BAD_REQUEST", what),
            Self::Unauthenticated => (
                StatusCode::FORBIDDEN,
                "UNAUTHORIZED",
                "Request missing authentication",
            ),
            Self::PortDenied => (
                StatusCode::FORBIDDEN,
                "UNAUTHORIZED",
                "Access to port denied",
            ),
            Self::IngressClosed => (
                StatusCode::FORBIDDEN,
                "UNAUTHORIZED",
                "The MicroVM takes no inbound traffic",
            ),
            Self::Misdirected => (
                StatusCode::MISDIRECTED_REQUEST,
                "MISDIRECTED_REQUEST",
                "The connection was made for the host name of another MicroVM",
            ),
            Self::TooMany => (
                StatusCode::TOO_MANY_REQUESTS,
                "TOO_MANY_REQUESTS",
                "Too many requests are in flight to the MicroVM",
            ),
            Self::TooManyConnections => (
                StatusCode::TOO_MANY_REQUESTS,
                "TOO_MANY_REQUESTS",
                "Too many connections are open to the MicroVM",
            ),
            Self::TooFast => (
                StatusCode::TOO_MANY_REQUESTS,
                "TOO_MANY_REQUESTS",
                "Too many requests a second for the MicroVM",
            ),
            Self::Suspended => (StatusCode::BAD_GATEWAY, "MICROVM_CONNECT_FAILED", ""),
            Self::ApplicationUnreachable => (
                StatusCode::BAD_GATEWAY,
                "APP_CONNECT_FAILED",
                "The application did not answer on the port",
            ),
            Self::MicrovmUnreachable => (
                StatusCode::BAD_GATEWAY,
                "MICROVM_CONNECT_FAILED",
                "The MicroVM did not answer",
            ),
            Self::ShellToken => (
                StatusCode::BAD_GATEWAY,
                "APP_CONNECT_FAILED",
                "A shell token opens a shell over WebSocket and nothing else",
            ),
        }
    }

    pub(crate) fn status(self) -> StatusCode {
        self.answer().0
    }

    /// The word for it in `x-aws-proxy-error` and in the log.
    pub(crate) fn code(self) -> &'static str {
        self.answer().1
    }

    /// The response, but for the request's id.
    pub(crate) fn into_response(self) -> Response<Full<Bytes>> {
        let (status, code, body) = self.answer();
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(PROXY_ERROR, HeaderValue::from_static(code));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        if !body.is_empty() {
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            );
        }
        if status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<&Unready> for Refusal {
    fn from(unready: &Unready) -> Self {
        match unready {
            Unready::Suspended => Self::Suspended,
            Unready::Ended | Unready::Failed(_) => Self::MicrovmUnreachable,
            Unready::TooMany => Self::TooMany,
            Unready::Closed => Self::IngressClosed,
        }
    }
}

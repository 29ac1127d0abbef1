//! Which header fields pass between client and application, and which do not.
//!
//! What concerns one connection only (RFC 9110 section 7.6.1), framing and the proxy's own fields are
//! taken out; framing is written anew from the body that is really sent, so that the application
//! cannot be made to see another end of it. Everything else passes, bytes and order unchanged.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue,
    SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, TE, TRANSFER_ENCODING,
    UPGRADE,
};

use crate::websocket::{Handshake, MARKER};

/// The prefix of every field that is between client and proxy.
const PROXY_PREFIX: &str = "x-aws-proxy-";
/// The field with the request's id.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");

/// Fields that concern one connection. `expect` is among them: the server side of this proxy has
/// answered it by the time the body is read.
const CONNECTION_FIELDS: [&str; 10] = [
    "connection",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// The protocol spoken to the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// How the length of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is no body.
    Empty,
    /// The body has this many bytes.
    Length(u64),
    /// It ends when it ends.
    Open,
}

impl Framing {
    /// The framing of a body.
    pub(crate) fn of<B: http_body::Body>(body: &B) -> Self {
        match body.size_hint().exact() {
            Some(0) => Self::Empty,
            Some(length) => Self::Length(length),
            None if body.is_end_stream() => Self::Empty,
            None => Self::Open,
        }
    }
}

/// The fields of a request as the application gets them.
pub(crate) fn to_application(
    fields: &HeaderMap,
    host: &HeaderValue,
    protocol: Protocol,
    framing: Framing,
    handshake: Option<&Handshake>,
    request_id: HeaderValue,
) -> HeaderMap {
    let nominated = nominated(fields);
    let mut passed = HeaderMap::with_capacity(fields.len() + 4);
    let http1 = protocol == Protocol::Http1;
    if http1 && !fields.contains_key(HOST) {
        passed.insert(HOST, host.clone());
    }
    for name in fields.keys() {
        if *name == HOST {
            // In HTTP/2 the host is in `:authority`.
            if http1 {
                passed.insert(HOST, host.clone());
            }
        } else if *name == CONTENT_LENGTH {
            pass_length(&mut passed, framing);
        } else if *name == TE {
            pass_te(fields, &mut passed, http1 && handshake.is_none());
        } else if *name == COOKIE && http1 {
            pass_cookies(fields, &mut passed);
        } else if *name == SEC_WEBSOCKET_PROTOCOL {
            let offer = handshake.and_then(Handshake::offer);
            offer.map(|offer| passed.insert(SEC_WEBSOCKET_PROTOCOL, offer));
        } else if passes(name, &nominated) && *name != REQUEST_ID {
            pass_all(fields, name, &mut passed);
        }
    }
    if http1 && framing == Framing::Open {
        // Said outright: without it a GET with a body would lose the body.
        passed.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if let Some(handshake) = handshake {
        start_websocket(&mut passed, handshake);
    }
    passed.insert(REQUEST_ID, request_id);
    passed
}

/// The fields of a response as the client gets them.
pub(crate) fn to_client(fields: &HeaderMap, request_id: HeaderValue) -> HeaderMap {
    let nominated = nominated(fields);
    let mut passed = HeaderMap::with_capacity(fields.len() + 2);
    // A length beside chunks is a lie about one of them (RFC 9112 section 6.3): the chunks count.
    let chunked = fields.contains_key(TRANSFER_ENCODING);
    for name in fields.keys() {
        if passes(name, &nominated) && !(chunked && *name == CONTENT_LENGTH) {
            pass_all(fields, name, &mut passed);
        }
    }
    passed.entry(REQUEST_ID).or_insert(request_id);
    passed
}

/// Completes the fields of an answer that accepts a WebSocket.
pub(crate) fn accept_websocket(passed: &mut HeaderMap, handshake: &Handshake) {
    if handshake.marked && !passed.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        passed.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(MARKER));
    }
    if handshake.over_http2 {
        passed.remove(SEC_WEBSOCKET_ACCEPT);
    } else {
        passed.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        passed.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
}

/// Takes the proxy's own fields and those of the connection out of trailers.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    let kept = trailers
        .keys()
        .filter(|name| passes(name, &[]))
        .cloned()
        .collect::<Vec<_>>();
    let mut cleaned = HeaderMap::with_capacity(kept.len());
    kept.iter()
        .for_each(|name| pass_all(trailers, name, &mut cleaned));
    *trailers = cleaned;
}

fn passes(name: &HeaderName, nominated: &[HeaderName]) -> bool {
    let text = name.as_str();
    !CONNECTION_FIELDS.contains(&text)
        && !text.starts_with(PROXY_PREFIX)
        && !nominated.contains(name)
}

/// The fields that `Connection` declares to be of this connection only. The length stays a length
/// whoever nominates it.
fn nominated(fields: &HeaderMap) -> Vec<HeaderName> {
    fields
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .filter(|name| *name != CONTENT_LENGTH)
        .collect()
}

fn pass_all(fields: &HeaderMap, name: &HeaderName, passed: &mut HeaderMap) {
    for value in fields.get_all(name) {
        passed.append(name.clone(), value.clone());
    }
}

fn pass_length(passed: &mut HeaderMap, framing: Framing) {
    match framing {
        Framing::Empty => drop(passed.insert(CONTENT_LENGTH, HeaderValue::from(0))),
        Framing::Length(length) => drop(passed.insert(CONTENT_LENGTH, HeaderValue::from(length))),
        Framing::Open => {}
    }
}

/// `TE: trailers` is the one kind of TE that a proxy can stand by for both sides.
fn pass_te(fields: &HeaderMap, passed: &mut HeaderMap, announce: bool) {
    if crate::websocket::lists(fields, TE.as_str(), "trailers") {
        passed.insert(TE, HeaderValue::from_static("trailers"));
        if announce {
            passed.insert(CONNECTION, HeaderValue::from_static("TE"));
        }
    }
}

/// HTTP/2 clients may split cookies over several fields, HTTP/1.1 has one (RFC 9113 section 8.2.3).
fn pass_cookies(fields: &HeaderMap, passed: &mut HeaderMap) {
    let crumbs: Vec<_> = fields
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        passed.insert(COOKIE, joined);
    }
}

/// Asks the application, over HTTP/1.1, for a WebSocket.
fn start_websocket(passed: &mut HeaderMap, handshake: &Handshake) {
    passed.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    passed.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if handshake.over_http2 {
        // An extended CONNECT has no key; the application must be given one.
        let key = STANDARD.encode(uuid::Uuid::new_v4().as_bytes());
        if let Ok(key) = HeaderValue::try_from(key) {
            passed.insert(SEC_WEBSOCKET_KEY, key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        map
    }

    fn lines(map: &HeaderMap) -> Vec<String> {
        map.iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect()
    }

    fn pass(pairs: &[(&str, &str)], protocol: Protocol, framing: Framing) -> Vec<String> {
        let host = HeaderValue::from_static("a.example");
        let id = HeaderValue::from_static("id");
        lines(&to_application(
            &fields(pairs),
            &host,
            protocol,
            framing,
            None,
            id,
        ))
    }

    #[test]
    fn ordinary_fields_pass_in_order_and_the_proxys_own_do_not() {
        let passed = pass(
            &[
                ("accept", "*/*"),
                ("host", "a.example"),
                ("x-aws-proxy-auth", "secret"),
                ("traceparent", "00-1-2-01"),
                ("x-aws-proxy-unknown", "x"),
                ("x-amzn-requestid", "forged"),
                ("baggage", "a=1"),
                ("baggage", "b=2"),
            ],
            Protocol::Http1,
            Framing::Empty,
        );
        assert_eq!(
            passed,
            [
                "accept: */*",
                "host: a.example",
                "traceparent: 00-1-2-01",
                "baggage: a=1",
                "baggage: b=2",
                "x-amzn-requestid: id",
            ]
        );
    }

    #[test]
    fn fields_of_the_connection_do_not_pass() {
        let passed = pass(
            &[
                ("connection", "close, X-Once, content-length, host"),
                ("x-once", "1"),
                ("keep-alive", "1"),
                ("proxy-connection", "1"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "h2c"),
                ("http2-settings", "AAMAAABkAAQCAAAAAAIAAAAA"),
                ("expect", "100-continue"),
                ("content-length", "5"),
            ],
            Protocol::Http1,
            Framing::Length(5),
        );
        assert_eq!(
            passed,
            [
                "host: a.example",
                "content-length: 5",
                "x-amzn-requestid: id"
            ]
        );
    }

    #[test]
    fn framing_is_that_of_the_body() {
        for (framing, expected) in [
            (Framing::Empty, "content-length: 0"),
            (Framing::Length(7), "content-length: 7"),
            (Framing::Open, "transfer-encoding: chunked"),
        ] {
            let passed = pass(&[("content-length", "99")], Protocol::Http1, framing);
            assert_eq!(passed[1], expected);
            assert_eq!(passed.len(), 3);
        }
    }

    #[test]
    fn trailers_are_announced_to_the_application() {
        let te = [("te", "gzip, trailers")];
        assert_eq!(
            pass(&te, Protocol::Http1, Framing::Empty)[1..3],
            ["te: trailers", "connection: TE"]
        );
        assert_eq!(
            pass(&te, Protocol::Http2, Framing::Empty)[0],
            "te: trailers"
        );
        assert_eq!(
            pass(&[("te", "gzip")], Protocol::Http2, Framing::Empty).len(),
            1
        );
    }

    #[test]
    fn split_cookies_become_one() {
        let cookies = [("cookie", "a=1"), ("cookie", "b=2")];
        assert_eq!(
            pass(&cookies, Protocol::Http1, Framing::Empty)[1],
            "cookie: a=1; b=2"
        );
    }

    #[test]
    fn a_response_keeps_its_fields_but_those_of_the_connection_and_the_proxy() {
        let response = fields(&[
            ("content-type", "text/plain"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("connection", "close, x-once"),
            ("x-once", "1"),
            ("x-aws-proxy-error", "UNAUTHORIZED"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
        ]);
        assert_eq!(
            lines(&to_client(&response, HeaderValue::from_static("id"))),
            [
                "content-type: text/plain",
                "set-cookie: a=1",
                "set-cookie: b=2",
                "x-amzn-requestid: id"
            ]
        );
    }

    #[test]
    fn trailers_are_cleaned() {
        let mut trailers = fields(&[
            ("grpc-status", "0"),
            ("x-aws-proxy-auth", "secret"),
            ("transfer-encoding", "chunked"),
        ]);
        clean_trailers(&mut trailers);
        assert_eq!(lines(&trailers), ["grpc-status: 0"]);
    }
}

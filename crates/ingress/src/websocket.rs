//! Recognises WebSocket handshakes, over HTTP/1.1 (RFC 6455) and HTTP/2 (RFC 8441), and tells the
//! proxy's own subprotocols from the application's.
//!
//! Frames are not looked at: they pass as bytes.

use http::header::{CONNECTION, HeaderMap, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, Version};
use hyper::ext::Protocol;

use crate::refusal::Refusal;

/// The subprotocol that says that others of ours are there. A client that offers it is told that it
/// was chosen when the application chooses none: browsers insist on a choice.
pub(crate) const MARKER: &str = "lambda-microvms";
const TOKEN_PREFIX: &str = "lambda-microvms.authentication.";
const PORT_PREFIX: &str = "lambda-microvms.port.";
const OURS_PREFIX: &str = "lambda-microvms.";

/// A WebSocket handshake.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Handshake {
    /// Whether it came as an extended CONNECT.
    pub(crate) over_http2: bool,
    /// Whether the marker was offered.
    pub(crate) marked: bool,
    /// The token in a subprotocol.
    pub(crate) token: Option<String>,
    /// The port in a subprotocol, not parsed yet.
    pub(crate) port: Option<String>,
    /// The subprotocols offered to the application.
    pub(crate) application: Vec<String>,
}

impl Handshake {
    /// The `Sec-WebSocket-Protocol` for the application.
    pub(crate) fn offer(&self) -> Option<HeaderValue> {
        if self.application.is_empty() {
            return None;
        }
        HeaderValue::try_from(self.application.join(", ")).ok()
    }
}

/// The handshake in a request; `None` when it is an ordinary one.
pub(crate) fn recognise(parts: &Parts, has_body: bool) -> Result<Option<Handshake>, Refusal> {
    let over_http2 = parts.version == Version::HTTP_2;
    if over_http2 && parts.method == Method::CONNECT {
        let protocol = parts.extensions.get::<Protocol>();
        if protocol.is_none_or(|protocol| protocol.as_str() != "websocket") {
            return Err(Refusal::Malformed("CONNECT is for WebSockets only"));
        }
    } else if parts.method == Method::CONNECT {
        return Err(Refusal::Malformed(
            "CONNECT is not a request to an endpoint",
        ));
    } else if !over_http2 && lists(&parts.headers, UPGRADE.as_str(), "websocket") {
        check_http1(parts, has_body)?;
    } else {
        return refuse_half_a_handshake(&parts.headers).map(|()| None);
    }
    subprotocols(&parts.headers, over_http2).map(Some)
}

/// The demands of RFC 6455 section 4.1 that matter to who forwards.
fn check_http1(parts: &Parts, has_body: bool) -> Result<(), Refusal> {
    if parts.method != Method::GET || parts.version != Version::HTTP_11 {
        return Err(Refusal::Malformed(
            "A WebSocket starts with a GET over HTTP/1.1",
        ));
    }
    if !lists(&parts.headers, CONNECTION.as_str(), "upgrade") {
        return Err(Refusal::Malformed(
            "A WebSocket handshake has `Connection: Upgrade`",
        ));
    }
    if parts.headers.get_all(SEC_WEBSOCKET_KEY).iter().count() != 1 {
        return Err(Refusal::Malformed(
            "A WebSocket handshake has one Sec-WebSocket-Key",
        ));
    }
    if has_body {
        return Err(Refusal::Malformed("A WebSocket handshake has no body"));
    }
    Ok(())
}

/// A handshake whose `Upgrade` was lost on the way must not reach the application as a plain request,
/// its subprotocols (and the token in them) included.
fn refuse_half_a_handshake(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.contains_key(SEC_WEBSOCKET_KEY) || headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        return Err(Refusal::Malformed(
            "A WebSocket handshake has `Upgrade: websocket`",
        ));
    }
    Ok(())
}

fn subprotocols(headers: &HeaderMap, over_http2: bool) -> Result<Handshake, Refusal> {
    let malformed = Refusal::Malformed("Invalid Sec-WebSocket-Protocol");
    let mut handshake = Handshake {
        over_http2,
        marked: false,
        token: None,
        port: None,
        application: Vec::new(),
    };
    for value in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        for name in value
            .to_str()
            .map_err(|_| malformed)?
            .split(',')
            .map(str::trim)
        {
            if name == MARKER {
                handshake.marked = true;
            } else if let Some(token) = name.strip_prefix(TOKEN_PREFIX) {
                fill(&mut handshake.token, token).ok_or(malformed)?;
            } else if let Some(port) = name.strip_prefix(PORT_PREFIX) {
                fill(&mut handshake.port, port).ok_or(malformed)?;
            } else if name.is_empty() || name.starts_with(OURS_PREFIX) {
                return Err(malformed);
            } else {
                handshake.application.push(name.to_owned());
            }
        }
    }
    if !handshake.marked && (handshake.token.is_some() || handshake.port.is_some()) {
        return Err(Refusal::Malformed(
            "The subprotocol `lambda-microvms` is missing",
        ));
    }
    Ok(handshake)
}

/// Sets what was not set before.
fn fill(slot: &mut Option<String>, text: &str) -> Option<()> {
    slot.replace(text.to_owned()).is_none().then_some(())
}

/// Whether a header that is a list of tokens holds one, whatever its case.
pub(crate) fn lists(headers: &HeaderMap, name: &str, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn handshake(change: &[(&str, Option<&str>)]) -> Parts {
        let mut request = Request::builder()
            .uri("/")
            .header("upgrade", "WebSocket")
            .header("connection", "keep-alive, Upgrade")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(())
            .unwrap();
        for &(name, value) in change {
            let name = http::HeaderName::try_from(name).unwrap();
            match value {
                Some(value) => drop(request.headers_mut().insert(name, value.parse().unwrap())),
                None => drop(request.headers_mut().remove(name)),
            }
        }
        request.into_parts().0
    }

    #[test]
    fn our_subprotocols_are_told_from_the_applications() {
        let offered = "lambda-microvms, lambda-microvms.authentication.a.b.c, chat,lambda-microvms.port.9000,v2";
        let parts = handshake(&[("sec-websocket-protocol", Some(offered))]);
        let handshake = recognise(&parts, false).unwrap().unwrap();
        assert!(handshake.marked);
        assert_eq!(handshake.token.as_deref(), Some("a.b.c"));
        assert_eq!(handshake.port.as_deref(), Some("9000"));
        assert_eq!(handshake.offer().unwrap(), "chat, v2");
    }

    #[test]
    fn a_handshake_without_subprotocols_is_one() {
        let handshake = recognise(&handshake(&[]), false).unwrap().unwrap();
        assert!(!handshake.marked);
        assert_eq!(handshake.offer(), None);
    }

    #[test]
    fn bad_subprotocols_are_malformed() {
        for offered in [
            "lambda-microvms.authentication.t",
            "lambda-microvms.port.80",
            "lambda-microvms, lambda-microvms.port.80, lambda-microvms.port.81",
            "lambda-microvms, lambda-microvms.authentication.a, lambda-microvms.authentication.b",
            "lambda-microvms, lambda-microvms.other.x",
            "chat,,v2",
            "",
        ] {
            let parts = handshake(&[("sec-websocket-protocol", Some(offered))]);
            assert!(
                matches!(recognise(&parts, false), Err(Refusal::Malformed(_))),
                "{offered}"
            );
        }
    }

    #[test]
    fn half_a_handshake_is_malformed() {
        for change in [
            ("upgrade", None),
            ("connection", None),
            ("sec-websocket-key", None),
        ] {
            let parts = handshake(&[change]);
            assert!(
                matches!(recognise(&parts, false), Err(Refusal::Malformed(_))),
                "{change:?}"
            );
        }
        assert!(recognise(&handshake(&[]), true).is_err());
        let mut post = handshake(&[]);
        post.method = Method::POST;
        assert!(recognise(&post, false).is_err());
        let mut old = handshake(&[]);
        old.version = Version::HTTP_10;
        assert!(recognise(&old, false).is_err());
    }

    #[test]
    fn an_ordinary_request_is_no_handshake() {
        let (parts, ()) = Request::builder()
            .header("upgrade", "h2c")
            .body(())
            .unwrap()
            .into_parts();
        assert_eq!(recognise(&parts, false), Ok(None));
    }

    #[test]
    fn connect_is_for_websockets_over_http2() {
        let mut parts = handshake(&[]);
        parts.method = Method::CONNECT;
        assert!(recognise(&parts, false).is_err());
        parts.version = Version::HTTP_2;
        assert!(recognise(&parts, false).is_err());
        parts.extensions.insert(Protocol::from_static("websocket"));
        assert!(recognise(&parts, false).unwrap().unwrap().over_http2);
    }
}

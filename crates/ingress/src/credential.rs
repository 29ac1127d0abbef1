//! What a request shows to be let in, and the port that it asks for.

use http::HeaderMap;

use crate::refusal::Refusal;
use crate::websocket::Handshake;

/// The header with the token.
pub(crate) const TOKEN: &str = "x-aws-proxy-auth";
/// The header with the port.
pub(crate) const PORT: &str = "x-aws-proxy-port";
/// The header that asks for HTTP/2 to the application.
pub(crate) const FORCE_HTTP2: &str = "x-aws-proxy-force-h2";
/// The port when none is asked for.
const DEFAULT_PORT: u16 = 8080;

/// The token of a request: from its header, or else from a WebSocket subprotocol.
pub(crate) fn token<'a>(
    headers: &'a HeaderMap,
    handshake: Option<&'a Handshake>,
) -> Result<&'a str, Refusal> {
    let in_header = sole(headers, TOKEN, "More than one x-aws-proxy-auth header")?;
    in_header
        .or_else(|| handshake.and_then(|handshake| handshake.token.as_deref()))
        .ok_or(Refusal::Unauthenticated)
}

/// The port that a request asks for: in its header, or else in a WebSocket subprotocol, or else 8080.
pub(crate) fn port(headers: &HeaderMap, handshake: Option<&Handshake>) -> Result<u16, Refusal> {
    let in_header = sole(headers, PORT, "More than one x-aws-proxy-port header")?;
    in_header
        .or_else(|| handshake.and_then(|handshake| handshake.port.as_deref()))
        .map_or(Ok(DEFAULT_PORT), parse_port)
}

/// Whether a request asks for HTTP/2 to the application.
pub(crate) fn forces_http2(headers: &HeaderMap) -> bool {
    headers
        .get(FORCE_HTTP2)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
}

/// A port, digits only: `u16`'s own parser takes a sign.
fn parse_port(text: &str) -> Result<u16, Refusal> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|&port: &u16| digits && port != 0);
    port.ok_or(Refusal::Malformed("A port is a number from 1 to 65535"))
}

/// The only value of a header. One that is no text is as good as an invalid one.
fn sole<'a>(
    headers: &'a HeaderMap,
    name: &str,
    twice: &'static str,
) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    if values.next().is_some() {
        return Err(Refusal::Malformed(twice));
    }
    Ok(value.map(|value| value.to_str().unwrap_or_default().trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    fn handshake(token: &str, port: &str) -> Handshake {
        Handshake {
            over_http2: false,
            marked: true,
            token: Some(token.to_owned()),
            port: Some(port.to_owned()),
            application: Vec::new(),
        }
    }

    #[test]
    fn the_header_comes_before_the_subprotocol() {
        let both = headers(&[(TOKEN, "header"), (PORT, "1")]);
        let subprotocol = handshake("subprotocol", "2");
        assert_eq!(token(&both, Some(&subprotocol)), Ok("header"));
        assert_eq!(port(&both, Some(&subprotocol)), Ok(1));
        assert_eq!(
            token(&HeaderMap::new(), Some(&subprotocol)),
            Ok("subprotocol")
        );
        assert_eq!(port(&HeaderMap::new(), Some(&subprotocol)), Ok(2));
    }

    #[test]
    fn no_token_is_no_authentication_and_no_port_is_8080() {
        assert_eq!(
            token(&HeaderMap::new(), None),
            Err(Refusal::Unauthenticated)
        );
        assert_eq!(port(&HeaderMap::new(), None), Ok(8080));
    }

    #[test]
    fn a_port_is_a_number_from_1_to_65535() {
        assert_eq!(port(&headers(&[(PORT, "65535")]), None), Ok(65535));
        for text in [
            "0", "65536", "+80", "-1", "80 81", "", "http", "0x50", "80,80",
        ] {
            let refused = port(&headers(&[(PORT, text)]), None);
            assert!(matches!(refused, Err(Refusal::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn two_tokens_or_ports_are_malformed() {
        let twice = headers(&[(TOKEN, "a"), (TOKEN, "a"), (PORT, "80"), (PORT, "80")]);
        assert!(matches!(token(&twice, None), Err(Refusal::Malformed(_))));
        assert!(matches!(port(&twice, None), Err(Refusal::Malformed(_))));
    }
}

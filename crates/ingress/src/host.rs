//! Which MicroVM a request is addressed to, by its host name.

use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;

use crate::refusal::Refusal;
use crate::settings::Domain;

/// Where a host name leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// To the MicroVM with this label, if there is one.
    Label(String),
    /// Nowhere by itself (an IP address, another domain): the token says where.
    Token,
}

/// The host that a request names, exactly once (RFC 9112 section 3.2).
///
/// Two different hosts in one request are refused: what stands behind might believe the other one.
pub(crate) fn authority(parts: &Parts) -> Result<Authority, Refusal> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let header = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(Refusal::Malformed("More than one Host header")),
        (Some(value), None) => {
            let parsed = Authority::try_from(value.as_bytes());
            Some(parsed.map_err(|_| Refusal::Malformed("Invalid Host header"))?)
        }
        (None, None) => None,
    };
    let authority = match (parts.uri.authority(), header) {
        (Some(target), Some(header)) if *target != header => {
            return Err(Refusal::Malformed(
                "The request's target and its Host header disagree",
            ));
        }
        (Some(target), _) => target.clone(),
        (None, Some(header)) => header,
        (None, None) => return Err(Refusal::Malformed("Missing Host header")),
    };
    if authority.host().is_empty() || authority.as_str().contains('@') {
        return Err(Refusal::Malformed("Invalid Host header"));
    }
    Ok(authority)
}

/// Where a request goes, from the host that it names and the name that its TLS connection was made
/// for.
pub(crate) fn route(
    host: &str,
    server_name: Option<&str>,
    domain: &Domain,
) -> Result<Route, Refusal> {
    let connected = server_name.map_or(Route::Token, |name| place(name, domain));
    match (place(host, domain), connected) {
        (Route::Token, connected) => Ok(connected),
        (named, Route::Token) => Ok(named),
        (named, connected) if named == connected => Ok(named),
        _ => Err(Refusal::Misdirected),
    }
}

/// Where one name leads.
fn place(host: &str, domain: &Domain) -> Route {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    host.strip_suffix(domain.as_str())
        .and_then(|rest| rest.strip_suffix('.'))
        .map_or(Route::Token, |label| Route::Label(label.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn parse(uri: &str, hosts: &[&str]) -> Result<String, Refusal> {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        authority(&parts).map(|authority| authority.to_string())
    }

    #[test]
    fn a_request_names_one_host() {
        for (uri, hosts, expected) in [
            ("/", &["a.example:8443"][..], Some("a.example:8443")),
            ("https://a.example/x", &[], Some("a.example")),
            ("https://a.example/x", &["A.example"], Some("a.example")),
            ("/", &["[::1]:8443"], Some("[::1]:8443")),
            ("https://a.example/x", &["b.example"], None),
            ("/", &["a.example", "a.example"], None),
            ("/", &[], None),
            ("/", &[""], None),
            ("/", &["a b"], None),
            ("/", &["user@a.example"], None),
            ("/", &["a.example/path"], None),
        ] {
            assert_eq!(
                parse(uri, hosts).ok().as_deref(),
                expected,
                "{uri} {hosts:?}"
            );
        }
    }

    #[test]
    fn the_host_or_else_the_tls_name_or_else_the_token_routes() {
        let domain = Domain::default();
        let label = |text: &str| Ok(Route::Label(text.to_owned()));
        for (host, server_name, expected) in [
            (
                "one.microvm.localhost",
                Some("one.microvm.localhost"),
                label("one"),
            ),
            (
                "ONE.MicroVM.localhost.",
                Some("one.microvm.localhost"),
                label("one"),
            ),
            ("one.microvm.localhost", None, label("one")),
            ("one.microvm.localhost", Some("localhost"), label("one")),
            ("127.0.0.1", Some("one.microvm.localhost"), label("one")),
            ("127.0.0.1", None, Ok(Route::Token)),
            (
                "microvm.localhost",
                Some("microvm.localhost"),
                Ok(Route::Token),
            ),
            ("evilmicrovm.localhost", None, Ok(Route::Token)),
            ("a.b.microvm.localhost", None, label("a.b")),
            (
                "one.microvm.localhost",
                Some("two.microvm.localhost"),
                Err(Refusal::Misdirected),
            ),
        ] {
            assert_eq!(
                route(host, server_name, &domain),
                expected,
                "{host} {server_name:?}"
            );
        }
    }

    #[test]
    fn no_host_leads_to_a_label_that_it_does_not_end_with() {
        let domain = Domain::default();
        // Numbers from a fixed seed (xorshift).
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut number = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).unwrap()
        };
        let pieces = [
            "one",
            "TWO",
            ".",
            "..",
            "microvm.localhost",
            "microvm",
            "localhost",
            ":8443",
            "@",
            "[::1]",
            "%2e",
            "\u{130}",
            "-",
            "_",
            "xn--",
            " ",
            "\t",
            ",",
            "/",
            "#",
            "?",
            "\\",
        ];
        for _ in 0..20_000 {
            let text: String = (0..=number(5))
                .map(|_| pieces[number(pieces.len())])
                .collect();
            let Ok(value) = http::HeaderValue::from_bytes(text.as_bytes()) else {
                continue;
            };
            let mut request = Request::new(());
            request.headers_mut().insert(HOST, value);
            let (parts, ()) = request.into_parts();
            let Ok(authority) = authority(&parts) else {
                continue;
            };
            let host = authority.host();
            assert!(
                !host.is_empty() && !authority.as_str().contains(['@', ' ', '/']),
                "{text}"
            );
            if let Ok(Route::Label(label)) = route(host, None, &domain) {
                let expected = format!("{label}.microvm.localhost");
                assert_eq!(
                    host.trim_end_matches('.').to_ascii_lowercase(),
                    expected.trim_end_matches('.'),
                    "{text}"
                );
            }
        }
    }
}

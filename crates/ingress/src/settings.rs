//! What an operator may set for the endpoints, parsed once.
//!
//! It does not read a configuration file: the daemon does, and builds [`Settings`] from it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// Settings of the endpoints.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Where to listen.
    pub listen: ListenAddress,
    /// The domain under which each MicroVM has its host name.
    pub domain: Domain,
    /// Bounds on time, number and size.
    pub limits: Limits,
}

/// Bounds that keep a hostile or broken peer from taking what others need.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For a client to finish its TLS handshake. Default 10 s.
    pub handshake_timeout: Duration,
    /// For a client to send the head of an HTTP/1.1 request, the first as well as the next one on a
    /// kept-alive connection. Default 60 s.
    pub header_timeout: Duration,
    /// After which a connection without a request in flight is closed. Default 5 min.
    pub idle_timeout: Duration,
    /// For one connection to a port of a guest that runs. Default 30 s: a guest under software
    /// emulation can be slow to accept.
    pub connect_timeout: Duration,
    /// For requests in flight to finish once the ingress is told to stop. Default 10 s.
    pub drain_timeout: Duration,
    /// Client connections open at once; more wait in the kernel's backlog. Default 4096.
    pub max_connections: usize,
    /// Of these, connections from one client address (a /64 of IPv6; loopback is not bounded); more are
    /// closed. Default 1024.
    pub max_connections_per_peer: usize,
    /// Requests and WebSockets in flight to one MicroVM, the ones that wait for it to wake
    /// included; more get 429. Default 1024.
    pub max_requests_per_microvm: usize,
    /// Header fields in one request. Default 128.
    pub max_headers: usize,
    /// Bytes in the head of one request. Default 64 KiB: room for a token of 8000 characters and
    /// large cookies.
    pub max_header_bytes: u32,
    /// HTTP/2 streams open at once on one connection. Default 256.
    pub max_streams_per_connection: u32,
    /// HTTP/2 receive window of a stream, in bytes. Default 1 MiB: with the protocol's own 64 KiB an
    /// upload over a 90 ms path does not pass 0.7 MB/s.
    pub stream_window: u32,
    /// HTTP/2 receive window of a connection, in bytes: the most that one client can make the proxy
    /// hold for applications that do not read. Default 4 MiB.
    pub connection_window: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
            max_connections: 4096,
            max_connections_per_peer: 1024,
            max_requests_per_microvm: 1024,
            max_headers: 128,
            max_header_bytes: 64 * 1024,
            max_streams_per_connection: 256,
            stream_window: 1024 * 1024,
            connection_window: 4 * 1024 * 1024,
        }
    }
}

/// Where the ingress listens: an address and port, or both loopback addresses and a port.
///
/// `localhost`, `127.0.0.1` and `::1` all mean both loopbacks: names under `.localhost` resolve to
/// `::1` first with some resolvers and to `127.0.0.1` only with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenAddress {
    /// `127.0.0.1` and `::1`.
    Loopback {
        /// The TCP port; 0 takes a free one, the same on both.
        port: u16,
    },
    /// One address.
    Address(SocketAddr),
}

impl Default for ListenAddress {
    fn default() -> Self {
        Self::Loopback { port: 8443 }
    }
}

impl FromStr for ListenAddress {
    type Err = ListenAddressRefused;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(port) = text.strip_prefix("localhost:") {
            let port = port.parse().map_err(|_| ListenAddressRefused)?;
            return Ok(Self::Loopback { port });
        }
        let address: SocketAddr = text.parse().map_err(|_| ListenAddressRefused)?;
        let loopbacks = [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ];
        if loopbacks.contains(&address.ip()) {
            return Ok(Self::Loopback {
                port: address.port(),
            });
        }
        Ok(Self::Address(address))
    }
}

/// The text is not an address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an ingress address is an IP address or `localhost`, a colon and a port: `127.0.0.1:8443`, `[::]:443`"
)]
pub struct ListenAddressRefused;

/// A DNS domain of at least two labels, in lower case, without a dot at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain(String);

impl Domain {
    /// The domain as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Domain {
    fn default() -> Self {
        Self("microvm.localhost".to_owned())
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for Domain {
    type Err = DomainRefused;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        // A wildcard certificate directly under a single label (`*.localhost`) is refused by
        // several TLS libraries; 64 octets leave room for a label in the 253 that a name may have.
        let labels = name.split('.').count();
        if labels < 2 || name.len() > 253 - 64 || !name.split('.').all(is_dns_label) {
            return Err(DomainRefused);
        }
        if name.parse::<IpAddr>().is_ok() {
            return Err(DomainRefused);
        }
        Ok(Self(name))
    }
}

/// The text is not a domain that endpoints can live under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an ingress domain is a DNS name of two labels or more, such as `microvm.localhost` or `vm.example.com`"
)]
pub struct DomainRefused;

/// Whether the text is one label of a host name (RFC 1123 section 2.1), in lower case.
pub(crate) fn is_dns_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_say_loopback_means_both() {
        for text in ["localhost:8443", "127.0.0.1:8443", "[::1]:8443"] {
            assert_eq!(text.parse(), Ok(ListenAddress::Loopback { port: 8443 }));
        }
        assert_eq!(
            "0.0.0.0:443".parse(),
            Ok(ListenAddress::Address("0.0.0.0:443".parse().unwrap()))
        );
        for text in [
            "",
            "localhost",
            "localhost:",
            "example.com:443",
            "127.0.0.1",
        ] {
            assert_eq!(
                text.parse::<ListenAddress>(),
                Err(ListenAddressRefused),
                "{text}"
            );
        }
    }

    #[test]
    fn a_domain_has_two_labels_or_more() {
        let domain: Domain = "VM.Example.com.".parse().unwrap();
        assert_eq!(domain.as_str(), "vm.example.com");
        for text in [
            "",
            "localhost",
            ".a.b",
            "a..b",
            "-a.b",
            "a_b.c",
            "127.0.0.1",
            "*.a.b",
        ] {
            assert_eq!(text.parse::<Domain>(), Err(DomainRefused), "{text}");
        }
    }
}

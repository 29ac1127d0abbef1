//! The HTTPS endpoints of MicroVMs: TLS, tokens, ports, protocols, wake on traffic.
//!
//! It knows nothing of snapshots, states or hypervisors: a [`Gateway`] tells it which MicroVM a host
//! name means, and gives it a machine that answers.
//!
//! A request's way, each step a module of its own:
//!
//! ```text
//! server      TCP, TLS, HTTP/1.1 or HTTP/2, bounds on connections
//! endpoint    the steps below, in order; the only place that knows all of them
//!   host        which MicroVM the host name means, or none: then the token says it
//!   websocket   is it a WebSocket handshake, and which subprotocols are whose
//!   credential  the token and the port
//!   token       what the token says: this MicroVM, this port, not expired
//!   admission   not too many at once, and as its size allows (`pace`: requests a second)
//!   upstream    a ready machine, a connection, the request sent: repeated when it fell asleep between
//!   fields      header fields that pass, and those that do not
//!   body        bytes as they come, each chunk counted as activity
//!   tunnel      a WebSocket's bytes, the same way
//! refusal     what a client is told that gets no further
//! ```
//!
//! Invariants: a request that is refused never touches the MicroVM, so it neither wakes it nor keeps
//! it awake. Only bytes of requests and responses count as activity, never connections, pings or
//! handshakes. No token reaches an application or a log.
//!
//! Not here yet: TLS to applications that speak it (`upstream` speaks plaintext HTTP/1.1 and HTTP/2
//! only), and the interactive shell (a shell token is recognised, and refused with 502).

#![forbid(unsafe_code)]

mod admission;
mod body;
mod certificates;
mod credential;
mod durable;
mod endpoint;
mod exchange;
mod fields;
mod gateway;
mod host;
mod pace;
mod peers;
mod refusal;
mod server;
mod settings;
mod token;
mod tunnel;
mod upstream;
mod websocket;

pub use certificates::{Certificates, CertificatesError};
pub use exchange::{CounterValues, Counters};
pub use gateway::{Application, ConnectError, Endpoint, Gateway, GuestStream, SizeLimits, Unready};
pub use governor::Quota;
pub use server::{BindError, Ingress};
pub use settings::{Domain, DomainRefused, Limits, ListenAddress, ListenAddressRefused, Settings};
pub use token::{
    AllowedPorts, Claims, KEY_LIFETIME, KeyRingError, MAX_LIFETIME, MAX_TOKEN_LENGTH, MintError,
    PortRange, TokenKind, TokenMint, TokenRefused,
};

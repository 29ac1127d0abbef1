//! The HTTPS endpoints of MicroVMs: TLS, tokens, ports, protocols, wake on traffic.
//!
//! It knows nothing of snapshots, states or hypervisors: a [`Gateway`] tells it which MicroVM a host
//! name means, and gives it a machine that answers.

mod gateway;

pub use gateway::{Application, ConnectError, Endpoint, Gateway, GuestStream, Unready};

//! Endpoints over real TLS connections, with applications that run in this process.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod forwarding;
mod refusals;
mod server;
mod stage;
mod streams;
mod waking;
mod websockets;

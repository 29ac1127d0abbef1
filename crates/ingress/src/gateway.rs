//! What ingress needs of the rest of Colibri.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

use async_trait::async_trait;
use governor::Quota;

/// What a host name or a token leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The MicroVM's id.
    pub microvm_id: String,
    /// The label of its host name.
    pub label: String,
    /// What its size allows.
    pub limits: SizeLimits,
}

/// What the size of a MicroVM allows at its endpoint, beside what the ingress allows to any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SizeLimits {
    /// Client connections that have brought it a request and are open; more get 429.
    pub connections: Option<NonZeroUsize>,
    /// Requests (frames of a WebSocket are none); more get 429.
    pub requests: Option<Quota>,
}

/// Finds MicroVMs and makes them ready.
#[async_trait]
pub trait Gateway: Send + Sync + 'static {
    /// The MicroVM behind an endpoint's label; `None` when there is none. Cheap: called before a
    /// request is authenticated.
    fn by_label(&self, label: &str) -> Option<Endpoint>;

    /// The MicroVM of an id, as a token names it.
    fn by_id(&self, microvm_id: &str) -> Option<Endpoint>;

    /// Waits until the MicroVM runs and may be given traffic, waking it when it is suspended and its
    /// idle policy allows. Only called for an authenticated request. Bounded in time.
    async fn ready(&self, microvm_id: &str) -> Result<Arc<dyn Application>, Unready>;
}

/// A running MicroVM's application. Held while a request is in flight; holding it does not keep the
/// MicroVM awake, bytes do.
#[async_trait]
pub trait Application: Send + Sync {
    /// Connects to a loopback port of the guest.
    async fn connect(&self, port: u16) -> Result<Box<dyn GuestStream>, ConnectError>;

    /// Bytes crossed the endpoint now, in either direction: the idle timer starts anew. Cheap enough
    /// to be called for every chunk.
    fn active(&self);

    /// Completes when the MicroVM stops being ready (suspending, terminating): connections to it are
    /// to be cut.
    async fn closed(&self);
}

/// A byte stream to the application.
pub trait GuestStream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> GuestStream for T {}

/// Why an application's port could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing listens on that port of the guest: `APP_CONNECT_FAILED`.
    #[error("nothing listens on port {0} of the guest")]
    Refused(u16),
    /// The guest itself cannot be reached: `MICROVM_CONNECT_FAILED`.
    #[error("the guest cannot be reached")]
    Unreachable(#[source] io::Error),
}

/// Why a MicroVM cannot take a request.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unready {
    /// It is suspended and must be resumed explicitly: 502 with an empty body.
    #[error("the MicroVM is suspended and its idle policy does not resume it on traffic")]
    Suspended,
    /// It has ended, or ended while the request waited: 502.
    #[error("the MicroVM has ended")]
    Ended,
    /// It could not be made ready in time, or waking it failed: 502.
    #[error("the MicroVM did not become ready: {0}")]
    Failed(String),
    /// Too many requests wait for it already: 429.
    #[error("too many requests wait for the MicroVM to wake")]
    TooMany,
    /// Its connectors forbid inbound traffic (`NO_INGRESS`): 403.
    #[error("the MicroVM takes no inbound traffic")]
    Closed,
}

//! What a MicroVM's own guest finds at `http://169.254.169.254`: who it is, and a few things that it may
//! ask of the host for itself. In the style of EC2's instance metadata service, version 2: every request
//! but the one for a token carries a token, and none may have come through a proxy.
//!
//! Each MicroVM has a listener of its own, in the network namespace of its slot, so a guest speaks for
//! itself and for nobody else, whatever it sends. It is hostile: connections, heads, bodies and times are
//! bounded, a connection carries one request, and the slot's packet filter bounds how many begin.
//!
//! Not here: what becomes of what is asked ([`Subject`]), and the listener (`colibri-network`).
#![forbid(unsafe_code)]

mod routes;
mod token;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use colibri_network::{GuestListener, GuestStream};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::token::TokenKey;

/// Connections of one guest; the next ones wait to be accepted.
const CONNECTIONS: usize = 16;
/// Bound of a request's head, and of a whole connection.
const HEAD_BOUND: Duration = Duration::from_secs(5);
const CONNECTION_BOUND: Duration = Duration::from_secs(10);
/// Longest head of a request, bytes; and its fields.
const MAX_HEAD: usize = 16 * 1024;
const MAX_FIELDS: usize = 64;
/// How long a guest that asked for its suspension has to take the answer.
const FAREWELL_BOUND: Duration = Duration::from_secs(1);
/// Pause after a socket error, so that one that stays does not fill a core.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// What a MicroVM is, as its guest is told.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    /// Its id.
    pub microvm_id: String,
    /// The image that it was launched from.
    pub image_arn: String,
    /// The image's version.
    pub image_version: String,
    /// Region.
    pub region: String,
    /// Account.
    pub account_id: String,
    /// When it was launched, seconds since the Unix epoch.
    pub started_at: f64,
    /// When it ends at the latest, asleep or awake, seconds since the Unix epoch.
    pub ends_at: f64,
}

/// Temporary credentials of the role that a MicroVM was run with.
#[derive(Clone, PartialEq, Eq)]
pub struct RoleCredentials {
    /// Access key id.
    pub access_key_id: String,
    /// Secret access key.
    pub secret_access_key: String,
    /// What must come with it.
    pub session_token: String,
    /// When they were given out, milliseconds since the Unix epoch.
    pub issued_at: i64,
    /// When they end, milliseconds since the Unix epoch.
    pub expires_at: i64,
}

impl std::fmt::Debug for RoleCredentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("RoleCredentials")
            .field("access_key_id", &self.access_key_id)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// Why a guest is given no credentials of its MicroVM's role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoCredentials {
    /// The role is not there, or does not trust the service.
    #[error("the role {role} is not there or does not trust {service} to assume it")]
    Untrusted {
        /// ARN of the role.
        role: String,
        /// Whom it must trust.
        service: String,
    },
    /// Something else; the daemon's log says what.
    #[error("the role's credentials could not be made; ask again later")]
    Failed,
}

/// The MicroVM does not run, or not yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the MicroVM does not run yet: it can be suspended when its run or resume hook has answered"
)]
pub struct NotRunning;

/// One MicroVM, as its guest may ask of it.
#[async_trait]
pub trait Subject: Send + Sync + 'static {
    /// What it is.
    fn about(&self) -> &About;

    /// It is busy for this long from now on: it is not suspended for idleness meanwhile. A later call
    /// takes an earlier one's place; no time at all ends it.
    fn be_busy(&self, time: Duration);

    /// For how much longer it is busy.
    fn busy_for(&self) -> Duration;

    /// Whether it can be suspended.
    ///
    /// # Errors
    /// While it does not run.
    fn may_suspend(&self) -> Result<(), NotRunning>;

    /// Suspends it, as `SuspendMicrovm` would.
    async fn suspend(&self);

    /// Whether it was run with a role.
    fn has_role(&self) -> bool;

    /// Credentials of that role, good for a while yet.
    ///
    /// # Errors
    /// [`NoCredentials`]
    async fn credentials(&self) -> Result<RoleCredentials, NoCredentials>;
}

/// The service; one for all MicroVMs of a daemon.
pub struct Metadata {
    key: TokenKey,
}

impl std::fmt::Debug for Metadata {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Metadata").finish_non_exhaustive()
    }
}

impl Default for Metadata {
    fn default() -> Self {
        Self::new()
    }
}

impl Metadata {
    /// A service with a key of its own: tokens of an earlier one are void, and clients ask anew.
    #[must_use]
    pub fn new() -> Self {
        Self {
            key: TokenKey::random(),
        }
    }

    /// Serves a MicroVM's guest, for as long as the future is polled.
    pub async fn serve(
        self: Arc<Self>,
        mut listener: Box<dyn GuestListener>,
        subject: Arc<dyn Subject>,
    ) {
        let mut connections = JoinSet::new();
        loop {
            while connections.len() >= CONNECTIONS {
                connections.join_next().await;
            }
            while connections.try_join_next().is_some() {}
            match listener.accept().await {
                Ok(stream) => {
                    let (service, subject) = (Arc::clone(&self), Arc::clone(&subject));
                    connections.spawn(service.connection(stream, subject));
                }
                Err(error) => {
                    tracing::debug!(%error, "could not accept a connection to a metadata address");
                    sleep(ERROR_PAUSE).await;
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: Box<dyn GuestStream>, subject: Arc<dyn Subject>) {
        let wants_suspend = AtomicBool::new(false);
        let service = service_fn(|request| async {
            let reply = routes::answer(request, &self.key, subject.as_ref()).await;
            wants_suspend.fetch_or(reply.then_suspend, Ordering::Relaxed);
            Ok::<_, Infallible>(reply.response)
        });
        let mut server = http1::Builder::new();
        server
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_BOUND)
            .keep_alive(false)
            .max_headers(MAX_FIELDS)
            .max_buf_size(MAX_HEAD);
        let served = server.serve_connection(TokioIo::new(stream), service);
        // However it ended is the guest's affair; what it asked for is done in any case.
        if let Ok(Ok(parts)) = timeout(CONNECTION_BOUND, served.without_shutdown()).await {
            let _ = timeout(FAREWELL_BOUND, farewell(parts.io.into_inner())).await;
        }
        if wants_suspend.into_inner() {
            subject.suspend().await;
        }
    }
}

/// Closes a connection and waits until the guest has closed its side: it has read its answer then.
async fn farewell(mut stream: Box<dyn GuestStream>) -> std::io::Result<()> {
    stream.shutdown().await?;
    while stream.read(&mut [0; 1024]).await? > 0 {}
    Ok(())
}

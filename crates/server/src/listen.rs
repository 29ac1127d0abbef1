//! The TCP listener of the API: HTTP/1.1 and HTTP/2 in clear text, bounded connections, graceful end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::front::Front;
use crate::idle::{Traffic, idle};

/// Connections open at once; more wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 1024;

/// For a client to send the head of a request.
const HEADER_BOUND: Duration = Duration::from_secs(30);

/// How long a connection may be open without a request. Clients that keep theirs open for the next one
/// make a new one when it is closed.
const IDLE_BOUND: Duration = Duration::from_secs(60);

/// For requests in flight to finish once the server is told to stop.
const DRAIN_BOUND: Duration = Duration::from_secs(10);

/// The API's address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("could not listen for the API on {address}; choose another with --api-listen")]
pub struct ListenFailure {
    /// The address.
    pub address: SocketAddr,
    /// The cause.
    #[source]
    pub source: std::io::Error,
}

/// The API's listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds the address; clients that connect wait until [`Listener::serve`].
    ///
    /// # Errors
    /// When the address is taken, or not this host's.
    pub async fn bind(address: SocketAddr) -> Result<Self, ListenFailure> {
        let failure = |source| ListenFailure { address, source };
        let socket = TcpListener::bind(address).await.map_err(failure)?;
        let address = socket.local_addr().map_err(failure)?;
        Ok(Self { socket, address })
    }

    /// The address, with the port that was found where it was left open.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until told to stop, then lets requests in flight finish.
    pub async fn serve(self, front: Arc<Front>, shutdown: CancellationToken) {
        let mut server = auto::Builder::new(TokioExecutor::new());
        server
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_BOUND);
        server
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(256);
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let graceful = GracefulShutdown::new();
        loop {
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
                break;
            };
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: a moment's rest instead of a busy loop.
                    warn!(%error, "could not accept a connection to the API");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let front = Arc::clone(&front);
            let (traffic, counted) = Traffic::new();
            let service = service_fn(move |request| {
                let front = Arc::clone(&front);
                let in_flight = traffic.begin();
                async move {
                    let answer = front.answer(request, peer.ip()).await;
                    Ok::<_, Infallible>(in_flight.until_sent(answer))
                }
            });
            let connection = server
                .serve_connection(TokioIo::new(stream), service)
                .into_owned();
            let watched = graceful.watch(connection);
            tokio::spawn(async move {
                tokio::select! {
                    served = watched => if let Err(error) = served {
                        debug!(error, "a connection to the API ended early");
                    },
                    () = idle(counted, IDLE_BOUND) => debug!("an idle connection to the API is closed"),
                }
                drop(permit);
            });
        }
        front.end_streams();
        let _ = tokio::time::timeout(DRAIN_BOUND, graceful.shutdown()).await;
    }
}

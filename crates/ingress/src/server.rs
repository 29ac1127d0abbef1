//! Listens, speaks TLS and HTTP/1.1 or HTTP/2 with clients, and bounds what a connection may take.
//!
//! What a request means is not decided here: that is `endpoint`.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustix::io::Errno;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, interval_at, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Admission;
use crate::certificates::{Certificates, CertificatesError};
use crate::endpoint::Endpoints;
use crate::exchange::{Counters, InFlight};
use crate::gateway::Gateway;
use crate::peers::Peers;
use crate::settings::{ListenAddress, Settings};
use crate::token::TokenMint;

/// Tries to find a port that is free on both loopbacks.
const PORT_ATTEMPTS: usize = 16;
/// Pause after an accept failed: mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// For a connection that was told to close to do so.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at the age of certificates and keys.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(6 * 60 * 60);
/// Silence after which the kernel probes whether a client's host is still there. Probes are no
/// traffic: they keep nothing awake.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// The endpoints of all MicroVMs, bound to their addresses.
pub struct Ingress {
    endpoints: Arc<Endpoints>,
    certificates: Arc<Certificates>,
    acceptor: TlsAcceptor,
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
}

impl Ingress {
    /// Binds the addresses; connections wait in the backlog until [`Ingress::serve`].
    ///
    /// # Errors
    /// When an address cannot be bound or TLS cannot be set up.
    pub async fn bind(
        settings: Settings,
        certificates: Arc<Certificates>,
        tokens: Arc<TokenMint>,
        gateway: Arc<dyn Gateway>,
    ) -> Result<Self, BindError> {
        let listeners = listen(settings.listen).await?;
        let addresses = listeners
            .iter()
            .map(TcpListener::local_addr)
            .collect::<Result<_, _>>();
        let config = certificates.server_config().map_err(BindError::Tls)?;
        let endpoints = Endpoints {
            domain: settings.domain,
            admission: Admission::new(settings.limits.max_requests_per_microvm),
            limits: settings.limits,
            tokens,
            gateway,
            counters: Arc::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        Ok(Self {
            endpoints: Arc::new(endpoints),
            certificates,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            listeners,
            addresses: addresses.map_err(BindError::Address)?,
        })
    }

    /// The addresses that are listened on.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What has passed, kept current.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        self.endpoints.counters.clone()
    }

    /// Serves until `shutdown`, then gives what is in flight its time to finish, and cuts the rest.
    pub async fn serve(self, shutdown: CancellationToken) {
        let connections = Arc::new(Semaphore::new(self.endpoints.limits.max_connections));
        let peers = Arc::new(Peers::default());
        for listener in self.listeners {
            let front = Front {
                endpoints: self.endpoints.clone(),
                acceptor: self.acceptor.clone(),
                connections: connections.clone(),
                peers: peers.clone(),
                shutdown: shutdown.clone(),
            };
            self.endpoints.tasks.spawn(front.accept_all(listener));
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = upkeep(&self.certificates, &self.endpoints.tokens) => {}
        }
        self.endpoints.tasks.close();
        if timeout(
            self.endpoints.limits.drain_timeout,
            self.endpoints.tasks.wait(),
        )
        .await
        .is_err()
        {
            self.endpoints.stop.cancel();
            self.endpoints.tasks.wait().await;
        }
    }
}

impl std::fmt::Debug for Ingress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Ingress")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// Renews certificates and rotates keys when they are due. Never ends.
async fn upkeep(certificates: &Certificates, tokens: &TokenMint) {
    let mut interval = interval_at(Instant::now() + UPKEEP_INTERVAL, UPKEEP_INTERVAL);
    loop {
        interval.tick().await;
        if let Err(error) = certificates.renew(SystemTime::now()) {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "certificate not renewed"
            );
        }
        if let Err(error) = tokens.rotate_when_due(SystemTime::now()) {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "token key not rotated"
            );
        }
    }
}

/// What accepts connections.
struct Front {
    endpoints: Arc<Endpoints>,
    acceptor: TlsAcceptor,
    connections: Arc<Semaphore>,
    peers: Arc<Peers>,
    shutdown: CancellationToken,
}

impl Front {
    async fn accept_all(self, listener: TcpListener) {
        let front = Arc::new(self);
        let accepting = async {
            loop {
                match listener.accept().await {
                    // Who is over the limit waits here, and those after it in the kernel's backlog.
                    Ok((stream, peer)) => {
                        let most = front.endpoints.limits.max_connections_per_peer;
                        let Some(counted) = front.peers.admit(peer.ip(), most) else {
                            tracing::debug!(%peer, "closed: its address has all the connections it may");
                            continue;
                        };
                        let Ok(permit) = front.connections.clone().acquire_owned().await else {
                            return;
                        };
                        let connection = front.clone().serve_one(stream, peer, permit);
                        front.endpoints.tasks.spawn(async move {
                            connection.await;
                            drop(counted);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "could not accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = front.shutdown.cancelled() => {}
            () = accepting => {}
        }
    }

    async fn serve_one(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) {
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%peer, %error, "could not set socket options");
        }
        let accepted = tokio::select! {
            accepted = timeout(self.endpoints.limits.handshake_timeout, self.acceptor.accept(stream)) => accepted,
            () = self.shutdown.cancelled() => return,
        };
        match accepted {
            Ok(Ok(stream)) => {
                self.endpoints.counters.connections.fetch_add(1, Relaxed);
                self.speak(stream, peer, permit).await;
            }
            Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
        }
    }

    async fn speak(
        &self,
        stream: TlsStream<TcpStream>,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) {
        let (_, session) = stream.get_ref();
        let http2 = session.alpn_protocol() == Some(b"h2");
        let server_name: Option<Arc<str>> = session.server_name().map(Arc::from);
        let (in_flight, watched) = InFlight::new(permit);
        let service = service_fn(|request: Request<Incoming>| {
            let endpoints = self.endpoints.clone();
            let server_name = server_name.clone();
            let in_flight = in_flight.clone();
            async move {
                Ok::<_, Infallible>(
                    endpoints
                        .answer(request, server_name.as_deref(), &in_flight)
                        .await,
                )
            }
        });
        let stream = TokioIo::new(stream);
        let served = if http2 {
            let connection = self.http2().serve_connection(stream, service);
            self.drive(connection, http2::Connection::graceful_shutdown, watched)
                .await
        } else {
            let connection = self
                .http1()
                .serve_connection(stream, service)
                .with_upgrades();
            self.drive(
                connection,
                http1::UpgradeableConnection::graceful_shutdown,
                watched,
            )
            .await
        };
        if let Err(error) = served {
            tracing::debug!(%peer, %error, "connection ended");
        }
    }

    fn http1(&self) -> http1::Builder {
        let limits = &self.endpoints.limits;
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_headers(limits.max_headers)
            .max_header_size(limits.max_header_bytes as usize)
            .preserve_header_case(true);
        builder
    }

    fn http2(&self) -> http2::Builder<TokioExecutor> {
        let limits = &self.endpoints.limits;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window)
            .max_concurrent_streams(limits.max_streams_per_connection)
            .max_header_list_size(limits.max_header_bytes)
            .enable_connect_protocol();
        builder
    }

    /// Drives a connection to its end; tells it to close when the ingress shuts down or nothing has
    /// been in flight for long, and drops it when it does not.
    async fn drive<C: Future<Output = hyper::Result<()>>>(
        &self,
        connection: C,
        close: impl FnOnce(Pin<&mut C>),
        mut in_flight: watch::Receiver<usize>,
    ) -> hyper::Result<()> {
        let mut connection = pin!(connection);
        let idle_timeout = self.endpoints.limits.idle_timeout;
        tokio::select! {
            served = connection.as_mut() => return served,
            () = idle(&mut in_flight, idle_timeout) => {}
            () = self.shutdown.cancelled() => {}
        }
        close(connection.as_mut());
        tokio::select! {
            served = connection => served,
            () = idle(&mut in_flight, CLOSE_TIMEOUT) => Ok(()),
            () = self.endpoints.stop.cancelled() => Ok(()),
        }
    }
}

/// Completes when nothing has been in flight for `limit`.
async fn idle(in_flight: &mut watch::Receiver<usize>, limit: Duration) {
    loop {
        let none_in_flight = *in_flight.borrow_and_update() == 0;
        let changed = in_flight.changed();
        if none_in_flight {
            let Ok(Ok(())) = timeout(limit, changed).await else {
                return;
            };
        } else if changed.await.is_err() {
            return;
        }
    }
}

/// Socket options of a client's connection.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    Ok(())
}

async fn listen(listen: ListenAddress) -> Result<Vec<TcpListener>, BindError> {
    match listen {
        ListenAddress::Address(address) => Ok(vec![bind(address).await?]),
        ListenAddress::Loopback { port: 0 } => {
            for _ in 1..PORT_ATTEMPTS {
                if let Ok(listeners) = bind_loopbacks(0).await {
                    return Ok(listeners);
                }
            }
            bind_loopbacks(0).await
        }
        ListenAddress::Loopback { port } => bind_loopbacks(port).await,
    }
}

/// Both loopbacks, or the older one alone where there is no IPv6. A port that somebody else has on
/// one of them is an error: part of the clients would reach that somebody.
async fn bind_loopbacks(port: u16) -> Result<Vec<TcpListener>, BindError> {
    let first = bind((Ipv4Addr::LOCALHOST, port).into()).await?;
    let port = first.local_addr().map_err(BindError::Address)?.port();
    match bind((Ipv6Addr::LOCALHOST, port).into()).await {
        Ok(second) => Ok(vec![first, second]),
        Err(BindError::Bind { source, .. }) if lacks_ipv6(&source) => Ok(vec![first]),
        Err(error) => Err(error),
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| BindError::Bind { address, source })
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)
    )
}

/// Why the ingress cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// An address cannot be bound.
    #[error(
        "could not listen on {address} for endpoints; is another program there? choose one with `--ingress-listen`"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A bound socket does not tell its address.
    #[error("could not read the address of the endpoints' socket")]
    Address(#[source] io::Error),
    /// TLS could not be set up.
    #[error("could not set up TLS for endpoints")]
    Tls(#[source] CertificatesError),
}

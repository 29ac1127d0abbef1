//! The DNS server that a guest sees on its gateway: a relay in the daemon. Its sockets are in the
//! slot's namespace, its questions go out of the host's, so a guest resolves what the host resolves
//! without reaching any server itself. It keeps nothing and understands no more than it must to
//! refuse what is no ordinary query.

mod message;
mod upstreams;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use colibri_guest_protocol::{GATEWAY_ADDRESS, GUEST_ADDRESS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::namespace::Visitor;
use message::{MAX_QUERY, Query, Refusal};
pub(crate) use upstreams::Upstreams;
use upstreams::{Transport, resolve};

const PORT: u16 = 53;
/// Queries of one guest in flight; over UDP the next ones are dropped, over TCP they wait.
const QUERIES_IN_FLIGHT: usize = 64;
/// TCP connections of one guest; the next ones wait to be accepted.
const CONNECTIONS: usize = 16;
/// How long a TCP connection may be idle, or take to send a message it began.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// Pause after a socket error, so that one that stays does not fill a core.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// A slot's relay; it ends when it is stopped or dropped.
#[derive(Debug)]
pub(crate) struct DnsRelay {
    tasks: JoinSet<()>,
}

/// What both transports of a slot share.
#[derive(Debug)]
struct Shared {
    upstreams: Arc<Upstreams>,
    in_flight: Arc<Semaphore>,
}

impl DnsRelay {
    /// Listens on the gateway's port 53 inside `namespace`.
    pub(crate) async fn start(
        visitor: &Visitor,
        namespace: &Arc<OwnedFd>,
        upstreams: &Arc<Upstreams>,
    ) -> io::Result<Self> {
        let (udp, tcp) = visitor.visit(namespace, listen).await?;
        let udp = tokio::net::UdpSocket::from_std(udp)?;
        let tcp = tokio::net::TcpListener::from_std(tcp)?;
        let shared = Arc::new(Shared {
            upstreams: Arc::clone(upstreams),
            in_flight: Arc::new(Semaphore::new(QUERIES_IN_FLIGHT)),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(Arc::new(udp), Arc::clone(&shared)));
        tasks.spawn(serve_tcp(tcp, shared));
        Ok(Self { tasks })
    }

    /// Ends the relay; its sockets are closed when this returns.
    pub(crate) async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

fn listen() -> io::Result<(UdpSocket, TcpListener)> {
    let udp = UdpSocket::bind((GATEWAY_ADDRESS, PORT))?;
    udp.set_nonblocking(true)?;
    let tcp = TcpListener::bind((GATEWAY_ADDRESS, PORT))?;
    tcp.set_nonblocking(true)?;
    Ok((udp, tcp))
}

/// The guest, or a container build in the slot, which asks from the gateway's own address: no frame of a
/// guest's has that.
fn is_of_the_slot(peer: SocketAddr) -> bool {
    [GUEST_ADDRESS, GATEWAY_ADDRESS]
        .map(IpAddr::V4)
        .contains(&peer.ip())
}

async fn serve_udp(socket: Arc<tokio::net::UdpSocket>, shared: Arc<Shared>) {
    // Dropped with this task: no answer is under way for a guest that has ended.
    let mut answers = JoinSet::new();
    let mut buffer = [0; MAX_QUERY + 1];
    loop {
        while answers.try_join_next().is_some() {}
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "could not receive a guest's DNS query");
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        if !is_of_the_slot(peer) || length > MAX_QUERY {
            continue;
        }
        let Ok(room) = Arc::clone(&shared.in_flight).try_acquire_owned() else {
            continue;
        };
        let query = buffer[..length].to_vec();
        let (socket, shared) = (Arc::clone(&socket), Arc::clone(&shared));
        answers.spawn(async move {
            let _room = room;
            if let Some(answer) = answer(&shared.upstreams, &query, Transport::Udp).await {
                // A guest that no longer listens is no concern.
                let _ = socket.send_to(&answer, peer).await;
            }
        });
    }
}

async fn serve_tcp(listener: tokio::net::TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) if is_of_the_slot(peer) => {
                connections.spawn(serve_connection(stream, Arc::clone(&shared)));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "could not accept a guest's DNS connection");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(mut stream: TcpStream, shared: Arc<Shared>) {
    // Any end of it is the guest's choice.
    while let Ok(Ok(query)) = tokio::time::timeout(IDLE_LIMIT, read_message(&mut stream)).await {
        let Ok(_room) = shared.in_flight.acquire().await else {
            return;
        };
        let Some(answer) = answer(&shared.upstreams, &query, Transport::Tcp).await else {
            return;
        };
        let written = tokio::time::timeout(IDLE_LIMIT, write_message(&mut stream, &answer)).await;
        if !matches!(written, Ok(Ok(()))) {
            return;
        }
    }
}

/// Reads a message with its length before it (RFC 1035 4.2.2).
async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_QUERY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    stream.write_all(&message::framed(message)?).await
}

/// What the guest gets, if anything.
async fn answer(upstreams: &Upstreams, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
    match Query::parse(bytes) {
        Ok(query) => Some(resolve(upstreams, &query, transport).await),
        Err(Refusal::Answer(code)) => Some(message::refusal(bytes, code)),
        Err(Refusal::Ignore) => None,
    }
}

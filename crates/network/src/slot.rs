//! One slot in use: opening its tap, connecting into its guest, giving it back.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use colibri_guest_protocol::forward::{ForwardAnswer, preamble};
use colibri_guest_protocol::{AGENT_ADDRESS, FORWARD_PORT};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::dns::DnsRelay;
use crate::listener::SlotListener;
use crate::pool::Pool;
use crate::stream::SlotStream;
use crate::tap::open_tap;
use crate::{Grant, GuestListener, GuestStream, NetworkError, Slot};

/// How long each attempt at the TCP handshake with the guest's agent gets; five seconds in all. A
/// first packet may be lost when the VMM has only just opened the tap (the kernel switches its queue
/// on in the background), and TCP itself would repeat it after a whole second.
const CONNECT_LIMITS: [Duration; 5] = [
    Duration::from_millis(150),
    Duration::from_millis(300),
    Duration::from_millis(600),
    Duration::from_millis(1200),
    Duration::from_millis(2750),
];
/// Bound of the agent's answer, which waits for the application's loopback.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A slot that is made, whether anybody has it or not.
#[derive(Debug)]
pub(crate) struct ReadySlot {
    pub(crate) index: u32,
    /// It can be kept for whoever wants the internet next.
    pub(crate) is_internet: bool,
    pub(crate) namespace: Arc<OwnedFd>,
    pub(crate) dns: Option<DnsRelay>,
}

/// A slot handed out. Dropping it leaves the slot as it is: a machine outlives its daemon, and the
/// next daemon adopts or sweeps.
#[derive(Debug)]
pub(crate) struct TakenSlot {
    pool: Arc<Pool>,
    index: u32,
    namespace: Arc<OwnedFd>,
    ended: CancellationToken,
    /// Until it is released.
    relay: Mutex<Held>,
}

#[derive(Debug)]
enum Held {
    Slot(Option<DnsRelay>),
    Nothing,
}

impl TakenSlot {
    pub(crate) fn new(pool: Arc<Pool>, ready: ReadySlot) -> Self {
        Self {
            pool,
            index: ready.index,
            namespace: ready.namespace,
            ended: CancellationToken::new(),
            relay: Mutex::new(Held::Slot(ready.dns)),
        }
    }

    async fn reach_agent(&self) -> io::Result<TcpStream> {
        for limit in CONNECT_LIMITS {
            match tokio::time::timeout(limit, self.try_agent()).await {
                Ok(outcome) => return outcome,
                Err(_) => tracing::debug!(index = self.index, ?limit, "no answer from a guest yet"),
            }
        }
        let message = "the guest's agent did not answer within five seconds";
        Err(io::Error::new(io::ErrorKind::TimedOut, message))
    }

    async fn try_agent(&self) -> io::Result<TcpStream> {
        let visitor = self.pool.commands().visitor();
        let socket = visitor.visit(&self.namespace, tcp_socket).await?;
        let socket = TcpSocket::from_std_stream(socket.into());
        let connected = socket.connect((AGENT_ADDRESS, FORWARD_PORT).into()).await;
        // Refused is what an application's port is, never the agent's.
        let stream = connected.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => io::Error::new(
                io::ErrorKind::NotConnected,
                "the guest runs, but its agent does not listen",
            ),
            _ => error,
        })?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

fn tcp_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        flags,
        None,
    )?)
}

async fn ask_for_port(stream: &mut TcpStream, port: u16) -> io::Result<()> {
    let answer = tokio::time::timeout(ANSWER_LIMIT, async {
        stream.write_all(&preamble(port)).await?;
        stream.read_u8().await
    });
    match ForwardAnswer::from_byte(answer.await??) {
        Some(ForwardAnswer::Connected) => Ok(()),
        Some(ForwardAnswer::Refused) => Err(io::Error::new(
            io::ErrorKind::ConnectionRefused,
            format!("nothing listens on port {port} in the guest"),
        )),
        Some(ForwardAnswer::BadPreamble) | None => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the guest's agent did not understand which port is wanted",
        )),
    }
}

#[async_trait]
impl Slot for TakenSlot {
    fn index(&self) -> u32 {
        self.index
    }

    fn uid(&self) -> Option<u32> {
        Some(self.pool.uid(self.index))
    }

    async fn attach(&self) -> Result<Option<(OwnedFd, OwnedFd)>, NetworkError> {
        if self.ended.is_cancelled() {
            return Err(NetworkError::Gone { index: self.index });
        }
        let failed = |what: &str, source| NetworkError::Io {
            attempted: format!("{what} of network slot {}", self.index),
            source,
        };
        let visitor = self.pool.commands().visitor();
        let tap = visitor.visit(&self.namespace, open_tap).await;
        let tap = tap.map_err(|source| failed("open the tap", source))?;
        let namespace = self.namespace.try_clone();
        let namespace = namespace.map_err(|source| failed("share the namespace", source))?;
        Ok(Some((tap, namespace)))
    }

    async fn connect(&self, port: u16) -> io::Result<Box<dyn GuestStream>> {
        let connect = async {
            let mut stream = self.reach_agent().await?;
            ask_for_port(&mut stream, port).await?;
            Ok(stream)
        };
        let stream = self
            .ended
            .run_until_cancelled(connect)
            .await
            .unwrap_or_else(|| {
                Err(io::Error::new(
                    io::ErrorKind::NotConnected,
                    "the guest has ended",
                ))
            })?;
        Ok(Box::new(SlotStream::new(stream, &self.ended)))
    }

    async fn listen(&self) -> io::Result<Box<dyn GuestListener>> {
        let visitor = self.pool.commands().visitor();
        let listener = SlotListener::open(visitor, &self.namespace, &self.ended).await?;
        Ok(Box::new(listener))
    }

    async fn grant(&self, grants: &[Grant]) -> Result<(), NetworkError> {
        if self.ended.is_cancelled() {
            return Err(NetworkError::Gone { index: self.index });
        }
        let pool = &self.pool;
        pool.grants.grant(pool.commands(), self.index, grants).await
    }

    async fn release(&self) -> Result<(), NetworkError> {
        let mut held = self.relay.lock().await;
        let Held::Slot(relay) = &mut *held else {
            return Ok(());
        };
        self.ended.cancel();
        if let Some(relay) = relay.take() {
            relay.stop().await;
        }
        self.pool.remove(self.index).await?;
        *held = Held::Nothing;
        Ok(())
    }
}

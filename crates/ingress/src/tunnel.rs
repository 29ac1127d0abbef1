//! A WebSocket between client and application: bytes both ways, each read counted as activity, until
//! either side closes or the MicroVM stops. Frames are not looked at.

use std::io;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::body::Flow;
use crate::exchange::Direction;

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;
/// For the second side to close after the first did.
const LINGER: Duration = Duration::from_secs(10);

/// Both ends of a WebSocket that was agreed on.
pub(crate) struct Tunnel {
    pub(crate) client: OnUpgrade,
    pub(crate) application: OnUpgrade,
    pub(crate) flow: Flow,
    /// Cancelled when the MicroVM stops.
    pub(crate) cut: CancellationToken,
    /// Ends the connection to the application when dropped.
    pub(crate) connection: DropGuard,
}

impl Tunnel {
    /// Carries bytes until the end. `stop` cuts it.
    pub(crate) async fn run(self, agreed_within: Duration, stop: CancellationToken) {
        let Self {
            client,
            application,
            flow,
            cut,
            connection,
        } = self;
        let carried = async {
            let ends = async { tokio::try_join!(client, application) };
            let Ok(Ok((client, application))) = timeout(agreed_within, ends).await else {
                return;
            };
            carry(TokioIo::new(client), TokioIo::new(application), &flow).await;
        };
        tokio::select! {
            () = carried => {}
            () = cut.cancelled() => {}
            () = stop.cancelled() => {}
        }
        drop(connection);
    }
}

async fn carry<C, A>(client: C, application: A, flow: &Flow)
where
    C: AsyncRead + AsyncWrite,
    A: AsyncRead + AsyncWrite,
{
    let (client_read, client_write) = tokio::io::split(client);
    let (application_read, application_write) = tokio::io::split(application);
    let mut received = std::pin::pin!(pump(client_read, application_write, |bytes| {
        flow.passed(Direction::Received, bytes);
    }));
    let mut sent = std::pin::pin!(pump(application_read, client_write, |bytes| {
        flow.passed(Direction::Sent, bytes);
    }));
    // One side has closed: the other gets what is still on its way, and time to close as well.
    tokio::select! {
        done = &mut received => if done.is_ok() { drop(timeout(LINGER, sent).await) },
        done = &mut sent => if done.is_ok() { drop(timeout(LINGER, received).await) },
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    passed: impl Fn(usize),
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = from.read(&mut chunk).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        passed(length);
        to.write_all(&chunk[..length]).await?;
        to.flush().await?;
    }
}

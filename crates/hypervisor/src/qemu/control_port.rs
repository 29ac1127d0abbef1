//! The host's end of the control channel, and how it is closed: before the machine stops, and never while the guest
//! may be saying a word.
//!
//! While a machine is stopped, QEMU's port looks at nothing (`hw/char/virtio-console.c`, `virtconsole_enable_backend`):
//! it misses an end that goes then. A word that was under way meets a socket that is gone, throttles the port, and
//! only the close that was missed would lift that: the guest is deaf to the sessions that follow. Such a word costs
//! its buffer in any case, one of the 128 that the guest's port has (`hw/char/virtio-serial-bus.c`,
//! `discard_throttle_data`). So the host closes its sending half first, and reads what the guest says until QEMU has
//! seen that and closed its own end; a machine is not stopped before.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, copy, sink};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{CONTROL_SOCKET, socket};

/// Bound of closing an end; it takes a millisecond where QEMU looks: not while the machine is stopped or boots.
const CLOSE_BOUND: Duration = Duration::from_secs(1);

/// The way to a machine's control channel.
#[derive(Debug, Default)]
pub(super) struct ControlPort {
    /// Ends that are being closed.
    closing: Arc<watch::Sender<usize>>,
}

impl ControlPort {
    /// Opens the channel, behind the closing of an earlier end.
    pub(super) async fn open(&self, directory: &Path) -> io::Result<HostEnd> {
        self.closed().await;
        Ok(HostEnd {
            stream: socket::connect(directory, CONTROL_SOCKET).await?,
            closing: Arc::clone(&self.closing),
        })
    }

    /// Returns when no end is being closed.
    pub(super) async fn closed(&self) {
        // The sender is this port's own.
        let _ = self.closing.subscribe().wait_for(|ends| *ends == 0).await;
    }
}

/// An open control channel. Dropping it closes it, in the background.
#[derive(Debug)]
pub(super) struct HostEnd {
    stream: UnixStream,
    closing: Arc<watch::Sender<usize>>,
}

impl Drop for HostEnd {
    fn drop(&mut self) {
        // Without a runtime, or another descriptor, it is closed as that of a killed daemon is.
        let (Ok(runtime), Ok(stream)) = (
            Handle::try_current(),
            self.stream.as_fd().try_clone_to_owned(),
        ) else {
            return;
        };
        let closing = Closing::begin(&self.closing);
        runtime.spawn(async move {
            let _closing = closing;
            // The other end may be gone already; whatever it was, it is closed after this.
            let _ = timeout(CLOSE_BOUND, close(stream.into())).await;
        });
    }
}

async fn close(stream: StdUnixStream) -> io::Result<()> {
    let mut stream = UnixStream::from_std(stream)?;
    stream.shutdown().await?;
    copy(&mut stream, &mut sink()).await?;
    Ok(())
}

/// Counts an end that is being closed.
struct Closing(Arc<watch::Sender<usize>>);

impl Closing {
    fn begin(ends: &Arc<watch::Sender<usize>>) -> Self {
        ends.send_modify(|ends| *ends += 1);
        Self(Arc::clone(ends))
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.send_modify(|ends| *ends -= 1);
    }
}

impl AsyncRead for HostEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for HostEnd {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

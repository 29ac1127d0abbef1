//! A connection into a guest that ends with its slot. Without it, a connection would outlive its
//! guest by the minutes that TCP takes to notice: a tap that is gone answers nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::GuestStream;

/// See the module.
pub(crate) struct SlotStream {
    stream: TcpStream,
    // One each: reader and writer may be different tasks, and a future wakes only its last poller.
    end_for_reader: Pin<Box<WaitForCancellationFutureOwned>>,
    end_for_writer: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl GuestStream for SlotStream {}

impl SlotStream {
    /// `stream`, until `released`.
    pub(crate) fn new(stream: TcpStream, released: &CancellationToken) -> Self {
        Self {
            stream,
            end_for_reader: Box::pin(released.clone().cancelled_owned()),
            end_for_writer: Box::pin(released.clone().cancelled_owned()),
        }
    }
}

fn ended(
    end: &mut Pin<Box<WaitForCancellationFutureOwned>>,
    context: &mut Context<'_>,
) -> io::Result<()> {
    match end.as_mut().poll(context) {
        Poll::Pending => Ok(()),
        Poll::Ready(()) => Err(io::Error::new(
            io::ErrorKind::ConnectionReset,
            "the guest has ended",
        )),
    }
}

impl AsyncRead for SlotStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ended(&mut self.end_for_reader, context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for SlotStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        ended(&mut self.end_for_writer, context)?;
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ended(&mut self.end_for_writer, context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

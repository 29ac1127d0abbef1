//! The metadata address of a slot: a listener inside the slot's namespace, where only the slot's guest
//! is. Who is told what is not decided here.

use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use async_trait::async_trait;
use colibri_guest_protocol::{GUEST_ADDRESS, METADATA_ADDRESS, METADATA_PORT};
use tokio_util::sync::CancellationToken;

use crate::namespace::Visitor;
use crate::stream::SlotStream;
use crate::{GuestListener, GuestStream};

/// See the module.
pub(crate) struct SlotListener {
    listener: tokio::net::TcpListener,
    released: CancellationToken,
}

impl SlotListener {
    /// Listens in `namespace`; connections end when the slot is `released`.
    pub(crate) async fn open(
        visitor: &Visitor,
        namespace: &Arc<OwnedFd>,
        released: &CancellationToken,
    ) -> io::Result<Self> {
        let listener = visitor.visit(namespace, listen).await?;
        Ok(Self {
            listener: tokio::net::TcpListener::from_std(listener)?,
            released: released.clone(),
        })
    }
}

fn listen() -> io::Result<TcpListener> {
    let listener = TcpListener::bind((METADATA_ADDRESS, METADATA_PORT))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[async_trait]
impl GuestListener for SlotListener {
    async fn accept(&mut self) -> io::Result<Box<dyn GuestStream>> {
        loop {
            let (stream, peer) = self.listener.accept().await?;
            // The packet filter lets nobody else in.
            if peer.ip() == IpAddr::V4(GUEST_ADDRESS) {
                return Ok(Box::new(SlotStream::new(stream, &self.released)));
            }
        }
    }
}

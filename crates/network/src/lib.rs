//! A network namespace and a tap per MicroVM, out of a pool of **slots**: the same addresses inside
//! every guest, no way from one guest to another or to the host, and the internet through NAT.
//!
//! It knows nothing of MicroVMs or images: it hands out slots and takes them back. [`SlotPool`] is the
//! real one:
//!
//! ```text
//!   namespace colibri-<mark>-<slot>                            host
//!   guest -- tap0 -- [from_guest, input, out] -- uplink ==veth== cb<mark>v<slot> -- [guard] -- internet
//!                                                              (cb<mark>vx<slot> where egress is granted)
//!              |
//!              +-- 172.16.0.1:53, relayed by the daemon from the host's namespace
//!              +-- 169.254.169.254:80, where the daemon listens for the guest of this slot
//! ```
//!
//! What a guest may do is decided twice: by the rules in its namespace (`rules.rs`), which nobody on
//! the host flushes by accident, and by the daemon's own table on the host.

#![deny(unsafe_code)]

mod address_block;
mod commands;
mod dns;
mod grant;
mod grant_book;
mod host_table;
mod layout;
mod listener;
pub mod namespace;
mod pool;
mod probe;
mod processes;
mod rules;
mod settings;
mod slot;
mod stream;
pub mod tap;

pub use grant::{Allow, Grant, Protocol};
pub use pool::SlotPool;
pub use probe::{forwarding_obstacles, probe};
pub use settings::NetworkSettings;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::TcpStream;

/// A stream to something inside a guest.
pub trait GuestStream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl GuestStream for TcpStream {}
impl GuestStream for tokio::io::DuplexStream {}

/// Connections that a slot's guest makes to the metadata address.
#[async_trait]
pub trait GuestListener: Send {
    /// Waits for the next one.
    ///
    /// # Errors
    /// When the kernel cannot take one; the next one may do.
    async fn accept(&mut self) -> io::Result<Box<dyn GuestStream>>;
}

/// What a slot lets its guest reach.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Egress {
    /// The internet, but no private, link-local, or host address; DNS through the gateway.
    Internet,
    /// Nothing.
    Sealed,
    /// What these grants allow together, and nothing else; DNS through the gateway. What is granted can
    /// change while the slot is in use.
    Granted(Vec<Grant>),
}

/// Slots of a [`Network`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotUsage {
    /// How many there are.
    pub capacity: u32,
    /// How many are handed out, or an earlier daemon's.
    pub taken: u32,
}

/// Hands out slots.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// A free slot with the wanted egress, its namespace and tap ready.
    ///
    /// # Errors
    /// When every slot is taken, or one could not be made.
    async fn acquire(&self, egress: Egress) -> Result<Arc<dyn Slot>, NetworkError>;

    /// Takes over a slot that an earlier daemon handed out and whose machine still runs.
    ///
    /// # Errors
    /// When its namespace is gone.
    async fn adopt(&self, index: u32) -> Result<Arc<dyn Slot>, NetworkError>;

    /// How many slots there are and how many are taken, at this moment.
    fn usage(&self) -> SlotUsage;

    /// Takes a grant back, from every slot that has it, at once: connections that it allowed stand still. No
    /// slot gets it again.
    ///
    /// # Errors
    /// When a slot's rules could not be changed; the others' are changed all the same.
    async fn withdraw(&self, name: &str) -> Result<(), NetworkError>;

    /// Removes every slot of an earlier daemon on the same data directory that `keep` does not name.
    async fn sweep(&self, keep: &BTreeSet<u32>) -> Result<(), NetworkError>;
}

/// One guest's network, taken.
#[async_trait]
pub trait Slot: Send + Sync + 'static {
    /// Number of the slot, unique among the live ones of this daemon; stable over restarts.
    fn index(&self) -> u32;

    /// User id that the slot's VMM runs under: no two live slots share one. `None` when the daemon
    /// lacks the privilege to change it.
    fn uid(&self) -> Option<u32>;

    /// The tap and namespace for a VMM; each call opens the tap anew (one VMM at a time).
    /// `None` on a simulated network.
    async fn attach(&self) -> Result<Option<(OwnedFd, OwnedFd)>, NetworkError>;

    /// Connects to the application's `port` on the guest's loopback, through the agent's forwarder.
    ///
    /// # Errors
    /// `ConnectionRefused` when nothing listens on that port in the guest; any other kind when the
    /// guest itself cannot be reached.
    async fn connect(&self, port: u16) -> io::Result<Box<dyn GuestStream>>;

    /// Listens on the metadata address, which the slot's guest alone reaches. One listener at a time.
    ///
    /// # Errors
    /// When the address is in use, or the slot is of a version that had none.
    async fn listen(&self) -> io::Result<Box<dyn GuestListener>>;

    /// Replaces what is granted, for a slot whose egress is [`Egress::Granted`]; connections that are allowed
    /// no more stand still.
    ///
    /// # Errors
    /// When the slot has another egress, or the rules could not be changed.
    async fn grant(&self, grants: &[Grant]) -> Result<(), NetworkError>;

    /// Gives the slot back: nothing of the guest's network is left. Safe to repeat.
    async fn release(&self) -> Result<(), NetworkError>;
}

/// Why a slot could not be made, taken over or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Every slot is in use.
    #[error("all {capacity} network slots are in use; raise `network.slots` or terminate MicroVMs")]
    Exhausted {
        /// How many there are.
        capacity: u32,
    },
    /// A slot of an earlier daemon is gone.
    #[error("network slot {index} no longer exists")]
    Gone {
        /// Its number.
        index: u32,
    },
    /// A slot of an earlier daemon is already taken over.
    #[error("network slot {index} is already in use by this daemon")]
    InUse {
        /// Its number.
        index: u32,
    },
    /// A slot's egress was fixed when it was made.
    #[error("network slot {index} has another egress than one that is granted; take another slot")]
    NotGranted {
        /// Its number.
        index: u32,
    },
    /// A setting cannot be followed.
    #[error("the setting `{setting}` {problem}")]
    Setting {
        /// Its name in the configuration.
        setting: &'static str,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// A program that slots are made with is missing.
    #[error("`{program}` was not found in PATH, /usr/sbin or /sbin; install the package {package}")]
    MissingProgram {
        /// The program.
        program: &'static str,
        /// The package that most distributions have it in.
        package: &'static str,
    },
    /// The daemon may not make namespaces.
    #[error(
        "making network slots needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN); start the daemon as root"
    )]
    Unprivileged,
    /// A command of `ip` or `nft` failed.
    #[error("could not {attempted}: {output}")]
    Command {
        /// What was attempted, on which slot.
        attempted: String,
        /// What the command printed.
        output: String,
    },
    /// A system call or file operation failed.
    #[error("could not {attempted}")]
    Io {
        /// What was attempted, on which slot.
        attempted: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

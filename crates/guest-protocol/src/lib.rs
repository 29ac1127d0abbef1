//! What host and guest agent say to each other: the messages, the frames that carry them, and the
//! addresses that both sides must agree on.
//!
//! Two ways lead into a guest, and this crate names both:
//!
//! - the **control channel**, a virtio-serial port that the tenant's application cannot reach. It is
//!   one byte stream, framed by [`frame`]; it carries requests to the agent, its answers, its events
//!   and the application's output;
//! - the **forward port**, a TCP port of the agent on the guest's link-local address, through which
//!   the host reaches the application's loopback ports ([`forward`]).
//!
//! No I/O happens here but in [`client`], the host's end of the control channel.
#![forbid(unsafe_code)]

pub mod forward;
pub mod frame;
pub mod message;

#[cfg(feature = "client")]
pub mod client;

use std::net::Ipv4Addr;

/// Version of the messages in [`message`]. A guest that was frozen with an older agent keeps
/// speaking its own version for as long as its snapshot lives, so the host must keep understanding
/// every version that it ever wrote into a snapshot.
///
/// | version | what came with it |
/// |---|---|
/// | 1 | the messages of the beginning |
/// | 2 | [`message::Call::SetClock`]; [`message::Call::AssumeIdentity`] is answered with the guest's clock |
///
/// A member that may be left out (`#[serde(default)]`) needs no version: an agent passes over what it
/// does not know.
pub const PROTOCOL_VERSION: u16 = 2;

/// The version from which on an agent tells its clock and can be told the time alone.
pub const CLOCK_VERSION: u16 = 2;

/// Name of the virtio-serial port (`/sys/class/virtio-ports/*/name`).
pub const CONTROL_PORT_NAME: &str = "dev.colibri.control";

/// Both sides send this before anything else in a session; the receiver drops every byte before
/// it. A session that was cut by a snapshot may leave half a frame in the guest's queues.
pub const SESSION_MAGIC: [u8; 16] = *b"\0colibri-session";

/// The guest's address on its tap, the same in every guest: a snapshot carries it.
pub const GUEST_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
/// The tap's own address, the guest's gateway and DNS server.
pub const GATEWAY_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
/// Prefix length of the link between [`GUEST_ADDRESS`] and [`GATEWAY_ADDRESS`].
pub const LINK_PREFIX: u8 = 30;
/// The agent's own address on the same link, apart from the application's, so that no port of the
/// application's address is taken.
pub const AGENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 100, 2);
/// The host's address that talks to [`AGENT_ADDRESS`].
pub const AGENT_GATEWAY_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 100, 1);
/// TCP port of the agent's forwarder on [`AGENT_ADDRESS`].
pub const FORWARD_PORT: u16 = 1;

/// Where a guest asks the host for what concerns itself; on the host's side of the link.
pub const METADATA_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// TCP port of [`METADATA_ADDRESS`].
pub const METADATA_PORT: u16 = 80;

/// MAC address of the tap on every slot. The guest's ARP cache is part of its snapshot: a clone on a
/// tap with another address answers nobody.
pub const TAP_MAC: &str = "02:00:5e:10:00:01";
/// MAC address of the guest's network card, the same in every guest for the same reason.
pub const GUEST_MAC: &str = "02:00:5e:10:00:02";

//! Ends the guest's TCP connections to the outside after a restore: nobody is at the other end, and a
//! program that waits for one would wait for good. Asked of the kernel's socket diagnosis (`man 7
//! sock_diag`), whose destruction of a socket gives its owner `ECONNABORTED` at once, as the real
//! service's guests see it.
//!
//! Connections within the guest stay. Those of network namespaces that the application made itself are
//! not looked for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use colibri_guest_protocol::AGENT_ADDRESS;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use crate::console;

// linux/sock_diag.h, linux/inet_diag.h, linux/netlink.h, net/tcp_states.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
/// `struct inet_diag_sockid`
const SOCKET_ID: usize = 48;
/// Where it begins in `struct inet_diag_msg`, behind family, state, timer and retransmissions.
const BEFORE_ID: usize = 4;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const ALL_STATES: u32 = 0xfff;
/// Those that are no connection: `TCP_TIME_WAIT`, `TCP_CLOSE`, `TCP_LISTEN`.
const IDLE_STATES: u32 = 1 << 6 | 1 << 7 | 1 << 10;
/// Room for one piece of the kernel's list, bytes; it makes them no longer than this.
const PIECE: usize = 32 * 1024;

/// A socket as the kernel names it, and whether its other end is outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Socket {
    family: u8,
    id: [u8; SOCKET_ID],
}

/// Resets every TCP connection to the outside.
pub(crate) fn reset() {
    if let Err(refused) = try_reset() {
        console::warn(&format!(
            "connections to the outside could not be reset: {refused}"
        ));
    }
}

fn try_reset() -> Result<(), Errno> {
    let flags = SocketFlags::CLOEXEC;
    let kernel = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        flags,
        Some(netlink::SOCK_DIAG),
    )?;
    for family in [AF_INET, AF_INET6] {
        for socket in outside(&kernel, family)? {
            // One that ended meanwhile is gone as well.
            match ask(&kernel, SOCK_DESTROY, NLM_F_ACK, &request(socket)) {
                Ok(()) => acknowledged(&kernel)?,
                Err(refused) => return Err(refused),
            }
        }
    }
    Ok(())
}

/// Connections of a family that lead outside.
fn outside(kernel: &OwnedFd, family: u8) -> Result<Vec<Socket>, Errno> {
    let any = Socket {
        family,
        id: [0; SOCKET_ID],
    };
    ask(kernel, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &request(any))?;
    let mut found = Vec::new();
    let mut piece = vec![0; PIECE];
    loop {
        let (length, _) = recv(kernel, &mut piece, RecvFlags::empty())?;
        for (kind, payload) in Messages(&piece[..length]) {
            match kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => return error_of(payload).map(|()| found),
                _ => found.extend(read(payload).filter(leads_outside)),
            }
        }
    }
}

fn ask(kernel: &OwnedFd, kind: u16, flags: u16, body: &[u8]) -> Result<(), Errno> {
    #[expect(clippy::cast_possible_truncation, reason = "a few dozen bytes")]
    let length = (HEADER + body.len()) as u32;
    let message = [
        &length.to_ne_bytes()[..],
        &kind.to_ne_bytes(),
        &(NLM_F_REQUEST | flags).to_ne_bytes(),
        &[0; 8],
        body,
    ]
    .concat();
    send(kernel, &message, SendFlags::empty()).map(drop)
}

/// `struct inet_diag_req_v2`
fn request(socket: Socket) -> Vec<u8> {
    let states = ALL_STATES & !IDLE_STATES;
    [
        &[socket.family, IPPROTO_TCP, 0, 0][..],
        &states.to_ne_bytes(),
        &socket.id,
    ]
    .concat()
}

/// Takes the answer to a destruction.
fn acknowledged(kernel: &OwnedFd) -> Result<(), Errno> {
    let mut answer = [0; 1024];
    let (length, _) = recv(kernel, &mut answer, RecvFlags::empty())?;
    match Messages(&answer[..length]).next() {
        Some((NLMSG_ERROR, payload)) => match error_of(payload) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(refused) => Err(refused),
        },
        _ => Err(Errno::BADMSG),
    }
}

/// The number in an error message, 0 for "done".
fn error_of(payload: &[u8]) -> Result<(), Errno> {
    match payload
        .first_chunk()
        .map(|bytes| i32::from_ne_bytes(*bytes))
    {
        Some(0) => Ok(()),
        Some(code) => Err(Errno::from_raw_os_error(-code)),
        None => Err(Errno::BADMSG),
    }
}

/// A socket out of `struct inet_diag_msg`.
fn read(payload: &[u8]) -> Option<Socket> {
    let family = *payload.first()?;
    let id = *payload.get(BEFORE_ID..)?.first_chunk()?;
    Some(Socket { family, id })
}

/// Whether a connection leaves the guest. The forwarder's are its own to end.
fn leads_outside(socket: &Socket) -> bool {
    let (Some(source), Some(destination)) = (address(socket, 4), address(socket, 20)) else {
        return false;
    };
    !destination.is_loopback() && destination != source && source != IpAddr::V4(AGENT_ADDRESS)
}

/// The address at `offset` of a socket's name, behind both ports or behind the source.
fn address(socket: &Socket, offset: usize) -> Option<IpAddr> {
    let bytes = socket.id.get(offset..)?;
    match socket.family {
        AF_INET => bytes
            .first_chunk::<4>()
            .map(|four| Ipv4Addr::from(*four).into()),
        AF_INET6 => bytes
            .first_chunk::<16>()
            .map(|sixteen| IpAddr::from(Ipv6Addr::from(*sixteen)).to_canonical()),
        _ => None,
    }
}

/// The messages in what was received: kind and payload.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = u32::from_ne_bytes(*self.0.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*self.0.get(4..)?.first_chunk()?);
        let payload = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::{AF_INET, AF_INET6, HEADER, Messages, SOCKET_ID, Socket, leads_outside, request};

    fn socket(family: u8, source: &[u8], destination: &[u8]) -> Socket {
        let mut id = [0; SOCKET_ID];
        id[4..4 + source.len()].copy_from_slice(source);
        id[20..20 + destination.len()].copy_from_slice(destination);
        Socket { family, id }
    }

    #[test]
    fn only_connections_that_leave_the_guest_are_ended() {
        let own = [172, 16, 0, 2];
        assert!(leads_outside(&socket(AF_INET, &own, &[192, 0, 2, 1])));
        assert!(leads_outside(&socket(AF_INET, &own, &[172, 16, 0, 1])));
        assert!(!leads_outside(&socket(AF_INET, &own, &own)));
        assert!(!leads_outside(&socket(
            AF_INET,
            &[127, 0, 0, 1],
            &[127, 0, 0, 1]
        )));
        assert!(!leads_outside(&socket(
            AF_INET,
            &[169, 254, 100, 2],
            &[169, 254, 100, 1]
        )));
        let mapped = |four: [u8; 4]| [&[0; 10][..], &[0xff; 2], &four].concat();
        assert!(leads_outside(&socket(
            AF_INET6,
            &mapped(own),
            &mapped([192, 0, 2, 1])
        )));
        assert!(!leads_outside(&socket(
            AF_INET6,
            &mapped([127, 0, 0, 1]),
            &mapped([127, 0, 0, 1])
        )));
        let mut one = [0; 16];
        one[15] = 1;
        assert!(!leads_outside(&socket(AF_INET6, &one, &one)));
    }

    #[test]
    fn messages_are_taken_apart_and_a_cut_one_ends_them() {
        let mut bytes = [&20_u32.to_ne_bytes()[..], &7_u16.to_ne_bytes(), &[0; 10]].concat();
        assert_eq!(bytes.len(), HEADER);
        bytes.extend([1, 2, 3, 4]);
        let twice = [&bytes[..], &bytes[..10]].concat();
        let kinds: Vec<_> = Messages(&twice).collect();
        assert_eq!(kinds, [(7, &[1, 2, 3, 4][..])]);
        // A length shorter than its own header cannot make it go round for ever.
        assert_eq!(Messages(&[0; 32]).count(), 0);
    }

    #[test]
    fn a_request_is_the_kernels_structure_long() {
        assert_eq!(request(socket(AF_INET, &[], &[])).len(), 56);
    }
}

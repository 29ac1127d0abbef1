//! The guest's network card and loopback, set up over rtnetlink (`man 7 rtnetlink`). The few messages
//! that this takes are written by hand: a netlink crate would be larger than the rest of the agent.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use colibri_guest_protocol::message::AgentFailure;
use colibri_guest_protocol::{
    AGENT_ADDRESS, AGENT_GATEWAY_ADDRESS, GATEWAY_ADDRESS, GUEST_ADDRESS, LINK_PREFIX, TAP_MAC,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

use crate::boot;
use crate::failure::{Attempt, failure};

const CARD: &str = "eth0";
/// The loopback device has this index in every network namespace.
const LOOPBACK: i32 = 1;

// linux/rtnetlink.h, linux/netlink.h, linux/if_addr.h, linux/neighbour.h
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const HEADER: usize = 16;
const AF_INET: u8 = 2;
const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;

/// Brings up the loopback device and, if the machine has one, its network card. False without a card.
pub(crate) fn configure() -> Result<bool, AgentFailure> {
    let mut kernel = Rtnetlink::open()?;
    kernel.ask("bring up the loopback device", &link_up(LOOPBACK))?;
    let Some(card) = card_index()? else {
        return Ok(false);
    };

    // There is no IPv6 on the link: no router solicitations, no duplicate address detection.
    boot::set("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1");
    kernel.ask(
        "give the network card its address",
        &address(card, GUEST_ADDRESS, RT_SCOPE_UNIVERSE),
    )?;
    // Link scope: never chosen as the source address of what the application sends.
    kernel.ask(
        "give the network card the agent's address",
        &address(card, AGENT_ADDRESS, RT_SCOPE_LINK),
    )?;
    kernel.ask("bring up the network card", &link_up(card))?;
    // The tap has one hardware address on every slot. Known for good, no ARP comes before the first
    // packet after a restore.
    let tap = hardware_address(TAP_MAC)
        .ok_or_else(|| failure("read the tap's hardware address", TAP_MAC.to_owned()))?;
    for gateway in [GATEWAY_ADDRESS, AGENT_GATEWAY_ADDRESS] {
        kernel.ask(
            "enter the gateway's hardware address",
            &neighbour(card, gateway, tap),
        )?;
    }
    kernel.ask("set the default route", &default_route(card))?;
    Ok(true)
}

fn card_index() -> Result<Option<i32>, AgentFailure> {
    let path = format!("/sys/class/net/{CARD}/ifindex");
    let Ok(text) = fs::read_to_string(&path) else {
        return Ok(None);
    };
    text.trim()
        .parse()
        .map(Some)
        .attempt(|| format!("read {path}"))
}

fn hardware_address(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

/// A message without its header: the fixed part and the attributes.
struct Message {
    kind: u16,
    body: Vec<u8>,
}

impl Message {
    fn new(kind: u16, fixed: &[&[u8]]) -> Self {
        Self {
            kind,
            body: fixed.concat(),
        }
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        // struct rtattr: length of header and value, then kind; each attribute padded to 4 bytes.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "addresses and indexes, 6 bytes at most"
        )]
        let length = (4 + value.len()) as u16;
        self.body.extend(length.to_ne_bytes());
        self.body.extend(kind.to_ne_bytes());
        self.body.extend(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
        self
    }

    fn framed(&self, sequence: u32) -> Vec<u8> {
        // The links are there; everything else is made.
        let made = if self.kind == RTM_NEWLINK {
            0
        } else {
            NLM_F_CREATE | NLM_F_REPLACE
        };
        let flags = NLM_F_REQUEST | NLM_F_ACK | made;
        #[expect(clippy::cast_possible_truncation, reason = "a few dozen bytes")]
        let length = (HEADER + self.body.len()) as u32;
        [
            &length.to_ne_bytes()[..],
            &self.kind.to_ne_bytes(),
            &flags.to_ne_bytes(),
            &sequence.to_ne_bytes(),
            &[0; 4],
            &self.body,
        ]
        .concat()
    }
}

fn link_up(index: i32) -> Message {
    // struct ifinfomsg: family, padding, type; index; flags; change mask
    let [index, up] = [index.to_ne_bytes(), IFF_UP.to_ne_bytes()];
    Message::new(RTM_NEWLINK, &[&[0; 4], &index, &up, &up])
}

fn address(index: i32, address: Ipv4Addr, scope: u8) -> Message {
    // struct ifaddrmsg: family, prefix length, flags, scope; index
    Message::new(
        RTM_NEWADDR,
        &[&[AF_INET, LINK_PREFIX, 0, scope], &index.to_ne_bytes()],
    )
    .attribute(IFA_LOCAL, &address.octets())
    .attribute(IFA_ADDRESS, &address.octets())
}

fn default_route(index: i32) -> Message {
    // struct rtmsg: family, destination and source prefix length, TOS; table, protocol, scope, type; flags
    let fixed = [
        AF_INET,
        0,
        0,
        0,
        RT_TABLE_MAIN,
        RTPROT_BOOT,
        RT_SCOPE_UNIVERSE,
        RTN_UNICAST,
    ];
    Message::new(RTM_NEWROUTE, &[&fixed, &[0; 4]])
        .attribute(RTA_GATEWAY, &GATEWAY_ADDRESS.octets())
        .attribute(RTA_PREFSRC, &GUEST_ADDRESS.octets())
        .attribute(RTA_OIF, &index.to_ne_bytes())
}

fn neighbour(index: i32, address: Ipv4Addr, hardware: [u8; 6]) -> Message {
    // struct ndmsg: family, padding; index; state, flags, type
    let state = NUD_PERMANENT.to_ne_bytes();
    Message::new(
        RTM_NEWNEIGH,
        &[&[AF_INET, 0, 0, 0], &index.to_ne_bytes(), &state, &[0, 0]],
    )
    .attribute(NDA_DST, &address.octets())
    .attribute(NDA_LLADDR, &hardware)
}

/// A socket to the kernel's network configuration.
struct Rtnetlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Rtnetlink {
    fn open() -> Result<Self, AgentFailure> {
        // Protocol 0 is NETLINK_ROUTE.
        socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )
        .map(|socket| Self {
            socket,
            sequence: 0,
        })
        .attempt(|| "open a netlink socket".to_owned())
    }

    fn ask(&mut self, attempted: &str, message: &Message) -> Result<(), AgentFailure> {
        self.sequence += 1;
        let sent = message.framed(self.sequence);
        self.exchange(&sent).attempt(|| attempted.to_owned())
    }

    fn exchange(&self, message: &[u8]) -> Result<(), Errno> {
        send(&self.socket, message, SendFlags::empty())?;
        let mut answer = [0; 1024];
        let (length, _) = recv(&self.socket, &mut answer, RecvFlags::empty())?;
        acknowledged(&answer[..length])
    }
}

/// Reads the kernel's answer: an error message, whose number is 0 for "done".
fn acknowledged(answer: &[u8]) -> Result<(), Errno> {
    let (Some(&[a, b]), Some(&[c, d, e, f])) = (
        answer.get(4..6).and_then(<[u8]>::first_chunk),
        answer.get(HEADER..).and_then(<[u8]>::first_chunk),
    ) else {
        return Err(Errno::BADMSG);
    };
    match (u16::from_ne_bytes([a, b]), i32::from_ne_bytes([c, d, e, f])) {
        (NLMSG_ERROR, 0) => Ok(()),
        (NLMSG_ERROR, code) => Err(Errno::from_raw_os_error(-code)),
        _ => Err(Errno::BADMSG),
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::{Message, acknowledged, hardware_address};

    #[test]
    fn attributes_are_padded_and_the_header_counts_them() {
        let framed = Message::new(28, &[&[2, 0, 0, 0]])
            .attribute(2, &[1, 2, 3, 4, 5, 6])
            .framed(7);
        assert_eq!(framed.len(), 16 + 4 + 12);
        assert_eq!(framed[..4], 32_u32.to_ne_bytes());
        assert_eq!(
            framed[20..24],
            [&10_u16.to_ne_bytes()[..], &2_u16.to_ne_bytes()].concat()
        );
    }

    #[test]
    fn the_kernels_refusal_is_understood() {
        let mut answer = [0; 36];
        answer[4..6].copy_from_slice(&2_u16.to_ne_bytes());
        assert_eq!(acknowledged(&answer), Ok(()));
        answer[16..20].copy_from_slice(&(-17_i32).to_ne_bytes());
        assert_eq!(acknowledged(&answer), Err(Errno::EXIST));
        assert_eq!(acknowledged(&answer[..10]), Err(Errno::BADMSG));
    }

    #[test]
    fn a_hardware_address_has_six_parts() {
        assert_eq!(
            hardware_address("02:00:5e:10:00:01"),
            Some([2, 0, 0x5e, 0x10, 0, 1])
        );
        assert_eq!(hardware_address("02:00:5e:10:00"), None);
        assert_eq!(hardware_address("02:00:5e:10:00:01:02"), None);
    }
}

//! The packet filters as text for `nft`: one ruleset for a slot's namespace, one table for the host.
//! Nothing is run here.
//!
//! Ranges for documentation (192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24) are not refused: they
//! lead nowhere on the internet, and laboratories use them as their public side. The host itself is
//! out of reach by the rules for its inputs, whatever its addresses are.

use colibri_guest_protocol::{
    AGENT_ADDRESS, AGENT_GATEWAY_ADDRESS, FORWARD_PORT, GATEWAY_ADDRESS, GUEST_ADDRESS, GUEST_MAC,
    METADATA_ADDRESS, METADATA_PORT,
};
use ipnet::Ipv4Net;

use crate::layout::UPLINK;
use crate::tap::TAP;
use crate::{Allow, Egress, Grant, Protocol};

/// What no guest reaches: RFC 6890's special-purpose ranges without those for documentation, and
/// multicast.
const REFUSED: [&str; 12] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// What nobody can be granted, whatever is declared: addresses that mean another host on every host, a
/// cloud's metadata service among them, and those that are no single host's.
const NEVER_GRANTED: [&str; 5] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// The part of [`NEVER_GRANTED`] that a range overlaps.
pub(crate) fn never_granted(range: &Ipv4Net) -> Option<Ipv4Net> {
    let never = NEVER_GRANTED.iter().filter_map(|text| text.parse().ok());
    never
        .into_iter()
        .find(|never: &Ipv4Net| never.contains(range) || range.contains(never))
}

/// What the operator adds to the rules.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Refused besides [`REFUSED`], to everybody.
    pub(crate) refused: Vec<Ipv4Net>,
    /// What may be granted though it is in [`REFUSED`].
    pub(crate) declared: Vec<Ipv4Net>,
    /// Connections to the outside per slot.
    pub(crate) flows: u32,
    /// Users that VMMs run under, the first and the last.
    pub(crate) vmm_users: (u32, u32),
}

fn set(name: &str, fixed: &[&str], more: &[Ipv4Net]) -> String {
    let more = more.iter().map(|range| range.trunc().to_string());
    let elements: Vec<String> = fixed
        .iter()
        .map(|text| (*text).to_owned())
        .chain(more)
        .collect();
    // nft takes no empty list.
    let elements = if elements.is_empty() {
        String::new()
    } else {
        format!("elements = {{ {} }};", elements.join(", "))
    };
    format!("set {name} {{ type ipv4_addr; flags interval; auto-merge; {elements} }}")
}

fn refused_set(limits: &Limits) -> String {
    set("refused", &REFUSED, &limits.refused)
}

fn never_set(limits: &Limits) -> String {
    set("never", &NEVER_GRANTED, &limits.refused)
}

/// The ruleset of a slot's namespace.
pub(crate) fn slot(egress: &Egress, limits: &Limits) -> String {
    let inet = match egress {
        Egress::Internet => internet(limits),
        Egress::Sealed => sealed(),
        Egress::Granted(grants) => granted(grants, limits),
    };
    format!(
        r#"
table netdev slot {{
    # Before anything else looks at a frame: only the guest's own addresses, and no IPv6.
    chain from_guest {{
        type filter hook ingress device "{TAP}" priority filter; policy drop;
        ether saddr != {GUEST_MAC} drop
        ether type arp arp saddr ip {{ {GUEST_ADDRESS}, {AGENT_ADDRESS} }} accept
        ip saddr {GUEST_ADDRESS} accept
        ip saddr {AGENT_ADDRESS} ip daddr {AGENT_GATEWAY_ADDRESS} tcp sport {FORWARD_PORT} accept
    }}
}}
{inet}"#
    )
}

/// What may come in to the slot itself; with DNS where there is a way out.
fn input(dns: bool) -> String {
    let dns = if dns {
        format!(
            "ip saddr {GUEST_ADDRESS} ip daddr {GATEWAY_ADDRESS} meta l4proto {{ tcp, udp }} th dport 53 accept"
        )
    } else {
        String::new()
    };
    format!(
        r#"
    chain input {{
        type filter hook input priority filter; policy drop;
        # A container build runs beside the guest's tap, and gets its answers here.
        iifname "lo" accept
        iifname "{UPLINK}" ct state established,related accept
        iifname != "{TAP}" drop
        ip saddr {GUEST_ADDRESS} ip daddr {GATEWAY_ADDRESS} icmp type echo-request limit rate 20/second accept
        meta l4proto icmp drop
        ct state established accept
        # A guest that asks more often waits for its next attempt; for anything else it is told at once.
        ip saddr {GUEST_ADDRESS} ip daddr {METADATA_ADDRESS} tcp dport {METADATA_PORT} limit rate 20/second burst 50 packets accept
        ip saddr {GUEST_ADDRESS} ip daddr {METADATA_ADDRESS} tcp dport {METADATA_PORT} drop
        ip saddr {GUEST_ADDRESS} ip daddr {METADATA_ADDRESS} reject with icmpx admin-prohibited
        {dns}
    }}
"#
    )
}

/// What processes in the slot itself send: a container build goes out as a guest does, and a VMM, which is
/// given its descriptors and opens no socket, not at all.
fn output(limits: &Limits) -> String {
    let (first, last) = limits.vmm_users;
    format!(
        r#"
    chain output {{
        type filter hook output priority filter; policy accept;
        meta skuid {first}-{last} drop
        oifname "{UPLINK}" jump out
    }}
"#
    )
}

fn masquerade() -> String {
    format!(
        r#"
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "{UPLINK}" masquerade
    }}
"#
    )
}

fn internet(limits: &Limits) -> String {
    format!(
        r#"
table inet slot {{
    {input}
    {refused}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        iifname "{UPLINK}" oifname "{TAP}" ct state established,related accept
        iifname "{TAP}" oifname "{UPLINK}" ip saddr {GUEST_ADDRESS} jump out
    }}
    {output}
    chain out {{
        # Said, not swallowed: a program that looks for a metadata service goes on at once.
        ip daddr @refused reject with icmpx admin-prohibited
        # A connection of another slot's, in a guest that was restored here: its owner is told.
        ct state new tcp flags & syn != syn reject with tcp reset
        ct state invalid drop
        tcp flags syn / syn,rst tcp option maxseg size set rt mtu
        ct state established,related accept
        ct count over {flows} reject with icmpx admin-prohibited
        meta l4proto {{ tcp, udp, icmp }} accept
    }}
    {masquerade}
}}
"#,
        input = input(true),
        output = output(limits),
        refused = refused_set(limits),
        flows = limits.flows,
        masquerade = masquerade(),
    )
}

fn sealed() -> String {
    format!(
        r"
table inet slot {{
    {input}
    chain forward {{ type filter hook forward priority filter; policy drop; }}
}}
",
        input = input(false)
    )
}

/// The table of a slot whose egress is granted, replacing an older one in the same transaction. Every packet
/// of a connection, either way, is held against what is granted now, by the address and port that the
/// connection was opened to: what is withdrawn stands still at once. What runs in the slot beside the guest
/// (a container build) is held to the same.
pub(crate) fn granted(grants: &[Grant], limits: &Limits) -> String {
    let allowed: String = grants
        .iter()
        .flat_map(|grant| &grant.allow)
        .flat_map(allow_rules)
        .map(|rule| format!("        {rule}\n"))
        .collect();
    format!(
        r#"
add table inet slot
delete table inet slot
table inet slot {{
    {input}
    {refused}
    {never}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        iifname "{UPLINK}" oifname "{TAP}" ct state established,related jump allowed
        iifname "{TAP}" oifname "{UPLINK}" ip saddr {GUEST_ADDRESS} jump out
    }}
    {output}
    chain out {{
        ip daddr @never reject with icmpx admin-prohibited
        ct state invalid drop
        tcp flags syn / syn,rst tcp option maxseg size set rt mtu
        ct state new ct count over {flows} reject with icmpx admin-prohibited
        jump allowed
        reject with icmpx admin-prohibited
    }}
    chain allowed {{
{allowed}    }}
    {masquerade}
}}
"#,
        input = input(true),
        output = output(limits),
        refused = refused_set(limits),
        never = never_set(limits),
        flows = limits.flows,
        masquerade = masquerade(),
    )
}

fn allow_rules(allow: &Allow) -> Vec<String> {
    let mut to = format!("ct original ip daddr {}", allow.to.trunc());
    if allow.internet_only {
        to.push_str(" ct original ip daddr != @refused");
    }
    let ports = match allow.ports {
        Some((first, last)) => format!("ct original proto-dst {first}-{last} "),
        None => String::new(),
    };
    let mut rules = Vec::new();
    match allow.protocol {
        Protocol::Any => rules.push(format!("{to} meta l4proto {{ tcp, udp, icmp }} accept")),
        Protocol::Icmp => rules.push(format!("{to} meta l4proto icmp accept")),
        Protocol::Tcp => rules.push(format!("{to} meta l4proto tcp {ports}accept")),
        Protocol::Udp => rules.push(format!("{to} meta l4proto udp {ports}accept")),
    }
    if matches!(allow.protocol, Protocol::Tcp | Protocol::Udp) {
        // What a router says of such a connection: the size of packets, above all.
        rules.push(format!("{to} ct state related meta l4proto icmp accept"));
    }
    rules
}

/// The daemon's table on the host, replacing an older one in the same transaction. It does not know what is
/// granted to whom: it keeps slots with granted egress to what may be granted at all, and all others from it.
///
/// An `accept` here ends only this table's say: a host whose own forward chain drops keeps dropping
/// (see [`crate::forwarding_obstacles`]).
pub(crate) fn host(
    table: &str,
    veth_prefix: &str,
    granted_prefix: &str,
    limits: &Limits,
) -> String {
    let (refused, never) = (refused_set(limits), never_set(limits));
    let declared = set("declared", &[], &limits.declared);
    format!(
        r#"
add table inet {table}
delete table inet {table}
table inet {table} {{
    {refused}
    {never}
    {declared}
    # Before any DNAT of the host's could turn one of its addresses into another.
    chain prerouting {{
        type filter hook prerouting priority mangle; policy accept;
        iifname "{veth_prefix}*" jump from_slot
    }}
    chain from_slot {{
        meta nfproto != ipv4 drop
        fib saddr . iif oif missing drop
        fib daddr type != unicast drop
        jump refuse
    }}
    chain refuse {{
        ip daddr @never drop
        iifname "{granted_prefix}*" ip daddr @declared return
        ip daddr @refused drop
    }}
    chain input {{
        type filter hook input priority filter - 5; policy accept;
        iifname "{veth_prefix}*" drop
    }}
    chain forward {{
        type filter hook forward priority filter - 5; policy accept;
        iifname "{veth_prefix}*" oifname "{veth_prefix}*" drop
        iifname "{veth_prefix}*" jump refuse
        iifname "{veth_prefix}*" tcp flags syn / syn,rst tcp option maxseg size set rt mtu
        oifname "{veth_prefix}*" ct state established,related accept
        oifname "{veth_prefix}*" drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        iifname "{veth_prefix}*" masquerade
    }}
}}
"#
    )
}

/// Removes the daemon's table, whether it is there or not.
pub(crate) fn without_host(table: &str) -> String {
    format!("add table inet {table}\ndelete table inet {table}\n")
}

#[cfg(test)]
mod tests {
    use super::{Limits, allow_rules, slot};
    use crate::{Allow, Egress, Protocol};

    fn limits() -> Limits {
        Limits {
            refused: vec![],
            declared: vec![],
            flows: 1,
            vmm_users: (900_000, 901_023),
        }
    }

    #[test]
    fn a_sealed_slot_has_no_way_out_and_no_dns() {
        let rules = slot(&Egress::Sealed, &limits());
        assert!(!rules.contains("dport 53") && !rules.contains("masquerade"));
    }

    #[test]
    fn an_operators_range_is_refused_too() {
        let limits = Limits {
            refused: vec!["203.0.113.9/28".parse().unwrap()],
            ..limits()
        };
        assert!(slot(&Egress::Internet, &limits).contains(", 203.0.113.0/28 }"));
        assert!(slot(&Egress::Granted(vec![]), &limits).contains(", 203.0.113.0/28 }"));
    }

    #[test]
    fn a_grant_is_told_by_where_a_connection_was_opened_to() {
        let allow = Allow {
            to: "10.1.2.3/16".parse().unwrap(),
            internet_only: false,
            protocol: Protocol::Tcp,
            ports: Some((5432, 5433)),
        };
        assert_eq!(
            allow_rules(&allow)[0],
            "ct original ip daddr 10.1.0.0/16 meta l4proto tcp ct original proto-dst 5432-5433 accept"
        );
    }
}

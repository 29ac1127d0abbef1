//! The packet filters as text for `nft`: one ruleset for a slot's namespace, one table for the host.
//! Nothing is run here.
//!
//! Ranges for documentation (192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24) are not refused: they
//! lead nowhere on the internet, and laboratories use them as their public side. The host itself is
//! out of reach by the rules for its inputs, whatever its addresses are.

use std::fmt::Write;

use colibri_guest_protocol::{
    AGENT_ADDRESS, AGENT_GATEWAY_ADDRESS, FORWARD_PORT, GATEWAY_ADDRESS, GUEST_ADDRESS, GUEST_MAC,
    METADATA_ADDRESS, METADATA_PORT,
};
use ipnet::Ipv4Net;

use crate::Egress;
use crate::layout::UPLINK;
use crate::tap::TAP;

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

/// What the operator adds to the rules.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Refused besides [`REFUSED`].
    pub(crate) refused: Vec<Ipv4Net>,
    /// Connections to the outside per slot.
    pub(crate) flows: u32,
}

fn refused_set(limits: &Limits) -> String {
    let mut elements = REFUSED.join(", ");
    for range in &limits.refused {
        let _ = write!(elements, ", {}", range.trunc());
    }
    format!(
        "set refused {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {elements} }}; }}"
    )
}

/// The ruleset of a slot's namespace.
pub(crate) fn slot(egress: Egress, limits: &Limits) -> String {
    let mut rules = format!(
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
table inet slot {{
    chain input {{
        type filter hook input priority filter; policy drop;
        iifname != "{TAP}" drop
        ip saddr {GUEST_ADDRESS} ip daddr {GATEWAY_ADDRESS} icmp type echo-request limit rate 20/second accept
        meta l4proto icmp drop
        ct state established accept
        # A guest that asks more often waits for its next attempt; for anything else it is told at once.
        ip saddr {GUEST_ADDRESS} ip daddr {METADATA_ADDRESS} tcp dport {METADATA_PORT} limit rate 20/second burst 50 packets accept
        ip saddr {GUEST_ADDRESS} ip daddr {METADATA_ADDRESS} tcp dport {METADATA_PORT} drop
        ip saddr {GUEST_ADDRESS} ip daddr {METADATA_ADDRESS} reject with icmpx admin-prohibited
"#
    );
    if egress == Egress::Internet {
        let _ = write!(
            rules,
            r#"
        ip saddr {GUEST_ADDRESS} ip daddr {GATEWAY_ADDRESS} meta l4proto {{ tcp, udp }} th dport 53 accept
    }}
    {refused}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        iifname "{UPLINK}" oifname "{TAP}" ct state established,related accept
        iifname "{TAP}" oifname "{UPLINK}" ip saddr {GUEST_ADDRESS} jump out
    }}
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
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "{UPLINK}" masquerade
    }}
}}
"#,
            refused = refused_set(limits),
            flows = limits.flows,
        );
    } else {
        rules.push_str(
            r"
    }
    chain forward { type filter hook forward priority filter; policy drop; }
}
",
        );
    }
    rules
}

/// The daemon's table on the host, replacing an older one in the same transaction.
///
/// An `accept` here ends only this table's say: a host whose own forward chain drops keeps dropping
/// (see [`crate::forwarding_obstacles`]).
pub(crate) fn host(table: &str, veth_prefix: &str, limits: &Limits) -> String {
    let refused = refused_set(limits);
    format!(
        r#"
add table inet {table}
delete table inet {table}
table inet {table} {{
    {refused}
    # Before any DNAT of the host's could turn one of its addresses into another.
    chain prerouting {{
        type filter hook prerouting priority mangle; policy accept;
        iifname "{veth_prefix}*" jump from_slot
    }}
    chain from_slot {{
        meta nfproto != ipv4 drop
        fib saddr . iif oif missing drop
        fib daddr type != unicast drop
        ip daddr @refused drop
    }}
    chain input {{
        type filter hook input priority filter - 5; policy accept;
        iifname "{veth_prefix}*" drop
    }}
    chain forward {{
        type filter hook forward priority filter - 5; policy accept;
        iifname "{veth_prefix}*" oifname "{veth_prefix}*" drop
        iifname "{veth_prefix}*" ip daddr @refused drop
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
    use super::{Limits, slot};
    use crate::Egress;

    #[test]
    fn a_sealed_slot_has_no_way_out_and_no_dns() {
        let rules = slot(
            Egress::Sealed,
            &Limits {
                refused: vec![],
                flows: 1,
            },
        );
        assert!(!rules.contains("dport 53") && !rules.contains("masquerade"));
    }

    #[test]
    fn an_operators_range_is_refused_too() {
        let limits = Limits {
            refused: vec!["203.0.113.9/28".parse().unwrap()],
            flows: 1,
        };
        assert!(slot(Egress::Internet, &limits).contains(", 203.0.113.0/28 }"));
    }
}

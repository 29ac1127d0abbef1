//! What a slot may reach where its egress is granted piece by piece: data, no I/O.

use std::collections::{BTreeSet, VecDeque};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// Names of withdrawn grants that are remembered, for slots that are made from what was known before. A
/// launch takes seconds and a build two hours at most; nobody withdraws this many meanwhile.
const REMEMBERED: usize = 65_536;

/// Leave to send, under a name by which it can be withdrawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Name, unique to who gave it and never used again once it was withdrawn.
    pub name: String,
    /// What it allows; nothing where this is empty.
    pub allow: Vec<Allow>,
}

/// One kind of traffic that is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allow {
    /// To these addresses.
    pub to: Ipv4Net,
    /// Only as far as they are the internet's: no private, special or link-local ones.
    pub internet_only: bool,
    /// By this protocol.
    pub protocol: Protocol,
    /// To these ports, first and last; to all where there are none. TCP and UDP only.
    pub ports: Option<(u16, u16)>,
}

/// A protocol that a grant allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP, UDP and ICMP.
    Any,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP.
    Icmp,
}

/// Names of grants that were withdrawn lately.
#[derive(Debug, Default)]
pub(crate) struct Withdrawn {
    order: VecDeque<String>,
    names: BTreeSet<String>,
}

impl Withdrawn {
    pub(crate) fn insert(&mut self, name: &str) {
        if self.names.insert(name.to_owned()) {
            self.order.push_back(name.to_owned());
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.names.remove(&oldest);
        }
    }

    /// What is left of these grants.
    pub(crate) fn rest(&self, grants: &[Grant]) -> Vec<Grant> {
        let kept = grants
            .iter()
            .filter(|grant| !self.names.contains(&grant.name));
        kept.cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Grant, Withdrawn};

    #[test]
    fn a_withdrawn_grant_is_left_out_whoever_still_asks_for_it() {
        let grant = |name: &str| Grant {
            name: name.into(),
            allow: Vec::new(),
        };
        let mut withdrawn = Withdrawn::default();
        withdrawn.insert("nc-1:1");
        withdrawn.insert("nc-1:1");
        assert_eq!(
            withdrawn.rest(&[grant("nc-1:1"), grant("nc-1:2")]),
            [grant("nc-1:2")]
        );
    }
}

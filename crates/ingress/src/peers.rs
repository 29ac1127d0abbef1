//! How many connections each client address has open: one address must not take the places of all others.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The account.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One open connection; given back when dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    peers: Arc<Peers>,
    address: IpAddr,
}

impl Peers {
    /// Counts a connection; `None` when the address has `most` of them. Loopback is not bounded: whoever
    /// connects from this host may be a proxy for everybody.
    pub(crate) fn admit(self: &Arc<Self>, peer: IpAddr, most: usize) -> Option<OpenConnection> {
        let address = of_one_owner(peer);
        let mut open = self.open();
        let count = open.entry(address).or_default();
        if *count >= most && !address.is_loopback() {
            return None;
        }
        *count += 1;
        Some(OpenConnection {
            peers: Arc::clone(self),
            address,
        })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Every change under this lock is a single step, so a panic leaves nothing half done.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut open = self.peers.open();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

/// What one owner has for certain: an IPv4 address, or a /64 of IPv6 (RFC 6177: a site gets no less).
fn of_one_owner(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => IpAddr::V6(Ipv6Addr::from_bits(
            address.to_bits() & !u128::from(u64::MAX),
        )),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Peers;

    #[test]
    fn an_address_has_its_share_and_no_more() {
        let peers = Arc::new(Peers::default());
        let admit = |address: &str| peers.admit(address.parse().unwrap(), 2);
        let first = admit("192.0.2.1");
        let second = admit("::ffff:192.0.2.1");
        assert!(first.is_some() && second.is_some() && admit("192.0.2.1").is_none());
        let other = admit("192.0.2.2");
        assert!(other.is_some());
        drop(first);
        assert!(admit("192.0.2.1").is_some());
        let network = (admit("2001:db8::1"), admit("2001:db8::2"));
        assert!(network.0.is_some() && network.1.is_some() && admit("2001:db8::3").is_none());
        let local: Vec<_> = (0..9).map(|_| admit("127.0.0.1")).collect();
        assert!(local.iter().all(Option::is_some));
        drop((second, other, network, local));
        assert!(peers.open().is_empty());
    }
}

//! Which addresses the links between host and slots have. Guests never see them; they only must not
//! collide with anything that the host routes, another daemon's links included.

use std::fs::File;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use rustix::fs::{FlockOperation, flock};
use serde::Deserialize;

use crate::NetworkError;
use crate::commands::Commands;
use crate::settings::{MAX_SLOTS, Names, NetworkSettings};

/// RFC 6598's shared address space, which no site numbers its own hosts from.
const SHARED_SPACE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10);
/// Length of an automatically chosen block's prefix: [`MAX_SLOTS`] links of four addresses.
const BLOCK_PREFIX: u8 = 20;
const _: () = assert!(1 << (32 - BLOCK_PREFIX as u32) == MAX_SLOTS * LINK_ADDRESSES);
const LINK_PREFIX: u8 = 30;
const LINK_ADDRESSES: u32 = 4;
/// Routes this wide are a default route by another name (a VPN's 0.0.0.0/1, say).
const WIDEST_SPECIFIC_ROUTE: u8 = 8;
/// Blocks in use by running daemons, each a locked file.
const CLAIMS: &str = "/run/colibri/address-blocks";

/// The addresses of all links, claimed for as long as this value lives.
#[derive(Debug)]
pub(crate) struct AddressBlock {
    block: Ipv4Net,
    _claim: File,
}

/// The two ends of one slot's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) host: Ipv4Net,
    pub(crate) slot: Ipv4Net,
}

/// One line of `ip -json route`.
#[derive(Debug, Deserialize)]
struct Route {
    dst: String,
    dev: Option<String>,
}

/// One interface of `ip -json addr`.
#[derive(Debug, Deserialize)]
struct Interface {
    ifname: Option<String>,
    #[serde(default)]
    addr_info: Vec<InterfaceAddress>,
}

#[derive(Debug, Deserialize)]
struct InterfaceAddress {
    local: Option<Ipv4Addr>,
}

impl AddressBlock {
    /// The configured block, or the one that this daemon's slots already have, or a free one.
    pub(crate) async fn choose(
        settings: &NetworkSettings,
        names: &Names,
        commands: &Commands,
    ) -> Result<Self, NetworkError> {
        let taken = routes_of_others(names, commands).await?;
        if let Some(block) = settings.address_block {
            return configured(block.trunc(), settings.slots, &taken);
        }
        let inherited = block_of_own_slots(names, commands).await?;
        for block in inherited.into_iter().chain(candidates(names.seed())) {
            if overlapped(block, &taken).is_none()
                && let Some(claim) = claim(block)?
            {
                return Ok(Self {
                    block,
                    _claim: claim,
                });
            }
        }
        let problem = format!(
            "is not given, and the host routes or other daemons use all of {SHARED_SPACE}; give a \
             free IPv4 block of at least {} addresses",
            settings.slots * LINK_ADDRESSES
        );
        Err(NetworkError::Setting {
            setting: "network.address_block",
            problem,
        })
    }

    /// The link of slot `index`.
    pub(crate) fn link(&self, index: u32) -> Link {
        link(self.block, index)
    }
}

/// A link for a probe: RFC 5737's addresses, which lead nowhere.
pub(crate) fn probe_link() -> Link {
    link(
        Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 252), LINK_PREFIX),
        0,
    )
}

fn link(block: Ipv4Net, index: u32) -> Link {
    let first = u32::from(block.network()) + index * LINK_ADDRESSES;
    let end = |offset| Ipv4Net::new_assert(Ipv4Addr::from(first + offset), LINK_PREFIX);
    Link {
        host: end(1),
        slot: end(2),
    }
}

fn configured(block: Ipv4Net, slots: u32, taken: &[Ipv4Net]) -> Result<AddressBlock, NetworkError> {
    let refuse = |problem| NetworkError::Setting {
        setting: "network.address_block",
        problem,
    };
    let addresses = 1_u64 << (32 - block.prefix_len());
    let needed = u64::from(slots) * u64::from(LINK_ADDRESSES);
    if addresses < needed {
        return Err(refuse(format!(
            "is {block}, too small: {slots} slots need {needed} addresses"
        )));
    }
    if let Some(route) = overlapped(block, taken) {
        return Err(refuse(format!(
            "is {block}, which overlaps the host's route to {route}; give a block that the host \
             does not route, or leave the setting out"
        )));
    }
    let claim = claim(block)?.ok_or_else(|| {
        refuse(format!(
            "is {block}, which another daemon on this host uses; give another one"
        ))
    })?;
    Ok(AddressBlock {
        block,
        _claim: claim,
    })
}

fn overlapped(block: Ipv4Net, taken: &[Ipv4Net]) -> Option<Ipv4Net> {
    taken
        .iter()
        .copied()
        .find(|route| route.contains(&block) || block.contains(route))
}

/// Every block of the shared space, beginning at one that differs between daemons.
fn candidates(seed: u32) -> impl Iterator<Item = Ipv4Net> {
    let count = 1_u32 << (BLOCK_PREFIX - SHARED_SPACE.prefix_len());
    let base = u32::from(SHARED_SPACE.network());
    (0..count).map(move |step| {
        let number = (seed % count + step) % count;
        Ipv4Net::new_assert(
            Ipv4Addr::from(base + (number << (32 - BLOCK_PREFIX))),
            BLOCK_PREFIX,
        )
    })
}

async fn routes_of_others(
    names: &Names,
    commands: &Commands,
) -> Result<Vec<Ipv4Net>, NetworkError> {
    let arguments = ["-4", "-json", "route", "show", "table", "all"];
    let routes: Vec<Route> = commands
        .ip_json(&arguments, "list the host's routes")
        .await?;
    let others = routes.iter().filter(|route| {
        route
            .dev
            .as_deref()
            .is_none_or(|device| names.index_of_veth(device).is_none())
    });
    Ok(others
        .filter_map(|route| destination(&route.dst))
        .filter(|route| route.prefix_len() >= WIDEST_SPECIFIC_ROUTE)
        .collect())
}

fn destination(text: &str) -> Option<Ipv4Net> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<Ipv4Addr>().ok().map(Ipv4Net::from))
}

async fn block_of_own_slots(
    names: &Names,
    commands: &Commands,
) -> Result<Option<Ipv4Net>, NetworkError> {
    let arguments = ["-4", "-json", "addr", "show"];
    let interfaces: Vec<Interface> = commands
        .ip_json(&arguments, "list the host's addresses")
        .await?;
    Ok(interfaces.iter().find_map(|interface| {
        let index = names.index_of_veth(interface.ifname.as_deref()?)?;
        let address = interface.addr_info.first()?.local?;
        let block = Ipv4Net::new(address, BLOCK_PREFIX).ok()?.trunc();
        // Not so when an earlier daemon had another block configured.
        (SHARED_SPACE.contains(&block) && link(block, index).host.addr() == address)
            .then_some(block)
    }))
}

/// `None` when another running daemon has it.
fn claim(block: Ipv4Net) -> Result<Option<File>, NetworkError> {
    let attempted = || format!("claim the address block {block} in {CLAIMS}");
    let failed = |source| NetworkError::Io {
        attempted: attempted(),
        source,
    };
    std::fs::create_dir_all(CLAIMS).map_err(failed)?;
    let path = format!("{CLAIMS}/{}", block.network());
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    let file = file.map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(failed(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::{candidates, configured, destination, link, overlapped};
    use ipnet::Ipv4Net;

    fn block(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn each_slot_has_a_link_of_its_own() {
        let of_three = link(block("100.64.16.0/20"), 3);
        assert_eq!(of_three.host, block("100.64.16.13/30"));
        assert_eq!(of_three.slot, block("100.64.16.14/30"));
    }

    #[test]
    fn a_block_that_the_host_routes_is_refused_by_the_settings_name() {
        let taken = [destination("100.64.0.7").unwrap()];
        let refused = configured(block("100.64.0.0/16"), 64, &taken)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("`network.address_block`") && refused.contains("100.64.0.7/32"));
    }

    #[test]
    fn a_block_too_small_for_the_slots_is_refused() {
        assert!(configured(block("100.64.0.0/24"), 65, &[]).is_err());
    }

    #[test]
    fn every_candidate_is_tried_once_wherever_the_search_begins() {
        let mut all: Vec<_> = candidates(0xffff_fff0).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 1024);
        assert!(
            all.iter()
                .all(|one| overlapped(*one, &[block("100.64.0.0/10")]).is_some())
        );
    }
}

//! Whether this host can make slots, found out by making what a slot consists of in a namespace that
//! is thrown away. Nothing on the host changes.

use std::sync::atomic::{AtomicU32, Ordering};

use serde::Deserialize;

use crate::commands::{Commands, Place};
use crate::layout::Outside;
use crate::rules::{self, Limits};
use crate::settings::Names;
use crate::tap::open_tap;
use crate::{NetworkError, address_block, layout};

/// Verifies that namespaces, taps, veths, the packet filter and NAT are usable.
///
/// # Errors
/// The first thing that is not, with what the kernel or the program said.
pub async fn probe() -> Result<(), NetworkError> {
    static PROBES: AtomicU32 = AtomicU32::new(0);
    if !rustix::process::geteuid().is_root() {
        return Err(NetworkError::Unprivileged);
    }
    let commands = Commands::find(crate::pool::start_visitor()?)?;
    // A directory that nobody has, so that the names are nobody's.
    let number = PROBES.fetch_add(1, Ordering::Relaxed);
    let names = Names::for_data_dir(format!("/probe/{}/{number}", std::process::id()).as_ref());
    let outcome = make_and_use(&commands, &names).await;
    let removed = layout::remove(&commands, &names, 0).await;
    outcome.and(removed)
}

async fn make_and_use(commands: &Commands, names: &Names) -> Result<(), NetworkError> {
    let limits = Limits {
        refused: Vec::new(),
        declared: Vec::new(),
        flows: 1,
        vmm_users: (1, 1),
    };
    // The link's addresses are documentation's, for the moment that it exists.
    let link = address_block::probe_link();
    let slot = layout::make(commands, names, &limits, 0, Outside::Internet(link)).await?;
    // The host's rules, where they concern nobody.
    let script = rules::host("probe", "probe", "probex", &limits);
    commands
        .nft(Place::Slot(&slot), script, "load the host's packet filter")
        .await?;
    let tap = commands.visitor().visit(&slot, open_tap).await;
    tap.map(drop).map_err(|source| NetworkError::Io {
        attempted: "open a tap through /dev/net/tun (`modprobe tun`)".to_owned(),
        source,
    })
}

#[derive(Debug, Deserialize)]
struct Listing {
    #[serde(default)]
    nftables: Vec<ListedObject>,
}

#[derive(Debug, Deserialize)]
struct ListedObject {
    chain: Option<ListedChain>,
}

#[derive(Debug, Deserialize)]
struct ListedChain {
    family: String,
    table: String,
    name: String,
    hook: Option<String>,
    policy: Option<String>,
}

/// Chains of other programs that drop forwarded packets unless told otherwise, as "family table
/// chain"; Docker's `ip filter FORWARD` is the usual one. While one is there, guests may lack the
/// internet until it accepts the interfaces `cb*`: with Docker,
/// `iptables -I DOCKER-USER -i cb+ -j ACCEPT` and the same with `-o`.
///
/// # Errors
/// When `nft` cannot be run.
pub async fn forwarding_obstacles() -> Result<Vec<String>, NetworkError> {
    obstacles_on_host(&Commands::find(crate::pool::start_visitor()?)?).await
}

/// See [`forwarding_obstacles`].
pub(crate) async fn obstacles_on_host(commands: &Commands) -> Result<Vec<String>, NetworkError> {
    let listing: Listing = commands
        .nft_json(&["-j", "list", "chains"], "list the host's packet filters")
        .await?;
    Ok(obstacles(listing))
}

fn obstacles(listing: Listing) -> Vec<String> {
    let chains = listing
        .nftables
        .into_iter()
        .filter_map(|object| object.chain);
    chains
        .filter(|chain| chain.hook.as_deref() == Some("forward"))
        .filter(|chain| chain.policy.as_deref() == Some("drop"))
        .map(|chain| format!("{} {} {}", chain.family, chain.table, chain.name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::obstacles;

    #[test]
    fn dockers_forward_chain_is_an_obstacle_and_an_accepting_one_is_not() {
        let listing = r#"{"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 1,
                       "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
            {"chain": {"family": "ip", "table": "filter", "name": "DOCKER", "handle": 2}},
            {"chain": {"family": "inet", "table": "mine", "name": "f", "handle": 1,
                       "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}}]}"#;
        let listing = serde_json::from_str(listing).unwrap();
        assert_eq!(obstacles(listing), ["ip filter FORWARD"]);
    }
}

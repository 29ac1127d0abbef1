//! Makes and removes what a slot consists of in the kernel: namespace, tap, link to the host,
//! addresses, rules. Which slot and when is not decided here.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use colibri_guest_protocol::{
    AGENT_ADDRESS, AGENT_GATEWAY_ADDRESS, GATEWAY_ADDRESS, GUEST_ADDRESS, GUEST_MAC, LINK_PREFIX,
    METADATA_ADDRESS, TAP_MAC,
};

use crate::address_block::Link;
use crate::commands::{Commands, Place};
use crate::rules::{self, Limits};
use crate::settings::Names;
use crate::tap::TAP;
use crate::{Egress, NetworkError, namespace, processes};

/// The slot's end of its link to the host.
pub(crate) const UPLINK: &str = "uplink";

/// A slot's end to the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outside {
    /// There is none.
    None,
    /// The internet.
    Internet(Link),
    /// What is granted; nothing yet.
    Granted(Link),
}

impl Outside {
    fn link(self) -> Option<Link> {
        match self {
            Self::None => None,
            Self::Internet(link) | Self::Granted(link) => Some(link),
        }
    }

    fn egress(self) -> Egress {
        match self {
            Self::None => Egress::Sealed,
            Self::Internet(_) => Egress::Internet,
            Self::Granted(_) => Egress::Granted(Vec::new()),
        }
    }
}

/// Makes slot `index`.
pub(crate) async fn make(
    commands: &Commands,
    names: &Names,
    limits: &Limits,
    index: u32,
    outside: Outside,
) -> Result<Arc<OwnedFd>, NetworkError> {
    let attempted = |what: &str| format!("{what} of network slot {index}");

    let script = host_script(names, index, outside);
    commands
        .ip(Place::Host, script, &attempted("make the namespace"))
        .await?;
    let slot = open(names, index)?;

    commands
        .visitor()
        .visit(&slot, move || set_kernel_parameters(outside))
        .await
        .map_err(|source| NetworkError::Io {
            attempted: attempted("set up the kernel"),
            source,
        })?;
    let script = slot_script(outside.link());
    commands
        .ip(Place::Slot(&slot), script, &attempted("make the tap"))
        .await?;
    let script = rules::slot(&outside.egress(), limits);
    commands
        .nft(
            Place::Slot(&slot),
            script,
            &attempted("load the packet filter"),
        )
        .await?;
    Ok(slot)
}

/// Opens the namespace of slot `index`.
pub(crate) fn open(names: &Names, index: u32) -> Result<Arc<OwnedFd>, NetworkError> {
    let path = names.namespace_path(index);
    namespace::open(&path)
        .map(Arc::new)
        .map_err(|source| NetworkError::Io {
            attempted: format!("open the namespace {}", path.display()),
            source,
        })
}

/// Removes whatever is there of slot `index`, and ends what still runs in it.
pub(crate) async fn remove(
    commands: &Commands,
    names: &Names,
    index: u32,
) -> Result<(), NetworkError> {
    let path = names.namespace_path(index);
    if path.exists() {
        let inside = path.clone();
        tokio::task::spawn_blocking(move || processes::end_processes_in(&inside))
            .await
            .unwrap_or_else(|error| Err(error.into()))
            .map_err(|source| NetworkError::Io {
                attempted: format!("end what still runs in network slot {index}"),
                source,
            })?;
    }
    let mut script = String::new();
    for veth in [names.veth(index), names.granted_veth(index)] {
        if interface_exists(&veth) {
            // First and by name: the namespace's own end comes later, when its last user lets go.
            script.push_str(&format!("link del dev {veth}\n"));
        }
    }
    if path.exists() {
        script.push_str(&format!("netns del {}\n", names.namespace(index)));
    }
    if script.is_empty() {
        return Ok(());
    }
    commands
        .ip(Place::Host, script, &format!("remove network slot {index}"))
        .await
}

/// Whether the host has an interface of this name.
pub(crate) fn interface_exists(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

fn host_script(names: &Names, index: u32, outside: Outside) -> String {
    let namespace = names.namespace(index);
    let veth = match outside {
        Outside::Granted(_) => names.granted_veth(index),
        Outside::Internet(_) | Outside::None => names.veth(index),
    };
    let mut script = format!("netns add {namespace}\n");
    if let Some(Link { host, .. }) = outside.link() {
        script.push_str(&format!(
            "link add name {veth} type veth peer name {UPLINK} netns {namespace}\n\
             link set dev {veth} addrgenmode none\n\
             addr add {host} dev {veth}\n\
             link set dev {veth} up\n"
        ));
    }
    script
}

fn slot_script(link: Option<Link>) -> String {
    // Neighbours are permanent: nobody asks for an address, before the first packet to a restored
    // guest or ever.
    let mut script = format!(
        "link set dev lo up\n\
         tuntap add dev {TAP} mode tap vnet_hdr\n\
         link set dev {TAP} address {TAP_MAC} addrgenmode none\n\
         addr add {GATEWAY_ADDRESS}/{LINK_PREFIX} dev {TAP}\n\
         addr add {AGENT_GATEWAY_ADDRESS}/{LINK_PREFIX} dev {TAP}\n\
         addr add {METADATA_ADDRESS}/32 dev {TAP}\n\
         link set dev {TAP} up\n\
         neigh replace {GUEST_ADDRESS} lladdr {GUEST_MAC} dev {TAP} nud permanent\n\
         neigh replace {AGENT_ADDRESS} lladdr {GUEST_MAC} dev {TAP} nud permanent\n"
    );
    if let Some(Link { host, slot }) = link {
        script.push_str(&format!(
            "addr add {slot} dev {UPLINK}\n\
             link set dev {UPLINK} up\n\
             route add default via {}\n",
            host.addr()
        ));
    }
    script
}

/// Runs on a thread inside the slot: `/proc/sys/net` shows the namespace of whoever opens it.
fn set_kernel_parameters(outside: Outside) -> io::Result<()> {
    let set = |name: &str, value: &str| std::fs::write(format!("/proc/sys/net/{name}"), value);
    // Guests get no IPv6 until it has a design of its own. A kernel without it lacks the file.
    for scope in ["all", "default"] {
        match set(&format!("ipv6/conf/{scope}/disable_ipv6"), "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    // The guest is told of the gateway's own addresses only, not of the link behind it.
    set("ipv4/conf/all/arp_ignore", "1")?;
    if outside.link().is_some() {
        set("ipv4/ip_forward", "1")?;
    }
    Ok(())
}

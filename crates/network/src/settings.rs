//! What an operator can set about slots, and the names that follow from the data directory. No I/O
//! but resolving that directory's path.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;

use crate::{NetworkError, rules};

/// Slots by default.
const DEFAULT_SLOTS: u32 = 128;
/// Most slots that a daemon has: what an automatically chosen address block holds.
pub(crate) const MAX_SLOTS: u32 = 1024;
/// 128 slots of this many flows are the usual `nf_conntrack_max` of 262,144: guests alone cannot fill
/// the host's table.
const DEFAULT_FLOWS_PER_SLOT: u32 = 2048;

/// Settings of a [`crate::SlotPool`].
#[derive(Debug, Clone)]
pub struct NetworkSettings {
    /// The daemon's data directory: two daemons on one host are told apart by it.
    pub data_dir: PathBuf,
    /// `network.slots`: how many guests can have a network at once, 1 to 1024; 128 by default.
    pub slots: u32,
    /// `network.spare_slots`: how many slots with internet egress wait ready; 2 by default.
    pub spare_slots: u32,
    /// `network.address_block`: where the links between host and slots take their addresses, four
    /// each. By default a /20 of 100.64.0.0/10 that no route of the host overlaps.
    pub address_block: Option<Ipv4Net>,
    /// `network.base_uid`: the VMM of slot n runs under this user id plus n; 900,000 by default.
    pub base_uid: u32,
    /// `network.dns_upstreams`: where guests' DNS queries go. By default the name servers of the
    /// host's `/etc/resolv.conf`, read again when it changes; a loopback stub is fine.
    pub dns_upstreams: Vec<SocketAddr>,
    /// `network.refused_ranges`: addresses that no guest may reach, besides the private and special
    /// ranges; for hosts whose own networks have public addresses.
    pub refused_ranges: Vec<Ipv4Net>,
    /// Ranges that a grant may lead to though they are private, the operator's own declaration. A slot reaches
    /// of them what it is granted; no other slot reaches any.
    pub declared_ranges: Vec<Ipv4Net>,
    /// `network.flows_per_slot`: connections that one guest may have open to the outside; 2048 by
    /// default.
    pub flows_per_slot: u32,
}

impl NetworkSettings {
    /// The defaults for a daemon on `data_dir`.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            slots: DEFAULT_SLOTS,
            spare_slots: 2,
            address_block: None,
            base_uid: 900_000,
            dns_upstreams: Vec::new(),
            refused_ranges: Vec::new(),
            declared_ranges: Vec::new(),
            flows_per_slot: DEFAULT_FLOWS_PER_SLOT,
        }
    }

    pub(crate) fn check(&self) -> Result<(), NetworkError> {
        if !(1..=MAX_SLOTS).contains(&self.slots) {
            let problem = format!("is {}; give 1 to {MAX_SLOTS}", self.slots);
            return Err(NetworkError::Setting {
                setting: "network.slots",
                problem,
            });
        }
        if self.flows_per_slot == 0 {
            let problem = "is 0; give at least 1, or use sealed egress".to_owned();
            return Err(NetworkError::Setting {
                setting: "network.flows_per_slot",
                problem,
            });
        }
        for range in &self.declared_ranges {
            if let Some(never) = rules::never_granted(range) {
                let problem = format!(
                    "reach {range}, which overlaps {never}, whose addresses mean another host on every host \
                     or no single one; leave it out, and for the internet say `internet = true`"
                );
                return Err(NetworkError::Setting {
                    setting: "vpc.subnets",
                    problem,
                });
            }
        }
        if self.base_uid == 0 || self.base_uid.checked_add(MAX_SLOTS).is_none() {
            let problem = format!("is {}; give a range of ids that nobody has", self.base_uid);
            return Err(NetworkError::Setting {
                setting: "network.base_uid",
                problem,
            });
        }
        Ok(())
    }
}

/// The names of everything that a daemon makes on the host.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    mark: String,
}

impl Names {
    /// Names for the daemon on `data_dir`: the same after every restart, and other ones for every
    /// other directory.
    pub(crate) fn for_data_dir(data_dir: &Path) -> Self {
        let resolved = std::fs::canonicalize(data_dir)
            .or_else(|_| std::path::absolute(data_dir))
            .unwrap_or_else(|_| data_dir.to_path_buf());
        let hash = blake3::hash(resolved.as_os_str().as_encoded_bytes());
        // Eight digits: with four for the slot an interface name just keeps to the kernel's 15.
        Self {
            mark: hash.to_hex()[..8].to_owned(),
        }
    }

    /// A number that differs between data directories.
    pub(crate) fn seed(&self) -> u32 {
        u32::from_str_radix(&self.mark, 16).unwrap_or_default()
    }

    pub(crate) fn namespace(&self, index: u32) -> String {
        format!("colibri-{}-{index}", self.mark)
    }

    pub(crate) fn namespace_path(&self, index: u32) -> PathBuf {
        Path::new(crate::namespace::NAMESPACES).join(self.namespace(index))
    }

    pub(crate) fn veth(&self, index: u32) -> String {
        format!("{}{index}", self.veth_prefix())
    }

    pub(crate) fn veth_prefix(&self) -> String {
        format!("cb{}v", self.mark)
    }

    /// The link of a slot whose egress is granted, which the host's rules tell by its name. The number is
    /// hexadecimal: decimal, the name would be too long for the kernel.
    pub(crate) fn granted_veth(&self, index: u32) -> String {
        format!("{}{index:x}", self.granted_veth_prefix())
    }

    pub(crate) fn granted_veth_prefix(&self) -> String {
        format!("{}x", self.veth_prefix())
    }

    pub(crate) fn table(&self) -> String {
        format!("colibri_{}", self.mark)
    }

    pub(crate) fn index_of_namespace(&self, name: &str) -> Option<u32> {
        name.strip_prefix(&format!("colibri-{}-", self.mark))?
            .parse()
            .ok()
    }

    pub(crate) fn index_of_veth(&self, name: &str) -> Option<u32> {
        let number = name.strip_prefix(&self.veth_prefix())?;
        match number.strip_prefix('x') {
            Some(number) => u32::from_str_radix(number, 16).ok(),
            None => number.parse().ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_SLOTS, Names, NetworkSettings};
    use std::path::Path;

    #[test]
    fn an_interface_name_fits_the_kernel() {
        let names = Names::for_data_dir(Path::new("/"));
        assert!(names.veth(MAX_SLOTS - 1).len() <= 15);
        assert!(names.granted_veth(MAX_SLOTS - 1).len() <= 15);
    }

    #[test]
    fn names_differ_by_data_directory_and_lead_back_to_the_slot() {
        let (one, other) = (
            Names::for_data_dir(Path::new("/a/one")),
            Names::for_data_dir(Path::new("/a/other")),
        );
        assert_ne!(one.veth_prefix(), other.veth_prefix());
        assert_eq!(one.index_of_veth(&one.veth(17)), Some(17));
        assert_eq!(one.index_of_veth(&one.granted_veth(17)), Some(17));
        assert_eq!(one.index_of_namespace(&one.namespace(17)), Some(17));
        assert_eq!(one.index_of_namespace(&other.namespace(17)), None);
    }

    #[test]
    fn what_nobody_can_be_granted_is_refused_as_a_declaration() {
        for range in [
            "0.0.0.0/0",
            "169.254.169.254/32",
            "127.0.0.1/32",
            "239.1.0.0/16",
        ] {
            let mut settings = NetworkSettings::new("/x");
            settings.declared_ranges = vec![range.parse().unwrap()];
            let refusal = settings.check().unwrap_err().to_string();
            assert!(refusal.contains("vpc.subnets") && refusal.contains(range));
        }
        let mut settings = NetworkSettings::new("/x");
        settings.declared_ranges = vec!["10.0.0.0/8".parse().unwrap()];
        assert!(settings.check().is_ok());
    }

    #[test]
    fn a_setting_out_of_bounds_is_named() {
        let settings = NetworkSettings {
            slots: 0,
            ..NetworkSettings::new("/x")
        };
        assert!(
            settings
                .check()
                .unwrap_err()
                .to_string()
                .contains("network.slots")
        );
    }
}

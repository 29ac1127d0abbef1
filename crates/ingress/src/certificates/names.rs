//! The names that the endpoints' certificate is for: as settings give them, as a certificate holds
//! them, as clients check them, as the authority is bound to them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rcgen::{GeneralSubtree, NameConstraints, SanType};
use rustls::pki_types::{CertificateDer, ServerName};
use x509_parser::extensions::GeneralName;

use super::CertificatesError;
use crate::settings::{Domain, is_dns_label};

/// The names that the certificate is for, sorted.
pub(super) struct Names {
    pub(super) domain: String,
    pub(super) dns: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl Names {
    pub(super) fn new(domain: &Domain, extra: &[String]) -> Result<Self, CertificatesError> {
        let mut dns = vec![
            format!("*.{domain}"),
            domain.to_string(),
            "localhost".to_owned(),
        ];
        let mut addresses = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        for name in extra {
            let name = name.to_ascii_lowercase();
            if let Ok(address) = name.parse() {
                addresses.push(address);
            } else if name
                .strip_prefix("*.")
                .unwrap_or(&name)
                .split('.')
                .all(is_dns_label)
            {
                dns.push(name);
            } else {
                return Err(CertificatesError::Name { name });
            }
        }
        dns.sort_unstable();
        dns.dedup();
        addresses.sort_unstable();
        addresses.dedup();
        Ok(Self {
            domain: domain.to_string(),
            dns,
            addresses,
        })
    }

    /// What the certificate is to be valid for, each as a client would check it.
    pub(super) fn as_checked(&self) -> impl Iterator<Item = Option<ServerName<'static>>> {
        let dns = self.dns.iter().map(|name| {
            // A wildcard stands for any first label.
            let concrete = name.strip_prefix("*.").map(|rest| format!("any.{rest}"));
            ServerName::try_from(concrete.unwrap_or_else(|| name.clone())).ok()
        });
        let addresses = self
            .addresses
            .iter()
            .map(|&address| Some(ServerName::IpAddress(address.into())));
        dns.chain(addresses)
    }

    pub(super) fn subject_alt_names(&self) -> Result<Vec<SanType>, CertificatesError> {
        let dns = self.dns.iter().map(|name| {
            let name = name
                .as_str()
                .try_into()
                .map_err(CertificatesError::Generate)?;
            Ok(SanType::DnsName(name))
        });
        let addresses = self
            .addresses
            .iter()
            .map(|&address| Ok(SanType::IpAddress(address)));
        dns.chain(addresses).collect()
    }

    /// The host names that the authority may vouch for. Not the addresses: BoringSSL, and gRPC with
    /// it, refuses every certificate under an authority with constraints on addresses
    /// ("unsupported name constraint type", seen with grpcio 1.85).
    pub(super) fn constraints(&self) -> NameConstraints {
        let mut domains: Vec<_> = self
            .dns
            .iter()
            .map(|name| name.strip_prefix("*.").unwrap_or(name).to_owned())
            .collect();
        domains.sort_unstable();
        domains.dedup();
        NameConstraints {
            permitted_subtrees: domains.into_iter().map(GeneralSubtree::DnsName).collect(),
            excluded_subtrees: Vec::new(),
        }
    }

    /// Whether the certificate names these and nothing else.
    pub(super) fn are_those_of(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
            return false;
        };
        let Ok(Some(names)) = parsed.subject_alternative_name() else {
            return false;
        };
        let mut dns = Vec::new();
        let mut addresses = Vec::new();
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                GeneralName::IPAddress(octets) => addresses.extend(address_of(octets)),
                _ => return false,
            }
        }
        dns.sort_unstable();
        addresses.sort_unstable();
        dns == self.dns && addresses == self.addresses
    }
}

fn address_of(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
        .ok()
}

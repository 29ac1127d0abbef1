//! `[vpc]`: the subnets and security groups that network connectors may name, from the file to what the
//! control plane knows.

use std::collections::BTreeMap;

use colibri_control::{SecurityGroup, SecurityRule, Subnet, Vpc};
use colibri_network::Protocol;
use ipnet::Ipv4Net;
use serde::Deserialize;

use crate::settings::SettingsError;

/// `[vpc]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct VpcSection {
    /// Most network connectors; 1000 by default.
    pub(crate) max_connectors: Option<usize>,
    /// Most versions of one; 100 by default.
    pub(crate) max_connector_versions: Option<usize>,
    subnets: Vec<SubnetEntry>,
    security_groups: Vec<SecurityGroupEntry>,
}

/// `[[vpc.subnets]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SubnetEntry {
    id: String,
    #[serde(default)]
    reach: Vec<String>,
    #[serde(default)]
    internet: bool,
}

/// `[[vpc.security_groups]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SecurityGroupEntry {
    id: String,
    #[serde(default)]
    egress: Vec<RuleEntry>,
}

/// A rule; what it leaves out is not narrowed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleEntry {
    cidr: Option<String>,
    #[serde(default)]
    protocol: ProtocolName,
    ports: Option<Ports>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ProtocolName {
    #[default]
    Any,
    Tcp,
    Udp,
    Icmp,
}

/// `443`, or `"8000-8100"`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Ports {
    One(u16),
    Range(String),
}

impl VpcSection {
    /// What the section declares.
    pub(crate) fn declared(&self) -> Result<Vpc, SettingsError> {
        let mut vpc = Vpc::default();
        for entry in &self.subnets {
            let refuse = |problem: String| refused("vpc.subnets", &entry.id, &problem);
            check_id(&entry.id, "subnet-", u8::is_ascii_lowercase).map_err(refuse)?;
            let reach = entry.reach.iter().map(|text| network(text));
            let subnet = Subnet {
                reach: reach.collect::<Result<_, _>>().map_err(refuse)?,
                internet: entry.internet,
            };
            insert(&mut vpc.subnets, &entry.id, subnet).map_err(refuse)?;
        }
        for entry in &self.security_groups {
            let refuse = |problem: String| refused("vpc.security_groups", &entry.id, &problem);
            check_id(&entry.id, "sg-", u8::is_ascii_alphabetic).map_err(refuse)?;
            let egress = entry.egress.iter().map(rule);
            let group = SecurityGroup {
                egress: egress.collect::<Result<_, _>>().map_err(refuse)?,
            };
            insert(&mut vpc.security_groups, &entry.id, group).map_err(refuse)?;
        }
        Ok(vpc)
    }
}

fn refused(setting: &'static str, id: &str, problem: &str) -> SettingsError {
    SettingsError::Refused {
        setting,
        problem: format!("{id}: {problem}"),
    }
}

/// The API's own forms: a connector could not name another.
fn check_id(id: &str, prefix: &str, is_letter: fn(&u8) -> bool) -> Result<(), String> {
    let rest = id.strip_prefix(prefix).unwrap_or_default();
    let plain = rest
        .bytes()
        .all(|byte| is_letter(&byte) || byte.is_ascii_digit());
    if plain && !rest.is_empty() {
        return Ok(());
    }
    Err(format!(
        "an id is `{prefix}` and letters or digits, such as {prefix}0a1b2c"
    ))
}

fn insert<T>(all: &mut BTreeMap<String, T>, id: &str, one: T) -> Result<(), String> {
    match all.insert(id.to_owned(), one) {
        None => Ok(()),
        Some(_) => Err("it is declared twice".to_owned()),
    }
}

fn network(text: &str) -> Result<Ipv4Net, String> {
    text.parse()
        .map(|network: Ipv4Net| network.trunc())
        .map_err(|_| format!("`{text}` is no IPv4 network; give one such as 10.1.0.0/16"))
}

fn rule(entry: &RuleEntry) -> Result<SecurityRule, String> {
    let to = entry
        .cidr
        .as_deref()
        .map_or(Ok(Ipv4Net::default()), network)?;
    let ports = entry.ports.as_ref().map(ports).transpose()?;
    let protocol = match entry.protocol {
        ProtocolName::Any => Protocol::Any,
        ProtocolName::Tcp => Protocol::Tcp,
        ProtocolName::Udp => Protocol::Udp,
        ProtocolName::Icmp => Protocol::Icmp,
    };
    if ports.is_some() && !matches!(protocol, Protocol::Tcp | Protocol::Udp) {
        return Err("a rule with ports names its protocol, `tcp` or `udp`".to_owned());
    }
    Ok(SecurityRule {
        to,
        protocol,
        ports,
    })
}

fn ports(entry: &Ports) -> Result<(u16, u16), String> {
    let text = match entry {
        Ports::One(port) => return Ok((*port, *port)),
        Ports::Range(text) => text,
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let read = |text: &str| text.trim().parse::<u16>().ok();
    match (read(first), read(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err(format!(
            "`{text}` names no ports; give one such as 443, or a range such as \"8000-8100\""
        )),
    }
}

#[cfg(test)]
mod tests {
    use colibri_network::Protocol;

    use super::VpcSection;

    fn declared(text: &str) -> Result<colibri_control::Vpc, String> {
        let section: VpcSection = toml::from_str(text).map_err(|error| error.to_string())?;
        section.declared().map_err(|error| error.to_string())
    }

    #[test]
    fn subnets_and_security_groups_are_read() {
        let vpc = declared(
            r#"
            [[subnets]]
            id = "subnet-office"
            reach = ["10.1.0.9/16"]
            [[subnets]]
            id = "subnet-2"
            internet = true
            [[security_groups]]
            id = "sg-Database"
            egress = [{ cidr = "10.1.7.0/24", protocol = "tcp", ports = 5432 },
                      { protocol = "udp", ports = "8000-8100" }, {}]
            "#,
        )
        .unwrap();
        assert_eq!(
            vpc.subnets["subnet-office"].reach,
            ["10.1.0.0/16".parse().unwrap()]
        );
        assert!(vpc.subnets["subnet-2"].internet);
        let rules = &vpc.security_groups["sg-Database"].egress;
        assert_eq!(rules[0].ports, Some((5432, 5432)));
        assert_eq!(
            (rules[1].protocol, rules[1].ports),
            (Protocol::Udp, Some((8000, 8100)))
        );
        assert_eq!((rules[2].protocol, rules[2].ports), (Protocol::Any, None));
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (text, problem) in [
            ("[[subnets]]\nid = \"office\"", "subnet-"),
            ("[[subnets]]\nid = \"subnet-1\"\nreach = [\"10.1\"]", "10.1"),
            (
                "[[subnets]]\nid = \"subnet-1\"\n[[subnets]]\nid = \"subnet-1\"",
                "twice",
            ),
            (
                "[[security_groups]]\nid = \"sg-1\"\negress = [{ ports = 1 }]",
                "protocol",
            ),
            (
                "[[security_groups]]\nid = \"sg-1\"\negress = [{ protocol = \"tcp\", ports = \"9-8\" }]",
                "9-8",
            ),
            ("[[subnets]]\nid = \"subnet-1\"\nreaches = []", "reaches"),
        ] {
            let refusal = declared(text).unwrap_err();
            assert!(refusal.contains(problem), "{refusal}");
        }
    }
}

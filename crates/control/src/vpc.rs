//! The operator's subnets and security groups, and what a connector of some of them lets through. Pure: no
//! I/O.
//!
//! A packet passes where one of the connector's subnets reaches its destination **and** one of its security
//! groups allows it; a connector without a security group has none to narrow what its subnets reach, as with
//! a VPC's default group.

use std::collections::BTreeMap;

use colibri_network::{Allow, Protocol};
use colibri_store::Reason;
use colibri_wire::shape::connector::{ElasticIpType, ReasonCode, VpcEgressConfiguration};
use ipnet::Ipv4Net;

use crate::documents;

/// What the operator declares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vpc {
    /// By id.
    pub subnets: BTreeMap<String, Subnet>,
    /// By id.
    pub security_groups: BTreeMap<String, SecurityGroup>,
}

/// A subnet: what a MicroVM that is connected to it reaches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subnet {
    /// Networks of the operator's own, private ones included.
    pub reach: Vec<Ipv4Net>,
    /// The internet, as far as it is not private or special.
    pub internet: bool,
}

/// A security group: what it allows outwards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecurityGroup {
    /// Its rules; what none of them allows is refused.
    pub egress: Vec<SecurityRule>,
}

/// One rule of a security group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecurityRule {
    /// Destinations.
    pub to: Ipv4Net,
    /// Protocol.
    pub protocol: Protocol,
    /// Ports, first and last; all of them where there are none.
    pub ports: Option<(u16, u16)>,
}

/// A destination that a subnet reaches.
#[derive(Clone, Copy)]
struct Way {
    to: Ipv4Net,
    internet_only: bool,
}

impl Vpc {
    /// Every network that some subnet reaches beside the internet.
    pub fn declared_ranges(&self) -> Vec<Ipv4Net> {
        let reach = self.subnets.values().flat_map(|subnet| &subnet.reach);
        reach.copied().collect()
    }

    /// What a connector lets through.
    ///
    /// # Errors
    /// The reason for which there can be no such connector: a subnet or a group is not declared.
    pub(crate) fn allowed(
        &self,
        configuration: &VpcEgressConfiguration,
    ) -> Result<Vec<Allow>, Reason> {
        let ways = self.ways(configuration)?;
        let rules = self.rules(configuration)?;
        let allowed = ways
            .iter()
            .flat_map(|way| rules.iter().filter_map(|rule| allow(*way, *rule)));
        Ok(allowed.collect())
    }

    fn ways(&self, configuration: &VpcEgressConfiguration) -> Result<Vec<Way>, Reason> {
        let mut ways = Vec::new();
        for id in configuration.subnet_ids.iter().flatten() {
            let subnet = self.subnets.get(id).ok_or_else(|| {
                reason(
                    ReasonCode::InvalidSubnet,
                    format!("The subnet {id} is not declared in this server's configuration."),
                )
            })?;
            ways.extend(subnet.reach.iter().map(|to| Way {
                to: *to,
                internet_only: false,
            }));
            ways.extend(subnet.internet.then(|| Way {
                to: Ipv4Net::default(),
                internet_only: true,
            }));
        }
        let wants_address = configuration
            .elastic_ip_configuration
            .is_some_and(|elastic| elastic.kind == ElasticIpType::ServiceManaged);
        if wants_address && !ways.iter().any(|way| way.internet_only) {
            return Err(reason(
                ReasonCode::InternetGatewayNotAttached,
                "None of the subnets reaches the internet.".to_owned(),
            ));
        }
        Ok(ways)
    }

    fn rules(&self, configuration: &VpcEgressConfiguration) -> Result<Vec<SecurityRule>, Reason> {
        let ids = configuration
            .security_group_ids
            .as_deref()
            .unwrap_or_default();
        if ids.is_empty() {
            return Ok(vec![SecurityRule {
                to: Ipv4Net::default(),
                protocol: Protocol::Any,
                ports: None,
            }]);
        }
        let mut rules = Vec::new();
        for id in ids {
            let group = self.security_groups.get(id).ok_or_else(|| {
                reason(
                    ReasonCode::InvalidSecurityGroup,
                    format!(
                        "The security group {id} is not declared in this server's configuration."
                    ),
                )
            })?;
            rules.extend(&group.egress);
        }
        Ok(rules)
    }
}

fn reason(code: ReasonCode, text: String) -> Reason {
    let code = documents::write(&code);
    Reason {
        code: code.as_str().unwrap_or_default().to_owned(),
        text,
    }
}

/// What passes both: two networks either lie in one another or apart.
fn allow(way: Way, rule: SecurityRule) -> Option<Allow> {
    let to = if way.to.contains(&rule.to) {
        rule.to
    } else if rule.to.contains(&way.to) {
        way.to
    } else {
        return None;
    };
    Some(Allow {
        to,
        internet_only: way.internet_only,
        protocol: rule.protocol,
        ports: rule.ports,
    })
}

#[cfg(test)]
mod tests {
    use super::{SecurityGroup, SecurityRule, Subnet, Vpc};
    use colibri_network::{Allow, Protocol};
    use colibri_wire::shape::connector::VpcEgressConfiguration;
    use serde_json::{Value, json};

    fn vpc() -> Vpc {
        let office = Subnet {
            reach: vec!["10.1.0.0/16".parse().unwrap()],
            internet: false,
        };
        let open = Subnet {
            reach: vec![],
            internet: true,
        };
        let rule = |to: &str, protocol, ports| SecurityRule {
            to: to.parse().unwrap(),
            protocol,
            ports,
        };
        let database = SecurityGroup {
            egress: vec![
                rule("10.1.7.0/24", Protocol::Tcp, Some((5432, 5432))),
                rule("192.168.0.0/16", Protocol::Any, None),
            ],
        };
        let web = SecurityGroup {
            egress: vec![rule("0.0.0.0/0", Protocol::Tcp, Some((443, 443)))],
        };
        Vpc {
            subnets: [("subnet-1".into(), office), ("subnet-2".into(), open)].into(),
            security_groups: [("sg-1".into(), database), ("sg-2".into(), web)].into(),
        }
    }

    fn allowed(configuration: Value) -> Result<Vec<Allow>, String> {
        let configuration: VpcEgressConfiguration = serde_json::from_value(configuration).unwrap();
        vpc().allowed(&configuration).map_err(|reason| reason.code)
    }

    fn allow(
        to: &str,
        internet_only: bool,
        protocol: Protocol,
        ports: Option<(u16, u16)>,
    ) -> Allow {
        Allow {
            to: to.parse().unwrap(),
            internet_only,
            protocol,
            ports,
        }
    }

    #[test]
    fn what_a_subnet_reaches_and_a_group_allows_passes_and_nothing_else() {
        let both = json!({ "SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1", "sg-2"] });
        assert_eq!(
            allowed(both),
            Ok(vec![
                allow("10.1.7.0/24", false, Protocol::Tcp, Some((5432, 5432))),
                allow("10.1.0.0/16", false, Protocol::Tcp, Some((443, 443))),
            ])
        );
        let outwards = json!({ "SubnetIds": ["subnet-2"], "SecurityGroupIds": ["sg-2"] });
        assert_eq!(
            allowed(outwards),
            Ok(vec![allow(
                "0.0.0.0/0",
                true,
                Protocol::Tcp,
                Some((443, 443))
            )])
        );
    }

    #[test]
    fn without_a_group_everything_that_the_subnets_reach_passes() {
        assert_eq!(
            allowed(json!({ "SubnetIds": ["subnet-1", "subnet-2"] })),
            Ok(vec![
                allow("10.1.0.0/16", false, Protocol::Any, None),
                allow("0.0.0.0/0", true, Protocol::Any, None),
            ])
        );
    }

    #[test]
    fn what_is_not_declared_has_its_code() {
        let refused = |members: Value| allowed(members).unwrap_err();
        assert_eq!(
            refused(json!({ "SubnetIds": ["subnet-9"] })),
            "InvalidSubnet"
        );
        assert_eq!(
            refused(json!({ "SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-9"] })),
            "InvalidSecurityGroup"
        );
        let elastic = json!({
            "SubnetIds": ["subnet-1"], "ElasticIpConfiguration": { "Type": "ServiceManaged" }
        });
        assert_eq!(refused(elastic), "InternetGatewayNotAttached");
    }
}

//! Ports that a token opens.

use serde::{Deserialize, Serialize};

use crate::shape::common::Unit;

/// One entry of a token's ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PortSpecification {
    /// One port.
    Port(u16),
    /// Ports from one to another, both included.
    Range(PortRange),
    /// Every port.
    AllPorts(Unit),
}

/// Ports from one to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortRange {
    /// First port.
    pub start_port: u16,
    /// Last port.
    pub end_port: u16,
}

impl PortSpecification {
    /// Whether it holds `port`. No specification holds port 0.
    #[must_use]
    pub fn allows(self, port: u16) -> bool {
        port != 0
            && match self {
                Self::Port(only) => port == only,
                Self::Range(range) => (range.start_port..=range.end_port).contains(&port),
                Self::AllPorts(Unit {}) => true,
            }
    }
}

/// The ports that a token opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AllowedPorts(Vec<PortSpecification>);

impl AllowedPorts {
    /// The ports of these entries, in any order, overlapping or not.
    #[must_use]
    pub fn new(specifications: Vec<PortSpecification>) -> Self {
        Self(specifications)
    }

    /// Whether any entry holds `port`.
    #[must_use]
    pub fn allows(&self, port: u16) -> bool {
        self.0
            .iter()
            .any(|specification| specification.allows(port))
    }

    /// The entries.
    #[must_use]
    pub fn specifications(&self) -> &[PortSpecification] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::AllowedPorts;

    #[test]
    fn a_token_opens_the_ports_of_its_entries_and_no_other() {
        let text = r#"[{"port":80},{"range":{"startPort":3000,"endPort":3002}}]"#;
        let ports: AllowedPorts = serde_json::from_str(text).expect("ports");
        let open: Vec<u16> = (0..=u16::MAX).filter(|port| ports.allows(*port)).collect();
        assert_eq!(open, [80, 3000, 3001, 3002]);
        assert_eq!(serde_json::to_string(&ports).expect("JSON"), text);
        let all: AllowedPorts = serde_json::from_str(r#"[{"allPorts":{}}]"#).expect("ports");
        assert!(all.allows(1) && all.allows(u16::MAX) && !all.allows(0));
    }
}

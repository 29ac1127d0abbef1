//! The ports of a guest that a token opens.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Ports from `first` to `last`, both included, neither 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The range, or `None` when `first` is 0 or above `last`.
    #[must_use]
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first != 0 && first <= last).then_some(Self { first, last })
    }

    /// The lowest port.
    #[must_use]
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    #[must_use]
    pub fn last(self) -> u16 {
        self.last
    }
}

/// The ports that a token opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedPorts {
    /// Every port.
    All,
    /// These, sorted, apart from each other.
    Ranges(Vec<PortRange>),
}

impl AllowedPorts {
    /// The union of some ranges.
    #[must_use]
    pub fn ranges(ranges: impl IntoIterator<Item = PortRange>) -> Self {
        let mut sorted: Vec<_> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut apart: Vec<PortRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match apart.last_mut() {
                Some(last) if range.first <= last.last.saturating_add(1) => {
                    last.last = last.last.max(range.last);
                }
                _ => apart.push(range),
            }
        }
        Self::Ranges(apart)
    }

    /// Whether the port is among them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        match self {
            Self::All => port != 0,
            Self::Ranges(ranges) => ranges
                .iter()
                .any(|range| (range.first..=range.last).contains(&port)),
        }
    }
}

/// In a token: `"all"`, or `[[80,80],[3000,3999]]`.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum InToken {
    Word(All),
    Ranges(Vec<(u16, u16)>),
}

#[derive(Serialize, Deserialize)]
enum All {
    #[serde(rename = "all")]
    All,
}

impl Serialize for AllowedPorts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => InToken::Word(All::All),
            Self::Ranges(ranges) => InToken::Ranges(
                ranges
                    .iter()
                    .map(|range| (range.first, range.last))
                    .collect(),
            ),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for AllowedPorts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match InToken::deserialize(deserializer)? {
            InToken::Word(All::All) => Ok(Self::All),
            InToken::Ranges(pairs) => pairs
                .into_iter()
                .map(|(first, last)| PortRange::new(first, last))
                .collect::<Option<Vec<_>>>()
                .map(Self::ranges)
                .ok_or_else(|| serde::de::Error::custom("not a range of ports")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u16, last: u16) -> PortRange {
        PortRange::new(first, last).unwrap()
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let ports = AllowedPorts::ranges([range(90, 99), range(80, 80), range(81, 92)]);
        assert_eq!(ports, AllowedPorts::Ranges(vec![range(80, 99)]));
    }

    #[test]
    fn a_port_is_allowed_when_a_range_holds_it() {
        let ports = AllowedPorts::ranges([range(80, 80), range(3000, 65535)]);
        for (port, allowed) in [
            (79, false),
            (80, true),
            (81, false),
            (3000, true),
            (65535, true),
        ] {
            assert_eq!(ports.contains(port), allowed, "{port}");
        }
        assert!(AllowedPorts::All.contains(1));
        assert!(!AllowedPorts::All.contains(0));
        assert!(!AllowedPorts::ranges([]).contains(80));
    }

    #[test]
    fn an_empty_or_backward_range_is_none() {
        assert_eq!(PortRange::new(0, 10), None);
        assert_eq!(PortRange::new(10, 9), None);
    }

    #[test]
    fn ports_read_back_as_written() {
        for ports in [
            AllowedPorts::All,
            AllowedPorts::ranges([range(1, 2), range(9, 9)]),
        ] {
            let text = serde_json::to_string(&ports).unwrap();
            assert_eq!(serde_json::from_str::<AllowedPorts>(&text).unwrap(), ports);
        }
        assert!(serde_json::from_str::<AllowedPorts>("[[5,4]]").is_err());
        assert!(serde_json::from_str::<AllowedPorts>("\"none\"").is_err());
    }
}

//! ARNs of network connectors: the managed ones and an account's own.

use std::fmt;

use uuid::{Builder, Uuid};

use super::arn;
use super::place::{Account, PARTITION, Place, Region};

/// Why a text names no connector; `Display` is what the service answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAConnector {
    /// Not an ARN of a connector.
    #[error("Malformed network connector ARN")]
    Malformed,
    /// A managed connector that does not exist.
    #[error("Unrecognized managed network connector ARN: {0}")]
    Unrecognized(String),
}

/// Connectors that the service itself offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ManagedConnector {
    /// Inbound HTTP, the default.
    HttpIngress,
    /// Inbound, every port.
    AllIngress,
    /// Inbound to the interactive shell.
    ShellIngress,
    /// Nothing inbound.
    NoIngress,
    /// Outbound to the internet, the default.
    InternetEgress,
}

impl ManagedConnector {
    const ALL: [Self; 5] = [
        Self::HttpIngress,
        Self::AllIngress,
        Self::ShellIngress,
        Self::NoIngress,
        Self::InternetEgress,
    ];

    /// Name in the ARN.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HttpIngress => "HTTP_INGRESS",
            Self::AllIngress => "ALL_INGRESS",
            Self::ShellIngress => "SHELL_INGRESS",
            Self::NoIngress => "NO_INGRESS",
            Self::InternetEgress => "INTERNET_EGRESS",
        }
    }

    /// Whether it is for inbound traffic.
    #[must_use]
    pub fn is_ingress(self) -> bool {
        self != Self::InternetEgress
    }
}

/// ARN of a connector.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConnectorArn {
    /// One that the service offers.
    Managed {
        /// Region.
        region: Region,
        /// Which one.
        connector: ManagedConnector,
    },
    /// An account's own, for outbound traffic.
    Own {
        /// Region.
        region: Region,
        /// Account.
        account: Account,
        /// Id or name.
        id: String,
        /// Version, where one is named.
        version: Option<u32>,
    },
}

/// Prefix of a connector's id, before its UUID.
const ID_PREFIX: &str = "nc-";

/// The id of a new connector, of random bytes.
#[must_use]
pub fn connector_id(random: [u8; 16]) -> String {
    format!(
        "{ID_PREFIX}{}",
        Builder::from_random_bytes(random).into_uuid()
    )
}

/// Whether a text has the form of a connector's id.
#[must_use]
pub fn is_connector_id(text: &str) -> bool {
    text.strip_prefix(ID_PREFIX)
        .is_some_and(|uuid| uuid.len() == 36 && Uuid::try_parse(uuid).is_ok())
}

/// Longest ARN of a connector (the model's `NetworkConnectorIdentifier`).
const MAX_ARN_LENGTH: usize = 140;

impl ConnectorArn {
    /// ARN of a managed connector.
    #[must_use]
    pub fn managed(region: Region, connector: ManagedConnector) -> Self {
        Self::Managed { region, connector }
    }

    /// ARN of an account's own connector, or of one version of it.
    #[must_use]
    pub fn own(place: &Place, id: impl Into<String>, version: Option<u32>) -> Self {
        let Place { region, account } = place.clone();
        Self::Own {
            region,
            account,
            id: id.into(),
            version,
        }
    }

    /// Reads an ARN.
    ///
    /// # Errors
    /// [`NotAConnector`] for anything else, bare names included.
    pub fn parse(text: &str) -> Result<Self, NotAConnector> {
        let fields = arn::split(text).map_err(|_| NotAConnector::Malformed)?;
        if fields.service != "lambda"
            || fields.partition != PARTITION
            || text.len() > MAX_ARN_LENGTH
        {
            return Err(NotAConnector::Malformed);
        }
        let region = Region::parse(fields.region).map_err(|_| NotAConnector::Malformed)?;
        let resource = fields
            .resource
            .strip_prefix("network-connector:")
            .ok_or(NotAConnector::Malformed)?;
        if fields.account == "aws" {
            let known = resource
                .strip_prefix("aws-network-connector:")
                .and_then(|name| {
                    ManagedConnector::ALL
                        .into_iter()
                        .find(|connector| connector.name() == name)
                });
            let connector = known.ok_or_else(|| NotAConnector::Unrecognized(text.to_owned()))?;
            return Ok(Self::Managed { region, connector });
        }
        let account = Account::parse(fields.account).map_err(|_| NotAConnector::Malformed)?;
        let (id, version) = own_id(resource).ok_or(NotAConnector::Malformed)?;
        Ok(Self::Own {
            region,
            account,
            id: id.to_owned(),
            version,
        })
    }

    /// The managed connector that it names, if it names one.
    #[must_use]
    pub fn as_managed(&self) -> Option<ManagedConnector> {
        match self {
            Self::Managed { connector, .. } => Some(*connector),
            Self::Own { .. } => None,
        }
    }

    /// Whether it is for inbound traffic; an account's own connectors are all outbound.
    #[must_use]
    pub fn is_ingress(&self) -> bool {
        self.as_managed().is_some_and(ManagedConnector::is_ingress)
    }
}

fn own_id(resource: &str) -> Option<(&str, Option<u32>)> {
    let (id, version) = match resource.split_once(':') {
        Some((id, version)) => (id, Some(version)),
        None => (resource, None),
    };
    let plain = id
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if id.is_empty() || !plain {
        return None;
    }
    let Some(version) = version else {
        return Some((id, None));
    };
    let canonical = version
        .parse::<u32>()
        .ok()
        .filter(|number| *number > 0 && number.to_string() == version)?;
    Some((id, Some(canonical)))
}

impl fmt::Display for ConnectorArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Managed { region, connector } => write!(
                f,
                "arn:{PARTITION}:lambda:{region}:aws:network-connector:aws-network-connector:{}",
                connector.name()
            ),
            Self::Own {
                region,
                account,
                id,
                version,
            } => {
                write!(
                    f,
                    "arn:{PARTITION}:lambda:{region}:{account}:network-connector:{id}"
                )?;
                version.map_or(Ok(()), |version| write!(f, ":{version}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ConnectorArn, ManagedConnector, NotAConnector};

    #[test]
    fn managed_and_own_arns_survive_reading_and_writing() {
        for text in [
            "arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:INTERNET_EGRESS",
            "arn:aws:lambda:us-east-1:000000000000:network-connector:nc-1",
            "arn:aws:lambda:us-east-1:000000000000:network-connector:nc-1:3",
        ] {
            assert_eq!(ConnectorArn::parse(text).expect(text).to_string(), text);
        }
        let shell =
            "arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:SHELL_INGRESS";
        let shell = ConnectorArn::parse(shell).expect("a connector");
        assert_eq!(shell.as_managed(), Some(ManagedConnector::ShellIngress));
        assert!(shell.is_ingress());
    }

    #[test]
    fn bare_names_and_unknown_connectors_are_refused_in_the_services_words() {
        for text in [
            "INTERNET_EGRESS",
            "arn:aws:lambda:us-east-1:000000000000:network-connector:nc-1:0",
        ] {
            let refusal = ConnectorArn::parse(text).expect_err(text);
            assert_eq!(refusal.to_string(), "Malformed network connector ARN");
        }
        let text = "arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:NO_EGRESS";
        assert_eq!(
            ConnectorArn::parse(text),
            Err(NotAConnector::Unrecognized(text.to_owned()))
        );
    }
}

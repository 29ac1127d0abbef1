//! Id of a MicroVM, and the forms in which a request may name one.

use std::fmt;

use uuid::{Builder, Uuid, Version};

use super::arn;
use super::place::{PARTITION, Place};

const PREFIX: &str = "microvm-";

/// A text that names no MicroVM: none can have such an id, so it is not found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not the id of a MicroVM")]
pub struct NotAMicrovm(pub String);

/// `microvm-` and a lower-case UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MicrovmId(Uuid);

impl MicrovmId {
    /// The id out of 128 random bits. It says that it is a UUID of version 3, as the service's ids do.
    #[must_use]
    pub fn from_random(bits: [u8; 16]) -> Self {
        let named = Builder::from_random_bytes(bits).with_version(Version::Md5);
        Self(named.into_uuid())
    }

    /// Reads an id.
    ///
    /// # Errors
    /// [`NotAMicrovm`] for anything but the exact form.
    pub fn parse(text: &str) -> Result<Self, NotAMicrovm> {
        let uuid = text
            .strip_prefix(PREFIX)
            .and_then(|rest| Uuid::try_parse(rest).ok());
        // The UUID's other spellings (no hyphens, braces, upper case) name nothing here.
        uuid.map(Self)
            .filter(|id| id.to_string() == text)
            .ok_or_else(|| NotAMicrovm(text.to_owned()))
    }

    /// Reads what a request names a MicroVM by: its id, or its ARN in this place.
    ///
    /// # Errors
    /// [`NotAMicrovm`] for anything else, an ARN of another region or account included.
    pub fn parse_identifier(text: &str, place: &Place) -> Result<Self, NotAMicrovm> {
        let Ok(fields) = arn::split(text) else {
            return Self::parse(text);
        };
        let here = fields.partition == PARTITION
            && fields.service == "lambda"
            && fields.region == place.region.as_str()
            && fields.account == place.account.as_str();
        fields
            .resource
            .strip_prefix("microvm:")
            .filter(|_| here)
            .and_then(|id| Self::parse(id).ok())
            .ok_or_else(|| NotAMicrovm(text.to_owned()))
    }

    /// Its ARN.
    #[must_use]
    pub fn arn(&self, place: &Place) -> String {
        let Place { region, account } = place;
        format!("arn:{PARTITION}:lambda:{region}:{account}:microvm:{self}")
    }
}

impl fmt::Display for MicrovmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.0.as_hyphenated())
    }
}

#[cfg(test)]
mod tests {
    use super::MicrovmId;
    use crate::id::place::{Account, Place, Region};

    #[test]
    fn an_id_is_read_in_its_exact_form_only() {
        let id = MicrovmId::from_random([7; 16]);
        let text = id.to_string();
        assert_eq!(text.len(), 44);
        assert_eq!(text.as_bytes()["microvm-01234567-0123-".len()], b'3');
        assert_eq!(MicrovmId::parse(&text), Ok(id));
        for other in [
            text.to_uppercase(),
            text.replace("microvm-", ""),
            text.replacen('-', "", 2),
            text + " ",
        ] {
            assert!(MicrovmId::parse(&other).is_err(), "{other}");
        }
    }

    #[test]
    fn an_arn_names_a_microvm_of_its_own_region_and_account_only() {
        let account = Account::parse("000000000000").expect("an account");
        let place = Place {
            region: Region::parse("us-east-1").expect("a region"),
            account,
        };
        let id = MicrovmId::from_random([1; 16]);
        let arn = id.arn(&place);
        assert_eq!(MicrovmId::parse_identifier(&arn, &place), Ok(id));
        assert_eq!(MicrovmId::parse_identifier(&id.to_string(), &place), Ok(id));
        let elsewhere = Place {
            region: Region::parse("eu-west-1").expect("a region"),
            ..place
        };
        assert!(MicrovmId::parse_identifier(&arn, &elsewhere).is_err());
    }
}

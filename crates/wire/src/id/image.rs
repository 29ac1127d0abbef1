//! Names and ARNs of images, the account's own and the managed ones.

use std::fmt;

use super::arn::{self, MalformedArn};
use super::place::{Account, PARTITION, Place, Region, is_partition};

/// Account field of managed images and connectors.
const MANAGED: &str = "aws";

/// Why a text is no image's ARN; `Display` is what `RunMicrovm` answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnImage {
    /// Not an ARN at all.
    #[error(transparent)]
    Malformed(#[from] MalformedArn),
    /// An ARN of something else.
    #[error("Invalid ARN format: {0}")]
    OtherKind(String),
}

/// Name of an image: 1 to 64 letters, digits, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageName(String);

impl ImageName {
    /// Reads a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        (plain && (1..=64).contains(&text.len())).then(|| Self(text.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whose an image is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ImageOwner {
    /// An account.
    Account(Account),
    /// The service itself: a base image.
    Managed,
}

/// ARN of an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageArn {
    partition: String,
    region: Region,
    owner: ImageOwner,
    name: ImageName,
}

impl ImageArn {
    /// ARN of an account's image.
    #[must_use]
    pub fn own(place: &Place, name: ImageName) -> Self {
        let Place { region, account } = place.clone();
        Self {
            partition: PARTITION.to_owned(),
            region,
            owner: ImageOwner::Account(account),
            name,
        }
    }

    /// ARN of a managed image.
    #[must_use]
    pub fn managed(region: Region, name: ImageName) -> Self {
        Self {
            partition: PARTITION.to_owned(),
            region,
            owner: ImageOwner::Managed,
            name,
        }
    }

    /// Reads an ARN without a version.
    ///
    /// # Errors
    /// [`NotAnImage`] for anything else, bare names included.
    pub fn parse(text: &str) -> Result<Self, NotAnImage> {
        let fields = arn::split(text)?;
        let other_kind = || NotAnImage::OtherKind(text.to_owned());
        if fields.service != "lambda" || !is_partition(fields.partition) {
            return Err(other_kind());
        }
        let owner = match fields.account {
            MANAGED => ImageOwner::Managed,
            account => ImageOwner::Account(Account::parse(account).map_err(|_| other_kind())?),
        };
        let name = fields
            .resource
            .strip_prefix("microvm-image:")
            .and_then(ImageName::parse);
        Ok(Self {
            partition: fields.partition.to_owned(),
            region: Region::parse(fields.region).map_err(|_| other_kind())?,
            owner,
            name: name.ok_or_else(other_kind)?,
        })
    }

    /// Region.
    #[must_use]
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Whose it is.
    #[must_use]
    pub fn owner(&self) -> &ImageOwner {
        &self.owner
    }

    /// Name.
    #[must_use]
    pub fn name(&self) -> &ImageName {
        &self.name
    }

    /// Whether it is an image of this place's own account.
    #[must_use]
    pub fn is_of(&self, place: &Place) -> bool {
        self.partition == PARTITION
            && self.region == place.region
            && matches!(&self.owner, ImageOwner::Account(owner) if *owner == place.account)
    }

    /// Whether it is a managed image of this region.
    #[must_use]
    pub fn is_managed_in(&self, region: &Region) -> bool {
        self.partition == PARTITION && self.region == *region && self.owner == ImageOwner::Managed
    }
}

impl fmt::Display for ImageArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let account = match &self.owner {
            ImageOwner::Account(account) => account.as_str(),
            ImageOwner::Managed => MANAGED,
        };
        write!(
            f,
            "arn:{}:lambda:{}:{account}:microvm-image:{}",
            self.partition, self.region, self.name
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{ImageArn, ImageName};
    use crate::id::place::{Account, Place, Region};

    #[test]
    fn own_and_managed_arns_survive_reading_and_writing() {
        for text in [
            "arn:aws:lambda:us-east-1:000000000000:microvm-image:my_app-1",
            "arn:aws:lambda:us-east-1:aws:microvm-image:al2023-1",
            "arn:aws-cn:lambda:cn-north-1:123456789012:microvm-image:a",
        ] {
            assert_eq!(ImageArn::parse(text).expect(text).to_string(), text);
        }
        let region = Region::parse("us-east-1").expect("a region");
        let account = Account::parse("000000000000").expect("an account");
        let name = ImageName::parse("a").expect("a name");
        let place = Place {
            region: region.clone(),
            account,
        };
        assert!(ImageArn::own(&place, name.clone()).is_of(&place));
        assert!(ImageArn::managed(region.clone(), name).is_managed_in(&region));
    }

    #[test]
    fn a_refused_arn_says_why_in_the_services_words() {
        let refusal = |text| ImageArn::parse(text).expect_err(text).to_string();
        assert_eq!(
            refusal("my-app"),
            "Malformed ARN - doesn't start with 'arn:'"
        );
        assert_eq!(
            refusal("arn:aws:lambda"),
            "Malformed ARN - no service specified"
        );
        for text in [
            "arn:aws:s3:::bucket",
            "arn:aws:lambda:us-east-1:000000000000:microvm-image:a:1.0",
            "arn:aws:lambda:us-east-1:000000000000:microvm-image:../../etc",
            "arn:aws:lambda:us-east-1:000000000000:microvm-image/a",
            "arn:aws:lambda:us-east-1:0000:microvm-image:a",
            "arn:aws:lambda::000000000000:microvm-image:a",
        ] {
            assert_eq!(refusal(text), format!("Invalid ARN format: {text}"));
        }
    }
}

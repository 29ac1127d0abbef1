//! Versions of images. The account's own are written `N.0` and may be given as `N`; those of managed
//! images are listed and given as `N` and echoed as `N.0`.

use std::fmt;

/// A text that is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a version")]
pub struct NotAVersion(pub String);

/// Version of an image: a major number, the minor one being 0 always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageVersion(u32);

impl ImageVersion {
    /// The first version of every image.
    pub const FIRST: Self = Self(1);

    /// The version of a major number.
    #[must_use]
    pub fn of_major(major: u32) -> Self {
        Self(major)
    }

    /// Reads `N.0` or its alias `N`.
    ///
    /// # Errors
    /// [`NotAVersion`] for anything else.
    pub fn parse(text: &str) -> Result<Self, NotAVersion> {
        number(text.strip_suffix(".0").unwrap_or(text))
            .filter(|major| *major > 0)
            .map(Self)
            .ok_or_else(|| NotAVersion(text.to_owned()))
    }

    /// The major number.
    #[must_use]
    pub fn major(self) -> u32 {
        self.0
    }

    /// The version after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for ImageVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.0", self.0)
    }
}

/// Version of a managed base image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BaseImageVersion(u32);

impl BaseImageVersion {
    /// The version of a number.
    #[must_use]
    pub fn of_number(number: u32) -> Self {
        Self(number)
    }

    /// Reads `N`. The dotted form, in which the service echoes it, is refused as the service does.
    ///
    /// # Errors
    /// [`NotAVersion`] for anything else.
    pub fn parse(text: &str) -> Result<Self, NotAVersion> {
        number(text)
            .map(Self)
            .ok_or_else(|| NotAVersion(text.to_owned()))
    }

    /// Reads the form in which it is echoed, `N.0`.
    #[must_use]
    pub fn parse_echoed(text: &str) -> Option<Self> {
        number(text.strip_suffix(".0")?).map(Self)
    }

    /// The number, as lists show it.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for BaseImageVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.0", self.0)
    }
}

/// A number without sign and leading zeros.
fn number(text: &str) -> Option<u32> {
    text.parse::<u32>()
        .ok()
        .filter(|number| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::{BaseImageVersion, ImageVersion};

    #[test]
    fn a_bare_major_number_is_an_alias_of_its_version() {
        assert_eq!(ImageVersion::parse("3"), ImageVersion::parse("3.0"));
        assert_eq!(
            ImageVersion::parse("3").map(|version| version.to_string()),
            Ok("3.0".to_owned())
        );
        for text in [
            "0",
            "0.0",
            "1.1",
            "01",
            "+1",
            "1.0.0",
            "",
            ".0",
            "$LATEST",
            "4294967296",
        ] {
            assert!(ImageVersion::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_base_version_is_given_bare_and_echoed_dotted() {
        assert_eq!(
            BaseImageVersion::parse("0").map(|version| version.to_string()),
            Ok("0.0".to_owned())
        );
        assert!(BaseImageVersion::parse("1.0").is_err());
        let echoed = BaseImageVersion::of_number(7).to_string();
        assert_eq!(
            BaseImageVersion::parse_echoed(&echoed),
            Some(BaseImageVersion::of_number(7))
        );
        assert_eq!(BaseImageVersion::parse_echoed("7"), None);
    }
}

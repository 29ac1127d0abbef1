//! Names of log groups and streams, as CloudWatch Logs takes them, and the file names that they become.

use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Longest name, in characters. CloudWatch Logs API: `logGroupName`, `logStreamName`.
const LONGEST: usize = 512;

/// Why a text is no name of a group or stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, or too long.
    #[error("the name of a log {kind} has from 1 to {LONGEST} characters and not {length}")]
    Length {
        /// `group` or `stream`.
        kind: &'static str,
        /// Characters that it has.
        length: usize,
    },
    /// A character that is not allowed.
    #[error("the name of a log {kind} must not contain {character:?}; allowed is {allowed}")]
    Character {
        /// `group` or `stream`.
        kind: &'static str,
        /// The first one.
        character: char,
        /// What is.
        allowed: &'static str,
    },
}

/// Name of a log group: letters, digits and `_-/.#`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupName(String);

/// Name of a log stream: anything but `:` and `*`. Control characters are refused, too: a name goes
/// into terminals and log lines.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StreamName(String);

impl GroupName {
    /// # Errors
    /// When the text is too long or has another character.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let allowed =
            |character: char| character.is_ascii_alphanumeric() || "_-/.#".contains(character);
        check("group", text, allowed, "a-z A-Z 0-9 _ - / . #")?;
        Ok(Self(text.to_owned()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl StreamName {
    /// # Errors
    /// When the text is too long or has a character that is not allowed.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let allowed = |character: char| !matches!(character, ':' | '*') && !character.is_control();
        check(
            "stream",
            text,
            allowed,
            "everything but : * and control characters",
        )?;
        Ok(Self(text.to_owned()))
    }

    /// The stream of a MicroVM: `YYYY/MM/DD[<image version>]<MicroVM id>`, with the UTC day on which
    /// it started.
    ///
    /// # Errors
    /// When the version or the id has a character that is not allowed.
    pub fn of_microvm(
        started: OffsetDateTime,
        image_version: &str,
        microvm_id: &str,
    ) -> Result<Self, NameError> {
        let day = started.to_offset(time::UtcOffset::UTC).date();
        let (year, month, date) = (day.year(), u8::from(day.month()), day.day());
        Self::parse(&format!(
            "{year:04}/{month:02}/{date:02}[{image_version}]{microvm_id}"
        ))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(
    kind: &'static str,
    text: &str,
    allowed: impl Fn(char) -> bool,
    listed: &'static str,
) -> Result<(), NameError> {
    let length = text.chars().count();
    if !(1..=LONGEST).contains(&length) {
        return Err(NameError::Length { kind, length });
    }
    match text.chars().find(|character| !allowed(*character)) {
        Some(character) => Err(NameError::Character {
            kind,
            character,
            allowed: listed,
        }),
        None => Ok(()),
    }
}

/// The file name for a name: something to read, cut and harmless, and a hash that makes it unique. The
/// name itself stands in a file inside.
pub(crate) fn file_name(name: &str) -> String {
    let readable: String = name
        .chars()
        .take(80)
        .map(|character| {
            if character.is_ascii_alphanumeric() {
                character
            } else {
                '_'
            }
        })
        .collect();
    let hash = blake3::hash(name.as_bytes()).to_hex();
    format!("{readable}-{}", &hash[..32])
}

macro_rules! text_conversions {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
text_conversions!(GroupName);
text_conversions!(StreamName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_takes_the_characters_of_cloudwatch_and_no_other() {
        assert!(GroupName::parse("/aws/lambda-microvms/my_image.v1#2").is_ok());
        for bad in ["", "a b", "a:b", "ä", "a\0", &"a".repeat(513)] {
            assert!(GroupName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_stream_takes_everything_but_colons_stars_and_control_characters() {
        assert!(StreamName::parse("2026/01/31[1.0]microvm-é").is_ok());
        assert!(StreamName::parse(&"é".repeat(512)).is_ok());
        for bad in ["", "a:b", "a*", "a\nb", &"é".repeat(513)] {
            assert!(StreamName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_stream_of_a_microvm_has_the_utc_day_of_its_start() {
        let started = time::macros::datetime!(2026-03-01 01:30 +02:00);
        let name = StreamName::of_microvm(started, "2.1", "microvm-1").unwrap();
        assert_eq!(name.as_str(), "2026/02/28[2.1]microvm-1");
    }

    #[test]
    fn hostile_names_become_harmless_and_different_file_names() {
        let names = [
            "..",
            ".",
            "../../etc",
            "/",
            "a/b",
            "a_b",
            "a.b",
            &"x".repeat(512),
        ];
        let mut seen = std::collections::BTreeSet::new();
        for name in names {
            let file = file_name(name);
            assert!(file.len() < 200 && !file.contains(['/', '.']), "{file}");
            assert!(seen.insert(file));
        }
    }
}

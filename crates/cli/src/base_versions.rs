//! `[[images.base_versions]]`: versions of the managed base image, their lives, and the guests' files of each.

use std::path::PathBuf;

use colibri_control::BaseVersion;
use colibri_image::{GuestAssets, GuestAssetsError};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use toml::value::Datetime;

use crate::settings::SettingsError;

const SETTING: &str = "images.base_versions";

/// One of them. The moments are dates or times of TOML; without an offset they are in UTC.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BaseVersionSetting {
    /// Its number.
    version: u32,
    /// From when on it is there.
    released: Option<Datetime>,
    /// From when on it is deprecated.
    deprecated: Option<Datetime>,
    /// From when on it is recalled.
    recalled: Option<Datetime>,
    /// Where its kernel and initramfs are; `guest_dir` by default.
    guest_dir: Option<PathBuf>,
}

/// All versions, in ascending order: those that are set, and the first, whatever is set.
pub(crate) fn versions(settings: &[BaseVersionSetting]) -> Result<Vec<BaseVersion>, SettingsError> {
    let first = BaseVersion::first();
    let mut versions = Vec::new();
    for setting in settings {
        let known = (setting.version == first.number).then_some(first.released);
        let released = moment(setting.released.as_ref())?
            .or(known)
            .ok_or_else(|| {
                let version = setting.version;
                refused(format!(
                    "version {version} does not say when it was `released`"
                ))
            })?;
        versions.push(BaseVersion {
            number: setting.version,
            released,
            deprecated: moment(setting.deprecated.as_ref())?,
            recalled: moment(setting.recalled.as_ref())?,
        });
    }
    if versions
        .iter()
        .all(|version| version.number != first.number)
    {
        versions.push(first);
    }
    versions.sort_by_key(|version| version.number);
    let twice = versions
        .windows(2)
        .find(|pair| pair[0].number == pair[1].number);
    match twice {
        Some(pair) => Err(refused(format!(
            "version {} is there twice",
            pair[0].number
        ))),
        None => Ok(versions),
    }
}

/// The guests' files, with those of versions that have their own.
pub(crate) fn guests(
    settings: &[BaseVersionSetting],
    guests: GuestAssets,
) -> Result<GuestAssets, GuestAssetsError> {
    let own = settings
        .iter()
        .filter_map(|setting| Some((setting.version, setting.guest_dir.as_ref()?)));
    own.into_iter()
        .try_fold(guests, |guests, (version, directory)| {
            Ok(guests.with_version(version, GuestAssets::load(directory)?))
        })
}

fn refused(problem: String) -> SettingsError {
    SettingsError::Refused {
        setting: SETTING,
        problem,
    }
}

/// Milliseconds since the Unix epoch.
fn moment(given: Option<&Datetime>) -> Result<Option<i64>, SettingsError> {
    let Some(given) = given else { return Ok(None) };
    let time = given.time.map_or("T00:00:00", |_| "");
    let offset = given.offset.map_or("Z", |_| "");
    let text = format!("{given}{time}{offset}");
    let read = OffsetDateTime::parse(&text, &Rfc3339);
    let read = read.map_err(|_| refused(format!("`{given}` is no date, such as 2027-01-31")))?;
    Ok(i64::try_from(read.unix_timestamp_nanos() / 1_000_000).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Section {
        base_versions: Vec<BaseVersionSetting>,
    }

    fn read(text: &str) -> Result<Vec<BaseVersion>, SettingsError> {
        let section: Section = toml::from_str(text).unwrap();
        versions(&section.base_versions)
    }

    #[test]
    fn the_first_version_is_there_whatever_is_set_and_can_be_deprecated() {
        assert_eq!(versions(&[]).unwrap(), [BaseVersion::first()]);
        let text = "[[base_versions]]\nversion = 2\nreleased = 2027-01-01\n\
                    [[base_versions]]\nversion = 1\ndeprecated = 2027-01-01T01:00:00+01:00\n";
        let new_year = 1_798_761_600_000;
        let first = BaseVersion {
            deprecated: Some(new_year),
            ..BaseVersion::first()
        };
        let second = BaseVersion {
            number: 2,
            released: new_year,
            deprecated: None,
            recalled: None,
        };
        assert_eq!(read(text).unwrap(), [first, second]);
    }

    #[test]
    fn a_version_without_a_release_or_twice_is_an_error() {
        for text in [
            "[[base_versions]]\nversion = 2",
            "[[base_versions]]\nversion = 2\nreleased = 12:00:00",
            "[[base_versions]]\nversion = 1\n[[base_versions]]\nversion = 1",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}

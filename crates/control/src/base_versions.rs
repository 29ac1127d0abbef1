//! The life of the versions of the managed base image: each is there from its release, may be deprecated, and then
//! runs out by itself, or is recalled. The operator says when (specification, section 5.4).

use colibri_wire::id::timestamp::Timestamp;
use colibri_wire::shape::image::ManagedImageVersionStatus;

const DAY: i64 = 24 * 60 * 60 * 1000;
/// How long a deprecated version still builds and runs.
const DEPRECATED: i64 = 60 * DAY;
/// How long after that images of it still run.
const EXPIRING: i64 = 30 * DAY;

/// When the first version was released: 2026-11-22 00:00 UTC.
const FIRST_RELEASED: i64 = 1_795_305_600_000;

/// A version, and the moments of its life, milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseVersion {
    /// Its number.
    pub number: u32,
    /// From when on it is there.
    pub released: i64,
    /// From when on it is deprecated.
    pub deprecated: Option<i64>,
    /// From when on it is recalled.
    pub recalled: Option<i64>,
}

impl BaseVersion {
    /// The version that there is where the operator says nothing.
    #[must_use]
    pub fn first() -> Self {
        Self {
            number: 1,
            released: FIRST_RELEASED,
            deprecated: None,
            recalled: None,
        }
    }

    /// Where it is in its life; `None` before its release.
    pub(crate) fn age(&self, now: i64) -> Option<Age> {
        let since =
            |moment: Option<i64>| moment.map(|moment| now - moment).filter(|past| *past >= 0);
        since(Some(self.released))?;
        Some(match (since(self.recalled), since(self.deprecated)) {
            (Some(_), _) => Age::Recalled,
            (None, None) => Age::Available,
            (None, Some(past)) if past < DEPRECATED => Age::Deprecated,
            (None, Some(past)) if past < DEPRECATED + EXPIRING => Age::Expiring,
            (None, Some(_)) => Age::Expired,
        })
    }

    /// When it last changed, after its release.
    pub(crate) fn updated_at(&self, now: i64) -> Option<Timestamp> {
        let moments = [self.deprecated, self.recalled].into_iter().flatten();
        let past = moments.filter(|moment| *moment <= now && *moment > self.released);
        past.max().map(Timestamp::from_unix_millis)
    }
}

/// Where a version is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    /// Current.
    Available,
    /// Still builds and runs.
    Deprecated,
    /// Runs, and builds nothing new.
    Expiring,
    /// Neither.
    Expired,
    /// Neither, at once.
    Recalled,
}

impl Age {
    /// Whether images may be built from it.
    pub(crate) fn builds(self) -> bool {
        matches!(self, Self::Available | Self::Deprecated)
    }

    /// Whether images that were built from it may be launched.
    pub(crate) fn runs(self) -> bool {
        self.builds() || self == Self::Expiring
    }

    /// As lists show it, which have fewer names; what has expired is not listed.
    pub(crate) fn status(self) -> Option<ManagedImageVersionStatus> {
        match self {
            Self::Available => Some(ManagedImageVersionStatus::Available),
            Self::Deprecated | Self::Expiring => Some(ManagedImageVersionStatus::Deprecated),
            Self::Recalled => Some(ManagedImageVersionStatus::Recalled),
            Self::Expired => None,
        }
    }

    /// What has become of it, for who cannot use it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Deprecated => "deprecated",
            Self::Expiring => "expiring",
            Self::Expired => "expired",
            Self::Recalled => "recalled",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Age, BaseVersion, DAY};

    #[test]
    fn a_version_runs_out_by_itself_once_it_is_deprecated_and_a_recall_is_at_once() {
        let mut version = BaseVersion {
            number: 2,
            released: 10 * DAY,
            deprecated: Some(20 * DAY),
            recalled: None,
        };
        let age = |version: &BaseVersion, day: i64| version.age(day * DAY);
        for (day, expected) in [
            (9, None),
            (10, Some(Age::Available)),
            (20, Some(Age::Deprecated)),
            (79, Some(Age::Deprecated)),
            (80, Some(Age::Expiring)),
            (109, Some(Age::Expiring)),
            (110, Some(Age::Expired)),
        ] {
            assert_eq!(age(&version, day), expected, "day {day}");
        }
        version.recalled = Some(30 * DAY);
        assert_eq!(age(&version, 29), Some(Age::Deprecated));
        assert_eq!(age(&version, 30), Some(Age::Recalled));
    }
}

//! Points in time, on the wire a number of seconds since the Unix epoch with milliseconds, or a string as
//! ISO 8601 writes it: each API has its own form.

use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A point in time, to the millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The time of this many milliseconds since the Unix epoch.
    #[must_use]
    pub fn from_unix_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn unix_millis(self) -> i64 {
        self.0
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "exact for the next 285000 years"
        )]
        let millis = self.0 as f64;
        serializer.serialize_f64(millis / 1000.0)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "saturates, which no real time reaches"
        )]
        let millis = (seconds * 1000.0).round() as i64;
        Ok(Self(millis))
    }
}

/// A point in time, to the millisecond, that `lambda-core` writes as a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IsoTimestamp(Timestamp);

impl IsoTimestamp {
    /// The time of this many milliseconds since the Unix epoch.
    #[must_use]
    pub fn from_unix_millis(millis: i64) -> Self {
        Self(Timestamp(millis))
    }
}

impl Serialize for IsoTimestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let nanos = i128::from(self.0.0) * 1_000_000;
        let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).map_err(S::Error::custom)?;
        serializer.serialize_str(&time.format(&Rfc3339).map_err(S::Error::custom)?)
    }
}

impl<'de> Deserialize<'de> for IsoTimestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = OffsetDateTime::parse(&text, &Rfc3339).map_err(D::Error::custom)?;
        let millis = time.unix_timestamp_nanos().div_euclid(1_000_000);
        i64::try_from(millis)
            .map(Self::from_unix_millis)
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::{IsoTimestamp, Timestamp};

    #[test]
    fn a_time_of_lambda_core_is_written_as_iso_8601() {
        let time = IsoTimestamp::from_unix_millis(1_789_483_142_026);
        let text = serde_json::to_string(&time).expect("JSON");
        assert_eq!(text, r#""2026-09-15T14:39:02.026Z""#);
        let read: IsoTimestamp = serde_json::from_str(&text).expect("a time");
        assert_eq!(read, time);
    }

    #[test]
    fn a_time_keeps_its_milliseconds_on_the_wire() {
        let time = Timestamp::from_unix_millis(1_789_483_142_026);
        let text = serde_json::to_string(&time).expect("JSON");
        assert_eq!(text, "1789483142.026");
        assert_eq!(
            serde_json::from_str::<Timestamp>(&text).expect("a time"),
            time
        );
        for millis in 1_789_483_142_000..1_789_483_143_000 {
            let time = Timestamp::from_unix_millis(millis);
            let text = serde_json::to_string(&time).expect("JSON");
            assert!(text.len() <= "1789483142.026".len(), "{text}");
            assert_eq!(
                serde_json::from_str::<Timestamp>(&text).expect("a time"),
                time
            );
        }
    }
}

//! Instants: whole milliseconds since 1970-01-01T00:00:00Z, the same number in every database, so
//! that deadlines compare alike everywhere. RFC 3339 UTC in JSON, a plain integer in postcard.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::vocabulary::Seconds;

/// An instant, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch: NumericDate in tokens, `timestamp` in AMQP.
    pub const fn as_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// The instant `ttl` later.
    #[must_use]
    pub const fn plus(self, ttl: Seconds) -> Self {
        Self(self.0.saturating_add(ttl.get().saturating_mul(1000)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .ok()
            .and_then(|instant| instant.format(&Rfc3339).ok());
        match text {
            Some(text) => f.write_str(&text),
            None => write!(f, "{} ms", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return serializer.serialize_i64(self.0);
        }
        let instant =
            OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000).map_err(S::Error::custom)?;
        serializer.serialize_str(&instant.format(&Rfc3339).map_err(S::Error::custom)?)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return i64::deserialize(deserializer).map(Self);
        }
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl FromStr for Timestamp {
    type Err = String;

    /// Reads what [`fmt::Display`] writes: RFC 3339 in UTC.
    fn from_str(text: &str) -> Result<Self, String> {
        let instant = OffsetDateTime::parse(text, &Rfc3339).map_err(|error| error.to_string())?;
        if !instant.offset().is_utc() {
            return Err("a time is written in UTC, with Z".into());
        }
        let millis = instant.unix_timestamp_nanos().div_euclid(1_000_000);
        i64::try_from(millis).map(Self).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rfc_3339_in_json_and_comes_back_the_same() {
        let instant = Timestamp::from_millis(1_700_000_000_123);
        let json = serde_json::to_string(&instant).expect("a year before 10000");
        assert_eq!(json, "\"2023-11-14T22:13:20.123Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>(&json).expect("our own text"), instant);
        assert!(serde_json::from_str::<Timestamp>("\"2023-11-14T22:13:20+01:00\"").is_err());
    }
}

//! Instants with millisecond precision.
//!
//! A [`Timestamp`] counts milliseconds since 1970-01-01T00:00:00Z. Databases store this number, so
//! deadlines compare in the same way everywhere. In JSON, a timestamp is an RFC 3339 string in UTC,
//! such as `2026-11-22T10:00:00Z`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::vocabulary::{InvalidValue, Seconds};

/// An instant, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Creates a timestamp from milliseconds since the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down. Tokens (NumericDate) and the AMQP property
    /// `timestamp` use this unit.
    pub const fn as_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// The instant that is `ttl` later. The result saturates at `i64::MAX` milliseconds, which is
    /// about 292 million years after 1970.
    #[must_use]
    pub const fn plus(self, ttl: Seconds) -> Self {
        Self(self.0.saturating_add(ttl.get().saturating_mul(1000)))
    }
}

impl fmt::Display for Timestamp {
    /// Writes the instant in RFC 3339 format in UTC, or as a number of milliseconds if RFC 3339
    /// cannot represent it.
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

impl FromStr for Timestamp {
    type Err = InvalidValue;

    /// Reads a time in RFC 3339 format in UTC. Fractions of a millisecond are truncated.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let invalid = |cause: &dyn fmt::Display| {
            InvalidValue(format!("a time must be in RFC 3339 format in UTC, such as 2026-11-22T10:00:00Z: {cause}"))
        };
        let instant = OffsetDateTime::parse(text, &Rfc3339).map_err(|error| invalid(&error))?;
        if !instant.offset().is_utc() {
            return Err(invalid(&format_args!("this one has the offset {}", instant.offset())));
        }
        let millis = instant.unix_timestamp_nanos().div_euclid(1_000_000);
        i64::try_from(millis).map(Self).map_err(|error| invalid(&error))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let instant =
            OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000).map_err(S::Error::custom)?;
        serializer.serialize_str(&instant.format(&Rfc3339).map_err(S::Error::custom)?)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
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
        assert!(serde_json::from_str::<Timestamp>("1700000000123").is_err(), "a number is not a time");
    }

    #[test]
    fn a_time_after_the_year_9999_has_no_json_and_prints_as_milliseconds() {
        let instant = Timestamp::from_millis(i64::MAX);
        assert!(serde_json::to_string(&instant).is_err());
        assert_eq!(instant.to_string(), "9223372036854775807 ms");
    }
}

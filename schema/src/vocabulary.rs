//! Checked values: the names, texts, ids and numbers that message bodies consist of.
//!
//! Each type checks its limits when a value is created or deserialized. A value of the type is
//! therefore always within its limits, and no other code has to check it again.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The largest integer on the wire, 2^53-1. Every JSON parser can represent it exactly.
pub const INTEGER_MAX: i64 = (1 << 53) - 1;

/// The longest time to live, in seconds: 100 years of 366 days.
pub const SECONDS_MAX: i64 = 100 * 366 * 86_400;

/// The reason a value was not accepted. The text states the rule that the value violates.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(pub(crate) String);

/// Declares a text type with limits.
///
/// Expands to a struct around a `String` with `as_str`, `TryFrom<String>`, `TryFrom<&str>`,
/// `Into<String>` and `Display`. Serde deserializes it through `TryFrom<String>`. Every conversion
/// into the type runs `$check`.
macro_rules! checked_text {
    ($(#[$meta:meta])* $name:ident, $check:expr) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidValue;
            fn try_from(text: String) -> Result<Self, InvalidValue> {
                let check: fn(&str) -> Result<(), InvalidValue> = $check;
                check(&text)?;
                Ok(Self(text))
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidValue;
            fn try_from(text: &str) -> Result<Self, InvalidValue> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(checked: $name) -> String {
                checked.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_text!(
    /// The name of a user, content, terminal or provider, chosen by people or other systems. 1 to
    /// 128 characters, without control characters and without leading or trailing white space.
    Name,
    |text| check_printable(text, 128, "a name")
);

checked_text!(
    /// Text for people, such as a title or a reason. 1 to 500 characters, without control
    /// characters and without leading or trailing white space.
    Text,
    |text| check_printable(text, 500, "a text")
);

checked_text!(
    /// An id that another system assigned to a settlement, a payout or an order. 1 to 255 visible
    /// ASCII characters.
    ExternalId,
    |text| {
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        match text.len() {
            1..=255 if visible => Ok(()),
            _ => Err(InvalidValue("an id of another system must have 1 to 255 visible ASCII characters".into())),
        }
    }
);

/// Checks that a text has 1 to `max` characters, no control characters, and no white space at
/// either end. `what` names the text in the error.
fn check_printable(text: &str, max: usize, what: &str) -> Result<(), InvalidValue> {
    let length = text.chars().count();
    if length == 0 || length > max {
        return Err(InvalidValue(format!("{what} must have 1 to {max} characters, but this one has {length}")));
    }
    if text.chars().any(char::is_control) {
        return Err(InvalidValue(format!("{what} must not contain control characters")));
    }
    if text.trim() != text {
        return Err(InvalidValue(format!("{what} must not begin or end with a blank")));
    }
    Ok(())
}

/// Declares an integer type with values from `$min` to `$max`.
///
/// Expands to a struct around an `i64` with `get`, `TryFrom<i64>`, `TryFrom<u64>`, `Into<u64>` and
/// `Display`. Serde deserializes it through `TryFrom<u64>`. Every conversion into the type checks
/// the limits.
macro_rules! checked_integer {
    ($(#[$meta:meta])* $name:ident, $min:expr, $max:expr, $what:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "u64", into = "u64")]
        pub struct $name(i64);

        impl $name {
            /// The number.
            pub const fn get(self) -> i64 {
                self.0
            }

            fn out_of_range() -> InvalidValue {
                InvalidValue(format!("{} must be a whole number from {} to {}", $what, $min, $max))
            }
        }

        impl TryFrom<i64> for $name {
            type Error = InvalidValue;
            fn try_from(number: i64) -> Result<Self, InvalidValue> {
                if ($min..=$max).contains(&number) { Ok(Self(number)) } else { Err(Self::out_of_range()) }
            }
        }

        impl TryFrom<u64> for $name {
            type Error = InvalidValue;
            fn try_from(number: u64) -> Result<Self, InvalidValue> {
                Self::try_from(i64::try_from(number).map_err(|_| Self::out_of_range())?)
            }
        }

        impl From<$name> for u64 {
            fn from(checked: $name) -> u64 {
                // The conversion is exact, because none of these types can be negative.
                checked.0.unsigned_abs()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

checked_integer!(
    /// A number of points, grants, bytes or minor units. 0 to 2^53-1.
    Count, 0, INTEGER_MAX, "a count"
);
checked_integer!(
    /// The number of licenses that one certificate grants. 1 to 2^53-1.
    Grants, 1, INTEGER_MAX, "a number of grants"
);
checked_integer!(
    /// The version of a content item. 1 to 2^53-1.
    Version, 1, INTEGER_MAX, "a version"
);
checked_integer!(
    /// A time to live, in seconds. 1 to [`SECONDS_MAX`].
    Seconds, 1, SECONDS_MAX, "a time to live in seconds"
);

impl Count {
    /// The count 0.
    pub const ZERO: Self = Self(0);
    /// The count 1.
    pub const ONE: Self = Self(1);

    /// The sum, or `None` if it is above 2^53-1.
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        // The sum cannot overflow, because both numbers are at most 2^53-1.
        let sum = self.0 + other.0;
        if sum <= INTEGER_MAX { Some(Self(sum)) } else { None }
    }

    /// The difference, or `None` if it is negative.
    #[must_use]
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        if self.0 >= other.0 { Some(Self(self.0 - other.0)) } else { None }
    }
}

impl From<Grants> for Count {
    fn from(grants: Grants) -> Self {
        Self(grants.0)
    }
}

impl From<Version> for Count {
    fn from(version: Version) -> Self {
        Self(version.0)
    }
}

impl TryFrom<Count> for Grants {
    type Error = InvalidValue;
    fn try_from(count: Count) -> Result<Self, InvalidValue> {
        Self::try_from(count.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_1_to_128_characters_without_controls_or_outer_blanks() {
        for good in ["a", "Ünïcödé 名前", &"x".repeat(128)] {
            assert!(Name::try_from(good).is_ok(), "{good:?} should be a name");
        }
        for bad in ["", " a", "a ", "a\tb", "a\u{0}", &"x".repeat(129)] {
            assert!(Name::try_from(bad).is_err(), "{bad:?} should not be a name");
        }
    }

    #[test]
    fn an_id_of_another_system_is_visible_ascii() {
        assert!(ExternalId::try_from("pay_123/ä".to_owned()).is_err());
        assert!(ExternalId::try_from("a b").is_err());
        assert!(ExternalId::try_from("").is_err());
        assert!(ExternalId::try_from("x".repeat(256)).is_err());
        assert!(ExternalId::try_from("ch_1K#2-9").is_ok());
    }

    #[test]
    fn integers_stop_at_two_to_the_53rd_less_one() {
        assert_eq!(Count::try_from(INTEGER_MAX).expect("the limit itself").get(), INTEGER_MAX);
        assert!(Count::try_from(INTEGER_MAX + 1).is_err());
        assert!(Count::try_from(u64::MAX).is_err());
        assert!(Version::try_from(0i64).is_err());
        assert!(serde_json::from_str::<Count>("-1").is_err());
        assert!(serde_json::from_str::<Count>("1.0").is_err());
    }

    #[test]
    fn sums_and_differences_of_counts_stay_within_the_limits() {
        let most = Count::try_from(INTEGER_MAX).expect("the limit itself");
        assert_eq!(Count::ZERO.checked_add(Count::ONE), Some(Count::ONE));
        assert_eq!(most.checked_add(Count::ZERO), Some(most));
        assert_eq!(most.checked_add(Count::ONE), None);
        assert_eq!(most.checked_add(most), None);
        assert_eq!(Count::ONE.checked_sub(Count::ONE), Some(Count::ZERO));
        assert_eq!(Count::ZERO.checked_sub(Count::ONE), None);
        assert_eq!(most.checked_sub(most), Some(Count::ZERO));
    }

    #[test]
    fn a_number_of_grants_is_a_count_but_zero_is_not_a_number_of_grants() {
        let three = Grants::try_from(3i64).expect("three grants");
        assert_eq!(Grants::try_from(Count::from(three)), Ok(three));
        assert!(Grants::try_from(Count::ZERO).is_err());
    }
}

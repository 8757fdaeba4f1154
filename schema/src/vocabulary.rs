//! The words that bodies are made of, each checked when it is read: a value of one of these types
//! is within its limits, so that no rule has to ask again.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The largest integer on the wire, 2^53-1: every JSON reader can hold it exactly.
pub const INTEGER_MAX: i64 = (1 << 53) - 1;

/// A century, in seconds: the longest time to live that is accepted.
pub const SECONDS_MAX: i64 = 100 * 366 * 86_400;

/// Why a value was not accepted. The text says what would be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(pub(crate) String);

macro_rules! checked_text {
    ($(#[$meta:meta])* $name:ident, $check:expr) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Unfit;
            fn try_from(text: String) -> Result<Self, Unfit> {
                let check: fn(&str) -> Result<(), Unfit> = $check;
                check(&text)?;
                Ok(Self(text))
            }
        }

        impl TryFrom<&str> for $name {
            type Error = Unfit;
            fn try_from(text: &str) -> Result<Self, Unfit> {
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
    /// A name that people or systems chose: a user, a content, a terminal, a provider.
    /// 1 to 128 characters, none of them a control character, no blank at either end.
    Name,
    |text| printable(text, 128, "a name")
);

checked_text!(
    /// Free text for people: a title, a reason. 1 to 500 characters under the rules of a [`Name`].
    Text,
    |text| printable(text, 500, "a text")
);

checked_text!(
    /// The id that somebody else gave: a settlement, a payout, an order number.
    /// 1 to 255 visible ASCII characters.
    ExternalId,
    |text| {
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        match text.len() {
            1..=255 if visible => Ok(()),
            _ => Err(Unfit("an id of another system has 1 to 255 visible ASCII characters".into())),
        }
    }
);

fn printable(text: &str, most: usize, what: &str) -> Result<(), Unfit> {
    let length = text.chars().count();
    if length == 0 || length > most {
        return Err(Unfit(format!("{what} has 1 to {most} characters, this one has {length}")));
    }
    if text.chars().any(char::is_control) {
        return Err(Unfit(format!("{what} has no control characters")));
    }
    if text.trim() != text {
        return Err(Unfit(format!("{what} does not begin or end with a blank")));
    }
    Ok(())
}

macro_rules! checked_integer {
    ($(#[$meta:meta])* $name:ident, $least:expr, $most:expr, $what:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "u64", into = "u64")]
        pub struct $name(i64);

        impl $name {
            /// The number, as the database keeps it.
            pub const fn get(self) -> i64 {
                self.0
            }
        }

        impl TryFrom<i64> for $name {
            type Error = Unfit;
            fn try_from(number: i64) -> Result<Self, Unfit> {
                if ($least..=$most).contains(&number) {
                    Ok(Self(number))
                } else {
                    Err(Unfit(format!("{} is a whole number from {} to {}", $what, $least, $most)))
                }
            }
        }

        impl TryFrom<u64> for $name {
            type Error = Unfit;
            fn try_from(number: u64) -> Result<Self, Unfit> {
                Self::try_from(i64::try_from(number).unwrap_or(i64::MAX))
            }
        }

        impl From<$name> for u64 {
            fn from(checked: $name) -> u64 {
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
    /// How many: points, grants, bytes. 0 to 2^53-1.
    Count, 0, INTEGER_MAX, "a count"
);
checked_integer!(
    /// How many grants one settlement pays for. At least 1.
    Grants, 1, INTEGER_MAX, "a number of grants"
);
checked_integer!(
    /// The version of a content. At least 1.
    Version, 1, INTEGER_MAX, "a version"
);
checked_integer!(
    /// A time to live in seconds. 1 to a century.
    Seconds, 1, SECONDS_MAX, "a time to live in seconds"
);

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
}

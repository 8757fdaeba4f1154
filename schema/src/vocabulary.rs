//! Checked values: the names, texts, ids and numbers that message bodies consist of.
//!
//! Each type checks its limits when a value is created or deserialized. A value of the type is
//! therefore always within its limits, and no other code has to check it again.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

use serde::{Deserialize, Serialize};
use unicode_normalization::is_nfc;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

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
    /// The name of a user, content or terminal, chosen by people or other systems. 1 to 128
    /// characters in the Unicode normalization form NFC, without leading or trailing white space.
    /// It contains no control, format, private-use or unassigned characters and no line or
    /// paragraph separators: two different names never look the same because of them.
    Name,
    check_name
);

checked_text!(
    /// The name of a payment provider: 1 to 64 of the characters a-z, 0-9, `.`, `_` and `-`,
    /// beginning with a letter or digit.
    Provider,
    |text| {
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if first && text.len() <= 64 && text.bytes().all(allowed) {
            return Ok(());
        }
        Err(InvalidValue(
            "a provider must have 1 to 64 of the characters a-z, 0-9, \".\", \"_\" and \"-\" and begin with a letter \
             or digit: send a name such as \"bank\" or \"card-eu.2\""
                .into(),
        ))
    }
);

checked_text!(
    /// Text for people, such as a title or a reason. 1 to 500 characters on one line, without
    /// leading or trailing white space. It contains no control characters, no line or paragraph
    /// separators, and no characters that embed, override or isolate a text direction, because
    /// these would change how the text around it is displayed. Other format characters, such as
    /// joiners and direction marks, are parts of words and emoji and remain.
    Text,
    check_text
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

/// Checks a [`Name`].
fn check_name(text: &str) -> Result<(), InvalidValue> {
    check_printable(text, 128, "a name")?;
    // ASCII text is NFC, and its only special characters are control characters.
    if text.is_ascii() {
        return Ok(());
    }
    let special = |character: char| Some((character, special_class(character)?));
    if let Some((character, class)) = text.chars().find_map(special) {
        return Err(InvalidValue(format!(
            "a name must not contain {class} such as U+{:04X}: send the name without it",
            u32::from(character)
        )));
    }
    if !is_nfc(text) {
        return Err(InvalidValue(
            "a name must be in the Unicode normalization form NFC: normalize it before you send it".into(),
        ));
    }
    Ok(())
}

/// Checks a [`Text`].
fn check_text(text: &str) -> Result<(), InvalidValue> {
    check_printable(text, 500, "a text")?;
    let breaks = |character: &char| matches!(*character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    match text.chars().find(breaks) {
        Some(character) => Err(InvalidValue(format!(
            "a text must not contain line separators or characters that embed, override or isolate a text direction, \
             such as U+{:04X}: send the text without it",
            u32::from(character)
        ))),
        None => Ok(()),
    }
}

/// The class of a character that is invisible or has no fixed meaning, as a plural noun. `None` for
/// all other characters.
fn special_class(character: char) -> Option<&'static str> {
    match character.general_category() {
        GeneralCategory::Control => Some("control characters"),
        GeneralCategory::Format => Some("format characters"),
        GeneralCategory::LineSeparator | GeneralCategory::ParagraphSeparator => Some("line or paragraph separators"),
        GeneralCategory::PrivateUse => Some("private-use characters"),
        GeneralCategory::Unassigned => Some("unassigned characters"),
        _ => None,
    }
}

/// Replaces characters that a terminal would not show as they are: control characters except line
/// feeds, format, private-use and unassigned characters, and line and paragraph separators. Each is
/// replaced by its escape sequence in JSON, such as `\u202e`, so JSON remains valid.
pub fn escaped(text: &str) -> Cow<'_, str> {
    let is_special = |character: char| character != '\n' && special_class(character).is_some();
    if !text.contains(is_special) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_special(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
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
    /// The greatest count, 2^53-1.
    pub const MAX: Self = Self(INTEGER_MAX);

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
    fn a_name_is_nfc_without_invisible_or_unassigned_characters() {
        for good in ["Jos\u{e9}", "\u{c5}ngstr\u{f6}m", "\u{ff4c}\u{ff49}", "\u{1f600}", "\u{5d0}\u{5d1}"] {
            assert!(Name::try_from(good).is_ok(), "{good:?} should be a name");
        }
        for (bad, reason) in [
            ("Jose\u{301}", "NFC"),
            ("\u{212b}ngstr\u{f6}m", "NFC"),
            ("al\u{200b}ice", "U+200B"),
            ("al\u{200d}ice", "U+200D"),
            ("\u{202e}ecila", "U+202E"),
            ("al\u{ad}ice", "U+00AD"),
            ("\u{feff}alice", "U+FEFF"),
            ("al\u{e0001}ice", "U+E0001"),
            ("al\u{2028}ice", "U+2028"),
            ("al\u{2029}ice", "U+2029"),
            ("al\u{e000}ice", "U+E000"),
            ("al\u{10fffd}ice", "U+10FFFD"),
            ("al\u{378}ice", "U+0378"),
            ("al\u{ffff}ice", "U+FFFF"),
        ] {
            let error = Name::try_from(bad).expect_err("not a name").to_string();
            assert!(error.contains(reason) && error.contains("send"), "{bad:?}: {error}");
        }
    }

    #[test]
    fn a_text_is_one_line_and_does_not_change_the_direction_of_the_text_around_it() {
        for good in [
            "\u{1f469}\u{200d}\u{1f680}",
            "\u{645}\u{6cc}\u{200c}\u{62e}\u{648}\u{627}\u{647}\u{645}",
            "Jose\u{301}",
            "a\u{200f}b",
        ] {
            assert!(Text::try_from(good).is_ok(), "{good:?} should be a text");
        }
        for bad in ["a\u{2028}b", "a\u{2029}b", "a\u{202a}b", "a\u{202e}b", "a\u{2066}b", "a\u{2069}b", "a\u{85}b"] {
            assert!(Text::try_from(bad).is_err(), "{bad:?} should not be a text");
        }
    }

    #[test]
    fn a_provider_is_a_short_identifier_in_lower_case() {
        for good in ["a", "7", "bank", "card-eu.2_x", &"x".repeat(64)] {
            assert!(Provider::try_from(good).is_ok(), "{good:?} should be a provider");
        }
        let bad = ["", "Bank", "-bank", ".bank", "_bank", "my bank", "licet\u{200b}", "\u{ff4c}icet", "b\u{e4}nk"];
        for bad in bad.into_iter().chain([&*"x".repeat(65)]) {
            let error = Provider::try_from(bad).expect_err("not a provider").to_string();
            assert!(error.contains("send a name such as"), "{bad:?}: {error}");
        }
    }

    #[test]
    fn escaped_text_shows_special_characters_and_leaves_everything_else() {
        for same in ["", "Gr\u{f6}\u{df}e\n  next line", "\u{1f600} \\u202e"] {
            assert!(matches!(escaped(same), Cow::Borrowed(text) if text == same), "{same:?}");
        }
        for (text, expected) in [
            ("a\u{1b}[2Jb", "a\\u001b[2Jb"),
            ("a\tb\r", "a\\u0009b\\u000d"),
            ("\u{202e}x\u{200b}", "\\u202ex\\u200b"),
            ("\u{9b}\u{2028}\u{e000}", "\\u009b\\u2028\\ue000"),
            ("\u{e0001}", "\\udb40\\udc01"),
        ] {
            assert_eq!(escaped(text), expected);
            let json: String = serde_json::from_str(&format!("\"{}\"", escaped(text))).expect("JSON");
            assert_eq!(json, text);
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

//! Macros that declare message bodies and string enumerations.
//!
//! [`bodies!`] declares structs that are serialized as JSON objects. [`words!`] declares enums that
//! are serialized as JSON strings, called words. Each value has exactly one accepted JSON form.
//! serde's derived `Deserialize` would also accept an array of the fields in order for a struct,
//! and `{"points": null}` for the word `"points"`. The macros reject both.

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, Visitor},
    forward_to_deserialize_any,
};
use uuid::Uuid;

use crate::{
    timestamp::Timestamp,
    vocabulary::{Count, ExternalId, Grants, InvalidValue, Name, Seconds, Text, Version},
};

/// A type that can be used for a field of a message body.
pub(crate) trait Field {
    /// Whether the field is omitted from the JSON. Only an `Option` can be omitted.
    fn is_absent(&self) -> bool {
        false
    }
}

impl<T: Field> Field for Option<T> {
    fn is_absent(&self) -> bool {
        self.is_none()
    }
}

impl<T: Field> Field for Vec<T> {}
impl Field for bool {}
impl Field for i64 {}
impl Field for String {}
impl Field for Uuid {}
impl Field for Timestamp {}
impl Field for Name {}
impl Field for Text {}
impl Field for ExternalId {}
impl Field for Count {}
impl Field for Grants {}
impl Field for Version {}
impl Field for Seconds {}

/// Declares message bodies.
///
/// `pub struct Item { pub content: Name, pub version: Option<Version>, }` expands to:
///
/// - the struct with `Clone, Debug, PartialEq, Eq`;
/// - `Serialize` as an object that omits fields whose value is `None`;
/// - `Deserialize`, which accepts only an object and rejects unknown and repeated fields. A field
///   whose value is `null` counts as absent;
/// - [`Field`], which allows a body to be a field of another body.
macro_rules! bodies {
    ($( $(#[$meta:meta])* pub struct $name:ident { $( $(#[$field_meta:meta])* pub $field:ident: $type:ty, )* } )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
        pub struct $name {
            $(
                $(#[$field_meta])*
                #[serde(skip_serializing_if = "crate::body::Field::is_absent")]
                pub $field: $type,
            )*
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(serde::Deserialize)]
                #[serde(deny_unknown_fields)]
                struct $name { $( $field: $type, )* }
                let $name { $( $field, )* } = crate::body::object(deserializer)?;
                Ok(Self { $( $field, )* })
            }
        }

        impl crate::body::Field for $name {}
    )*};
}

/// Declares string enumerations.
///
/// `pub enum Privilege { Points = "points", Upgrade = "upgrade", }` expands to:
///
/// - the enum with `Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash`;
/// - `ALL`, an array of its values in declaration order, and `as_str`;
/// - `Display` and `Serialize`, which write the word;
/// - `FromStr` and `Deserialize`, which accept only the word;
/// - [`Field`], which allows a word to be a field of a body.
macro_rules! words {
    ($( $(#[$meta:meta])* pub enum $name:ident { $( $(#[$value_meta:meta])* $value:ident = $word:literal, )* } )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $( $(#[$value_meta])* $value, )* }

        impl $name {
            /// All values, in declaration order.
            pub const ALL: [Self; [$( $word, )*].len()] = [$( Self::$value, )*];

            /// The word that represents this value on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$value => $word, )* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::vocabulary::InvalidValue;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $( $word => Ok(Self::$value), )*
                    _ => Err(crate::body::unknown_word(text, &Self::ALL.map(Self::as_str))),
                }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                crate::body::word(deserializer)
            }
        }

        impl crate::body::Field for $name {}
    )*};
}

pub(crate) use {bodies, words};

/// Deserializes a struct, accepting only an object.
pub(crate) fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    T::deserialize(ObjectOnly(deserializer))
}

/// Deserializes a word, accepting only a string.
pub(crate) fn word<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: std::str::FromStr<Err = InvalidValue>,
    D: Deserializer<'de>,
{
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// The error for a text that is not in `words`.
pub(crate) fn unknown_word(text: &str, words: &[&str]) -> InvalidValue {
    InvalidValue(format!("{text:?} is not a known value: use one of {}", words.join(", ")))
}

/// A deserializer that requests a map where serde would request a struct.
struct ObjectOnly<D>(D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for ObjectOnly<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

#[cfg(test)]
#[expect(unreachable_pub, reason = "the macros declare public types")]
mod tests {
    use serde_json::{Error, from_str, to_string};

    bodies! {
        /// A body with a required and an optional field.
        pub struct Sample {
            /// Required.
            pub count: crate::Count,
            /// Optional.
            pub word: Option<Sampled>,
        }
    }

    words! {
        /// Two words.
        pub enum Sampled {
            /// The word matches the name of the variant.
            First = "first",
            /// The word differs from the name of the variant.
            Second = "other_word",
        }
    }

    fn read(json: &str) -> Result<Sample, Error> {
        from_str(json)
    }

    fn sample(word: Option<Sampled>) -> Sample {
        Sample { count: crate::Count::ONE, word }
    }

    #[test]
    fn a_body_omits_absent_fields_and_reads_null_as_absent() {
        assert_eq!(to_string(&sample(None)).expect("JSON"), r#"{"count":1}"#);
        assert_eq!(read(r#"{"count":1}"#).expect("a body"), sample(None));
        assert_eq!(read(r#"{"word":null,"count":1}"#).expect("a body"), sample(None));
        assert_eq!(to_string(&sample(Some(Sampled::Second))).expect("JSON"), r#"{"count":1,"word":"other_word"}"#);
    }

    #[test]
    fn a_body_is_only_an_object_with_known_fields_that_each_occur_once() {
        for bad in [
            r#"{}"#,
            r#"{"word":"first"}"#,
            r#"{"count":null}"#,
            r#"{"count":1,"extra":1}"#,
            r#"{"count":1,"count":1}"#,
            r#"{"count":1,"word":null,"word":"first"}"#,
            r#"[1,null]"#,
            r#"[1,"first"]"#,
            r#"null"#,
            r#""first""#,
            r#"{"count":1} {}"#,
        ] {
            assert!(read(bad).is_err(), "{bad} should not be a body");
        }
    }

    #[test]
    fn a_word_is_only_a_string_of_the_set() {
        for value in Sampled::ALL {
            let json = format!("{:?}", value.as_str());
            assert_eq!(to_string(&value).expect("JSON"), json);
            assert_eq!(from_str::<Sampled>(&json).expect("a word"), value);
            assert_eq!(value.to_string().parse::<Sampled>().expect("a word"), value);
        }
        for bad in [r#"{"first":null}"#, r#""First""#, r#""second""#, "0", "null", r#"["first"]"#] {
            assert!(from_str::<Sampled>(bad).is_err(), "{bad} should not be a word");
        }
        let error = from_str::<Sampled>(r#""third""#).expect_err("not a word").to_string();
        assert!(error.starts_with(r#""third" is not a known value: use one of first, other_word"#), "{error}");
    }
}

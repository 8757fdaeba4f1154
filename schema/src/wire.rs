//! The one way in which a message body is declared.
//!
//! A body is a plain struct that has two encodings. In JSON an absent field is left out; in
//! postcard, which has no field names, every field keeps its place. serde's own
//! `skip_serializing_if` would drop it from both and break postcard, so [`wire!`] writes the
//! `Serialize` implementation and asks the serializer which of the two it is.
//!
//! Each value has one spelling of its shape: in JSON, serde's own `Deserialize` would also take an
//! array of a body's fields in their order, and `{"points": null}` for the word `"points"`. Here a
//! body is an object and a word is a string.

use serde::{
    Deserialize, Deserializer,
    de::{IntoDeserializer, Visitor},
    forward_to_deserialize_any,
};

/// Answers [`Probe::absent`] for a field that is not an `Option`: it is there.
pub(crate) trait Present {
    fn absent(&self) -> bool {
        false
    }
}

/// Wraps a field, so that the inherent method (for `Option`) wins over the trait's.
pub(crate) struct Probe<'a, T>(pub(crate) &'a T);

impl<T> Probe<'_, Option<T>> {
    pub(crate) fn absent(&self) -> bool {
        self.0.is_none()
    }
}

impl<T> Present for Probe<'_, T> {}

/// Declares message bodies: derives what every body has, and serializes as described above.
macro_rules! wire {
    ($( $(#[$meta:meta])* pub struct $name:ident { $( $(#[$field_meta:meta])* pub $field:ident: $type:ty, )* } )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name { $( $(#[$field_meta])* pub $field: $type, )* }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(serde::Deserialize)]
                #[serde(deny_unknown_fields)]
                struct $name { $( $field: $type, )* }
                let $name { $( $field, )* } = crate::wire::object(deserializer)?;
                Ok(Self { $( $field, )* })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeStruct;
                #[allow(unused_imports, reason = "only bodies with a field that is no Option need it")]
                use crate::wire::{Present, Probe};
                let named = serializer.is_human_readable();
                let length = 0 $( + usize::from(!(named && Probe(&self.$field).absent())) )*;
                let mut body = serializer.serialize_struct(stringify!($name), length)?;
                $( if named && Probe(&self.$field).absent() {
                    body.skip_field(stringify!($field))?;
                } else {
                    body.serialize_field(stringify!($field), &self.$field)?;
                } )*
                body.end()
            }
        }
    )*};
}

/// Declares a closed set of words: in JSON a snake_case string, in postcard its place among them.
macro_rules! words {
    ($( $(#[$meta:meta])* pub enum $name:ident { $( $(#[$word_meta:meta])* $word:ident, )* } )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $( $(#[$word_meta])* $word, )* }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(serde::Deserialize)]
                #[serde(rename_all = "snake_case")]
                enum $name { $( $word, )* }
                Ok(match crate::wire::word(deserializer)? { $( $name::$word => Self::$word, )* })
            }
        }
    )*};
}

/// Reads a body: where fields have names, an object of them and nothing else.
pub(crate) fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    if deserializer.is_human_readable() { T::deserialize(Named(deserializer)) } else { T::deserialize(deserializer) }
}

/// Reads a word: where it is spelled out, a string and nothing else.
pub(crate) fn word<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    if deserializer.is_human_readable() {
        T::deserialize(String::deserialize(deserializer)?.into_deserializer())
    } else {
        T::deserialize(deserializer)
    }
}

/// Asks for a map where serde asks for a struct.
struct Named<D>(D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Named<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

pub(crate) use {wire, words};

//! The one way in which a message body is declared.
//!
//! A body is a plain struct that has two encodings. In JSON an absent field is left out; in
//! postcard, which has no field names, every field keeps its place. serde's own
//! `skip_serializing_if` would drop it from both and break postcard, so [`wire!`] writes the
//! `Serialize` implementation and asks the serializer which of the two it is.

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
        #[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $( $(#[$field_meta])* pub $field: $type, )* }

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

pub(crate) use wire;

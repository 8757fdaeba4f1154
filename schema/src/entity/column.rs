//! Conversions between the checked types of the contract and the columns that store them. The
//! columns contain text, 64-bit integers or byte strings, both on PostgreSQL and on SQLite.
//!
//! A stored value is checked again when it is read. An invalid value causes a
//! [`DbErr::Type`](sea_orm::DbErr::Type) error that names the column. It means that the database is
//! damaged or was written by a release with different limits.

use sea_orm::{
    ColIdx, DbErr, QueryResult, TryFromU64, TryGetError, TryGetable, Value,
    sea_query::{ArrayType, ColumnType, Nullable, ValueType, ValueTypeErr},
};

use crate::message::{Ending, Privilege, Revocation, SettlementOutcome, UnmatchedKind};
use crate::{
    money::Currency,
    refusal::Code,
    timestamp::Timestamp,
    vocabulary::{Count, ExternalId, Grants, Name, Seconds, Text, Version},
};

/// A SHA-256 digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl AsRef<[u8]> for Digest {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Stores `$type` as `$stored` in a column of type `$column`.
///
/// Expands to sea-orm's conversions in both directions. `$write` cannot fail. `$read` returns an
/// error that explains why a stored value is not valid.
macro_rules! column_type {
    ($type:ty, $stored:ty, $variant:ident, $column:ident, $write:expr, $read:expr) => {
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                let write: fn($type) -> $stored = $write;
                write(value).into()
            }
        }

        impl TryGetable for $type {
            fn try_get_by<I: ColIdx>(row: &QueryResult, index: I) -> Result<Self, TryGetError> {
                let read: fn($stored) -> Result<$type, String> = $read;
                let stored = <$stored>::try_get_by(row, index)?;
                read(stored).map_err(|why| {
                    let name = stringify!($type);
                    TryGetError::DbErr(DbErr::Type(format!("column {index:?} does not hold a valid {name}: {why}")))
                })
            }
        }

        impl ValueType for $type {
            fn try_from(value: Value) -> Result<Self, ValueTypeErr> {
                let read: fn($stored) -> Result<$type, String> = $read;
                <$stored as ValueType>::try_from(value).and_then(|stored| read(stored).map_err(|_| ValueTypeErr))
            }

            fn type_name() -> String {
                stringify!($type).to_owned()
            }

            fn array_type() -> ArrayType {
                ArrayType::$variant
            }

            fn column_type() -> ColumnType {
                ColumnType::$column
            }
        }

        impl Nullable for $type {
            fn null() -> Value {
                Value::$variant(None)
            }
        }

        impl TryFromU64 for $type {
            fn try_from_u64(_: u64) -> Result<Self, DbErr> {
                Err(DbErr::ConvertFromU64(stringify!($type)))
            }
        }
    };
}

/// Implements text columns for types that convert to and from text.
macro_rules! text_columns {
    ($($type:ty),*) => {$(
        column_type!($type, String, String, Text, |value| value.to_string(), |stored| {
            <$type as TryFrom<_>>::try_from(stored).map_err(|invalid| invalid.to_string())
        });
    )*};
}

/// Implements integer columns for checked integers.
macro_rules! integer_columns {
    ($($type:ty),*) => {$(
        column_type!($type, i64, BigInt, BigInteger, |value| value.get(), |stored| {
            <$type as TryFrom<_>>::try_from(stored).map_err(|invalid| invalid.to_string())
        });
    )*};
}

/// Implements text columns for string enumerations, which are stored as their words.
macro_rules! word_columns {
    ($($type:ty),*) => {$(
        column_type!($type, String, String, Text, |value| value.as_str().to_owned(), |stored| {
            stored.parse::<$type>().map_err(|invalid| invalid.to_string())
        });
    )*};
}

text_columns!(Name, Text, ExternalId, Currency);
integer_columns!(Count, Grants, Seconds, Version);
word_columns!(Code, Ending, Privilege, Revocation, SettlementOutcome, UnmatchedKind);
column_type!(Timestamp, i64, BigInt, BigInteger, |value| value.as_millis(), |stored| {
    Ok(Timestamp::from_millis(stored))
});
column_type!(Digest, Vec<u8>, Bytes, Blob, |value| value.0.to_vec(), |stored| {
    <[u8; 32]>::try_from(stored).map(Digest).map_err(|stored| format!("it has {} bytes, not 32", stored.len()))
});

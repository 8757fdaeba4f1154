//! The source that a worker's `load` reads from.

use std::future::Future;

use licet_schema::entity::Keyed;
use sea_orm::{EntityTrait, Value};

use super::StoreError;
use crate::rows::Rows;

/// How the selected rows are locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// The rows are not locked.
    None,
    /// The rows are locked, in key order, until the transaction ends. SQLite needs no locks,
    /// because it has only one writer.
    ForUpdate,
    /// The same as `ForUpdate`, but rows that another transaction has locked are skipped.
    SkipLocked,
}

/// How a column is compared with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Less.
    Less,
    /// Greater.
    Greater,
}

impl Comparison {
    pub(super) fn operator(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "<>",
            Self::Less => "<",
            Self::Greater => ">",
        }
    }
}

/// The first rows of a table in the order of a column.
#[derive(Clone, Debug)]
pub struct Page<E: EntityTrait> {
    /// The conditions that a row must satisfy.
    pub filter: Vec<(E::Column, Comparison, Value)>,
    /// A further condition. Its constant is part of the text of the statement, so that a partial
    /// index with the same condition can be used.
    pub constant: Option<(E::Column, Comparison, &'static str)>,
    /// The column that orders the rows.
    pub order: E::Column,
    /// Whether the order is descending.
    pub descending: bool,
    /// The maximum number of rows.
    pub limit: u64,
}

/// The source that a worker's `load` reads from: a [`Transaction`](super::Transaction), or an
/// in-memory store in tests.
pub trait Source: Send + Sync {
    /// The rows of `E` whose `columns` have the values of one of `keys`. Each key has one value for
    /// each column.
    ///
    /// # Errors
    /// The database returns an error.
    fn select<E: Keyed>(
        &self,
        columns: &[E::Column],
        keys: Vec<Vec<Value>>,
        lock: Lock,
    ) -> impl Future<Output = Result<Vec<E::Model>, StoreError>> + Send;

    /// The rows of a page. They are not locked.
    ///
    /// # Errors
    /// The database returns an error.
    fn page<E: Keyed>(&self, page: Page<E>) -> impl Future<Output = Result<Vec<E::Model>, StoreError>> + Send;
}

/// Reads the rows of `E` whose `columns` have the values of one of `keys` into `rows`, and records
/// that these rows were requested.
///
/// # Errors
/// The database returns an error.
pub async fn load<E: Keyed, S: Source>(
    source: &S,
    rows: &mut Rows<E>,
    columns: &[E::Column],
    keys: Vec<Vec<Value>>,
    lock: Lock,
) -> Result<(), StoreError> {
    rows.cover(columns, &keys);
    rows.take(source.select::<E>(columns, keys, lock).await?);
    Ok(())
}

/// Creates keys that consist of one column.
pub fn keys<V: Into<Value>>(values: impl IntoIterator<Item = V>) -> Vec<Vec<Value>> {
    values.into_iter().map(|value| vec![value.into()]).collect()
}

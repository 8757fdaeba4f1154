//! What a worker's `load` reads from.

use std::future::Future;

use licet_schema::entity::Keyed;
use sea_orm::{EntityTrait, Value};

use super::StoreError;
use crate::rows::Rows;

/// What happens to rows after they were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Nothing.
    None,
    /// They are locked, in key order, until the transaction ends. SQLite has one writer anyway.
    ForUpdate,
    /// The same, but rows that another transaction has locked are left out instead of waited for.
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
    /// What a row must fulfil.
    pub filter: Vec<(E::Column, Comparison, Value)>,
    /// A further comparison, with a constant that is part of the statement's text, so that a partial
    /// index over the same condition can be used.
    pub constant: Option<(E::Column, Comparison, &'static str)>,
    /// The column that orders the rows.
    pub order: E::Column,
    /// Whether the order is descending.
    pub descending: bool,
    /// The most rows.
    pub limit: u64,
}

/// What a worker's `load` reads from: a [`Transaction`](super::Transaction), or in tests a store in memory.
pub trait Source: Send + Sync {
    /// The rows of `E` whose `columns` are among `keys`. Each key has a value for each column.
    ///
    /// # Errors
    /// The database's.
    fn select<E: Keyed>(
        &self,
        columns: &[E::Column],
        keys: Vec<Vec<Value>>,
        lock: Lock,
    ) -> impl Future<Output = Result<Vec<E::Model>, StoreError>> + Send;

    /// The rows of a page. They are not locked.
    ///
    /// # Errors
    /// The database's.
    fn page<E: Keyed>(&self, page: Page<E>) -> impl Future<Output = Result<Vec<E::Model>, StoreError>> + Send;
}

/// Reads the rows of `E` whose `columns` are among `keys` into `rows`, which record that they were
/// asked for.
///
/// # Errors
/// The database's.
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

/// Keys of one column.
pub fn keys<V: Into<Value>>(values: impl IntoIterator<Item = V>) -> Vec<Vec<Value>> {
    values.into_iter().map(|value| vec![value.into()]).collect()
}

//! The points and debt balances of users.
//!
//! Licet's own accounts have ledger entries but no balance row, so no transaction has to wait for a
//! lock on them.

use sea_orm::entity::prelude::*;

use super::Keyed;

/// A row of `account`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "account")]
pub struct Model {
    /// The account: `points:<user>` or `debt:<user>`.
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub name: String,
    /// The sum of the account's entries, in points.
    pub balance: i64,
}

/// Intentionally empty, because no query uses the relations of sea-orm.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Keyed for Entity {
    type Key = String;
    fn key(row: &Model) -> Self::Key {
        row.name.clone()
    }
    fn key_values(key: &Self::Key) -> Vec<Value> {
        vec![key.clone().into()]
    }
}

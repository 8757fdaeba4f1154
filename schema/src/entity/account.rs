//! The balances of users' points and debts.
//!
//! Licet's own accounts have entries and no balance row, so no transaction waits for their lock.

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

/// Empty: no query uses sea-orm's relations.
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

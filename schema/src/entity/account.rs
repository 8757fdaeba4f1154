//! Balances of users' points. Licet's own accounts have entries and no row here: nobody waits for
//! their lock.

use sea_orm::entity::prelude::*;

use super::Keyed;

/// A row of `account`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "account")]
pub struct Model {
    /// `points:<user>`.
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub name: String,
    /// The sum of its entries.
    pub balance: i64,
}

/// None: tables are joined by hand, set by set.
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

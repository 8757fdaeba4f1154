//! Buy-backs that were paid out, by the provider's id: each once.

use sea_orm::entity::prelude::*;

use super::Keyed;

/// A row of `payout`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "payout")]
pub struct Model {
    /// The provider.
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub provider: String,
    /// Its id of the payout.
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub payout: String,
    /// The return that it was for.
    #[sea_orm(unique)]
    pub license_return: Uuid,
    /// What was paid out, in minor units.
    pub amount_minor: i64,
    /// Its currency.
    #[sea_orm(column_type = "Text")]
    pub currency: String,
    /// When, in Unix milliseconds.
    pub registered_at: i64,
    /// The message that told it.
    pub cause: Uuid,
}

/// None: tables are joined by hand, set by set.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Keyed for Entity {
    type Key = (String, String);
    fn key(row: &Model) -> Self::Key {
        (row.provider.clone(), row.payout.clone())
    }
    fn key_values(key: &Self::Key) -> Vec<Value> {
        vec![key.0.clone().into(), key.1.clone().into()]
    }
}

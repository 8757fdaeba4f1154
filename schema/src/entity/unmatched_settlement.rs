//! Settlements that match nothing, or not in amount: money, kept until somebody has dealt with it.

use sea_orm::entity::prelude::*;

use super::Keyed;

/// A row of `unmatched_settlement`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "unmatched_settlement")]
pub struct Model {
    /// The id of the message that told it.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// The provider.
    #[sea_orm(column_type = "Text")]
    pub provider: String,
    /// Its id of the settlement.
    #[sea_orm(column_type = "Text")]
    pub settlement: String,
    /// The certificate it named.
    pub certificate: Option<Uuid>,
    /// The container it named.
    pub container: Option<Uuid>,
    /// What was paid, in minor units.
    pub amount_minor: i64,
    /// Its currency.
    #[sea_orm(column_type = "Text")]
    pub currency: String,
    /// The refusal code.
    #[sea_orm(column_type = "Text")]
    pub reason: String,
    /// When, in Unix milliseconds.
    pub told_at: i64,
}

/// None: tables are joined by hand, set by set.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Keyed for Entity {
    type Key = Uuid;
    fn key(row: &Model) -> Self::Key {
        row.id
    }
    fn key_values(key: &Self::Key) -> Vec<Value> {
        vec![(*key).into()]
    }
}

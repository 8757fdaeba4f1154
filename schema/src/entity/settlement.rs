//! Settlements that were registered, by the provider's id: each once.

use sea_orm::entity::prelude::*;

use super::{Keyed, Outcome};

/// A row of `settlement`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "settlement")]
pub struct Model {
    /// The provider.
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub provider: String,
    /// Its id of the settlement.
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub settlement: String,
    /// What it paid for, if that was bought alone.
    pub certificate: Option<Uuid>,
    /// What it paid for, if there were several.
    pub container: Option<Uuid>,
    /// What it told last.
    pub outcome: Outcome,
    /// What was paid, in minor units; none if only its failure, or its reversal, was told yet.
    pub amount_minor: Option<i64>,
    /// Its currency.
    #[sea_orm(column_type = "Text", nullable)]
    pub currency: Option<String>,
    /// Grants of each certificate, if it said so.
    pub grants: Option<i64>,
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
        (row.provider.clone(), row.settlement.clone())
    }
    fn key_values(key: &Self::Key) -> Vec<Value> {
        vec![key.0.clone().into(), key.1.clone().into()]
    }
}

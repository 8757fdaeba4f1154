//! Every completed return: the collection or purchase of the license, with the transaction it goes
//! back to.

use sea_orm::entity::prelude::*;

use super::{Keyed, PrivilegeKind};

/// A row of `collection`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "collection")]
pub struct Model {
    /// The return's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// The license that was given back.
    pub license: Uuid,
    /// By whom.
    #[sea_orm(column_type = "Text")]
    pub user: String,
    /// The content.
    #[sea_orm(column_type = "Text")]
    pub content: String,
    /// Its version.
    pub version: i64,
    /// The certificate it came from.
    pub certificate: Uuid,
    /// The settlement that paid for it.
    #[sea_orm(column_type = "Text")]
    pub settlement: String,
    /// Its provider.
    #[sea_orm(column_type = "Text")]
    pub provider: String,
    /// What was paid, in minor units.
    pub amount_minor: i64,
    /// Its currency.
    #[sea_orm(column_type = "Text")]
    pub currency: String,
    /// Collection or purchase: what it brought.
    pub kind: PrivilegeKind,
    /// When it was bought, in Unix milliseconds.
    pub purchased_at: i64,
    /// When its delivery was confirmed.
    pub granted_at: i64,
    /// When it was returned.
    pub returned_at: i64,
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

//! The ledger of points, with double entry: rows are never changed or deleted, and all of them sum to zero.

use sea_orm::entity::prelude::*;

use super::Keyed;
use crate::Timestamp;

/// A row of `entry`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "entry")]
pub struct Model {
    /// The entry's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// The account: `points:<user>`, `debt:<user>`, or one of Licet's own (`licet:…`).
    #[sea_orm(column_type = "Text")]
    pub account: String,
    /// The points added to the account. Negative if they are taken from it.
    pub delta: i64,
    /// The id of the message that caused the entry.
    pub cause: Uuid,
    /// When the entry was made, in Unix milliseconds.
    pub booked_at: Timestamp,
}

/// Empty: no query uses sea-orm's relations.
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

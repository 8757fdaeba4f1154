//! The double-entry ledger of points. Rows are never changed or deleted, and the `delta` values of
//! all rows add up to zero.

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
    /// The account: `points:<user>`, `debt:<user>`, or one of Licet's own accounts (`licet:…`).
    #[sea_orm(column_type = "Text")]
    pub account: String,
    /// The points added to the account. Negative if points are deducted.
    pub delta: i64,
    /// The id of the message that caused the entry.
    pub cause: Uuid,
    /// When the entry was booked, in Unix milliseconds.
    pub booked_at: Timestamp,
}

/// Intentionally empty, because no query uses the relations of sea-orm.
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

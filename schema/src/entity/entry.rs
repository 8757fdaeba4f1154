//! Double-entry bookkeeping of points: entries are only ever added, and all of them sum to zero.

use sea_orm::entity::prelude::*;

use super::Keyed;

/// A row of `entry`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "entry")]
pub struct Model {
    /// The entry's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// `points:<user>`, or one of Licet's own.
    #[sea_orm(column_type = "Text")]
    pub account: String,
    /// Points added; negative, taken.
    pub delta: i64,
    /// The message that caused it.
    pub cause: Uuid,
    /// When, in Unix milliseconds.
    pub booked_at: i64,
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

//! Further purchases that a journal row tells of, besides its subject: a sweep ends certificates of many,
//! an upgrade makes another.

use sea_orm::entity::prelude::*;

use super::Keyed;

/// A row of `mention`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "mention")]
pub struct Model {
    /// The purchase.
    #[sea_orm(primary_key, auto_increment = false)]
    pub subject: Uuid,
    /// The journal row's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub journal: Uuid,
}

/// None: tables are joined by hand, set by set.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Keyed for Entity {
    type Key = (Uuid, Uuid);
    fn key(row: &Model) -> Self::Key {
        (row.subject, row.journal)
    }
    fn key_values(key: &Self::Key) -> Vec<Value> {
        vec![key.0.into(), key.1.into()]
    }
}

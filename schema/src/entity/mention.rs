//! The purchases that a journal row concerns besides its subject. For example, a sweep ends certificates of
//! several purchases, and an upgrade creates another.

use sea_orm::entity::prelude::*;

use super::Keyed;

/// A row of `mention`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "mention")]
pub struct Model {
    /// The id of the purchase: of the container, or of the certificate if it was bought alone.
    #[sea_orm(primary_key, auto_increment = false)]
    pub subject: Uuid,
    /// The journal row's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub journal: Uuid,
}

/// Empty: no query uses sea-orm's relations.
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

//! Purchases that a journal row affects in addition to its subject. For example, a sweep can end
//! certificates of several purchases, and an upgrade creates a certificate that is a purchase of
//! its own.

use sea_orm::entity::prelude::*;

use super::Keyed;

/// A row of `mention`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "mention")]
pub struct Model {
    /// The id of the purchase: the id of the container, or the id of the certificate if there is no
    /// container.
    #[sea_orm(primary_key, auto_increment = false)]
    pub subject: Uuid,
    /// The journal row's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub journal: Uuid,
}

/// Intentionally empty, because no query uses the relations of sea-orm.
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

//! Returns, from the first word to the last.

use sea_orm::entity::prelude::*;

use super::{Keyed, PrivilegeKind, ReturnState};

/// A row of `license_return`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "license_return")]
pub struct Model {
    /// The return's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// The license given back.
    pub license: Uuid,
    /// The certificate it came from.
    pub certificate: Uuid,
    /// Who gives it back.
    #[sea_orm(column_type = "Text")]
    pub user: String,
    /// What it brings.
    pub privilege: PrivilegeKind,
    /// Where it stands.
    pub state: ReturnState,
    /// When, in Unix milliseconds.
    pub opened_at: i64,
    /// Until when the deletion must be told.
    pub delete_by: i64,
    /// When it was completed, or lapsed.
    pub closed_at: Option<i64>,
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

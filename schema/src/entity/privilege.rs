//! Privileges given for returns; each refers to its collection row.

use sea_orm::entity::prelude::*;

use super::{Keyed, PrivilegeKind};

/// A row of `privilege`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "privilege")]
pub struct Model {
    /// The return's id, which is the collection's.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// Whose it is.
    #[sea_orm(column_type = "Text")]
    pub user: String,
    /// Which of the four.
    pub kind: PrivilegeKind,
    /// Points, for `points`.
    pub points: Option<i64>,
    /// The certificate, for `upgrade`.
    pub certificate: Option<Uuid>,
    /// Money, for `buyback`, in minor units.
    pub amount_minor: Option<i64>,
    /// Its currency.
    #[sea_orm(column_type = "Text", nullable)]
    pub currency: Option<String>,
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

//! Privileges granted for returns. Each privilege belongs to a row of `collection`.

use sea_orm::entity::prelude::*;

use super::Keyed;
use crate::{Count, Name, message::Privilege, money::Currency};

/// A row of `privilege`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "privilege")]
pub struct Model {
    /// The return's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// The user who received the privilege.
    pub user: Name,
    /// The kind of privilege.
    pub kind: Privilege,
    /// The points granted, for `points`.
    pub points: Option<Count>,
    /// The certificate issued, for `upgrade`.
    pub certificate: Option<Uuid>,
    /// The amount to pay out, for `buyback`, in minor units.
    pub amount_minor: Option<Count>,
    /// The currency of the amount.
    pub currency: Option<Currency>,
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

//! Order numbers of upstream systems that each sender may use for only one purchase, unless the
//! purchase ends unpaid. A row exists only for purchases that were made while the setting
//! `unique_reference` was on. It is never changed, because a purchase that ended unpaid can be paid
//! later. The key ensures that two purchase workers cannot accept the same order number at the same
//! time.

use sea_orm::entity::prelude::*;

use super::Keyed;
use crate::{Count, ExternalId};

/// A row of `reference`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "reference")]
pub struct Model {
    /// The order number.
    #[sea_orm(primary_key, auto_increment = false)]
    pub reference: ExternalId,
    /// The broker user who sent the purchase. Empty if the message had no `user_id`.
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub sender: String,
    /// The number of earlier purchases of the sender with this order number. Each of them had ended
    /// unpaid when the next one was made.
    #[sea_orm(primary_key, auto_increment = false)]
    pub earlier: Count,
    /// The id of the purchase: the container's id, or the certificate's id if there is no
    /// container.
    pub purchase: Uuid,
    /// Whether the purchase has a container.
    pub container: bool,
}

/// Intentionally empty, because no query uses the relations of sea-orm.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Keyed for Entity {
    type Key = (ExternalId, String, Count);
    fn key(row: &Model) -> Self::Key {
        (row.reference.clone(), row.sender.clone(), row.earlier)
    }
    fn key_values(key: &Self::Key) -> Vec<Value> {
        vec![key.0.clone().into(), key.1.clone().into(), key.2.into()]
    }
}

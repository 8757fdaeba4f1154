//! Reinstatements that arrived before the refund that they undo, and reinstatements of all refunds of
//! a settlement. The row of a single refund is deleted when the refund arrives.

use sea_orm::entity::prelude::*;

use super::Keyed;
use crate::{ExternalId, Name, Timestamp};

/// A row of `reinstatement`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "reinstatement")]
pub struct Model {
    /// The id of the message that reported the reinstatement.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// The payment provider.
    pub provider: Name,
    /// The provider's id of the settlement.
    pub settlement: ExternalId,
    /// The provider's id of the refund. `None` for all refunds.
    pub refund: Option<ExternalId>,
    /// The certificate that the reinstatement names.
    pub certificate: Option<Uuid>,
    /// The container that the reinstatement names.
    pub container: Option<Uuid>,
    /// When the reinstatement was registered, in Unix milliseconds.
    pub registered_at: Timestamp,
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

//! Payouts for buy-backs, keyed by provider and the provider's id of the payout. A return has at
//! most one payout.

use sea_orm::entity::prelude::*;

use super::Keyed;
use crate::{Count, ExternalId, Name, Timestamp, money::Currency};

/// A row of `payout`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "payout")]
pub struct Model {
    /// The payment provider.
    #[sea_orm(primary_key, auto_increment = false)]
    pub provider: Name,
    /// The provider's id of the payout.
    #[sea_orm(primary_key, auto_increment = false)]
    pub payout: ExternalId,
    /// The return that the payout belongs to.
    #[sea_orm(unique)]
    pub license_return: Uuid,
    /// The amount paid out, in minor units.
    pub amount_minor: Count,
    /// The currency of the amount.
    pub currency: Currency,
    /// When the payout was registered, in Unix milliseconds.
    pub registered_at: Timestamp,
    /// The id of the message that reported the payout.
    pub cause: Uuid,
}

/// Intentionally empty, because no query uses the relations of sea-orm.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Keyed for Entity {
    type Key = (Name, ExternalId);
    fn key(row: &Model) -> Self::Key {
        (row.provider.clone(), row.payout.clone())
    }
    fn key_values(key: &Self::Key) -> Vec<Value> {
        vec![key.0.clone().into(), key.1.clone().into()]
    }
}

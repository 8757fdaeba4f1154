//! Payouts for buy-backs, keyed by provider and the provider's id of the payout.
//!
//! A return is paid out if one of its payouts is completed. Money may leave the provider more than
//! once, so a return can have several payouts, and an amount can differ from the amount owed. Apart
//! from `sequence`, `registered_at`, `cause` and `reason`, the rows do not depend on the order in
//! which the messages arrived.

use sea_orm::entity::prelude::*;

use super::{Keyed, PayoutState};
use crate::{Count, ExternalId, Name, Text, Timestamp, money::Currency};

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
    pub license_return: Uuid,
    /// The state of the payout.
    pub state: PayoutState,
    /// The amount paid out, in minor units. Absent if only a failure was reported.
    pub amount_minor: Option<Count>,
    /// The currency of the amount.
    pub currency: Option<Currency>,
    /// The order in which the payouts of the return were registered with their amounts. The first
    /// completed one counts.
    pub sequence: Count,
    /// Why the payout failed, as first reported.
    pub reason: Option<Text>,
    /// When the payout was first reported with this amount, in Unix milliseconds.
    pub registered_at: Timestamp,
    /// The id of the message that reported it.
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

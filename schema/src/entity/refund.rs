//! Refunds of settlements, keyed by provider, settlement and the provider's id of the refund.

use sea_orm::entity::prelude::*;

use super::Keyed;
use crate::{Count, ExternalId, Name, Timestamp, message::SettlementOutcome, money::Currency};

/// A row of `refund`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "refund")]
pub struct Model {
    /// The payment provider.
    #[sea_orm(primary_key, auto_increment = false)]
    pub provider: Name,
    /// The provider's id of the settlement.
    #[sea_orm(primary_key, auto_increment = false)]
    pub settlement: ExternalId,
    /// The provider's id of the refund.
    #[sea_orm(primary_key, auto_increment = false)]
    pub refund: ExternalId,
    /// The certificate that the refund names.
    pub certificate: Option<Uuid>,
    /// The container that the refund names.
    pub container: Option<Uuid>,
    /// The amount that was reported, in minor units. `None` if none was reported.
    pub amount_minor: Option<Count>,
    /// The currency of the reported amount.
    pub currency: Option<Currency>,
    /// `pending` until the payment arrives, then `refunded` or `reversed`, and `reinstated` once the
    /// refund was undone.
    pub outcome: SettlementOutcome,
    /// The part of the payment that the refund counts for, in minor units. `None` while it is
    /// pending, and if it is everything that the other refunds leave.
    pub counted_minor: Option<Count>,
    /// Whether it returned money that paid for nothing.
    pub unmatched: bool,
    /// When the refund was registered, in Unix milliseconds.
    pub registered_at: Timestamp,
    /// The id of the message that reported the refund.
    pub cause: Uuid,
}

/// Intentionally empty, because no query uses the relations of sea-orm.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Keyed for Entity {
    type Key = (Name, ExternalId, ExternalId);
    fn key(row: &Model) -> Self::Key {
        (row.provider.clone(), row.settlement.clone(), row.refund.clone())
    }
    fn key_values(key: &Self::Key) -> Vec<Value> {
        vec![key.0.clone().into(), key.1.clone().into(), key.2.clone().into()]
    }
}

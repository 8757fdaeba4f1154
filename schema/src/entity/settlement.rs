//! Registered settlements, keyed by provider and the provider's id of the settlement.

use sea_orm::entity::prelude::*;

use super::Keyed;
use crate::{Count, ExternalId, Name, Timestamp, message::SettlementOutcome, money::Currency, vocabulary::Grants};

/// A row of `settlement`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "settlement")]
pub struct Model {
    /// The payment provider.
    #[sea_orm(primary_key, auto_increment = false)]
    pub provider: Name,
    /// The provider's id of the settlement.
    #[sea_orm(primary_key, auto_increment = false)]
    pub provider_reference: ExternalId,
    /// The certificate that the settlement is for, if it was bought without a container.
    pub certificate: Option<Uuid>,
    /// The container that the settlement is for.
    pub container: Option<Uuid>,
    /// The certificate that the provider named, if an operator assigned the payment to another
    /// purchase.
    pub reported_certificate: Option<Uuid>,
    /// The container that the provider named, if an operator assigned the payment to another
    /// purchase.
    pub reported_container: Option<Uuid>,
    /// `completed`, `failed`, or `reversed` once everything that was paid is refunded.
    pub outcome: SettlementOutcome,
    /// The amount paid, in minor units. `None` if only a failure was reported.
    pub amount_minor: Option<Count>,
    /// The currency of the amount.
    pub currency: Option<Currency>,
    /// The number of licenses per certificate, if the settlement specifies it.
    pub grants: Option<Grants>,
    /// The sum of the refunds that were not undone, in minor units.
    pub refunded_minor: Count,
    /// When the settlement was registered, in Unix milliseconds.
    pub registered_at: Timestamp,
    /// The id of the message that reported the settlement.
    pub cause: Uuid,
}

/// Intentionally empty, because no query uses the relations of sea-orm.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Keyed for Entity {
    type Key = (Name, ExternalId);
    fn key(row: &Model) -> Self::Key {
        (row.provider.clone(), row.provider_reference.clone())
    }
    fn key_values(key: &Self::Key) -> Vec<Value> {
        vec![key.0.clone().into(), key.1.clone().into()]
    }
}

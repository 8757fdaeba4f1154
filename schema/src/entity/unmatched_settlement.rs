//! Payments that match no purchase, or whose amount is not the amount due. A row remains until an
//! operator assigns or refunds the payment, or until the payment is matched to a purchase.

use sea_orm::entity::prelude::*;

use super::Keyed;
use crate::{Code, Count, ExternalId, Name, Timestamp, money::Currency};

/// A row of `unmatched_settlement`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "unmatched_settlement")]
pub struct Model {
    /// The id of the message that reported the payment.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// The payment provider.
    pub provider: Name,
    /// The provider's id of the settlement.
    pub settlement: ExternalId,
    /// The certificate that the message named.
    pub certificate: Option<Uuid>,
    /// The container that the message named.
    pub container: Option<Uuid>,
    /// The amount paid, in minor units.
    pub amount_minor: Count,
    /// The currency of the amount.
    pub currency: Currency,
    /// Why the payment was refused.
    pub reason: Code,
    /// When the payment was reported, in Unix milliseconds.
    pub told_at: Timestamp,
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

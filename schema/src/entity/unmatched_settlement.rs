//! Money that matches no purchase: payments that pay for nothing, and refunds of more than was paid.
//! The row of a payment remains until the payment is matched to a purchase, or an operator assigns it.
//! A refunded payment keeps its row, which names the refund. The row is open if it names none.

use sea_orm::entity::prelude::*;

use super::Keyed;
use crate::{Code, Count, ExternalId, Name, Timestamp, message::UnmatchedKind, money::Currency, vocabulary::Grants};

/// A row of `unmatched_settlement`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "unmatched_settlement")]
pub struct Model {
    /// The id of the message that reported the money.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// Whether the money came in or went out.
    pub kind: UnmatchedKind,
    /// The payment provider.
    pub provider: Name,
    /// The provider's id of the settlement.
    pub settlement: ExternalId,
    /// The provider's id of the refund. `None` for a payment.
    pub refund: Option<ExternalId>,
    /// The certificate that the message named.
    pub certificate: Option<Uuid>,
    /// The container that the message named.
    pub container: Option<Uuid>,
    /// The amount paid or refunded, in minor units.
    pub amount_minor: Count,
    /// The currency of the amount.
    pub currency: Currency,
    /// The number of licenses per certificate, if the payment specifies it.
    pub grants: Option<Grants>,
    /// Why the money matches no purchase.
    pub reason: Code,
    /// When the money was recorded, in Unix milliseconds.
    pub recorded_at: Timestamp,
    /// The refund that returned this payment. `None` while the money is open.
    pub refunded_by: Option<ExternalId>,
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

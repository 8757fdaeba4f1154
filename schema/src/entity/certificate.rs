//! The live certificates, each with its settlement and its counts of licenses. A row is deleted when its
//! certificate ends.

use sea_orm::entity::prelude::*;

use super::{Digest, Keyed};
use crate::{Count, ExternalId, Name, Timestamp, Version, money::Currency};

/// A row of `certificate`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "certificate")]
pub struct Model {
    /// The certificate's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// The container of the purchase. None if the certificate was bought alone.
    pub container: Option<Uuid>,
    /// The user who bought the certificate.
    pub user: Name,
    /// The content.
    pub content: Name,
    /// The content's version.
    pub version: Version,
    /// The content's revision at the purchase, which has the terms.
    pub revision: i64,
    /// The price in minor units, including the part paid with points.
    pub amount_minor: Count,
    /// The currency of the price.
    pub currency: Currency,
    /// The points that pay a part of the price. One point pays one minor unit.
    pub points: Count,
    /// The order number of the upstream system.
    pub reference: Option<ExternalId>,
    /// The generation of the valid token: 1 at the purchase, one more for each reissue.
    pub generation: Count,
    /// The SHA-256 of the valid token.
    pub token_digest: Digest,
    /// When the valid token was issued, in Unix milliseconds.
    pub issued_at: Timestamp,
    /// The deadline for acknowledging the reception, in Unix milliseconds.
    pub receipt_due_at: Timestamp,
    /// When the certificate expires, in Unix milliseconds.
    pub expires_at: Timestamp,
    /// When the reception was acknowledged, in Unix milliseconds.
    pub received_at: Option<Timestamp>,
    /// The provider's id of the settlement that paid for the certificate.
    pub settlement: Option<ExternalId>,
    /// The provider of that settlement.
    pub provider: Option<Name>,
    /// When the settlement was registered, in Unix milliseconds.
    pub settled_at: Option<Timestamp>,
    /// The number of licenses that the certificate grants: the content's number, unless the settlement states
    /// another.
    pub grants: Count,
    /// The number of licenses whose reception was confirmed.
    pub granted: Count,
    /// The number of licenses that were issued and are not confirmed yet.
    pub outstanding: Count,
}

/// Empty: no query uses sea-orm's relations.
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

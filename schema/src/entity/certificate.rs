//! Live certificates, each with its settlement and license counts. A row is deleted when its
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
    /// The container of the purchase. `None` if the certificate was bought without a container.
    pub container: Option<Uuid>,
    /// The user who bought the certificate.
    pub user: Name,
    /// The content.
    pub content: Name,
    /// The content's version.
    pub version: Version,
    /// The revision of the content at the time of purchase. It defines the terms.
    pub revision: i64,
    /// The price in minor units, including the part paid with points.
    pub amount_minor: Count,
    /// The currency of the price.
    pub currency: Currency,
    /// The points that pay part of the price. One point pays one minor unit.
    pub points: Count,
    /// The order number of the upstream system.
    pub reference: Option<ExternalId>,
    /// The generation of the valid token. It is 1 at purchase and increases by 1 with each reissue.
    pub generation: Count,
    /// The SHA-256 of the valid token.
    pub token_digest: Digest,
    /// When the valid token was issued, in Unix milliseconds.
    pub issued_at: Timestamp,
    /// The deadline for acknowledging receipt, in Unix milliseconds.
    pub receipt_due_at: Timestamp,
    /// When the certificate expires, in Unix milliseconds.
    pub expires_at: Timestamp,
    /// When receipt was acknowledged, in Unix milliseconds.
    pub received_at: Option<Timestamp>,
    /// The provider's id of the settlement that paid for the certificate.
    pub settlement: Option<ExternalId>,
    /// The provider of that settlement.
    pub provider: Option<Name>,
    /// When the settlement was registered, in Unix milliseconds.
    pub settled_at: Option<Timestamp>,
    /// The number of licenses that the certificate grants. The content defines this number, and the
    /// settlement can override it.
    pub grants: Count,
    /// The number of licenses whose receipt was acknowledged.
    pub granted: Count,
    /// The number of licenses that were issued but not acknowledged yet.
    pub outstanding: Count,
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

//! Permanent records, with one row for each certificate ever issued. While a certificate is live,
//! its settlement and counts are stored only in its `certificate` row. When the certificate ends,
//! they are copied to its record.

use sea_orm::entity::prelude::*;

use super::{Digest, Keyed};
use crate::{Count, ExternalId, Name, Timestamp, Version, message::Ending, money::Currency};

/// A row of `certificate_record`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "certificate_record")]
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
    /// When the certificate was bought, in Unix milliseconds.
    pub purchased_at: Timestamp,
    /// The generation of the certificate. It is 1 at purchase and increases by 1 with each reissue.
    pub generation: Count,
    /// When receipt was acknowledged, in Unix milliseconds. `None` while the certificate is live.
    pub received_at: Option<Timestamp>,
    /// The provider's id of the settlement that paid for the certificate. `None` while the
    /// certificate is live.
    pub settlement: Option<ExternalId>,
    /// The provider of that settlement. `None` while the certificate is live.
    pub provider: Option<Name>,
    /// When the settlement was registered, in Unix milliseconds. `None` while the certificate is
    /// live.
    pub settled_at: Option<Timestamp>,
    /// The number of licenses that the certificate granted. `None` while the certificate is live.
    pub grants: Option<Count>,
    /// The number of licenses whose receipt was acknowledged. Zero while the certificate is live.
    pub granted: Count,
    /// How the certificate ended. `None` while the certificate is live.
    pub ended: Option<Ending>,
    /// When the certificate ended, in Unix milliseconds. `None` while the certificate is live.
    pub ended_at: Option<Timestamp>,
    /// Whether the reversal that ended the certificate was undone, so that a reissue brings the
    /// certificate back.
    pub reinstated: bool,
    /// The SHA-256 of the valid token. Only of a certificate that ended unpaid, which a late
    /// payment restores.
    pub token_digest: Option<Digest>,
    /// When that token was issued, in Unix milliseconds.
    pub issued_at: Option<Timestamp>,
    /// The deadline for acknowledging receipt, in Unix milliseconds. Only of a certificate that
    /// ended unpaid.
    pub receipt_due_at: Option<Timestamp>,
    /// When the certificate would have expired, in Unix milliseconds. Only of a certificate that
    /// ended unpaid.
    pub expires_at: Option<Timestamp>,
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

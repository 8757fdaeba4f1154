//! Completed returns, each with the returned license and the settlement that paid for it.

use sea_orm::entity::prelude::*;

use super::Keyed;
use crate::{Count, ExternalId, Name, Timestamp, Version, message::Privilege, money::Currency};

/// A row of `collection`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "collection")]
pub struct Model {
    /// The return's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// The license that was returned.
    pub license: Uuid,
    /// The user who returned the license.
    pub user: Name,
    /// The content.
    pub content: Name,
    /// The content's version.
    pub version: Version,
    /// The certificate that the license was issued under.
    pub certificate: Uuid,
    /// The provider's id of the settlement that paid for the certificate.
    pub settlement: ExternalId,
    /// The provider of that settlement.
    pub provider: Name,
    /// The price of the certificate, in minor units, including the part paid with points.
    pub amount_minor: Count,
    /// The currency of the price.
    pub currency: Currency,
    /// The privilege that the return granted.
    pub kind: Privilege,
    /// When the certificate was bought, in Unix milliseconds.
    pub purchased_at: Timestamp,
    /// When receipt of the license was acknowledged, in Unix milliseconds.
    pub granted_at: Timestamp,
    /// When the return was completed, in Unix milliseconds.
    pub returned_at: Timestamp,
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

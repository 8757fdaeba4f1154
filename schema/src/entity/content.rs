//! Revisions of content versions. Each revision contains the terms of the purchases that were made
//! while it was current. Rows are never deleted.

use sea_orm::entity::prelude::*;

use super::Keyed;
use crate::{Count, Name, Seconds, Text, Timestamp, Version, money::Currency, vocabulary::Grants};

/// A row of `content`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "content")]
pub struct Model {
    /// The content's name.
    #[sea_orm(primary_key, auto_increment = false)]
    pub content: Name,
    /// The content's version.
    #[sea_orm(primary_key, auto_increment = false)]
    pub version: Version,
    /// The revision number. It is 1 for the first `content.put` of this version and increases by 1
    /// with each later `content.put` that changes the terms.
    #[sea_orm(primary_key, auto_increment = false)]
    pub revision: i64,
    /// When the revision was registered, in Unix milliseconds.
    pub registered_at: Timestamp,
    /// The display title.
    pub title: Text,
    /// The price of one certificate, in minor units.
    pub price_minor: Count,
    /// The currency of the price.
    pub currency: Currency,
    /// The number of licenses that one certificate grants.
    pub grants: Grants,
    /// The time from the purchase until a certificate expires, in seconds.
    pub certificate_ttl_s: Seconds,
    /// The time allowed for acknowledging receipt, in seconds. If `None`, the configured time
    /// applies.
    pub receipt_ttl_s: Option<Seconds>,
    /// The content that an upgrade grants.
    pub successor_content: Option<Name>,
    /// The version of that content.
    pub successor_version: Option<Version>,
    /// The points granted for a license that is returned for points.
    pub return_points: Option<Count>,
    /// Whether a license can be returned for an upgrade to the successor.
    pub return_upgrade: bool,
    /// The amount paid for a license that is returned for money, in minor units.
    pub return_buyback_minor: Option<Count>,
    /// The currency of that amount.
    pub return_buyback_currency: Option<Currency>,
    /// Whether a license can be returned for only a collection record.
    pub return_collection: bool,
    /// Whether this is the highest revision of its version. New purchases use the highest revision.
    pub current: bool,
    /// The URI of the media file.
    pub media_uri: Option<Text>,
    /// The SHA-256 of the media file, in hexadecimal.
    pub media_sha256: Option<Text>,
    /// The length of the media file, in bytes.
    pub media_bytes: Option<Count>,
}

/// Intentionally empty, because no query uses the relations of sea-orm.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Keyed for Entity {
    type Key = (Name, Version, i64);
    fn key(row: &Model) -> Self::Key {
        (row.content.clone(), row.version, row.revision)
    }
    fn key_values(key: &Self::Key) -> Vec<Value> {
        vec![key.0.clone().into(), key.1.into(), key.2.into()]
    }
}

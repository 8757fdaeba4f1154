//! One revision of a content version: what is sold since `registered_at`. A later revision takes
//! its place; the terms of this one stay for what was bought under it.

use sea_orm::entity::prelude::*;

use super::Keyed;

/// A row of `content`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "content")]
pub struct Model {
    /// The content's name.
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub content: String,
    /// Its version.
    #[sea_orm(primary_key, auto_increment = false)]
    pub version: i64,
    /// 1 for the first `content.put`, 2 for the next.
    #[sea_orm(primary_key, auto_increment = false)]
    pub revision: i64,
    /// When it was put, in Unix milliseconds.
    pub registered_at: i64,
    /// For people.
    #[sea_orm(column_type = "Text")]
    pub title: String,
    /// The price in minor units.
    pub price_minor: i64,
    /// Its currency.
    #[sea_orm(column_type = "Text")]
    pub currency: String,
    /// Licenses that one certificate grants.
    pub grants: i64,
    /// How long a certificate lives, in seconds.
    pub certificate_ttl_s: i64,
    /// How long its reception may take, in seconds; else the configured time.
    pub receipt_ttl_s: Option<i64>,
    /// What an upgrade gives.
    #[sea_orm(column_type = "Text", nullable)]
    pub successor_content: Option<String>,
    /// In which version.
    pub successor_version: Option<i64>,
    /// Points for a return.
    pub return_points: Option<i64>,
    /// Whether a return may bring the successor.
    pub return_upgrade: bool,
    /// Money for a return, in minor units.
    pub return_buyback_minor: Option<i64>,
    /// Its currency.
    #[sea_orm(column_type = "Text", nullable)]
    pub return_buyback_currency: Option<String>,
    /// Whether a return may be a record alone.
    pub return_collection: bool,
    /// Whether it is what is sold now: the highest revision of its version.
    pub current: bool,
    /// Where the work is.
    #[sea_orm(column_type = "Text", nullable)]
    pub media_uri: Option<String>,
    /// Its digest.
    #[sea_orm(column_type = "Text", nullable)]
    pub media_sha256: Option<String>,
    /// Its length in bytes.
    pub media_bytes: Option<i64>,
}

/// None: tables are joined by hand, set by set.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Keyed for Entity {
    type Key = (String, i64, i64);
    fn key(row: &Model) -> Self::Key {
        (row.content.clone(), row.version, row.revision)
    }
    fn key_values(key: &Self::Key) -> Vec<Value> {
        vec![key.0.clone().into(), key.1.into(), key.2.into()]
    }
}

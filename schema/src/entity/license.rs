//! The license management database: licenses in the hands of terminals. A completed return deletes
//! the row.

use sea_orm::entity::prelude::*;

use super::{Keyed, LicenseState};

/// A row of `license`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "license")]
pub struct Model {
    /// The license's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// The certificate that permitted it.
    pub certificate: Uuid,
    /// Who holds it.
    #[sea_orm(column_type = "Text")]
    pub user: String,
    /// The content.
    #[sea_orm(column_type = "Text")]
    pub content: String,
    /// Its version.
    pub version: i64,
    /// The device that asked.
    #[sea_orm(column_type = "Text", nullable)]
    pub terminal: Option<String>,
    /// The token: kept, so that a change of keys changes nothing already issued.
    #[sea_orm(column_type = "Text")]
    pub token: String,
    /// Where it stands.
    pub state: LicenseState,
    /// When, in Unix milliseconds.
    pub issued_at: i64,
    /// When its delivery was confirmed.
    pub granted_at: Option<i64>,
}

/// None: tables are joined by hand, set by set.
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

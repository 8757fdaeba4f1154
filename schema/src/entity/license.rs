//! Licenses that were issued to terminals. A completed return deletes the row.

use sea_orm::entity::prelude::*;

use super::{Keyed, LicenseState};
use crate::{Name, Timestamp, Version, message::Revocation};

/// A row of `license`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "license")]
pub struct Model {
    /// The license's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// The certificate that the license was issued under.
    pub certificate: Uuid,
    /// The user who holds the license.
    pub user: Name,
    /// The content.
    pub content: Name,
    /// The content's version.
    pub version: Version,
    /// The device that requested the license, if the request named one.
    pub terminal: Option<Name>,
    /// The token. It is stored so that a repeated request returns the same token even after the
    /// signing key has changed.
    #[sea_orm(column_type = "Text")]
    pub token: String,
    /// The state of the license.
    pub state: LicenseState,
    /// Why the license was revoked, if it was.
    pub revocation: Option<Revocation>,
    /// When the license was issued, in Unix milliseconds.
    pub issued_at: Timestamp,
    /// When receipt was acknowledged, in Unix milliseconds.
    pub granted_at: Option<Timestamp>,
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

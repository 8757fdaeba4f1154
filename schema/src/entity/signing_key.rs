//! The keys that workers sign tokens with. A worker that lacks one of them does not start.

use sea_orm::entity::prelude::*;

use super::Keyed;
use crate::Timestamp;

/// A row of `signing_key`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "signing_key")]
pub struct Model {
    /// The thumbprint of the key (RFC 7638).
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub kid: String,
    /// When a worker started with this signing key for the first time, in Unix milliseconds.
    pub recorded_at: Timestamp,
    /// When an operator retired the key, in Unix milliseconds. Workers do not need a retired key.
    pub retired_at: Option<Timestamp>,
}

/// Intentionally empty, because no query uses the relations of sea-orm.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Keyed for Entity {
    type Key = String;
    fn key(row: &Model) -> Self::Key {
        row.kid.clone()
    }
    fn key_values(key: &Self::Key) -> Vec<Value> {
        vec![key.clone().into()]
    }
}

//! Certificates and containers that were sent but whose receipt is not acknowledged yet. A
//! container has one row for all of its certificates.

use sea_orm::entity::prelude::*;

use super::{Digest, Keyed};
use crate::{Name, Timestamp};

/// A row of `pending_reception`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "pending_reception")]
pub struct Model {
    /// The id of the container, or the id of the certificate if there is no container.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// Whether `id` is the id of a container.
    pub container: bool,
    /// The buyer.
    pub user: Name,
    /// The SHA-256 of the token that was sent. `None` if the token is no longer known.
    pub token_digest: Option<Digest>,
    /// The deadline for the acknowledgement, in Unix milliseconds. `None` once the purchase is paid
    /// for, because receipt can then be acknowledged until the certificates expire.
    pub due_at: Option<Timestamp>,
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

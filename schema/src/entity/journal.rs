//! The journal: an append-only record of every decided message, with its idempotency key and its
//! exact outputs.

use sea_orm::entity::prelude::*;

use super::{Digest, Keyed};
use crate::Timestamp;

/// The sequence that numbers batches on PostgreSQL. Each value is the first position of a batch.
pub const POSITION_SEQUENCE: &str = "journal_position";
/// The distance between the first positions of two batches, which is more than the number of
/// messages in a batch.
pub const POSITIONS_PER_BATCH: i64 = 1 << 16;

/// A row of `journal`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "journal")]
pub struct Model {
    /// The `message_id` of the message.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// The message's type.
    #[sea_orm(column_type = "Text")]
    pub kind: String,
    /// The broker user who sent the message, if known.
    #[sea_orm(column_type = "Text", nullable)]
    pub sender: Option<String>,
    /// The SHA-256 digest of the type, `content_type`, sender and raw body.
    pub digest: Digest,
    /// The purchase that the message belongs to: the id of the container, or the id of the
    /// certificate if there is no container.
    pub subject: Option<Uuid>,
    /// The refusal code, if the request was refused.
    #[sea_orm(column_type = "Text", nullable)]
    pub code: Option<String>,
    /// When the message was decided, in Unix milliseconds.
    pub decided_at: Timestamp,
    /// The position of the row in the order in which messages were decided. Of two messages about
    /// the same purchase, account or settlement, the one that was decided first has the lower
    /// position, whatever the clocks of the workers were.
    pub position: i64,
    /// The outputs as they were published, encoded with postcard.
    #[sea_orm(column_type = "Blob")]
    pub outputs: Vec<u8>,
    /// How the batch of the message changed the fingerprints of rows, encoded with postcard. `None` in
    /// all rows of the batch but one.
    #[sea_orm(column_type = "Blob", nullable)]
    pub changes: Option<Vec<u8>>,
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

//! Append-only record of every message that was decided: the idempotency key, the decision, and the
//! exact outputs.

use sea_orm::entity::prelude::*;

use super::Keyed;

/// A row of `journal`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "journal")]
pub struct Model {
    /// The message_id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// The message's type.
    #[sea_orm(column_type = "Text")]
    pub kind: String,
    /// The broker user who sent it, where RabbitMQ says.
    #[sea_orm(column_type = "Text", nullable)]
    pub sender: Option<String>,
    /// SHA-256 over type, content_type, sender and raw body.
    #[sea_orm(column_type = "Blob")]
    pub digest: Vec<u8>,
    /// The purchase it belongs to: the container's id, or the certificate's if bought alone.
    pub subject: Option<Uuid>,
    /// The refusal code, if it was refused.
    #[sea_orm(column_type = "Text", nullable)]
    pub code: Option<String>,
    /// When, in Unix milliseconds.
    pub decided_at: i64,
    /// What was sent, byte for byte (postcard).
    #[sea_orm(column_type = "Blob")]
    pub outputs: Vec<u8>,
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

//! The purchase certificate ID database: certificates, or containers, that were sent and whose
//! reception was not acknowledged yet.

use sea_orm::entity::prelude::*;

use super::Keyed;

/// A row of `pending_reception`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "pending_reception")]
pub struct Model {
    /// The certificate's id, or the container's where several were bought.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// Whether it is a container.
    pub container: bool,
    /// To whom it was sent.
    #[sea_orm(column_type = "Text")]
    pub user: String,
    /// SHA-256 of the token that was sent.
    #[sea_orm(column_type = "Blob")]
    pub token_digest: Vec<u8>,
    /// Until when it waits, in Unix milliseconds; none once it is paid for: then it waits as long as
    /// its certificates live.
    pub due_at: Option<i64>,
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

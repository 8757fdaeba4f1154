//! License returns, both open and closed. Rows are never deleted.

use sea_orm::entity::prelude::*;

use super::{Keyed, ReturnState};
use crate::{Name, Timestamp, message::Privilege};

/// A row of `license_return`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "license_return")]
pub struct Model {
    /// The return's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// The license that is being returned.
    pub license: Uuid,
    /// The certificate that the license was issued under.
    pub certificate: Uuid,
    /// The user who returns the license.
    pub user: Name,
    /// The privilege that the user chose.
    pub privilege: Privilege,
    /// The state of the return.
    pub state: ReturnState,
    /// When the return was opened, in Unix milliseconds.
    pub opened_at: Timestamp,
    /// The deadline for reporting the deletion, in Unix milliseconds.
    pub delete_by: Timestamp,
    /// When the return was completed or lapsed, in Unix milliseconds.
    pub closed_at: Option<Timestamp>,
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

//! The digital contents management database: one permanent row for each certificate ever issued.
//! While the certificate is live its settlement and counts stand in its `certificate` row; at the
//! end they are written here.

use sea_orm::entity::prelude::*;

use super::{Ending, Keyed};

/// A row of `purchase`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "purchase")]
pub struct Model {
    /// The certificate's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// The container it was bought in.
    pub container: Option<Uuid>,
    /// Who bought.
    #[sea_orm(column_type = "Text")]
    pub user: String,
    /// The content.
    #[sea_orm(column_type = "Text")]
    pub content: String,
    /// Its version.
    pub version: i64,
    /// The terms it was bought under.
    pub revision: i64,
    /// The price, points included, in minor units.
    pub amount_minor: i64,
    /// Its currency.
    #[sea_orm(column_type = "Text")]
    pub currency: String,
    /// How much of the price points pay.
    pub points: i64,
    /// The upstream's order number.
    #[sea_orm(column_type = "Text", nullable)]
    pub reference: Option<String>,
    /// When, in Unix milliseconds.
    pub purchased_at: i64,
    /// How often it was reissued, plus 1.
    pub generation: i64,
    /// When reception was acknowledged, once ended.
    pub received_at: Option<i64>,
    /// The settlement that paid, once ended.
    #[sea_orm(column_type = "Text", nullable)]
    pub settlement: Option<String>,
    /// Its provider.
    #[sea_orm(column_type = "Text", nullable)]
    pub provider: Option<String>,
    /// When that was registered, once ended.
    pub settled_at: Option<i64>,
    /// Licenses paid for, once ended.
    pub grants: Option<i64>,
    /// Deliveries confirmed, once ended.
    pub granted: i64,
    /// How it ended; none while it is live.
    pub ended: Option<Ending>,
    /// When, in Unix milliseconds.
    pub ended_at: Option<i64>,
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

//! The purchase certificate database: only live certificates, each with the settlement and the grant
//! count matched to it. Deleted at every ending.

use sea_orm::entity::prelude::*;

use super::Keyed;

/// A row of `certificate`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "certificate")]
pub struct Model {
    /// The certificate's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// The container it was bought in.
    pub container: Option<Uuid>,
    /// Who holds it.
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
    /// The generation whose token counts.
    pub generation: i64,
    /// SHA-256 of its token.
    #[sea_orm(column_type = "Blob")]
    pub token_digest: Vec<u8>,
    /// When, in Unix milliseconds.
    pub issued_at: i64,
    /// Until when reception must be acknowledged.
    pub receipt_due_at: i64,
    /// Until when it grants licenses.
    pub expires_at: i64,
    /// When reception was acknowledged: the standing instruction to the license worker.
    pub received_at: Option<i64>,
    /// The settlement that paid.
    #[sea_orm(column_type = "Text", nullable)]
    pub settlement: Option<String>,
    /// Its provider.
    #[sea_orm(column_type = "Text", nullable)]
    pub provider: Option<String>,
    /// When it was registered.
    pub settled_at: Option<i64>,
    /// Licenses it permits: the content's number, until the settlement says otherwise.
    pub grants: i64,
    /// Deliveries confirmed.
    pub granted: i64,
    /// Licenses issued and not yet confirmed.
    pub outstanding: i64,
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

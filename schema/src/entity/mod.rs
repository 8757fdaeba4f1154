//! The database tables as sea-orm entities. They are the same on PostgreSQL and SQLite.
//!
//! Columns have checked types (see `column.rs`). Amounts of money are stored in minor units of the
//! row's currency.
//!
//! Times are stored as 64-bit Unix milliseconds. SQLite has no timestamp type, and times stored as
//! text compare incorrectly if their fractions have different lengths.
//!
//! There are no foreign keys, because the database would check them row by row on the hot path.
//! Locks and the workers' rules keep the tables consistent, and the auditor verifies this.
#![allow(missing_docs, reason = "sea-orm's derives generate public items without docs; every column has its own doc")]

use sea_orm::{ColumnTrait, ColumnType, DeriveActiveEnum, EntityTrait, EnumIter, IdenStatic, Iterable, Value};

pub mod account;
pub mod certificate;
pub mod certificate_record;
pub mod collection;
mod column;
pub mod content;
pub mod entry;
pub mod journal;
pub mod license;
pub mod license_return;
pub mod mention;
pub mod payout;
pub mod pending_reception;
pub mod privilege;
pub mod reference;
pub mod refund;
pub mod reinstatement;
pub mod settlement;
pub mod signing_key;
pub mod unmatched_settlement;

pub use column::Digest;

/// A table whose primary key can be used as a map key.
pub trait Keyed: EntityTrait<Model: Clone + Send + Sync + PartialEq + std::fmt::Debug + 'static> {
    /// The values of the primary key's columns, in their order.
    type Key: Ord + Clone + Send + Sync + std::fmt::Debug;
    /// The key of a row.
    fn key(row: &Self::Model) -> Self::Key;
    /// The values of a key for a statement, one for each primary-key column.
    fn key_values(key: &Self::Key) -> Vec<Value>;
}

/// The shape of a table, which programs compare with the database.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// The name.
    pub name: String,
    /// The columns.
    pub columns: Vec<Column>,
}

/// The shape of a column.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The name.
    pub name: String,
    /// The type.
    pub kind: ColumnType,
    /// Whether the column may contain NULL.
    pub nullable: bool,
}

/// The shapes of all tables.
pub fn tables() -> Vec<Table> {
    vec![
        table(account::Entity),
        table(certificate::Entity),
        table(certificate_record::Entity),
        table(collection::Entity),
        table(content::Entity),
        table(entry::Entity),
        table(journal::Entity),
        table(license::Entity),
        table(license_return::Entity),
        table(mention::Entity),
        table(payout::Entity),
        table(pending_reception::Entity),
        table(privilege::Entity),
        table(reference::Entity),
        table(refund::Entity),
        table(reinstatement::Entity),
        table(settlement::Entity),
        table(signing_key::Entity),
        table(unmatched_settlement::Entity),
    ]
}

/// The names of all sequences. Only PostgreSQL has them.
pub const SEQUENCES: &[&str] = &[journal::POSITION_SEQUENCE];

fn table<E: EntityTrait<Column: IdenStatic>>(entity: E) -> Table {
    let columns = E::Column::iter().map(|column| {
        let definition = column.def();
        Column {
            name: column.as_str().to_owned(),
            kind: definition.get_column_type().clone(),
            nullable: definition.is_null(),
        }
    });
    Table { name: entity.table_name().to_owned(), columns: columns.collect() }
}

/// The state of a license.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "snake_case")]
pub enum LicenseState {
    /// The license was sent to the terminal, which has not acknowledged receipt yet.
    Outstanding,
    /// The terminal acknowledged receipt.
    Granted,
    /// A return is open: the terminal must delete its copy.
    Returning,
    /// A reissue or a reversal revoked the license.
    Revoked,
}

/// The state of a payout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "snake_case")]
pub enum PayoutState {
    /// The amount owed was paid out.
    Completed,
    /// Another amount than the amount owed was paid out.
    Mismatched,
    /// The payout was completed and failed. The order of both reports does not matter.
    Failed,
    /// A failure was reported, but no completion.
    Pending,
}

/// The state of a return.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "snake_case")]
pub enum ReturnState {
    /// The terminal must report the deletion of its copy.
    Opened,
    /// The license was deleted and the privilege was granted.
    Completed,
    /// The deadline for the deletion passed. The license is valid again.
    Lapsed,
}

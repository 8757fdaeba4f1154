//! The tables, as sea-orm entities: the same on PostgreSQL and on SQLite.
//!
//! Times are Unix milliseconds in 64-bit integers, because SQLite has no type of its own for an
//! instant and deadlines are compared in SQL. What follows from other tables is not constrained by
//! foreign keys (they would be looked up row by row on the hot path): the auditor checks it.
#![allow(
    missing_docs,
    reason = "sea-orm's derives write public items without docs; every column is documented by hand"
)]

use sea_orm::{DeriveActiveEnum, EntityTrait, EnumIter, Value};

pub mod account;
pub mod certificate;
pub mod collection;
pub mod content;
pub mod entry;
pub mod journal;
pub mod license;
pub mod license_return;
pub mod mention;
pub mod payout;
pub mod pending_reception;
pub mod privilege;
pub mod purchase;
pub mod settlement;
pub mod unmatched_settlement;

/// A table whose rows can be told apart by a key that a map can hold.
pub trait Keyed: EntityTrait {
    /// The primary key's columns, in their order.
    type Key: Ord + Clone + Send + Sync + std::fmt::Debug;
    /// The key of a row.
    fn key(row: &Self::Model) -> Self::Key;
    /// The key's values, one for each column.
    fn key_values(key: &Self::Key) -> Vec<Value>;
}

/// How a certificate ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "snake_case")]
pub enum Ending {
    /// All its grants were used.
    Granted,
    /// Its reception was not acknowledged in time.
    Lapsed,
    /// Its time was over.
    Expired,
    /// Its payment was declined.
    Declined,
    /// Its payment was taken back.
    Reversed,
}

/// Where a license stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "snake_case")]
pub enum LicenseState {
    /// Sent to the terminal, not confirmed yet.
    Outstanding,
    /// Its delivery was confirmed.
    Granted,
    /// A return is open: the terminal is to delete it.
    Returning,
    /// It counts no more: a reissue or a reversal took it back.
    Revoked,
}

/// What a return brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "snake_case")]
pub enum PrivilegeKind {
    /// Points for later purchases.
    Points,
    /// A certificate for the successor.
    Upgrade,
    /// Money.
    Buyback,
    /// A record alone.
    Collection,
}

/// Where a return stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "snake_case")]
pub enum ReturnState {
    /// The terminal is to delete its copy.
    Opened,
    /// The license is gone, the privilege given.
    Completed,
    /// The deadline passed: the license is live again.
    Lapsed,
}

/// What a settlement told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "snake_case")]
pub enum Outcome {
    /// Paid.
    Completed,
    /// The payment failed.
    Failed,
    /// The payment was taken back.
    Reversed,
}

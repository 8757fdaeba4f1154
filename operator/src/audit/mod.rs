//! The auditor: checks the invariants of ARCHITECTURE.md against any database, and says where one
//! does not hold. It trusts nothing: what the rows say is held against each other, and against what
//! the journal's outputs told the world.
//!
//! Reads only, from one snapshot, so that it may be asked while workers write.

mod checks;
mod replay;

use licet_common::store::{Store, StoreError};
use sea_orm::{ConnectionTrait, Statement};
use uuid::Uuid;

use checks::CHECKS;

/// How many places of one violation are named.
const PLACES: usize = 5;

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    /// Its number in ARCHITECTURE.md.
    pub invariant: u8,
    /// What is wrong.
    pub what: String,
    /// Where: the ids of some of the rows.
    pub places: Vec<String>,
}

/// What was checked and found.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    /// How many checks of the tables were made.
    pub checks: usize,
    /// Journal rows that were held against the tables.
    pub journal_rows: u64,
    /// What does not hold; nothing, if all is well.
    pub violations: Vec<Violation>,
}

/// Audits the database.
///
/// # Errors
/// The database's.
pub async fn audit(store: &Store) -> Result<Report, StoreError> {
    let view = store.snapshot().await?;
    let mut violations = Vec::new();
    for check in CHECKS {
        let statement = Statement::from_string(store.backend(), format!("{} LIMIT {PLACES}", check.find));
        let rows = view.query_all(statement).await?;
        if !rows.is_empty() {
            let places = rows.iter().map(place).collect();
            violations.push(Violation { invariant: check.invariant, what: check.what.to_owned(), places });
        }
    }
    let (journal_rows, told) = replay::hold_against_journal(&view).await?;
    violations.extend(told);
    Ok(Report { checks: CHECKS.len(), journal_rows, violations })
}

fn place(row: &sea_orm::QueryResult) -> String {
    let id = row.try_get_by_index::<Uuid>(0).map(|id| id.to_string());
    id.or_else(|_| row.try_get_by_index::<String>(0)).unwrap_or_else(|_| "a row".into())
}

//! The audit: checks that a database satisfies the invariants in ARCHITECTURE.md.
//!
//! The audit compares the tables with each other (`checks`), with the events in the journal
//! (`replay`), and with the fingerprints in the journal (`fingerprints`). The first two comparisons
//! find errors of rules, and the last finds every change that no message made. The audit reads one
//! snapshot and writes nothing, so it can run while workers write. It uses no rule of the workers,
//! so that it also finds errors in these rules.
//!
//! [`warnings`] lists money that has waited for a long time.

mod checks;
mod fingerprints;
mod replay;
mod warnings;

use futures_util::future::BoxFuture;
use licet_common::{
    runtime::JournalError,
    store::{Store, StoreError},
};
use licet_schema::DecodeError;
use sea_orm::{ConnectionTrait, DbErr, Statement};
use uuid::Uuid;

use checks::CHECKS;
use fingerprints::Fingerprints;
pub use warnings::{Warning, warnings};

/// The maximum number of rows that a violation names.
const PLACES: usize = 5;

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    /// The number of the invariant in ARCHITECTURE.md.
    pub invariant: u8,
    /// A description of the violation.
    pub what: String,
    /// The ids of some of the rows that violate the invariant.
    pub places: Vec<String>,
}

/// The result of an audit.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    /// The number of checks of the tables.
    pub checks: usize,
    /// The number of journal rows that were compared with the tables.
    pub journal_rows: u64,
    /// The violations. Empty if every invariant holds.
    pub violations: Vec<Violation>,
    /// Money that has waited for a long time. [`audit`] leaves the list empty: see [`warnings`].
    pub warnings: Vec<Warning>,
}

/// An error that stopped an audit.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The database did not respond, or it rejected a query.
    #[error("the audit stopped: {source}")]
    Store {
        /// The underlying error.
        #[from]
        source: StoreError,
    },
    /// The outputs in a journal row cannot be read.
    #[error("the audit stopped: {source}")]
    Journal {
        /// The error, which names the row.
        #[from]
        source: JournalError,
    },
    /// An event in a journal row cannot be decoded.
    #[error(
        "the audit stopped: the event {kind} in the journal row {journal} cannot be read: {source}; use the `licet` \
         program of the release that wrote it"
    )]
    Event {
        /// The journal row.
        journal: Uuid,
        /// The event's type.
        kind: String,
        /// The underlying error.
        source: DecodeError,
    },
}

impl From<DbErr> for AuditError {
    fn from(error: DbErr) -> Self {
        StoreError::from(error).into()
    }
}

/// Audits the database.
///
/// # Errors
/// The database is unavailable, or its journal cannot be read.
pub fn audit(store: &Store) -> BoxFuture<'_, Result<Report, AuditError>> {
    Box::pin(async move {
        let view = store.snapshot().await?;
        let mut violations = Vec::new();
        for check in CHECKS {
            let statement = Statement::from_string(store.backend(), format!("{} LIMIT {PLACES}", check.find));
            let rows = view.query_all(statement).await?;
            if !rows.is_empty() {
                let places = rows.iter().map(place).collect::<Result<_, _>>()?;
                violations.push(Violation { invariant: check.invariant, what: check.what.to_owned(), places });
            }
        }
        let mut fingerprints = Fingerprints::new();
        let (journal_rows, found) = replay::compare_with_journal(&view, &mut fingerprints).await?;
        violations.extend(found);
        violations.extend(fingerprints.compare(&view).await?);
        Ok(Report { checks: CHECKS.len(), journal_rows, violations, warnings: Vec::new() })
    })
}

/// The first column of a row: an id or a name.
fn place(row: &sea_orm::QueryResult) -> Result<String, DbErr> {
    match row.try_get_by_index::<Uuid>(0) {
        Ok(id) => Ok(id.to_string()),
        Err(_) => row.try_get_by_index::<String>(0),
    }
}

#[cfg(test)]
mod tests;

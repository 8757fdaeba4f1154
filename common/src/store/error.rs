//! Database errors, classified by how to handle them.

use sea_orm::{DbErr, RuntimeErr, sqlx};

/// A database error, classified by how to handle it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another transaction changed the same rows or wrote the same key first. Start the transaction
    /// again.
    #[error("there was a conflict with another transaction: {why}")]
    Contended {
        /// What happened.
        why: String,
        /// The database's own error, if it reported one.
        source: Option<DbErr>,
    },
    /// The database is unavailable. Try again later. This is not counted as a failed attempt.
    #[error("the database is unavailable: {why}")]
    Unavailable {
        /// What happened.
        why: String,
        /// The database's own error, if it reported one.
        source: Option<DbErr>,
    },
    /// The database rejected a statement, or contains a value that is not valid. The batch, or one
    /// of its messages, is the cause.
    #[error("the database rejected the operation: {why}")]
    Rejected {
        /// What happened.
        why: String,
        /// The database's own error, if it reported one.
        source: Option<DbErr>,
    },
}

impl StoreError {
    /// Creates the error for a conflict that Licet itself found.
    pub fn contended(why: impl Into<String>) -> Self {
        Self::Contended { why: why.into(), source: None }
    }

    /// Creates the error for a write that Licet itself found to be incorrect.
    pub fn rejected(why: impl Into<String>) -> Self {
        Self::Rejected { why: why.into(), source: None }
    }

    /// Creates the error for a database that does not respond in time.
    pub fn silent() -> Self {
        Self::Unavailable { why: "no response in time".into(), source: None }
    }
}

impl From<DbErr> for StoreError {
    fn from(error: DbErr) -> Self {
        let (why, kind) = (error.to_string(), kind_of(&error));
        let source = Some(error);
        match kind {
            Kind::Contended => Self::Contended { why, source },
            Kind::Unavailable => Self::Unavailable { why, source },
            Kind::Rejected => Self::Rejected { why, source },
        }
    }
}

enum Kind {
    Contended,
    Unavailable,
    Rejected,
}

fn kind_of(error: &DbErr) -> Kind {
    let cause = match error {
        DbErr::Conn(cause) | DbErr::Exec(cause) | DbErr::Query(cause) => cause,
        DbErr::ConnectionAcquire(_) => return Kind::Unavailable,
        _ => return Kind::Rejected,
    };
    let RuntimeErr::SqlxError(cause) = cause else { return Kind::Rejected };
    match cause {
        // Two copies of a worker decided the same message. The later transaction starts again and
        // finds the journal row.
        sqlx::Error::Database(answer) if answer.is_unique_violation() => Kind::Contended,
        sqlx::Error::Database(answer) => answer.code().map_or(Kind::Rejected, |code| kind_of_code(&code)),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => Kind::Unavailable,
        _ => Kind::Rejected,
    }
}

/// The kind of an error code. Codes of five characters are SQLSTATE codes from PostgreSQL. Numbers
/// are codes from SQLite.
fn kind_of_code(code: &str) -> Kind {
    if code.len() != 5 {
        return match code.parse::<u32>().map(|code| code & 0xff) {
            // Busy, locked.
            Ok(5 | 6) => Kind::Contended,
            // Read-only, I/O error, disk full, cannot open.
            Ok(8 | 10 | 13 | 14) => Kind::Unavailable,
            _ => Kind::Rejected,
        };
    }
    match code {
        // Deadlock, serialization failure, lock timeout, statement timeout (while waiting for a
        // lock).
        "40P01" | "40001" | "55P03" | "57014" => Kind::Contended,
        // A standby that cannot write, because a failover is not complete.
        "25006" => Kind::Unavailable,
        // Connection exceptions, insufficient resources, operator intervention, system errors.
        _ if ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)) => Kind::Unavailable,
        _ => Kind::Rejected,
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn a_database_that_cannot_work_is_unavailable_and_blames_no_message() {
        for code in ["08006", "25006", "53100", "53300", "57P01", "57P03", "58030", "10", "13", "8", "266", "1032"] {
            assert!(matches!(kind_of_code(code), Kind::Unavailable), "{code}");
        }
        for code in ["40P01", "40001", "55P03", "57014", "5", "6", "261", "517"] {
            assert!(matches!(kind_of_code(code), Kind::Contended), "{code}");
        }
        for code in ["22003", "42P01", "23502", "1", "19", ""] {
            assert!(matches!(kind_of_code(code), Kind::Rejected), "{code}");
        }
    }

    #[test]
    fn an_error_keeps_the_databases_own_error_as_its_source() {
        let error = StoreError::from(DbErr::Type("column \"user\" does not hold a valid Name".into()));
        assert!(matches!(error, StoreError::Rejected { .. }), "{error:?}");
        let source = error.source().expect("the database's own error");
        assert!(source.to_string().contains("does not hold a valid Name"), "{source}");
        assert!(StoreError::contended("the same key").source().is_none());
    }
}

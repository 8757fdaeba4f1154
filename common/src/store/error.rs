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
    /// The database is unavailable. Try again later. No message is the cause.
    #[error("the database is unavailable: {why}")]
    Unavailable {
        /// What happened.
        why: String,
        /// The database's own error, if it reported one.
        source: Option<DbErr>,
    },
    /// The database responds, but it cannot be used as it is set up: a privilege or a table is
    /// missing, for example. An operator must correct it. No message is the cause.
    #[error("the database cannot be used as it is set up: {why}")]
    Misconfigured {
        /// What is wrong, and what to do.
        why: String,
        /// The database's own error, if it reported one.
        source: Option<DbErr>,
    },
    /// The database rejected the data of a statement, or contains a value that is not valid. A
    /// message may be the cause.
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

    /// Creates the error for problems that Licet itself found in the setup.
    pub fn misconfigured(problems: &[String]) -> Self {
        const SHOWN: usize = 3;
        let mut why = problems.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
        if let Some(more @ 1..) = problems.len().checked_sub(SHOWN) {
            why.push_str(&format!("; and {more} more: `licet check` lists all"));
        }
        Self::Misconfigured { why, source: None }
    }

    /// Whether the data of a message can be the cause. Only then may the error count as a failed
    /// attempt of a message.
    pub fn may_blame_a_message(&self) -> bool {
        match self {
            Self::Rejected { .. } => true,
            // A conflict that Licet found, or a key that exists already. Other conflicts end when
            // the other transaction ends.
            Self::Contended { source, .. } => source.as_ref().is_none_or(is_unique_violation),
            Self::Unavailable { .. } | Self::Misconfigured { .. } => false,
        }
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
        // The server's own sentence is sufficient, without the names of the libraries' errors.
        let answer = cause_of(&error).and_then(sqlx::Error::as_database_error).map(|answer| answer.message());
        let why = match cause_of(&error) {
            // It would quote the address.
            Some(sqlx::Error::Configuration(_)) => "a parameter in its address is not valid".to_owned(),
            _ => answer.map_or_else(|| error.to_string(), str::to_owned),
        };
        let kind = kind_of(&error);
        let source = Some(error);
        match kind {
            Kind::Contended => Self::Contended { why, source },
            Kind::Unavailable => Self::Unavailable { why, source },
            Kind::Rejected => Self::Rejected { why, source },
            Kind::Misconfigured(advice) => Self::Misconfigured { why: format!("{why}. {advice}"), source },
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        DbErr::Query(RuntimeErr::SqlxError(error)).into()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Contended,
    Unavailable,
    /// Contains what to do.
    Misconfigured(&'static str),
    Rejected,
}

fn kind_of(error: &DbErr) -> Kind {
    if let DbErr::ConnectionAcquire(_) = error {
        return Kind::Unavailable;
    }
    let Some(cause) = cause_of(error) else { return Kind::Rejected };
    match cause {
        // Two copies of a worker decided the same message. The later transaction starts again and
        // finds the journal row.
        sqlx::Error::Database(answer) if answer.is_unique_violation() => Kind::Contended,
        sqlx::Error::Database(answer) => answer.code().map_or(Kind::Misconfigured(CHECK), |code| kind_of_code(&code)),
        sqlx::Error::Configuration(_) => {
            Kind::Misconfigured("Check what follows the ? in LICET_DATABASE_URL, such as sslmode")
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => Kind::Unavailable,
        _ => Kind::Rejected,
    }
}

fn cause_of(error: &DbErr) -> Option<&sqlx::Error> {
    match error {
        DbErr::Conn(cause) | DbErr::Exec(cause) | DbErr::Query(cause) => match cause {
            RuntimeErr::SqlxError(cause) => Some(cause),
            RuntimeErr::Internal(_) => None,
        },
        _ => None,
    }
}

fn is_unique_violation(error: &DbErr) -> bool {
    matches!(cause_of(error), Some(sqlx::Error::Database(answer)) if answer.is_unique_violation())
}

/// What to do about an error that no rule below covers.
const CHECK: &str = "`licet check` lists what is wrong";

/// The kind of an error code. Codes of five characters are SQLSTATE codes from PostgreSQL. Numbers
/// are codes from SQLite.
fn kind_of_code(code: &str) -> Kind {
    if code.len() != 5 {
        return match code.parse::<u32>().map(|code| code & 0xff) {
            // Busy, locked.
            Ok(5 | 6) => Kind::Contended,
            // Read-only, I/O error, disk full, cannot open.
            Ok(8 | 10 | 13 | 14) => Kind::Unavailable,
            // Too large, constraint, wrong type of a value.
            Ok(18..=20) => Kind::Rejected,
            _ => Kind::Misconfigured(CHECK),
        };
    }
    match code {
        // Deadlock, serialization failure, lock timeout, statement timeout (while waiting for a
        // lock).
        "40P01" | "40001" | "55P03" | "57014" => Kind::Contended,
        "25006" => Kind::Misconfigured(
            "It accepts no writes: it is a standby, or default_transaction_read_only is set. Connect to the primary \
             server, or remove the setting",
        ),
        "42501" => Kind::Misconfigured(
            "Grant the role of LICET_DATABASE_URL what docs/operations.md lists; `licet check` names what is missing",
        ),
        // A prepared statement exists already, or does not exist.
        "42P05" | "26000" => Kind::Misconfigured(POOLER),
        // A connection pooler that does not accept the settings of the session.
        "08P01" => Kind::Misconfigured(POOLER),
        "53100" => Kind::Misconfigured("Its disk or tablespace is full: free space"),
        _ => match &code[..2] {
            // Data exceptions, violated constraints, and limits of the size of a row.
            "22" | "23" | "54" => Kind::Rejected,
            // Connection exceptions, insufficient resources, operator intervention, system errors.
            "08" | "53" | "57" | "58" => Kind::Unavailable,
            "28" => Kind::Misconfigured("Check the user and password in LICET_DATABASE_URL, and pg_hba.conf"),
            "3D" => Kind::Misconfigured(
                "Check the name of the database in LICET_DATABASE_URL, or create it and run `licet migrate`",
            ),
            _ => Kind::Misconfigured(CHECK),
        },
    }
}

/// What to do about a connection pooler that shares connections between transactions.
pub(super) const POOLER: &str = "A connection pooler that changes the connection between transactions cannot be used: \
                                 let LICET_DATABASE_URL name the server itself";

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn a_database_that_cannot_work_is_unavailable_and_blames_no_message() {
        for code in ["08006", "53300", "57P01", "57P03", "58030", "10", "13", "8", "266", "1032"] {
            assert_eq!(kind_of_code(code), Kind::Unavailable, "{code}");
        }
        for code in ["40P01", "40001", "55P03", "57014", "5", "6", "261", "517"] {
            assert!(matches!(kind_of_code(code), Kind::Contended), "{code}");
        }
        for code in ["22003", "22P05", "23502", "23514", "54000", "18", "19", "20", "1299"] {
            assert_eq!(kind_of_code(code), Kind::Rejected, "{code}");
        }
    }

    #[test]
    fn every_other_error_is_the_fault_of_the_set_up() {
        let codes = ["0A000", "25006", "25P02", "26000", "28P01", "3D000", "3F000", "42501", "42703", "42P01", "42P05"];
        let others = ["53100", "55000", "P0001", "XX001", "08P01", "1", "11", "26", "", "?????"];
        for code in codes.into_iter().chain(others) {
            assert!(matches!(kind_of_code(code), Kind::Misconfigured(_)), "{code}");
        }
    }

    #[test]
    fn a_conflict_blames_a_message_only_if_its_own_key_can_be_the_cause() {
        assert!(StoreError::contended("the same key").may_blame_a_message());
        assert!(StoreError::rejected("a row is missing").may_blame_a_message());
        assert!(!StoreError::silent().may_blame_a_message());
        assert!(!StoreError::misconfigured(&["a table is missing".into()]).may_blame_a_message());
        let waited = DbErr::Custom("lock timeout".into());
        assert!(!StoreError::Contended { why: String::new(), source: Some(waited) }.may_blame_a_message());
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

//! What a database answers when it does not do what was asked, sorted by what is to be done about it.

use sea_orm::{DbErr, RuntimeErr, sqlx};

/// What a database can answer, by what is to be done about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else was at the same rows, or wrote the same key first: begin again.
    #[error("another transaction was in the way: {0}")]
    Contended(String),
    /// It is not there, or went away: try again later, nobody is to blame.
    #[error("the database is away: {0}")]
    Away(String),
    /// It would not do what was asked: this batch, or one message of it, is at fault.
    #[error("the database refused: {0}")]
    Refused(String),
}

impl From<DbErr> for StoreError {
    fn from(error: DbErr) -> Self {
        let text = error.to_string();
        let (DbErr::Conn(cause) | DbErr::Exec(cause) | DbErr::Query(cause)) = &error else {
            return match error {
                DbErr::ConnectionAcquire(_) => Self::Away(text),
                _ => Self::Refused(text),
            };
        };
        let RuntimeErr::SqlxError(cause) = cause else { return Self::Refused(text) };
        match cause {
            sqlx::Error::Database(answer) if answer.is_unique_violation() => Self::Contended(text),
            sqlx::Error::Database(answer) => match kind_of(answer.code().as_deref().unwrap_or_default()) {
                Kind::Contended => Self::Contended(text),
                Kind::Away => Self::Away(text),
                Kind::Refused => Self::Refused(text),
            },
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Away(text),
            _ => Self::Refused(text),
        }
    }
}

enum Kind {
    Contended,
    Away,
    Refused,
}

/// What an error code means: five characters are PostgreSQL's, a number is SQLite's.
fn kind_of(code: &str) -> Kind {
    if code.len() != 5 {
        return match code.parse::<u32>().map(|code| code & 0xff) {
            // Busy, locked.
            Ok(5 | 6) => Kind::Contended,
            // Read-only, I/O error, disk full, cannot open.
            Ok(8 | 10 | 13 | 14) => Kind::Away,
            _ => Kind::Refused,
        };
    }
    match code {
        // Deadlock, serialization failure, lock timeout, statement timeout (which waited for one).
        "40P01" | "40001" | "55P03" | "57014" => Kind::Contended,
        // A standby that cannot write (a failover that is not over).
        "25006" => Kind::Away,
        // Connection trouble, resources used up, shutting down or starting up, system errors.
        _ if ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)) => Kind::Away,
        _ => Kind::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_cannot_work_is_nobodys_fault() {
        for code in ["08006", "25006", "53100", "53300", "57P01", "57P03", "58030", "10", "13", "8", "266", "1032"] {
            assert!(matches!(kind_of(code), Kind::Away), "{code}");
        }
        for code in ["40P01", "40001", "55P03", "57014", "5", "6", "261", "517"] {
            assert!(matches!(kind_of(code), Kind::Contended), "{code}");
        }
        for code in ["22003", "42P01", "23502", "1", "19", ""] {
            assert!(matches!(kind_of(code), Kind::Refused), "{code}");
        }
    }
}

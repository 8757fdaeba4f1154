//! The database: one handle over PostgreSQL and SQLite.
//!
//! In: sets of rows and keys. Out: sets of rows. Statements never depend on how many there are
//! (see [`rows`]), so that every one is prepared once.
//!
//! Architecture invariant: nothing here knows what a row means; locks are taken as
//! [`locks`] orders them.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use licet_schema::migration::Migrations;
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseBackend, DatabaseConnection, DatabaseTransaction, DbErr,
    RuntimeErr, TransactionTrait, sqlx,
};
use sea_orm_migration::MigratorTrait;
use secrecy::{ExposeSecret, SecretString};

pub mod locks;
pub mod rows;

/// A transaction that is rolled back unless it is committed.
pub type Transaction = DatabaseTransaction;

/// A connected database.
#[derive(Clone, Debug)]
pub struct Store {
    database: DatabaseConnection,
    /// Held while a SQLite file is open: it has one writer, and that is this process.
    _sole: Option<Arc<File>>,
}

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
            sqlx::Error::Database(answer) => match answer.code().as_deref().unwrap_or_default() {
                // PostgreSQL: deadlock, serialization failure, lock timeout. SQLite: busy, locked.
                "40P01" | "40001" | "55P03" | "5" | "6" | "261" | "517" => Self::Contended(text),
                _ if answer.is_unique_violation() => Self::Contended(text),
                // PostgreSQL: connection trouble, shutting down, starting up, too many connections.
                code if code.starts_with("08") || code.starts_with("57P") || code == "53300" => Self::Away(text),
                _ => Self::Refused(text),
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

/// Why a database cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It does not answer.
    #[error("the database at {address} cannot be reached: {cause}. Check LICET_DATABASE_URL, and that it runs")]
    Unreachable {
        /// Its URL without the password.
        address: String,
        /// What was said.
        cause: String,
    },
    /// Another process has the SQLite file.
    #[error("{file} is in use by another process: SQLite serves one, so stop that one or use a postgres:// database")]
    InUse {
        /// The file.
        file: PathBuf,
    },
    /// The tables are missing or of another release.
    #[error("the database is not prepared for this release: run `licet migrate`")]
    NotMigrated,
    /// The URL cannot be read.
    #[error("LICET_DATABASE_URL is not a database URL: {0}")]
    Url(String),
}

impl Store {
    /// Opens the database.
    ///
    /// # Errors
    /// It cannot be reached, or its SQLite file is in use.
    pub async fn open(url: &SecretString, connections: u32) -> Result<Self, OpenError> {
        match url.expose_secret().strip_prefix("sqlite:") {
            Some(file) => Self::open_sqlite(Path::new(file.trim_start_matches("//"))).await,
            None => Self::open_postgres(url, connections).await,
        }
    }

    async fn open_postgres(url: &SecretString, connections: u32) -> Result<Self, OpenError> {
        let mut options = ConnectOptions::new(url.expose_secret());
        options
            .max_connections(connections)
            .min_connections(0)
            .connect_timeout(Duration::from_secs(5))
            .acquire_timeout(Duration::from_secs(5))
            .sqlx_logging(false)
            .map_sqlx_postgres_opts(|options| {
                options.application_name("licet").options([
                    // Nothing waits for ever: a statement that takes this long is given up.
                    ("statement_timeout", "60s"),
                    ("idle_in_transaction_session_timeout", "60s"),
                    // Every statement looks rows up by key, in sets whose size the planner cannot
                    // know. Plans made while a table was empty must not outlive that.
                    ("plan_cache_mode", "force_generic_plan"),
                    ("enable_seqscan", "off"),
                    ("jit", "off"),
                ])
            });
        let database = Database::connect(options).await.map_err(|error| unreachable(url, &error))?;
        Ok(Self { database, _sole: None })
    }

    async fn open_sqlite(file: &Path) -> Result<Self, OpenError> {
        use sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
        let sole = sole(file)?;
        let mut options = ConnectOptions::new(format!("sqlite:{}?mode=rwc", file.display()));
        options.max_connections(1).min_connections(1).sqlx_logging(false).map_sqlx_sqlite_opts(|options| {
            options
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(Duration::from_secs(10))
                .statement_cache_capacity(512)
        });
        let database = Database::connect(options).await.map_err(|error| OpenError::Unreachable {
            address: file.display().to_string(),
            cause: error.to_string(),
        })?;
        Ok(Self { database, _sole: Some(Arc::new(sole)) })
    }

    /// Creates or updates the tables.
    ///
    /// # Errors
    /// The database says no.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        // A migration may scan; the planner's settings are for the workers' statements.
        Ok(Migrations::up(&self.database, None).await?)
    }

    /// Checks that the tables are those of this release.
    ///
    /// # Errors
    /// They are not.
    pub async fn check(&self) -> Result<(), OpenError> {
        match Migrations::get_pending_migrations(&self.database).await {
            Ok(pending) if pending.is_empty() => Ok(()),
            Ok(_) => Err(OpenError::NotMigrated),
            Err(error) => {
                Err(OpenError::Unreachable { address: "LICET_DATABASE_URL".into(), cause: error.to_string() })
            }
        }
    }

    /// Begins a transaction. On PostgreSQL READ COMMITTED: a statement sees what was committed
    /// when it began, which is what waiting for a lock and then reading relies on.
    ///
    /// # Errors
    /// The database is away.
    pub async fn begin(&self) -> Result<Transaction, StoreError> {
        Ok(self.database.begin().await?)
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        Ok(self.database.execute_unprepared("SELECT 1").await.map(|_| ())?)
    }

    /// The connection, for readers such as the auditor.
    pub fn reader(&self) -> &DatabaseConnection {
        &self.database
    }

    /// Which of the two it is.
    pub fn backend(&self) -> DatabaseBackend {
        self.database.get_database_backend()
    }
}

/// Takes the file beside the database that says that somebody uses it. The operating system gives
/// it back when the process ends, however it ends.
fn sole(file: &Path) -> Result<File, OpenError> {
    let io = |error: std::io::Error| OpenError::Unreachable {
        address: file.display().to_string(),
        cause: error.to_string(),
    };
    let mut name = file.as_os_str().to_owned();
    name.push(".lock");
    let lock = File::options().create(true).truncate(false).write(true).open(PathBuf::from(name)).map_err(io)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { file: file.to_owned() }),
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

fn unreachable(url: &SecretString, error: &DbErr) -> OpenError {
    let text = url.expose_secret();
    let after_password = text.rsplit_once('@').map_or_else(
        || text.split_once("://").map_or(text, |(_, rest)| rest).to_owned(),
        |(_, address)| address.to_owned(),
    );
    OpenError::Unreachable { address: after_password, cause: error.to_string() }
}

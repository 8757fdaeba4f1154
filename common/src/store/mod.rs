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
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use licet_schema::migration::Migrations;
use sea_orm::{
    AccessMode, ConnectOptions, ConnectionTrait, Database, DatabaseBackend, DatabaseConnection, DbErr, IsolationLevel,
    Statement, TransactionTrait, sqlx,
};
use sea_orm_migration::MigratorTrait;
use secrecy::{ExposeSecret, SecretString};

use crate::gate::{Gate, Step, Verdict};

mod error;
pub mod locks;
pub mod rows;
mod transaction;
mod writes;

pub use error::StoreError;
pub use transaction::Transaction;
pub use writes::Writes;

/// A connection that is not made, or not had from the pool, within this time is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for an answer to the smallest statement.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a transaction of a tool may take.
const TOOL_TIMEOUT: Duration = Duration::from_secs(90);

/// A connected database; clones share its connections.
#[derive(Clone, Debug)]
pub struct Store {
    /// The pool of the moment (see [`Store::renew`]).
    database: Arc<RwLock<DatabaseConnection>>,
    /// How to make another one. None for SQLite, which does not go away.
    address: Option<Address>,
    /// Held while a SQLite file is open: it has one writer, and that is this process.
    _sole: Option<Arc<File>>,
    gate: Option<Arc<dyn Gate>>,
}

#[derive(Clone, Debug)]
struct Address {
    url: SecretString,
    connections: u32,
    timeout: Duration,
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
}

impl Address {
    /// A new pool, with a first connection in it.
    async fn connect(&self) -> Result<DatabaseConnection, DbErr> {
        let mut options = ConnectOptions::new(self.url.expose_secret());
        let given_up = format!("{}ms", self.timeout.as_millis());
        // Shorter, so that whoever waited for a lock can begin again within the timeout.
        let statement = format!("{}ms", self.timeout.as_millis() * 2 / 3);
        options
            .max_connections(self.connections)
            // A connection that was lost meanwhile shows with the first statement.
            .test_before_acquire(false)
            .min_connections(0)
            .connect_timeout(CONNECT_TIMEOUT)
            .acquire_timeout(CONNECT_TIMEOUT)
            .sqlx_logging(false)
            .map_sqlx_postgres_opts(move |options| {
                // One statement for each combination of tables that a batch of some kind changes.
                options.application_name("licet").statement_cache_capacity(512).options([
                    // The worker gives up after the timeout. What it cannot tell the server any more, the
                    // server finds out by itself, and lets go of the locks.
                    ("statement_timeout", statement.as_str()),
                    ("idle_in_transaction_session_timeout", given_up.as_str()),
                    // Every statement looks rows up by key, in sets whose size the planner cannot
                    // know. Plans made while a table was empty must not outlive that.
                    ("plan_cache_mode", "force_generic_plan"),
                    ("enable_seqscan", "off"),
                    ("jit", "off"),
                ])
            });
        Database::connect(options).await
    }
}

impl Store {
    /// Opens the database, for somebody who can wait.
    ///
    /// # Errors
    /// It cannot be reached, or its SQLite file is in use.
    pub async fn open(url: &SecretString, connections: u32) -> Result<Self, OpenError> {
        Self::open_within(url, connections, TOOL_TIMEOUT).await
    }

    /// Opens the database. Transactions are given up after `timeout`: by whoever began one, and by a
    /// server that hears no more of it.
    ///
    /// # Errors
    /// It cannot be reached, or its SQLite file is in use.
    pub async fn open_within(url: &SecretString, connections: u32, timeout: Duration) -> Result<Self, OpenError> {
        match url.expose_secret().strip_prefix("sqlite:") {
            Some(file) => Self::open_sqlite(Path::new(file.strip_prefix("//").unwrap_or(file))).await,
            None => {
                let address = Address { url: url.clone(), connections, timeout };
                let database = address.connect().await.map_err(|error| unreachable(url, &error))?;
                Ok(Self { database: Arc::new(RwLock::new(database)), address: Some(address), _sole: None, gate: None })
            }
        }
    }

    async fn open_sqlite(file: &Path) -> Result<Self, OpenError> {
        use sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
        let sole = sole(file)?;
        let mut options = ConnectOptions::new(format!("sqlite:{}?mode=rwc", file.display()));
        options.max_connections(1).min_connections(1).test_before_acquire(false).sqlx_logging(false);
        options.map_sqlx_sqlite_opts(|options| {
            options
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(Duration::from_secs(10))
                .statement_cache_capacity(512)
                // Its thread hands over all rows of a portion without waiting for whoever takes them.
                .row_buffer_size(rows::PORTION_MAX)
                // 32 MiB of log before it is moved into the file: what changes often is moved once.
                .pragma("wal_autocheckpoint", "8000")
        });
        let database = Database::connect(options).await.map_err(|error| OpenError::Unreachable {
            address: file.display().to_string(),
            cause: error.to_string(),
        })?;
        Ok(Self { database: Arc::new(RwLock::new(database)), address: None, _sole: Some(Arc::new(sole)), gate: None })
    }

    /// The same database, for a worker whose calls this gate decides.
    #[must_use]
    pub fn gated(&self, gate: Arc<dyn Gate>) -> Self {
        Self { gate: Some(gate), ..self.clone() }
    }

    async fn pass(&self, step: Step<'_>) -> Verdict {
        match &self.gate {
            Some(gate) => gate.pass(step).await,
            None => Verdict::Happens,
        }
    }

    /// Creates or updates the tables.
    ///
    /// # Errors
    /// The database says no.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        // A migration may scan; the planner's settings are for the workers' statements.
        Ok(Migrations::up(&self.reader(), None).await?)
    }

    /// Checks that the tables are those of this release. Reads only.
    ///
    /// # Errors
    /// They are not.
    pub async fn check(&self) -> Result<(), OpenError> {
        let statement = Statement::from_string(self.backend(), "SELECT version FROM seaql_migrations");
        let applied = match self.reader().query_all(statement).await.map_err(StoreError::from) {
            Ok(rows) => rows,
            // There is no such table.
            Err(StoreError::Refused(_)) => return Err(OpenError::NotMigrated),
            Err(error @ (StoreError::Away(_) | StoreError::Contended(_))) => {
                return Err(OpenError::Unreachable { address: "LICET_DATABASE_URL".into(), cause: error.to_string() });
            }
        };
        let applied: Vec<String> = applied.iter().filter_map(|row| row.try_get_by_index(0).ok()).collect();
        let wanted = Migrations::migrations();
        let all =
            wanted.len() == applied.len() && wanted.iter().all(|one| applied.iter().any(|name| name == one.name()));
        if all { Ok(()) } else { Err(OpenError::NotMigrated) }
    }

    /// One unchanging view of everything, to read from: on PostgreSQL a read-only transaction of
    /// its own snapshot; SQLite has one connection, and it is held.
    ///
    /// # Errors
    /// The database is away.
    pub async fn snapshot(&self) -> Result<Transaction, StoreError> {
        let one_view = match self.backend() {
            DatabaseBackend::Postgres => (Some(IsolationLevel::RepeatableRead), Some(AccessMode::ReadOnly)),
            _ => (None, None),
        };
        match self.pass(Step::Begin).await {
            Verdict::Happens => {
                let transaction = self.reader().begin_with_config(one_view.0, one_view.1).await?;
                Ok(Transaction::begun(transaction, self.gate.clone()))
            }
            _ => Err(transaction::away().into()),
        }
    }

    /// Begins a transaction. On PostgreSQL READ COMMITTED: a statement sees what was committed
    /// when it began, which is what waiting for a lock and then reading relies on.
    ///
    /// # Errors
    /// The database is away.
    pub async fn begin(&self) -> Result<Transaction, StoreError> {
        match self.pass(Step::Begin).await {
            Verdict::Happens => Ok(Transaction::begun(self.reader().begin().await?, self.gate.clone())),
            Verdict::Pretended => Ok(Transaction::pretended(self.reader(), self.gate.clone())),
            _ => Err(transaction::away().into()),
        }
    }

    /// Whether it answers, and can be written to, if that is needed.
    ///
    /// # Errors
    /// It does not, or cannot.
    pub async fn ping(&self, writes: bool) -> Result<(), StoreError> {
        if self.pass(Step::Ping).await != Verdict::Happens {
            return Err(transaction::away().into());
        }
        answer(&self.reader(), test(writes)).await
    }

    /// Throws the pool away and makes a new one, which answers as [`Store::ping`] asks. A connection
    /// that went silent would hold its place in the old pool until the operating system gives it up.
    ///
    /// # Errors
    /// The database is still away; the pool stays.
    pub async fn renew(&self, writes: bool) -> Result<(), StoreError> {
        let Some(address) = &self.address else { return self.ping(writes).await };
        let new = match tokio::time::timeout(CONNECT_TIMEOUT, address.connect()).await {
            Ok(new) => new?,
            Err(_) => return Err(StoreError::Away("it does not answer".into())),
        };
        answer(&new, test(writes)).await?;
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// The pool of the moment, for readers such as the auditor.
    pub fn reader(&self) -> DatabaseConnection {
        self.database.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Which of the two it is.
    pub fn backend(&self) -> DatabaseBackend {
        self.reader().get_database_backend()
    }
}

fn test(writes: bool) -> &'static str {
    if writes { "UPDATE journal SET kind = kind WHERE 1 = 0" } else { "SELECT 1" }
}

/// A database that says nothing is away.
async fn answer(database: &DatabaseConnection, test: &str) -> Result<(), StoreError> {
    match tokio::time::timeout(PING_TIMEOUT, database.execute_unprepared(test)).await {
        Ok(answered) => Ok(answered.map(|_| ())?),
        Err(_) => Err(StoreError::Away("it does not answer".into())),
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

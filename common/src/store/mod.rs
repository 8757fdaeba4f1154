//! The database: one interface to PostgreSQL and SQLite.
//!
//! Inputs: sets of keys to read ([`Source`]) and sets of changed rows ([`Writes`]). Outputs: sets
//! of rows, and [`StoreError`]s that are classified by how to handle them.
//!
//! Guarantees: the text of a statement does not depend on the number of rows, so each statement is
//! prepared once. Rows are locked in key order. A write that affects an unexpected number of rows
//! is an error.
//!
//! Deliberately absent: the meaning of rows, and the choice of the rows that a worker locks.

use std::{
    fs::{File, TryLockError},
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures_util::future::BoxFuture;
use sea_orm::{
    AccessMode, ConnectOptions, ConnectionTrait, Database, DatabaseBackend, DatabaseConnection, DbErr, IsolationLevel,
    TransactionTrait, sqlx,
};
use secrecy::{ExposeSecret, SecretString};

use crate::address::{AddressError, DatabaseAddress};

#[cfg(feature = "simulation")]
use crate::fault_injection::FaultInjector;
use crate::fault_injection::{Faults, Outcome, Step};

mod check;
mod clock_difference;
mod error;
mod migrate;
mod server_check;
mod source;
mod statements;
mod transaction;
mod writes;

pub use clock_difference::{ClockDifference, clock_difference};
pub use error::StoreError;
pub use migrate::MigrateError;
pub use source::{Comparison, Lock, Page, Source, keys, load};
pub use statements::select;
pub use transaction::Transaction;
pub use writes::Writes;

/// The maximum time to establish a connection, or to get one from the pool.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum time for the statement of [`Store::ping`].
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum time for a transaction of an operator command.
pub const TOOL_TIMEOUT: Duration = Duration::from_secs(90);

/// A connected database. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Store {
    /// The current pool (see [`Store::renew`]).
    database: Arc<RwLock<DatabaseConnection>>,
    /// How to create another pool. `None` for SQLite, whose connection cannot be lost.
    address: Option<Address>,
    /// The lock on an SQLite file while it is open. Only one process may use the file.
    _lock: Option<Arc<FileLock>>,
    faults: Faults,
}

#[derive(Clone, Debug)]
struct Address {
    url: SecretString,
    port: u16,
    /// The text of the address in errors.
    shown: String,
    connections: u32,
    timeout: Duration,
}

/// The reason a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database cannot be reached.
    #[error(
        "the database at {address} cannot be reached: {source}. Check LICET_DATABASE_URL, and that the database is running"
    )]
    Unreachable {
        /// The host and database, without user and password, or the file.
        address: String,
        /// The underlying error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The address is not valid.
    #[error("LICET_DATABASE_URL cannot be used: {0}")]
    Address(#[from] AddressError),
    /// The SQLite file does not exist.
    #[error("there is no file {}: check LICET_DATABASE_URL, or run `licet migrate`", file.display())]
    NoFile {
        /// The file.
        file: PathBuf,
    },
    /// Another process uses the SQLite file.
    #[error("{file} is in use by another process: stop that process, or use a postgres:// database")]
    InUse {
        /// The file.
        file: PathBuf,
    },
    /// The database responds, but this release cannot use it as it is set up.
    #[error("{}", .problems.join("\n"))]
    NotPrepared {
        /// What is wrong and what to do, one sentence each.
        problems: Vec<String>,
    },
}

impl Address {
    /// Creates a pool with one connection.
    async fn connect(&self) -> Result<DatabaseConnection, DbErr> {
        let mut options = ConnectOptions::new(self.url.expose_secret());
        let transaction = format!("{}ms", self.timeout.as_millis());
        // This timeout is shorter, so that a transaction that waited for a lock can be retried
        // within the transaction timeout.
        let statement = format!("{}ms", self.timeout.as_millis() * 2 / 3);
        let port = self.port;
        options
            .max_connections(self.connections)
            // The test would cost a round trip for each batch. Without it, the first statement on a
            // lost connection fails, and the session starts again.
            .test_before_acquire(false)
            .min_connections(0)
            .connect_timeout(CONNECT_TIMEOUT)
            .acquire_timeout(CONNECT_TIMEOUT)
            .sqlx_logging(false)
            .map_sqlx_postgres_opts(move |options| {
                // The cache holds one statement for each combination of tables that batches change.
                options.port(port).application_name("licet").statement_cache_capacity(512).options([
                    // The server must end the transaction of a worker that is disconnected.
                    // Otherwise, its locks would block all other copies of the worker.
                    ("statement_timeout", statement.as_str()),
                    ("idle_in_transaction_session_timeout", transaction.as_str()),
                    // Every statement finds rows by key, in sets whose size the planner cannot
                    // know. A plan that was made while a table was empty must not be reused.
                    ("plan_cache_mode", "force_generic_plan"),
                    ("enable_seqscan", "off"),
                    ("jit", "off"),
                ])
            });
        Database::connect(options).await
    }

    /// The error of a server that responds and refuses the connection, or of one that does not
    /// respond.
    fn not_connected(&self, error: DbErr) -> OpenError {
        match StoreError::from(error) {
            StoreError::Misconfigured { why, .. } => {
                OpenError::NotPrepared { problems: vec![format!("the database at {}: {why}", self.shown)] }
            }
            error => OpenError::Unreachable { address: self.shown.clone(), source: cause(error) },
        }
    }
}

impl Store {
    /// Opens the database with the timeout of operator commands, 90 seconds for a transaction.
    ///
    /// # Errors
    /// The database cannot be reached, or its SQLite file does not exist or is in use.
    pub async fn open(url: &SecretString, connections: u32) -> Result<Self, OpenError> {
        Self::open_within(url, connections, TOOL_TIMEOUT).await
    }

    /// Opens the database. A PostgreSQL server ends a transaction that is idle for `timeout`, and a
    /// statement that takes two thirds of it. The caller limits the time of its transactions
    /// itself.
    ///
    /// # Errors
    /// The database cannot be reached, or its SQLite file does not exist or is in use.
    pub fn open_within(
        url: &SecretString,
        connections: u32,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Self, OpenError>> {
        Box::pin(Self::connect(url, connections, timeout, false))
    }

    /// Opens the database, and creates its SQLite file if the file does not exist and the address
    /// does not require it to exist. A PostgreSQL database must exist.
    ///
    /// # Errors
    /// The database cannot be reached, or its SQLite file is in use or must exist.
    pub fn create(url: &SecretString, connections: u32, timeout: Duration) -> BoxFuture<'_, Result<Self, OpenError>> {
        Box::pin(Self::connect(url, connections, timeout, true))
    }

    async fn connect(
        url: &SecretString,
        connections: u32,
        timeout: Duration,
        may_create: bool,
    ) -> Result<Self, OpenError> {
        match DatabaseAddress::parse(url)? {
            DatabaseAddress::File { path, must_exist } => Self::open_sqlite(&path, must_exist || !may_create).await,
            DatabaseAddress::Server { url, port, shown } => {
                let address = Address { url, port, shown, connections, timeout };
                let database = address.connect().await.map_err(|error| address.not_connected(error))?;
                Ok(Self {
                    database: Arc::new(RwLock::new(database)),
                    address: Some(address),
                    _lock: None,
                    faults: Faults::default(),
                })
            }
        }
    }

    async fn open_sqlite(file: &Path, must_exist: bool) -> Result<Self, OpenError> {
        use sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
        if must_exist && !file.exists() {
            return Err(OpenError::NoFile { file: file.to_owned() });
        }
        let lock = FileLock::acquire(file)?;
        let mut options = ConnectOptions::new("sqlite:");
        let name = file.to_owned();
        options.max_connections(1).min_connections(1).test_before_acquire(false).sqlx_logging(false);
        options.map_sqlx_sqlite_opts(move |options| {
            options
                .filename(&name)
                .create_if_missing(!must_exist)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(Duration::from_secs(10))
                .statement_cache_capacity(512)
                // With sqlx's default of 50 buffered rows, two threads wake each other for each row
                // of a larger set. This takes a sixth of the processor time.
                .row_buffer_size(statements::CHUNK_MAX)
                // With 32 MiB of log before a checkpoint, a page that changes often is written only
                // once.
                .pragma("wal_autocheckpoint", "8000")
        });
        let database = match Database::connect(options).await {
            Ok(database) => database,
            Err(error) => {
                // The database file stays: another process may have created it.
                lock.remove();
                return Err(OpenError::Unreachable { address: file.display().to_string(), source: error.into() });
            }
        };
        Ok(Self {
            database: Arc::new(RwLock::new(database)),
            address: None,
            _lock: Some(Arc::new(lock)),
            faults: Faults::default(),
        })
    }

    /// The same database, for a worker whose faults are decided by `injector`.
    #[cfg(feature = "simulation")]
    #[must_use]
    pub fn with_faults(&self, injector: Arc<dyn FaultInjector>) -> Self {
        Self { faults: Faults::of(injector), ..self.clone() }
    }

    /// Begins a transaction that reads one snapshot. On PostgreSQL it is read-only with isolation
    /// level REPEATABLE READ. On SQLite, it occupies the only connection until it ends.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn snapshot(&self) -> Result<Transaction, StoreError> {
        let (isolation, access) = match self.backend() {
            DatabaseBackend::Postgres => (Some(IsolationLevel::RepeatableRead), Some(AccessMode::ReadOnly)),
            _ => (None, None),
        };
        match self.faults.outcome(Step::Begin).await {
            Outcome::Proceed => {
                let transaction = self.pool().begin_with_config(isolation, access).await?;
                Ok(Transaction::begun(transaction, self.faults.clone()))
            }
            _ => Err(transaction::connection_lost().into()),
        }
    }

    /// Begins a transaction. On PostgreSQL, its isolation level is READ COMMITTED. At this level, a
    /// statement that waited for a lock reads the changes that were committed in the meantime.
    /// Workers rely on this.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn begin(&self) -> Result<Transaction, StoreError> {
        match self.faults.outcome(Step::Begin).await {
            Outcome::Proceed => Ok(Transaction::begun(self.pool().begin().await?, self.faults.clone())),
            Outcome::Pretend => Ok(Transaction::pretended(self.pool(), self.faults.clone())),
            _ => Err(transaction::connection_lost().into()),
        }
    }

    /// Checks that the database responds and, if `writes` is true, that it accepts writes.
    ///
    /// # Errors
    /// The database does not respond in time or rejects the statement.
    pub async fn ping(&self, writes: bool) -> Result<(), StoreError> {
        if self.faults.outcome(Step::Ping).await != Outcome::Proceed {
            return Err(transaction::connection_lost().into());
        }
        probe(&self.pool(), probe_statement(writes)).await
    }

    /// Replaces the pool with a new one that passes the check of [`Store::ping`], and whose
    /// database has no problem that [`Store::problems`] finds.
    ///
    /// sqlx tests a connection, without a time limit, before it returns the connection to the pool.
    /// A connection that no longer responds occupies its slot until the operating system closes
    /// it. The whole pool is therefore replaced. SQLite keeps its only connection.
    ///
    /// # Errors
    /// The database is still unavailable, or set up in such a way that it cannot be used. The pool
    /// is not replaced.
    pub async fn renew(&self, writes: bool) -> Result<(), StoreError> {
        let Some(address) = &self.address else {
            self.ping(writes).await?;
            return check::require_none(&self.problems(writes).await?);
        };
        let new = match tokio::time::timeout(CONNECT_TIMEOUT, address.connect()).await {
            Ok(new) => new?,
            Err(_) => return Err(StoreError::silent()),
        };
        match tokio::time::timeout(PING_TIMEOUT, check::problems(&new, writes)).await {
            Ok(problems) => check::require_none(&problems?)?,
            Err(_) => return Err(StoreError::silent()),
        }
        probe(&new, probe_statement(writes)).await?;
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// The current pool, for statements outside a transaction of [`Store::begin`].
    pub fn pool(&self) -> DatabaseConnection {
        self.database.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The kind of database.
    pub fn backend(&self) -> DatabaseBackend {
        self.pool().get_database_backend()
    }
}

fn probe_statement(writes: bool) -> &'static str {
    if writes { "UPDATE journal SET kind = kind WHERE 1 = 0" } else { "SELECT 1" }
}

/// Executes a statement with a time limit.
async fn probe(database: &DatabaseConnection, statement: &str) -> Result<(), StoreError> {
    match tokio::time::timeout(PING_TIMEOUT, database.execute_unprepared(statement)).await {
        Ok(result) => Ok(result.map(|_| ())?),
        Err(_) => Err(StoreError::silent()),
    }
}

/// The lock on the file `<database>.lock`. The operating system releases the lock when the process
/// ends, even after a crash.
#[derive(Debug)]
struct FileLock {
    _file: File,
    path: PathBuf,
    /// Whether the file did not exist before.
    is_new: bool,
}

/// How often a lock file that other processes create and remove is tried.
const LOCK_ATTEMPTS: u32 = 100;

impl FileLock {
    fn acquire(database: &Path) -> Result<Self, OpenError> {
        let io = |error: std::io::Error| OpenError::Unreachable {
            address: database.display().to_string(),
            source: error.into(),
        };
        let mut path = database.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        for _ in 0..LOCK_ATTEMPTS {
            let (file, is_new) = match File::options().create_new(true).write(true).open(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    match File::options().write(true).open(&path) {
                        // Another process has just removed it.
                        Err(error) if error.kind() == ErrorKind::NotFound => continue,
                        file => (file.map_err(io)?, false),
                    }
                }
                file => (file.map_err(io)?, true),
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { file: database.to_owned() }),
                Err(TryLockError::Error(error)) => return Err(io(error)),
            }
            // If another process removed the file before it was locked, a third one may lock a new
            // file.
            let locked = file.metadata().map_err(io)?.ino();
            if std::fs::metadata(&path).is_ok_and(|found| found.ino() == locked) {
                return Ok(Self { _file: file, path, is_new });
            }
        }
        Err(OpenError::InUse { file: database.to_owned() })
    }

    /// Removes the file if this process created it. The lock is held until it is removed.
    fn remove(self) {
        if self.is_new {
            let _ = std::fs::remove_file(self.path);
        }
    }
}

/// The underlying cause of an error.
fn cause(error: StoreError) -> Box<dyn std::error::Error + Send + Sync> {
    match error {
        StoreError::Contended { source: Some(source), .. }
        | StoreError::Unavailable { source: Some(source), .. }
        | StoreError::Rejected { source: Some(source), .. } => source.into(),
        error => error.into(),
    }
}

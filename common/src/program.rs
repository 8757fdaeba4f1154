//! Startup and exit of every program. A worker program reads its configuration, starts logging,
//! loads the keys, connects to the database and the broker, and then runs its worker. The commands
//! of `licet` use the parts that they need. A program that fails prints one sentence on standard
//! error and ends with a nonzero exit code.

use std::{path::Path, process::ExitCode, sync::Arc};

use clap::Command;
use futures_util::future::BoxFuture;
use licet_schema::{
    topology::{WorkerQueue, topology},
    vocabulary::escaped,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    config::{Config, ConfigError, Groups, Settings, groups},
    runtime::{Resources, Worker, run},
    signing::folder::{self, FolderError},
    signing_keys::{self, SigningKeyError},
    store::{MigrateError, OpenError, Store, StoreError},
    telemetry,
    transport::{Lost, Transport, TransportError},
};

/// Rows and messages are constantly allocated on one thread and freed on another. jemalloc handles
/// this faster than the allocator of the C library (docs/performance.md).
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The number of database connections of a program that runs one worker.
const CONNECTIONS_OF_ONE: u32 = 3;
/// The number of database connections of a program that runs several workers.
const CONNECTIONS_OF_SEVERAL: u32 = 12;

/// The reason a program failed, as a sentence for the person who runs it.
#[derive(Debug)]
pub enum Failure {
    /// Wrong usage or configuration: exit code 2.
    Usage(String),
    /// The work failed, or a check did not pass: exit code 1.
    Work(String),
}

impl Failure {
    /// Creates a failure of the work.
    pub fn work(error: impl ToString) -> Self {
        Self::Work(error.to_string())
    }

    /// Prints the sentence on standard error. It may quote texts from other systems, so special
    /// characters are escaped.
    pub fn exit(&self) -> ExitCode {
        let (sentence, code) = match self {
            Self::Usage(sentence) => (sentence, 2),
            Self::Work(sentence) => (sentence, 1),
        };
        eprintln!("licet: {}", escaped(sentence));
        ExitCode::from(code)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<FolderError> for Failure {
    fn from(error: FolderError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Address(_) => Self::Usage(error.to_string()),
            error => Self::work(error),
        }
    }
}

impl From<MigrateError> for Failure {
    fn from(error: MigrateError) -> Self {
        Self::work(error)
    }
}

impl From<SigningKeyError> for Failure {
    fn from(error: SigningKeyError) -> Self {
        match error {
            SigningKeyError::Store(error) => error.into(),
            error => Self::Usage(error.to_string()),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::work(error)
    }
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Address(_) => Self::Usage(error.to_string()),
            error => Self::work(error),
        }
    }
}

impl From<Lost> for Failure {
    fn from(error: Lost) -> Self {
        Self::work(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::work(error)
    }
}

/// Merges the layers of the configuration and starts logging. `log` is the filter to use if none is
/// configured.
///
/// # Errors
/// A setting is not valid. The sentence names the setting.
pub fn configure(settings: impl Into<Settings>, log: &str) -> Result<Config, Failure> {
    let config = settings.into().resolve(Path::new("."))?;
    telemetry::start(config.log.as_deref().unwrap_or(log)).map_err(Failure::Usage)?;
    Ok(config)
}

/// Runs a future to completion on this thread, with a few more threads for CPU-bound work.
///
/// Asynchronous work runs on a single thread, because a pool wakes another thread for each message.
/// With a pool, only 596 instead of 867 lifecycles/s were measured.
///
/// # Errors
/// The operating system does not provide the required resources, or the future fails.
pub fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(8).enable_all().build()?;
    let result = runtime.block_on(future);
    runtime.shutdown_background();
    result
}

/// Connects to the database and the broker, loads the keys, and checks that the tables and the
/// queues of `workers` exist, and that no recorded signing key is missing. An SQLite database is
/// accepted only if `alone` is true, which means that a single process runs all workers. `changes`
/// states whether any of the workers changes anything.
///
/// # Errors
/// One of these resources is missing, unavailable or not prepared.
pub fn connect<'a>(
    config: &'a Config,
    workers: &'a [WorkerQueue],
    alone: bool,
    changes: bool,
) -> BoxFuture<'a, Result<Resources, Failure>> {
    Box::pin(async move {
        let amqp_url = config.amqp_url()?;
        let database_url = if alone { config.database_url()? } else { config.shared_database_url()? };
        let keyring = folder::load(&config.keys)?;
        let transport = Transport::rabbit(&amqp_url)?;
        let connections = if alone { CONNECTIONS_OF_SEVERAL } else { CONNECTIONS_OF_ONE };
        let store = Store::open_within(&database_url, connections, config.limits.database_timeout()).await?;
        store.check(changes).await?;
        let missing = transport.missing(&topology(workers)).await?;
        if let Some(first) = missing.first() {
            return Err(Failure::Work(format!(
                "the broker lacks exchanges or queues ({} in total, the first is {first}): run `licet topology apply`",
                missing.len()
            )));
        }
        // This is the last check, so that a worker that cannot start records no key.
        signing_keys::check(&store, &keyring, Clock::System.now()).await?;
        if config.senders.is_open() {
            tracing::info!("there is no table [senders]: every broker user may send every type");
        }
        Ok(Resources {
            transport,
            store,
            keyring: Arc::new(keyring),
            clock: Clock::System,
            terms: Arc::new(config.terms.clone()),
            limits: config.limits,
            senders: Arc::new(config.senders.clone()),
        })
    })
}

/// A token that is cancelled when the operating system asks the program to stop (SIGTERM or
/// SIGINT).
///
/// # Errors
/// The program cannot listen for signals.
pub fn stop_signal() -> Result<CancellationToken, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let signalled = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        signalled.cancel();
    });
    Ok(stop)
}

/// The main function of a worker program.
pub fn worker_main<W: Worker>(worker: W) -> ExitCode {
    let queue = WorkerQueue { name: W::NAME, handles: W::HANDLES };
    run_program(queue, W::CHANGES, W::SETTINGS, Box::new(|resources, stop| run(worker, resources, stop)))
}

/// What a worker program does once it is connected.
type Work = Box<dyn FnOnce(Resources, CancellationToken) -> BoxFuture<'static, ()>>;

fn run_program(queue: WorkerQueue, changes: bool, own_settings: Groups, work: Work) -> ExitCode {
    let name = queue.name;
    let groups = groups::BROKER | groups::DATABASE | groups::KEYS | groups::ENGINE | groups::LOG | own_settings;
    let command = Command::new(format!("licet-{name}"))
        .version(env!("CARGO_PKG_VERSION"))
        .about(format!("Licet's {name} worker: takes messages from its queue until it receives SIGTERM or SIGINT."))
        .args(Settings::args(groups));
    let settings = Settings::from_arguments(groups, &command.get_matches(), |name| std::env::var_os(name));
    let run = || {
        let config = configure(settings, "info")?;
        block_on(async {
            let resources = connect(&config, &[queue], false, changes).await?;
            let stop = stop_signal()?;
            let store = resources.store.clone();
            tokio::join!(work(resources, stop.clone()), store.watch_clock(&Clock::System, &stop));
            Ok(())
        })
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.exit(),
    }
}

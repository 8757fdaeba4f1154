//! How every program starts: configuration, logs, keys, database, broker; then its work; then one
//! sentence and an exit code.

use std::{path::Path, process::ExitCode, sync::Arc};

use clap::Parser;
use licet_common::{
    clock::Clock,
    config::{Config, ConfigError, Settings},
    runtime::Machine,
    signing::folder::{self, FolderError},
    store::{OpenError, Store, StoreError},
    telemetry,
    transport::{Lost, Transport, TransportError},
};
use licet_schema::{Code, Refusal, Request, topology::topology};
use tokio_util::sync::CancellationToken;

use crate::registry;

/// Rows and messages are taken on one thread and given back on another, all the time.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Why a program ends otherwise than well: a sentence for the person who runs it.
#[derive(Debug)]
pub enum Failure {
    /// Wrong usage or configuration: exit code 2.
    Usage(String),
    /// The work failed, or a check did not hold: exit code 1.
    Work(String),
}

impl Failure {
    /// Says it on standard error.
    pub fn exit(&self) -> ExitCode {
        let (sentence, code) = match self {
            Self::Usage(sentence) => (sentence, 2),
            Self::Work(sentence) => (sentence, 1),
        };
        eprintln!("licet: {sentence}");
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

macro_rules! failed_work {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::Work(error.to_string())
            }
        }
    )*};
}
failed_work!(OpenError, StoreError, TransportError, Lost, std::io::Error);

/// Reads the configuration's layers and starts the logs, under `log` if nobody says otherwise.
///
/// # Errors
/// A mistake in it, named with its key.
pub fn configure(settings: Settings, log: &str) -> Result<Config, Failure> {
    let config = settings.resolve(Path::new("."))?;
    telemetry::start(config.log.as_deref().unwrap_or(log)).map_err(Failure::Usage)?;
    Ok(config)
}

/// Runs a future to its end on this thread, with a few beside it for work that computes. On more
/// threads each message would wake another one: measured, that costs a third of the speed, also where
/// all workers share a process.
///
/// # Errors
/// The operating system gives no threads; or what the future ends with.
pub fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(8).enable_all().build()?;
    let result = runtime.block_on(future);
    runtime.shutdown_background();
    result
}

/// Connects a machine: keys, database (`sqlite:` only where `alone`), broker; and checks that
/// database and broker are prepared.
///
/// # Errors
/// One of them is missing, away or not prepared.
pub async fn machine(config: &Config, alone: bool) -> Result<Machine, Failure> {
    let amqp_url = config.amqp_url()?;
    let database_url = if alone { config.database_url()? } else { config.shared_database_url()? };
    let keyring = folder::load(&config.keys)?;
    let transport = Transport::rabbit(amqp_url)?;
    let store = Store::open_within(database_url, if alone { 12 } else { 3 }, config.limits.database_timeout()).await?;
    store.check().await?;
    let missing = transport.missing(&topology()).await?;
    if !missing.is_empty() {
        return Err(Failure::Work(format!(
            "the broker lacks {} of the topology ({} and perhaps more): run `licet topology apply`",
            missing.len(),
            missing.first().map(String::as_str).unwrap_or_default()
        )));
    }
    if config.senders.is_open() {
        tracing::info!("there is no table [senders]: every broker user may send every type");
    }
    Ok(Machine {
        transport,
        store,
        keyring: Arc::new(keyring),
        clock: Clock::System,
        terms: Arc::new(config.terms.clone()),
        limits: config.limits,
        senders: Arc::new(config.senders.clone()),
    })
}

/// Cancelled when the operating system asks the program to stop (SIGTERM or SIGINT).
///
/// # Errors
/// Signals cannot be listened to.
pub fn stop_signal() -> Result<CancellationToken, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.cancel();
    });
    Ok(stop)
}

#[derive(Parser)]
#[command(version, about = "One of Licet's workers: takes messages from its queue until it is told to stop.")]
struct WorkerArguments {
    #[command(flatten)]
    settings: Settings,
}

/// The whole of a worker's program.
pub fn worker_main(name: &'static str) -> ExitCode {
    let arguments = WorkerArguments::parse();
    let work = || {
        let config = configure(arguments.settings, "info")?;
        block_on(async {
            let machine = machine(&config, false).await?;
            let stop = stop_signal()?;
            registry::start_some(std::iter::once(name), &machine, &stop).await;
            Ok(())
        })
    };
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.exit(),
    }
}

/// The refusal of a type that reached the wrong worker's queue: a binding made by hand.
pub(crate) fn not_handled(worker: &str, request: &Request) -> Refusal {
    Refusal::new(
        Code::Malformed,
        format!("the {worker} worker does not handle {}: check the queue's bindings", request.kind()),
    )
}

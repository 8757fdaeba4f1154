//! The fixture of fault tests: services that the test starts, a proxy for each service, the worker
//! programs as processes, and the load. It also performs the checks at the end.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use licet_common::{signing::folder, store::Store, transport::Transport};
use licet_operator::audit::audit;
use licet_schema::topology::dead_queue;
use licet_workers::registry::{self, topology};
use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

use super::{
    ledger::Comparison,
    load::{self, Load},
    random::Random,
    wire,
};
use crate::{
    nodes::{
        pooler::Pooler,
        postgres::{DATABASE, Postgres},
        rabbit::Rabbit,
    },
    processes::Process,
    proxy::Proxy,
    system::exclusive,
};

/// A client notices after twice this time that the broker does not respond.
const HEARTBEAT_S: u16 = 2;
/// Settings of the worker programs, with short timeouts, so that the programs detect outages
/// quickly.
const SETTINGS: [(&str, &str); 6] = [
    ("LICET_BATCH_MAX", "16"),
    ("LICET_REPLY_TIMEOUT_MS", "2000"),
    ("LICET_DATABASE_TIMEOUT_S", "3"),
    ("LICET_SHUTDOWN_TIMEOUT_S", "10"),
    ("LICET_SWEEP_INTERVAL_S", "3600"),
    ("LICET_LOG", "info"),
];
/// The number of processes of these workers. Every other worker has one process.
const PROCESSES: [(&str, usize); 4] = [("purchase", 2), ("reception", 2), ("license", 2), ("settlement", 2)];
const TIMEOUT: Duration = Duration::from_secs(60);

/// The fixture of a fault test. See the module documentation.
pub(crate) struct Fixture {
    pub(crate) name: &'static str,
    pub(crate) random: Random,
    seed: u64,
    folder: tempfile::TempDir,
    pub(crate) rabbits: Vec<Rabbit>,
    pub(crate) postgres: Postgres,
    /// The proxy between the workers and the broker.
    pub(crate) amqp: Proxy,
    /// The proxy between the workers and the database.
    pub(crate) sql: Proxy,
    /// While something listens on this port, it receives the connections to the database.
    pub(crate) pooler_port: u16,
    pub(crate) workers: Vec<Worker>,
    pub(crate) load: Load,
    faults: BTreeMap<&'static str, Fault>,
    began: Instant,
    _exclusive: OwnedMutexGuard<()>,
}

/// The process of a worker.
pub(crate) struct Worker {
    pub(crate) name: &'static str,
    /// The number of the process among all worker processes of the run.
    number: usize,
    pub(crate) process: Process,
}

#[derive(Default)]
struct Fault {
    injected: u64,
    recovery_ms: Vec<u64>,
    evidence: String,
}

impl Fixture {
    /// A fixture with one broker node.
    pub(crate) async fn single(name: &'static str) -> Self {
        Self::new(name, || vec![Rabbit::start()]).await
    }

    /// A fixture with a broker of three nodes.
    pub(crate) async fn cluster(name: &'static str) -> Self {
        Self::new(name, Rabbit::cluster).await
    }

    async fn new(name: &'static str, start_rabbits: fn() -> Vec<Rabbit>) -> Self {
        let exclusive = exclusive().await;
        let seed = Random::seed();
        let (rabbits, postgres) = tokio::task::block_in_place(|| {
            std::thread::scope(|scope| {
                let rabbits = scope.spawn(start_rabbits);
                let postgres = Postgres::start();
                (rabbits.join().expect("the broker starts"), postgres)
            })
        });
        let urls: Vec<_> = rabbits.iter().map(|node| Rabbit::url(node.port, HEARTBEAT_S)).collect();
        let transport = Transport::rabbit(&urls[0].clone().into()).expect("an AMQP URL");
        transport.apply(&topology()).await.expect("the broker accepts the topology");
        postgres.create_database().await;
        let store = open_store(&postgres).await;
        store.migrate().await.expect("the tables are created");
        let folder = tempfile::tempdir().expect("a temporary folder");
        folder::create(&folder.path().join("keys")).expect("a new key");
        let amqp = Proxy::start(rabbits.iter().map(|node| node.port).collect()).await;
        let pooler_port = Pooler::free_port();
        let sql = Proxy::start(vec![pooler_port, postgres.port]).await;
        let mut workers = Vec::new();
        for name in registry::names() {
            let processes = PROCESSES.iter().find(|(worker, _)| *worker == name).map_or(1, |(_, count)| *count);
            for _ in 0..processes {
                workers.push(start(name, workers.len(), &folder, &amqp, &sql));
            }
        }
        let load = Load::start(urls, seed).await;
        tokio::task::block_in_place(|| rabbits.iter().for_each(Rabbit::write_registrations));
        load.wait_for_replies(50).await;
        Self {
            name,
            random: Random::new(seed ^ 1),
            seed,
            folder,
            rabbits,
            postgres,
            amqp,
            sql,
            pooler_port,
            workers,
            load,
            faults: BTreeMap::new(),
            began: Instant::now(),
            _exclusive: exclusive,
        }
    }

    /// Starts another process of this worker.
    pub(crate) fn start_worker(&mut self, name: &'static str) -> &Worker {
        let number = self.workers.iter().map(|worker| worker.number + 1).max().unwrap_or_default();
        self.workers.push(start(name, number, &self.folder, &self.amqp, &self.sql));
        self.workers.last().expect("the process that was just started")
    }

    /// The log of a worker's process.
    pub(crate) fn log(&self, worker: &Worker) -> String {
        std::fs::read_to_string(self.log_path(worker)).expect("its log")
    }

    /// The folder that contains the folder `keys`.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The path of the log of a worker's process.
    pub(crate) fn log_path(&self, worker: &Worker) -> PathBuf {
        log_path(&self.folder, worker.name, worker.number)
    }

    /// The logs of all running worker processes.
    pub(crate) fn logs(&self) -> Vec<String> {
        self.workers.iter().map(|worker| self.log(worker)).collect()
    }

    /// Waits until `condition` holds. `what` describes it.
    pub(crate) async fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !condition() {
            assert!(Instant::now() < deadline, "{what}: not within {TIMEOUT:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for a random time between these bounds while the load continues.
    pub(crate) async fn pause(&mut self, from_ms: u64, to_ms: u64) {
        let pause = self.random.ms(from_ms, to_ms);
        tokio::time::sleep(pause).await;
    }

    /// Measures the time from the end of a fault to the first reply to a new request, and records
    /// the fault and this time.
    pub(crate) async fn record_recovery(&mut self, kind: &'static str, evidence: impl Into<String>) {
        let recovery = self.load.recovery().await;
        self.record_fault(kind, evidence, Some(recovery));
    }

    /// Records a fault, the evidence that it happened, and its recovery time.
    pub(crate) fn record_fault(&mut self, kind: &'static str, evidence: impl Into<String>, recovery: Option<Duration>) {
        let evidence = evidence.into();
        println!("{kind}: recovery {recovery:.1?}; {evidence}");
        let fault = self.faults.entry(kind).or_default();
        fault.injected += 1;
        fault.recovery_ms.extend(recovery.map(|recovery| u64::try_from(recovery.as_millis()).unwrap_or(u64::MAX)));
        fault.evidence = evidence;
    }

    /// Stops the load and the workers, and checks the result: every reply is compared, there is no
    /// dead letter, every worker stops in time, and the audit passes. Records the figures. Returns
    /// the logs of the workers.
    pub(crate) async fn finish(mut self) -> (Comparison, Vec<String>) {
        let ledger = self.load.finish().await;
        let comparison = load::compare(&ledger);
        let urls: Vec<_> = self.rabbits.iter().map(|node| Rabbit::url(node.port, HEARTBEAT_S)).collect();
        let mut dead_letters = BTreeMap::new();
        for name in registry::names() {
            dead_letters.insert(name, wire::depth(&urls, &dead_queue(name)).await);
        }
        assert!(dead_letters.values().all(|count| *count == 0), "dead letters: {dead_letters:?}");
        let mut logs = Vec::new();
        for worker in std::mem::take(&mut self.workers) {
            let code = tokio::task::block_in_place(|| worker.process.terminate());
            let log = log_path(&self.folder, worker.name, worker.number);
            logs.push(std::fs::read_to_string(&log).expect("its log"));
            let log = logs.last().expect("its log");
            assert_eq!(code, Some(0), "{} exits with 0: {log}", worker.name);
            assert!(log.contains("delayed=0 "), "{} sent no message to a wait queue: {log}", worker.name);
        }
        let report = audit(&open_store(&self.postgres).await).await.expect("the auditor can read the database");
        assert!(report.violations.is_empty(), "{:#?}", report.violations);
        let faults: BTreeMap<_, _> = self.faults.iter().map(|(kind, fault)| (*kind, fault.figures())).collect();
        let records = ledger.lock();
        let figures = json!({
            "faults": faults,
            "accepted": comparison.accepted,
            "replies": comparison.replies,
            "compared": comparison.compared,
            "events": comparison.events,
            "events_again": comparison.events_again,
            "resent": records.resent,
            "nacks": records.nacks,
            "connections_of_the_upstream": records.connections,
            "dead_letters": 0,
            "seconds": self.began.elapsed().as_secs(),
            "seed": self.seed.to_string(),
            "rabbitmq": self.rabbits[0].version(),
            "nodes": self.rabbits.len(),
            "postgresql": self.postgres.version,
        });
        println!("{figures:#}");
        licet_tests::figures::record(&format!("faults-{}", self.name), &figures).expect("the figures are recorded");
        (comparison, logs)
    }
}

/// If a test fails, prints the state of its queues and the last log lines of its servers and
/// workers.
impl Drop for Fixture {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let columns = ["list_queues", "name", "state", "messages_ready", "messages_unacknowledged", "consumers"];
        for node in &self.rabbits {
            let queues = node.try_ctl(&columns).unwrap_or_else(|error| error);
            println!("The queues of a node:\n{queues}");
            println!("The last lines of its log:\n{}", last_lines(&node.log()));
        }
        for worker in &self.workers {
            let log = std::fs::read_to_string(self.log_path(worker)).unwrap_or_default();
            println!("The last lines of {} (process {}):\n{}", worker.name, worker.process.id(), last_lines(&log));
        }
    }
}

impl Fault {
    fn figures(&self) -> Value {
        let mut sorted = self.recovery_ms.clone();
        sorted.sort_unstable();
        let recovery = sorted.last().map(|max| json!({ "p50": sorted[sorted.len() / 2], "max": max }));
        json!({ "injected": self.injected, "recovery_ms": recovery, "shown_by": self.evidence })
    }
}

fn last_lines(log: &str) -> String {
    const COUNT: usize = 30;
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(COUNT)..].join("\n")
}

fn start(name: &'static str, number: usize, folder: &tempfile::TempDir, amqp: &Proxy, sql: &Proxy) -> Worker {
    let mut settings: Vec<_> = SETTINGS.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
    settings.push(("LICET_AMQP_URL", Rabbit::url(amqp.port, HEARTBEAT_S)));
    settings.push(("LICET_DATABASE_URL", Postgres::worker_url(sql.port)));
    let process = Process::with(&format!("licet-{name}"), &log_path(folder, name, number), &settings);
    Worker { name, number, process }
}

fn log_path(folder: &tempfile::TempDir, name: &str, number: usize) -> PathBuf {
    folder.path().join(format!("{name}-{number}.log"))
}

async fn open_store(postgres: &Postgres) -> Store {
    let url = Postgres::url(postgres.port, DATABASE);
    Store::open(&url.into(), 2).await.expect("the database answers")
}

/// The current value of a proxy's counter.
pub(crate) fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

//! Where faults are played: services of the test's own, a network that can fail before each, the
//! worker programs as processes, and the load; and the verdict at the end.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use licet_common::{signing::folder, store::Store, transport::Transport};
use licet_schema::topology::{WORKERS, dead_queue, topology};
use licet_workers::audit::audit;
use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

use super::{
    chance::Chance,
    ledger::Compared,
    load::{self, Load},
    wire,
};
use crate::{
    nodes::{postgres::Postgres, rabbit::Rabbit},
    processes::Process,
    proxy::Proxy,
    world::turn,
};

/// A silent broker is noticed after twice this.
const HEARTBEAT_S: u16 = 2;
/// What worker programs are told, so that they notice what is away sooner than a person would want.
const SETTINGS: [(&str, &str); 6] = [
    ("LICET_BATCH_MAX", "16"),
    ("LICET_REPLY_TIMEOUT_MS", "2000"),
    ("LICET_DATABASE_TIMEOUT_S", "3"),
    ("LICET_SHUTDOWN_TIMEOUT_S", "10"),
    ("LICET_SWEEP_INTERVAL_S", "3600"),
    ("LICET_LOG", "info"),
];
/// So many copies run of these workers, and one of each other.
const COPIES: [(&str, usize); 4] = [("purchase", 2), ("reception", 2), ("license", 2), ("settlement", 2)];
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    pub(crate) chance: Chance,
    seed: u64,
    folder: tempfile::TempDir,
    pub(crate) rabbits: Vec<Rabbit>,
    pub(crate) postgres: Postgres,
    /// Between the workers and the broker.
    pub(crate) amqp: Proxy,
    /// Between the workers and the database.
    pub(crate) sql: Proxy,
    pub(crate) workers: Vec<Worker>,
    pub(crate) load: Load,
    faults: BTreeMap<&'static str, Fault>,
    began: Instant,
    _turn: OwnedMutexGuard<()>,
}

/// A worker's process.
pub(crate) struct Worker {
    pub(crate) name: &'static str,
    /// Which of all processes of the run it is.
    number: usize,
    pub(crate) process: Process,
}

#[derive(Default)]
struct Fault {
    injected: u64,
    recovery_ms: Vec<u64>,
    shown_by: String,
}

impl Stage {
    /// One broker node.
    pub(crate) async fn single(name: &'static str) -> Self {
        Self::new(name, || vec![Rabbit::start()]).await
    }

    /// A broker of three nodes.
    pub(crate) async fn cluster(name: &'static str) -> Self {
        Self::new(name, Rabbit::cluster).await
    }

    async fn new(name: &'static str, rabbits: fn() -> Vec<Rabbit>) -> Self {
        let turn = turn().await;
        let seed = Chance::seed();
        let (rabbits, postgres) = tokio::task::block_in_place(|| {
            std::thread::scope(|scope| {
                let rabbits = scope.spawn(rabbits);
                let postgres = Postgres::start();
                (rabbits.join().expect("the broker starts"), postgres)
            })
        });
        let urls: Vec<_> = rabbits.iter().map(|node| Rabbit::url(node.port, HEARTBEAT_S)).collect();
        let transport = Transport::rabbit(&urls[0].clone().into()).expect("an AMQP URL");
        transport.apply(&topology()).await.expect("the broker takes the topology");
        let store = store(&postgres).await;
        store.migrate().await.expect("the tables");
        let folder = tempfile::tempdir().expect("a temporary folder");
        folder::create(&folder.path().join("keys")).expect("a new key");
        let amqp = Proxy::before(rabbits.iter().map(|node| node.port).collect()).await;
        let sql = Proxy::before(vec![postgres.port]).await;
        let mut workers = Vec::new();
        for worker in WORKERS {
            let copies = COPIES.iter().find(|(name, _)| *name == worker.name).map_or(1, |(_, copies)| *copies);
            for _ in 0..copies {
                workers.push(start(worker.name, workers.len(), &folder, &amqp, &sql));
            }
        }
        let load = Load::start(urls, seed).await;
        load.answered(50).await;
        Self {
            name,
            chance: Chance::new(seed ^ 1),
            seed,
            folder,
            rabbits,
            postgres,
            amqp,
            sql,
            workers,
            load,
            faults: BTreeMap::new(),
            began: Instant::now(),
            _turn: turn,
        }
    }

    /// Another process of this worker.
    pub(crate) fn start_worker(&mut self, name: &'static str) -> &Worker {
        let number = self.workers.iter().map(|worker| worker.number + 1).max().unwrap_or_default();
        self.workers.push(start(name, number, &self.folder, &self.amqp, &self.sql));
        self.workers.last().expect("the one that was just started")
    }

    /// What a worker's process has logged.
    pub(crate) fn log(&self, worker: &Worker) -> String {
        std::fs::read_to_string(log_of(&self.folder, worker.name, worker.number)).expect("its log")
    }

    /// Where a worker's process logs.
    pub(crate) fn log_of(&self, worker: &Worker) -> PathBuf {
        log_of(&self.folder, worker.name, worker.number)
    }

    /// What all worker processes have logged.
    pub(crate) fn logs(&self) -> Vec<String> {
        self.workers.iter().map(|worker| self.log(worker)).collect()
    }

    /// Waits until this holds.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A pause of the scenario, in which the load goes on against whatever is broken.
    pub(crate) async fn meanwhile(&mut self, from_ms: u64, to_ms: u64) {
        let pause = self.chance.ms(from_ms, to_ms);
        tokio::time::sleep(pause).await;
    }

    /// A fault is over: measures how long until the first answer to a request sent from now on.
    pub(crate) async fn recovered(&mut self, kind: &'static str, shown_by: impl Into<String>) {
        let recovery = self.load.recovery().await;
        self.injected(kind, shown_by, Some(recovery));
    }

    /// A fault happened.
    pub(crate) fn injected(&mut self, kind: &'static str, shown_by: impl Into<String>, recovery: Option<Duration>) {
        let shown_by = shown_by.into();
        println!("{kind}: recovery {recovery:.1?}; {shown_by}");
        let fault = self.faults.entry(kind).or_default();
        fault.injected += 1;
        fault.recovery_ms.extend(recovery.map(|recovery| u64::try_from(recovery.as_millis()).unwrap_or(u64::MAX)));
        fault.shown_by = shown_by;
    }

    /// Ends the load and the workers, and judges: every reply compared, no dead letter, the auditor
    /// content, every worker's goodbye in time. Keeps the figures. Gives the workers' logs.
    pub(crate) async fn finish(self) -> (Compared, Vec<String>) {
        let Self { load, workers, rabbits, postgres, folder, .. } = self;
        let ledger = load.finish().await;
        let compared = load::compared(&ledger);
        let urls: Vec<_> = rabbits.iter().map(|node| Rabbit::url(node.port, HEARTBEAT_S)).collect();
        let mut dead = BTreeMap::new();
        for worker in WORKERS {
            dead.insert(worker.name, wire::depth(&urls, &dead_queue(worker.name)).await);
        }
        assert!(dead.values().all(|count| *count == 0), "dead letters: {dead:?}");
        let mut logs = Vec::new();
        for worker in workers {
            let code = tokio::task::block_in_place(|| worker.process.terminate());
            let log = log_of(&folder, worker.name, worker.number);
            logs.push(std::fs::read_to_string(&log).expect("its log"));
            assert_eq!(code, Some(0), "{} ends well: {}", worker.name, logs.last().expect("its log"));
        }
        let report = audit(&store(&postgres).await).await.expect("the auditor can read");
        assert!(report.violations.is_empty(), "{:#?}", report.violations);
        let faults: BTreeMap<_, _> = self.faults.iter().map(|(kind, fault)| (*kind, fault.figures())).collect();
        let pages = ledger.open();
        let figures = json!({
            "faults": faults,
            "accepted": compared.accepted,
            "replies": compared.replies,
            "compared": compared.compared,
            "events": compared.events,
            "events_again": compared.events_again,
            "resent": pages.resent,
            "nacks": pages.nacks,
            "connections_of_the_upstream": pages.connections,
            "dead_letters": 0,
            "seconds": self.began.elapsed().as_secs(),
            "seed": self.seed.to_string(),
            "rabbitmq": rabbits[0].version(),
            "nodes": rabbits.len(),
            "postgresql": postgres.version,
        });
        println!("{figures:#}");
        licet_tests::figures::record(&format!("faults-{}", self.name), &figures).expect("the figures are kept");
        (compared, logs)
    }
}

impl Fault {
    fn figures(&self) -> Value {
        let mut sorted = self.recovery_ms.clone();
        sorted.sort_unstable();
        let recovery = sorted.last().map(|max| json!({ "p50": sorted[sorted.len() / 2], "max": max }));
        json!({ "injected": self.injected, "recovery_ms": recovery, "shown_by": self.shown_by })
    }
}

fn start(name: &'static str, number: usize, folder: &tempfile::TempDir, amqp: &Proxy, sql: &Proxy) -> Worker {
    let mut settings: Vec<_> = SETTINGS.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
    settings.push(("LICET_AMQP_URL", Rabbit::url(amqp.port, HEARTBEAT_S)));
    settings.push(("LICET_DATABASE_URL", Postgres::url(sql.port, "postgres")));
    let process = Process::with(&format!("licet-{name}"), &log_of(folder, name, number), &settings);
    Worker { name, number, process }
}

fn log_of(folder: &tempfile::TempDir, name: &str, number: usize) -> PathBuf {
    folder.path().join(format!("{name}-{number}.log"))
}

async fn store(postgres: &Postgres) -> Store {
    let url = Postgres::url(postgres.port, "postgres");
    Store::open(&url.into(), 2).await.expect("the database answers")
}

/// A count of the proxy's.
pub(crate) fn count(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

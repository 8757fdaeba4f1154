//! `licet check` on a running installation that is damaged in many ways, one after the other.

use std::time::{Duration, Instant};

use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use licet_common::{signing::folder, store::Store, transport::Transport};
use licet_schema::topology::{EVENTS, IN, INSTRUCTED, RETRY};
use licet_workers::registry::{self, topology};
use tokio::sync::OwnedMutexGuard;

use crate::{
    nodes::{
        pooler::Pooler,
        postgres::{DATABASE, Postgres, WORKER},
        rabbit::Rabbit,
    },
    processes::Process,
    programs::run,
    system::exclusive,
};

const TIMEOUT: Duration = Duration::from_secs(60);
/// The broker user of the workers. It may write to and read from everything, and is not an
/// administrator.
const USER: &str = "licet";

/// A complete installation with one program for each worker.
struct Installation {
    rabbit: Rabbit,
    postgres: Postgres,
    folder: tempfile::TempDir,
    settings: Vec<(&'static str, String)>,
    workers: Vec<(&'static str, Process)>,
    _exclusive: OwnedMutexGuard<()>,
}

impl Installation {
    async fn start() -> Self {
        let exclusive = exclusive().await;
        let (rabbit, postgres) = tokio::task::block_in_place(|| (Rabbit::with_management(), Postgres::start()));
        postgres.create_database().await;
        let store = Store::open(&Postgres::url(postgres.port, DATABASE).into(), 1).await.expect("the database answers");
        store.migrate().await.expect("the tables are created");
        let folder = tempfile::tempdir().expect("a folder");
        folder::create(&folder.path().join("keys")).expect("a new key");
        let settings = vec![
            ("LICET_AMQP_URL", format!("amqp://{USER}:secret@127.0.0.1:{}/%2f", rabbit.port)),
            ("LICET_MANAGEMENT_URL", format!("http://guest:guest@127.0.0.1:{}", rabbit.management_port)),
            ("LICET_DATABASE_URL", Postgres::worker_url(postgres.port)),
            ("LICET_SWEEP_INTERVAL_S", "3600".to_owned()),
        ];
        let mut installation = Self { rabbit, postgres, folder, settings, workers: Vec::new(), _exclusive: exclusive };
        installation.ctl(&["add_user", USER, "secret"]);
        installation.permit(".*");
        installation.apply().await;
        for worker in registry::names() {
            installation.start_worker(worker);
        }
        installation
    }

    fn ctl(&self, arguments: &[&str]) {
        tokio::task::block_in_place(|| self.rabbit.ctl(arguments));
    }

    fn permit(&self, write: &str) {
        self.ctl(&["set_permissions", USER, ".*", write, ".*"]);
    }

    async fn apply(&self) {
        let url = Rabbit::url(self.rabbit.port, 10);
        let transport = Transport::rabbit(&url.into()).expect("an AMQP URL");
        transport.apply(&topology()).await.expect("the broker accepts the topology");
    }

    async fn alter(&self, statement: &str) {
        self.postgres.execute(DATABASE, statement).await;
    }

    async fn channel(&self) -> lapin::Channel {
        let url = Rabbit::url(self.rabbit.port, 10);
        let connection = lapin::Connection::connect(&url, lapin::ConnectionProperties::default()).await;
        connection.expect("RabbitMQ answers").create_channel().await.expect("a channel")
    }

    fn start_worker(&mut self, name: &'static str) {
        let log = self.folder.path().join(format!("{name}.log"));
        self.workers.push((name, Process::with(&format!("licet-{name}"), &log, &self.settings)));
    }

    /// The problems that `licet check` lists with these settings instead of the usual ones.
    fn problems(&self, other: &[(&'static str, String)]) -> Vec<String> {
        let usual = self.settings.iter().filter(|(key, _)| other.iter().all(|(one, _)| one != key));
        let settings: Vec<_> = usual.chain(other).map(|(key, value)| (*key, value.as_str())).collect();
        let output = tokio::task::block_in_place(|| run("licet", &["check", "--json"], &settings, self.folder.path()));
        let text = String::from_utf8_lossy(&[output.stdout.clone(), output.stderr].concat()).into_owned();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{text}"));
        let problems: Vec<String> = serde_json::from_value(report["problems"].clone()).expect("a list of sentences");
        assert_eq!(output.status.code(), Some(i32::from(!problems.is_empty())), "{text}");
        problems
    }

    /// Waits until nothing is wrong, because RabbitMQ updates its statistics every few seconds.
    async fn until_healthy(&self) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let problems = self.problems(&[]);
            if problems.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "still wrong: {problems:#?}");
        }
    }

    /// Waits until each of these texts is in a reported problem, and every reported problem
    /// contains one of them.
    async fn until_named(&self, said: &[&str], other: &[(&'static str, String)]) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let problems = self.problems(other);
            let all_named = said.iter().all(|text| problems.iter().any(|problem| problem.contains(text)));
            let all_expected = problems.iter().all(|problem| said.iter().any(|text| problem.contains(text)));
            if all_named && all_expected {
                println!("{problems:#?}");
                return;
            }
            assert!(Instant::now() < deadline, "expected {said:?}: {problems:#?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn a_check_names_each_damage_to_a_running_installation_and_nothing_on_a_healthy_one() {
    let mut one = Installation::start().await;
    one.until_healthy().await;
    let mut damages = 0;
    let mut count = || damages += 1;

    // The bindings.
    let channel = one.channel().await;
    let unbind =
        channel.queue_unbind("licet.reception".into(), IN.into(), "license.receipt".into(), Default::default());
    unbind.await.expect("the binding is removed");
    one.until_named(&["missing: binding of licet.reception to licet.in by license.receipt"], &[]).await;
    one.apply().await;
    count();
    let arguments = QueueBindOptions::default();
    let bind = channel.queue_bind(INSTRUCTED.into(), EVENTS.into(), "#".into(), arguments, Default::default());
    bind.await.expect("the binding is made");
    one.until_named(&["superfluous: binding of licet.instructed to licet.events by #"], &[]).await;
    let unbind = channel.queue_unbind(INSTRUCTED.into(), EVENTS.into(), "#".into(), Default::default());
    unbind.await.expect("the binding is removed");
    count();

    // Queues and exchanges, and their arguments.
    let dead = "licet.dead.query";
    channel.queue_delete(dead.into(), QueueDeleteOptions::default()).await.expect("the queue is deleted");
    one.until_named(&["missing: queue licet.dead.query"], &[]).await;
    count();
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(dead.into(), durable, Default::default()).await.expect("the queue is declared");
    one.until_named(&["the queue licet.dead.query has other arguments: "], &[]).await;
    channel.queue_delete(dead.into(), QueueDeleteOptions::default()).await.expect("the queue is deleted");
    one.apply().await;
    count();
    channel.exchange_delete(RETRY.into(), ExchangeDeleteOptions::default()).await.expect("the exchange is deleted");
    one.until_named(&["missing: exchange licet.retry", "missing: binding of "], &[]).await;
    count();
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let declared = channel.exchange_declare(RETRY.into(), lapin::ExchangeKind::Topic, durable, Default::default());
    declared.await.expect("the exchange is declared");
    one.until_named(&["the exchange licet.retry has the type topic instead of direct", "missing: binding of "], &[])
        .await;
    channel.exchange_delete(RETRY.into(), ExchangeDeleteOptions::default()).await.expect("the exchange is deleted");
    one.apply().await;
    count();

    // Policies, permissions, alarms, the virtual host and the API itself.
    one.ctl(&["set_policy", "--apply-to", "queues", "short", "^licet.query$", r#"{"message-ttl":1000}"#]);
    one.until_named(&["the policy short sets message-ttl=1000 for the queue licet.query"], &[]).await;
    one.ctl(&["clear_policy", "short"]);
    count();
    one.permit("^licet\\.");
    one.until_named(&["the broker user licet may not write amq.default"], &[]).await;
    one.permit(".*");
    count();
    one.ctl(&["set_vm_memory_high_watermark", "absolute", "1MB"]);
    one.until_named(&["has a memory alarm"], &[]).await;
    one.ctl(&["set_vm_memory_high_watermark", "0.4"]);
    count();
    one.until_healthy().await;
    one.ctl(&["set_disk_free_limit", "1000000GB"]);
    one.until_named(&["has a disk alarm"], &[]).await;
    one.ctl(&["set_disk_free_limit", "1MB"]);
    count();
    one.until_healthy().await;
    let elsewhere = ("LICET_AMQP_URL", format!("amqp://{USER}:secret@127.0.0.1:{}/elsewhere", one.rabbit.port));
    one.until_named(&["has no virtual host elsewhere", "refused: "], &[elsewhere]).await;
    count();
    let no_api = ("LICET_MANAGEMENT_URL", "http://127.0.0.1:1".to_owned());
    one.until_named(&["management API at 127.0.0.1:1 cannot be reached"], &[no_api]).await;
    let wrong = ("LICET_MANAGEMENT_URL", format!("http://guest:wrong@127.0.0.1:{}", one.rabbit.management_port));
    one.until_named(&["refuses the user guest"], &[wrong]).await;
    count();

    // A worker that does not run.
    let index = one.workers.iter().position(|(name, _)| *name == "query").expect("it runs");
    let (_, process) = one.workers.remove(index);
    tokio::task::block_in_place(|| process.terminate());
    one.until_named(&["no worker consumes the queue licet.query: start licet-query"], &[]).await;
    one.start_worker("query");
    count();
    one.until_healthy().await;

    // The database.
    let role = |change: &str| format!("ALTER ROLE {WORKER} {change}");
    let kinds = [
        (
            format!("REVOKE UPDATE ON license FROM {WORKER}"),
            format!("GRANT UPDATE ON license TO {WORKER}"),
            "the role worker lacks UPDATE on license",
        ),
        (
            "ALTER TABLE license RENAME COLUMN token TO t; ALTER TABLE license ALTER COLUMN t DROP NOT NULL".into(),
            "ALTER TABLE license RENAME COLUMN t TO token; ALTER TABLE license ALTER COLUMN token SET NOT NULL".into(),
            "the table license lacks the column token",
        ),
        (
            "ALTER TABLE license ADD CONSTRAINT x CHECK (token <> '')".into(),
            "ALTER TABLE license DROP CONSTRAINT x".into(),
            "the table license has the constraint x",
        ),
        (
            role("SET default_transaction_read_only = on"),
            role("RESET default_transaction_read_only"),
            "the database accepts no writes",
        ),
        (
            "ALTER TABLE license SET UNLOGGED".into(),
            "ALTER TABLE license SET LOGGED".into(),
            "the table license is UNLOGGED",
        ),
        (
            "UPDATE signing_key SET retired_at = 1".into(),
            "UPDATE signing_key SET retired_at = NULL".into(),
            "was retired",
        ),
        (
            "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE \
             AS $$ SELECT pg_catalog.clock_timestamp() - interval '2 hours' $$; \
             ALTER DATABASE licet SET search_path = public, pg_catalog"
                .into(),
            "ALTER DATABASE licet RESET search_path; DROP FUNCTION public.clock_timestamp()".into(),
            "the clock of this machine is 2 h 0 min ahead of the clock of the database",
        ),
        (
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES (7, 'create users', true, '', 0)"
                .into(),
            "DELETE FROM _sqlx_migrations WHERE version = 7".into(),
            "contains \"create users\", which is not a release of Licet",
        ),
    ];
    for (damage, repair, said) in kinds {
        one.alter(&damage).await;
        one.until_named(&[said], &[]).await;
        one.alter(&repair).await;
        one.until_healthy().await;
        count();
    }
    let latin = "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0";
    one.postgres.execute("postgres", latin).await;
    let latin = ("LICET_DATABASE_URL", Postgres::url(one.postgres.port, "latin"));
    one.until_named(&["the encoding of the database is LATIN1"], &[latin]).await;
    count();
    let empty = ("LICET_DATABASE_URL", Postgres::url(one.postgres.port, "postgres"));
    one.until_named(&["the database contains no tables of Licet"], &[empty]).await;
    count();
    let server_port = one.postgres.port;
    let pooler = tokio::task::block_in_place(|| Pooler::start(Pooler::free_port(), server_port, true));
    let pooled = ("LICET_DATABASE_URL", Postgres::worker_url(pooler.port));
    one.until_named(&["A connection pooler that changes the connection"], &[pooled]).await;
    count();

    // The keys.
    let other = tempfile::tempdir().expect("a folder");
    folder::create(&other.path().join("keys")).expect("a new key");
    let other = ("LICET_KEYS", other.path().join("keys").display().to_string());
    one.until_named(&["the keys folder (LICET_KEYS) lacks the key"], &[other]).await;
    count();
    let none = ("LICET_KEYS", "none".to_owned());
    one.until_named(&["there are no signing keys in none"], &[none]).await;
    count();

    one.until_healthy().await;
    assert!(damages >= 20, "{damages} damages");
    println!("{damages} damages were named");
}

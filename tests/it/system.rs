//! The fixture of the system tests: a complete Licet system with broker, database, keys, workers
//! and a client, on the embedded services or on RabbitMQ and PostgreSQL. The module also builds the
//! requests that tests send.

use std::{path::PathBuf, sync::Arc, time::Duration};

use licet_client::{Client, Patience};
use licet_common::{
    clock::Clock,
    config::{Limits, Terms},
    runtime::{Resources, StoredOutput, outputs_of},
    signing::{Keyring, folder},
    store::{Store, TOOL_TIMEOUT},
    transport::{Consumer, Delivery, Outcome, Outgoing, Properties, Publisher, Transport},
};
use licet_operator::audit::audit;
use licet_schema::{
    Count, ExternalId, Money, Name, Output, Request, Seconds, Text, Timestamp, Version,
    encoding::CONTENT_TYPE,
    entity::{Keyed, journal},
    message::{
        CertificatePresented, ContentPut, Item, LicenseReceipt, LicenseRequest, LicenseReturn, Privilege,
        PurchaseRequest, ReturnPolicy, SettlementCompletion, SettlementReversal,
    },
    money::Currency,
    topology,
    vocabulary::Grants,
};
use licet_workers::registry::{self, WORKERS};
use sea_orm::{ConnectionTrait, Database, EntityTrait, PrimaryKeyTrait, Statement};
use tokio::{sync::OwnedMutexGuard, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The longest time for which a test waits.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// All tests share one RabbitMQ, so those that use it run one at a time.
static SERVICES: std::sync::LazyLock<Arc<tokio::sync::Mutex<()>>> = std::sync::LazyLock::new(Arc::default);

/// Waits until no other test uses the services. No other test can use them until the guard is
/// dropped.
pub(crate) async fn exclusive() -> OwnedMutexGuard<()> {
    SERVICES.clone().lock_owned().await
}

/// Declares two tests for each of these functions: `embedded::…` on the in-process broker and
/// SQLite, `services::…` on RabbitMQ and PostgreSQL.
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(crate::system::TestSystem::embedded().await).await;
            })*
        }
        mod services {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
            async fn $test() {
                super::$test(crate::system::TestSystem::services().await).await;
            })*
        }
    };
}
pub(crate) use on_both;

/// A complete Licet system.
pub(crate) struct TestSystem {
    pub(crate) resources: Resources,
    pub(crate) client: Client,
    /// A temporary folder. It contains the folder `keys`.
    pub(crate) folder: tempfile::TempDir,
    /// The URL of the database for worker programs. `None` on SQLite.
    pub(crate) database_url: Option<String>,
    workers: Vec<(CancellationToken, JoinHandle<()>)>,
    _exclusive: Option<OwnedMutexGuard<()>>,
}

impl TestSystem {
    /// Starts a system on the in-process broker and SQLite.
    pub(crate) async fn embedded() -> Self {
        let transport = Transport::memory();
        transport.apply(&registry::topology()).await.expect("the in-process broker accepts any topology");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let url = format!("sqlite:{}", folder.path().join("licet.db").display());
        let store = Store::create(&url.into(), 1, TOOL_TIMEOUT).await.expect("a new SQLite file");
        Self::start(transport, store, folder, None, None).await
    }

    /// Starts a system on RabbitMQ and PostgreSQL, with empty queues and a new database.
    pub(crate) async fn services() -> Self {
        let exclusive = exclusive().await;
        let transport = Transport::rabbit(&amqp_url().into()).expect("LICET_TEST_AMQP_URL is an AMQP URL");
        empty_broker().await;
        transport.apply(&registry::topology()).await.expect("RabbitMQ accepts the topology");
        let database_url = new_database().await;
        let store = Store::open(&database_url.clone().into(), 12).await.expect("the new database answers");
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self::start(transport, store, folder, Some(database_url), Some(exclusive)).await
    }

    async fn start(
        transport: Transport,
        store: Store,
        folder: tempfile::TempDir,
        database_url: Option<String>,
        exclusive: Option<OwnedMutexGuard<()>>,
    ) -> Self {
        store.migrate().await.expect("the tables are created");
        let keyring = folder::create(&folder.path().join("keys")).expect("a new key");
        let resources = Resources {
            transport: transport.clone(),
            store,
            keyring: Arc::new(keyring),
            clock: Clock::manual(Timestamp::from_millis(1_700_000_000_000)),
            terms: Arc::new(Terms::default()),
            // No sweep starts on its own. Tests publish `sweep.due`.
            limits: Limits { sweep_interval_s: 86_400, ..Limits::default() },
            senders: Arc::default(),
        };
        let patience = Patience { each: Duration::from_secs(5), attempts: 12 };
        let client = Client::connect(&transport, patience).await.expect("the broker answers");
        Self { resources, client, folder, database_url, workers: Vec::new(), _exclusive: exclusive }
    }

    /// Starts one more copy of every worker in this process.
    pub(crate) fn start_workers(&mut self) -> &mut Self {
        let (resources, stop) = (self.resources.clone(), CancellationToken::new());
        let stopped = stop.clone();
        let running = tokio::spawn(async move { registry::run_workers(WORKERS, &resources, &stopped).await });
        self.workers.push((stop, running));
        self
    }

    /// Stops the workers in this process, as SIGTERM does.
    pub(crate) async fn stop_workers(&mut self) {
        for (stop, running) in self.workers.drain(..) {
            stop.cancel();
            tokio::time::timeout(TIMEOUT, running).await.expect("workers stop in time").expect("no worker panicked");
        }
    }

    /// Stops the workers and audits the database.
    pub(crate) async fn finish(mut self) {
        self.stop_workers().await;
        let report = audit(&self.resources.store).await.expect("the auditor can read");
        assert!(report.violations.is_empty(), "{:#?}", report.violations);
    }

    pub(crate) fn keyring(&self) -> &Keyring {
        &self.resources.keyring
    }

    /// Sends a request and returns its reply, which may be a refusal.
    pub(crate) async fn ask(&self, request: &Request) -> Output {
        self.client.ask(request).await.expect("a reply")
    }

    /// Registers the content item that most tests buy: it costs 10.00 USD, has this number of
    /// grants, and gives 40 points for a return.
    pub(crate) async fn put_song(&self, grants: i64) {
        let reply = self.ask(&Request::ContentPut(song(grants))).await;
        assert!(matches!(reply, Output::ContentRegistered(_)), "{reply:?}");
    }

    /// Starts the workers and registers the song with one grant.
    pub(crate) async fn put_song_with_workers(&mut self) {
        self.start_workers();
        self.put_song(1).await;
    }

    pub(crate) async fn buy(&self, user: &str, count: usize) -> Bought {
        Bought::of(self.ask(&purchase(user, count)).await)
    }

    /// Buys certificates, acknowledges their receipt and pays for them.
    pub(crate) async fn ready(&self, user: &str, count: usize) -> Bought {
        let bought = self.buy(user, count).await;
        let accepted = self.ask(&receipt(&bought)).await;
        assert!(matches!(accepted, Output::CertificateAccepted(_)), "{accepted:?}");
        let settled = self.ask(&completion(&bought)).await;
        assert!(matches!(settled, Output::SettlementRegistered(_)), "{settled:?}");
        bought
    }

    /// Publishes a message unchanged, without the client.
    pub(crate) async fn publish(&self, message: Outgoing) {
        self.publish_all(&[message]).await;
    }

    pub(crate) async fn publish_all(&self, messages: &[Outgoing]) {
        let publisher: Publisher = self.resources.transport.publisher().await.expect("the broker answers");
        let outcomes = publisher.publish(messages, TIMEOUT).await.expect("the connection stays open");
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Confirmed), "{outcomes:?}");
        publisher.close().await;
    }

    /// Creates a temporary queue with these bindings (exchange, routing key). Returns its name and
    /// its messages.
    pub(crate) async fn listen(&self, bindings: &[(&str, &str)]) -> (String, Mailbox) {
        let (name, consumer) = self.resources.transport.subscribe(bindings).await.expect("the broker answers");
        (name, Mailbox(consumer))
    }

    /// The messages of a worker's dead-letter queue.
    pub(crate) async fn dead_letters(&self, worker: &str) -> Mailbox {
        self.messages_of(&topology::dead_queue(worker)).await
    }

    /// The messages of a queue.
    pub(crate) async fn messages_of(&self, queue: &str) -> Mailbox {
        Mailbox(self.resources.transport.consume(queue, 1000).await.expect("the queue"))
    }

    pub(crate) async fn journal(&self) -> Vec<journal::Model> {
        journal::Entity::find().all(&self.resources.store.pool()).await.expect("the journal")
    }

    /// Waits until a message is in the journal, and returns its stored outputs.
    pub(crate) async fn stored_outputs(&self, id: Uuid) -> Vec<StoredOutput> {
        let waiting = async {
            loop {
                let row = journal::Entity::find_by_id(id).one(&self.resources.store.pool()).await.expect("the journal");
                if let Some(row) = row {
                    return outputs_of(&row).expect("readable outputs");
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(TIMEOUT, waiting).await.expect("the message is decided in time")
    }

    /// Sends a request, and returns its reply and its events in the journal.
    pub(crate) async fn process(&self, request: &Request) -> Processed {
        let id = Uuid::now_v7();
        let reply = self.client.ask_as(id, request).await.expect("a reply");
        let events = match &reply {
            Output::RequestRefused(refused) if !refused.code.is_recorded() => Vec::new(),
            _ => self.events_of(id).await,
        };
        Processed { id, reply, events }
    }

    /// Waits until a message is decided, and returns its events.
    pub(crate) async fn events_of(&self, id: Uuid) -> Vec<Output> {
        let outputs = self.stored_outputs(id).await.into_iter().filter(|output| !output.reply);
        outputs.map(|output| Output::decode(&output.kind, &output.body).expect("an event")).collect()
    }

    /// Returns when a transaction waits for a lock. On SQLite there is only one connection, so
    /// every other transaction waits.
    pub(crate) async fn until_a_transaction_waits(&self) {
        let waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let (store, pool) = (&self.resources.store, self.resources.store.pool());
        while self.database_url.is_some() {
            let statement = Statement::from_string(store.backend(), waiting);
            if pool.query_one(statement).await.expect("the database answers").is_some() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// All rows of a table, ordered by key.
    pub(crate) async fn rows<E: Keyed>(&self) -> Vec<E::Model> {
        let mut rows = E::find().all(&self.resources.store.pool()).await.expect("the table can be read");
        rows.sort_by_key(E::key);
        rows
    }

    /// The row with this id.
    pub(crate) async fn row<E: Keyed>(&self, id: Uuid) -> Option<E::Model>
    where
        Uuid: Into<<E::PrimaryKey as PrimaryKeyTrait>::ValueType>,
    {
        E::find_by_id(id.into()).one(&self.resources.store.pool()).await.expect("the table can be read")
    }
}

/// A request that was processed.
#[derive(Debug)]
pub(crate) struct Processed {
    /// The message id of the request, which its outputs name as their cause.
    pub(crate) id: Uuid,
    pub(crate) reply: Output,
    /// The events of the request, in their order.
    pub(crate) events: Vec<Output>,
}

impl Processed {
    /// The message types of the events.
    pub(crate) fn kinds(&self) -> Vec<&'static str> {
        self.events.iter().map(Output::kind).collect()
    }
}

/// The deliveries of one queue, one at a time.
pub(crate) struct Mailbox(Consumer);

impl Mailbox {
    pub(crate) fn of(consumer: Consumer) -> Self {
        Self(consumer)
    }

    pub(crate) async fn next(&mut self) -> Delivery {
        self.try_next(TIMEOUT).await.expect("a delivery in time")
    }

    /// The next delivery, if one arrives within `timeout`.
    pub(crate) async fn try_next(&mut self, timeout: Duration) -> Option<Delivery> {
        let received = tokio::time::timeout(timeout, self.0.receive(1, usize::MAX)).await.ok()?;
        received.expect("the connection stays open").pop()
    }

    /// The next event, and the id of the message that caused it.
    pub(crate) async fn event(&mut self) -> (Output, Uuid) {
        let Delivery { properties, body, .. } = self.next().await;
        let kind = properties.kind.expect("a type");
        let cause = properties.headers.get(topology::HEADER_CAUSE).and_then(|cause| Uuid::parse_str(cause).ok());
        (Output::decode(&kind, &body).expect("an event"), cause.expect("a cause"))
    }
}

/// The certificates of a purchase.
#[derive(Clone, Debug)]
pub(crate) struct Bought {
    pub(crate) certificates: Vec<Uuid>,
    pub(crate) tokens: Vec<String>,
    pub(crate) container: Option<Uuid>,
    pub(crate) container_token: Option<String>,
    pub(crate) amount: Money,
}

impl Bought {
    pub(crate) fn of(reply: Output) -> Self {
        let Output::CertificateIssued(issued) = reply else { panic!("the reply to a purchase is {reply:?}") };
        Self {
            certificates: issued.certificates.iter().map(|one| one.certificate).collect(),
            tokens: issued.certificates.into_iter().filter_map(|one| one.certificate_token).collect(),
            container: issued.container,
            container_token: issued.container_token,
            amount: issued.amount,
        }
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::try_from(text).expect("a name")
}

pub(crate) fn external_id(text: &str) -> ExternalId {
    ExternalId::try_from(text).expect("an id")
}

pub(crate) fn version(number: i64) -> Version {
    Version::try_from(number).expect("a version")
}

pub(crate) fn usd(minor: i64) -> Money {
    Money::new(minor, Currency::try_from("USD").expect("a currency")).expect("an amount")
}

pub(crate) fn song(grants: i64) -> ContentPut {
    ContentPut {
        content: name("song"),
        version: version(1),
        title: Text::try_from("A song").expect("a text"),
        price: usd(1000),
        grants: Grants::try_from(grants).expect("a number of grants"),
        certificate_ttl_s: Seconds::try_from(30 * 86_400i64).expect("a time"),
        receipt_ttl_s: None,
        successor: None,
        return_policy: ReturnPolicy {
            points: Count::try_from(40i64).ok(),
            upgrade: None,
            buyback: None,
            collection: None,
        },
        media: None,
    }
}

pub(crate) fn purchase(user: &str, count: usize) -> Request {
    Request::PurchaseRequest(PurchaseRequest {
        user: name(user),
        items: vec![Item { content: name("song"), version: None }; count],
        points: None,
        reference: ExternalId::try_from("order-1").ok(),
    })
}

pub(crate) fn receipt(bought: &Bought) -> Request {
    let alone = bought.container_token.is_none();
    Request::CertificateReceipt(CertificatePresented {
        certificate_token: alone.then(|| bought.tokens[0].clone()),
        container_token: bought.container_token.clone(),
    })
}

pub(crate) fn completion(bought: &Bought) -> Request {
    Request::SettlementCompletion(SettlementCompletion {
        certificate: bought.container.is_none().then(|| bought.certificates[0]),
        container: bought.container,
        settlement: external_id(&format!("pay-{}", bought.certificates[0])),
        provider: name("bank"),
        amount: bought.amount,
        grants: None,
    })
}

/// A refund of everything that was paid for a purchase with [`completion`].
pub(crate) fn reversal(bought: &Bought) -> SettlementReversal {
    SettlementReversal {
        certificate: bought.container.is_none().then(|| bought.certificates[0]),
        container: bought.container,
        settlement: external_id(&format!("pay-{}", bought.certificates[0])),
        provider: name("bank"),
        refund: None,
        amount: None,
        reason: Text::try_from("chargeback").expect("a text"),
    }
}

pub(crate) fn license_request(certificate_token: &str, terminal: &str) -> Request {
    Request::LicenseRequest(LicenseRequest {
        certificate_token: certificate_token.to_owned(),
        terminal: Name::try_from(terminal).ok(),
    })
}

pub(crate) fn license_receipt(license_token: &str) -> Request {
    Request::LicenseReceipt(LicenseReceipt { license_token: license_token.to_owned() })
}

/// A request that returns a license for points.
pub(crate) fn license_return(license_token: &str, user: &str, deleted: bool) -> Request {
    let privilege = Privilege::Points;
    Request::LicenseReturn(LicenseReturn {
        license_token: license_token.to_owned(),
        user: name(user),
        privilege,
        deleted,
    })
}

/// A message with the usual properties that contains a request.
pub(crate) fn message(id: Uuid, request: &Request, reply_to: Option<&str>) -> Outgoing {
    raw(id, request.kind(), request.encode().expect("JSON"), reply_to)
}

/// A message with the usual properties that contains any body.
pub(crate) fn raw(id: Uuid, kind: &str, body: Vec<u8>, reply_to: Option<&str>) -> Outgoing {
    Outgoing {
        exchange: topology::IN.into(),
        routing_key: kind.into(),
        mandatory: true,
        properties: Properties {
            message_id: Some(id.to_string()),
            kind: Some(kind.into()),
            content_type: Some(CONTENT_TYPE.into()),
            reply_to: reply_to.map(str::to_owned),
            ..Properties::default()
        },
        body: body.into(),
    }
}

/// The refusal code of a reply, or its type if it is not a refusal.
pub(crate) fn outcome(reply: &Output) -> &'static str {
    match reply {
        Output::RequestRefused(refused) => refused.code.as_str(),
        other => other.kind(),
    }
}

pub(crate) fn amqp_url() -> String {
    std::env::var("LICET_TEST_AMQP_URL").expect("LICET_TEST_AMQP_URL is the URL of a RabbitMQ broker: run tests/run.sh")
}

fn admin_url() -> String {
    std::env::var("LICET_TEST_DATABASE_URL")
        .expect("LICET_TEST_DATABASE_URL is the URL of a PostgreSQL server: run tests/run.sh")
}

/// Creates an empty database and returns its URL.
pub(crate) async fn new_database() -> String {
    new_database_with("").await
}

/// Creates an empty database with these options and returns its URL.
pub(crate) async fn new_database_with(options: &str) -> String {
    let name = format!("licet_test_{}", Uuid::new_v4().simple());
    let admin = Database::connect(admin_url()).await.expect("PostgreSQL answers");
    admin
        .execute_unprepared(&format!("CREATE DATABASE {name} {options}"))
        .await
        .expect("the role may create databases");
    let (server, _) =
        admin_url().rsplit_once('/').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("a URL with a database");
    format!("{server}/{name}")
}

/// Deletes all queues and exchanges of Licet, with their messages.
pub(crate) async fn empty_broker() {
    let connection = lapin::Connection::connect(&amqp_url(), lapin::ConnectionProperties::default())
        .await
        .expect("RabbitMQ answers");
    let channel = connection.create_channel().await.expect("a channel");
    let topology = registry::topology();
    for queue in &topology.queues {
        channel
            .queue_delete(queue.name.as_str().into(), Default::default())
            .await
            .expect("RabbitMQ deletes the queue, if there is one");
    }
    for exchange in &topology.exchanges {
        channel
            .exchange_delete(exchange.name.as_str().into(), Default::default())
            .await
            .expect("RabbitMQ deletes the exchange, if there is one");
    }
    connection.close(200, "done".into()).await.expect("the connection closes");
}

/// The path of a program: in the folder `LICET_TEST_PROGRAMS` if that is set, or else built from
/// the current sources.
pub(crate) fn program(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("LICET_TEST_PROGRAMS") {
        return PathBuf::from(folder).join(name);
    }
    static BUILT: std::sync::Once = std::sync::Once::new();
    BUILT.call_once(|| {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let build = std::process::Command::new(env!("CARGO"))
            // Build the default members only. Together with the tests, cargo would enable fault
            // injection in the programs.
            .args(["build", "--quiet", "--bins"])
            .current_dir(root)
            // cargo sets this variable for programs that it runs, from `.cargo/config.toml`. If the
            // variable were set from outside, cargo would treat it as another setting and build
            // everything again.
            .env_remove("JEMALLOC_SYS_WITH_MALLOC_CONF")
            .status();
        assert!(build.expect("cargo runs").success(), "the programs cannot be built");
    });
    let test = std::env::current_exe().expect("the path of this test");
    test.parent().and_then(|deps| deps.parent()).expect("the target folder").join(name)
}

//! A whole Licet for a test: broker, database, keys, workers and a client, on either pair of
//! services; and what tests say to it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use licet_client::{Client, Patience};
use licet_common::{
    clock::Clock,
    config::{Limits, Terms},
    runtime::{Machine, StoredOutput, outputs_of},
    signing::{Keyring, folder},
    store::Store,
    transport::{Consumer, Delivery, Outcome, Outgoing, Properties, Publisher, Transport},
};
use licet_schema::{
    Count, ExternalId, Format, Money, Name, Output, Request, Seconds, Text, Timestamp, Version,
    entity::{Keyed, journal},
    message::{
        CertificatePresented, ContentPut, Item, LicenseReceipt, LicenseRequest, LicenseReturn, Privilege,
        PurchaseRequest, ReturnPolicy, SettlementCompletion,
    },
    money::Currency,
    topology::{self, topology},
    vocabulary::Grants,
};
use licet_workers::{audit::audit, registry};
use sea_orm::{ConnectionTrait, Database, EntityTrait, PrimaryKeyTrait};
use tokio::{sync::OwnedMutexGuard, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Whatever is waited for must have happened by then, or the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The services are one broker: tests that use it take turns.
static SERVICES: std::sync::LazyLock<Arc<tokio::sync::Mutex<()>>> = std::sync::LazyLock::new(Arc::default);

/// A turn of one's own: nothing else that is heavy runs until it is dropped.
pub(crate) async fn turn() -> OwnedMutexGuard<()> {
    SERVICES.clone().lock_owned().await
}

/// Runs each of these functions on both pairs of services.
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(crate::world::World::embedded().await).await;
            })*
        }
        mod services {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
            async fn $test() {
                super::$test(crate::world::World::services().await).await;
            })*
        }
    };
}
pub(crate) use on_both;

/// A whole Licet.
pub(crate) struct World {
    pub(crate) machine: Machine,
    pub(crate) client: Client,
    pub(crate) folder: tempfile::TempDir,
    /// The database as worker programs name it; none on SQLite.
    pub(crate) database_url: Option<String>,
    workers: Vec<(CancellationToken, JoinHandle<()>)>,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl World {
    /// In this process alone.
    pub(crate) async fn embedded() -> Self {
        let transport = Transport::memory();
        transport.apply(&topology()).await.expect("the in-process broker takes any topology");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let url = format!("sqlite:{}", folder.path().join("licet.db").display());
        let store = Store::open(&url.into(), 1).await.expect("a new SQLite file");
        Self::start(transport, store, folder, None, None).await
    }

    /// On RabbitMQ and PostgreSQL: the broker emptied, a database of its own.
    pub(crate) async fn services() -> Self {
        let turn = turn().await;
        let transport = Transport::rabbit(&amqp_url().into()).expect("LICET_TEST_AMQP_URL is an AMQP URL");
        empty_broker().await;
        transport.apply(&topology()).await.expect("the broker takes the topology");
        let database_url = new_database().await;
        let store = Store::open(&database_url.clone().into(), 12).await.expect("the new database answers");
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self::start(transport, store, folder, Some(database_url), Some(turn)).await
    }

    async fn start(
        transport: Transport,
        store: Store,
        folder: tempfile::TempDir,
        database_url: Option<String>,
        turn: Option<OwnedMutexGuard<()>>,
    ) -> Self {
        store.migrate().await.expect("the tables");
        let keyring = folder::create(&folder.path().join("keys")).expect("a new key");
        let machine = Machine {
            transport: transport.clone(),
            store,
            keyring: Arc::new(keyring),
            clock: Clock::manual(Timestamp::from_millis(1_700_000_000_000)),
            terms: Arc::new(Terms::default()),
            // Tests sweep when they mean to.
            limits: Limits { sweep_interval_s: 86_400, ..Limits::default() },
            senders: Arc::default(),
        };
        let patience = Patience { each: Duration::from_secs(5), attempts: 12 };
        let client = Client::connect(&transport, Format::Json, patience).await.expect("the broker answers");
        Self { machine, client, folder, database_url, workers: Vec::new(), _turn: turn }
    }

    /// Starts one more copy of every worker in this process.
    pub(crate) fn start_workers(&mut self) -> &mut Self {
        let (machine, stop) = (self.machine.clone(), CancellationToken::new());
        let told = stop.clone();
        let running = tokio::spawn(async move { registry::start_all(&machine, &told).await });
        self.workers.push((stop, running));
        self
    }

    /// Stops the workers of this process as SIGTERM would.
    pub(crate) async fn stop_workers(&mut self) {
        for (stop, running) in self.workers.drain(..) {
            stop.cancel();
            tokio::time::timeout(PATIENCE, running).await.expect("workers stop in time").expect("no worker panicked");
        }
    }

    /// Stops everything and has the auditor look at what is left.
    pub(crate) async fn finish(mut self) {
        self.stop_workers().await;
        let report = audit(&self.machine.store).await.expect("the auditor can read");
        assert!(report.violations.is_empty(), "{:#?}", report.violations);
    }

    pub(crate) fn keyring(&self) -> &Keyring {
        &self.machine.keyring
    }

    pub(crate) async fn ask(&self, request: &Request) -> Output {
        self.client.ask(request).await.expect("an answer")
    }

    /// Puts the content that most tests buy: 10.00 USD, so many grants, 40 points for a return.
    pub(crate) async fn put_song(&self, grants: i64) {
        let put = self.ask(&Request::ContentPut(song(grants))).await;
        assert!(matches!(put, Output::ContentRegistered(_)), "{put:?}");
    }

    pub(crate) async fn buy(&self, user: &str, count: usize) -> Bought {
        Bought::of(self.ask(&purchase(user, count)).await)
    }

    /// Bought, received and settled.
    pub(crate) async fn ready(&self, user: &str, count: usize) -> Bought {
        let bought = self.buy(user, count).await;
        let accepted = self.ask(&receipt(&bought)).await;
        assert!(matches!(accepted, Output::CertificateAccepted(_)), "{accepted:?}");
        let settled = self.ask(&completion(&bought)).await;
        assert!(matches!(settled, Output::SettlementRegistered(_)), "{settled:?}");
        bought
    }

    /// Publishes a message as it stands, with no client's help.
    pub(crate) async fn publish(&self, message: Outgoing) {
        self.publish_all(&[message]).await;
    }

    pub(crate) async fn publish_all(&self, messages: &[Outgoing]) {
        let publisher: Publisher = self.machine.transport.publisher().await.expect("the broker answers");
        let outcomes = publisher.publish(messages, PATIENCE).await.expect("the broker stays");
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Confirmed), "{outcomes:?}");
        publisher.close().await;
    }

    /// A queue of the test's own: its name, and what comes to it.
    pub(crate) async fn listen(&self, bindings: &[(&str, &str)]) -> (String, Mailbox) {
        let (name, consumer) = self.machine.transport.subscribe(bindings).await.expect("the broker answers");
        (name, Mailbox(consumer))
    }

    /// What arrives in a worker's dead-letter queue.
    pub(crate) async fn dead_letters(&self, worker: &str) -> Mailbox {
        Mailbox(self.machine.transport.consume(&topology::dead_queue(worker), 1000).await.expect("the queue"))
    }

    pub(crate) async fn journal(&self) -> Vec<journal::Model> {
        journal::Entity::find().all(&self.machine.store.reader()).await.expect("the journal")
    }

    /// The stored outputs of a message, once it is decided.
    pub(crate) async fn decided(&self, id: Uuid) -> Vec<StoredOutput> {
        let looking = async {
            loop {
                let row = journal::Entity::find_by_id(id).one(&self.machine.store.reader()).await.expect("the journal");
                if let Some(row) = row {
                    return outputs_of(&row).expect("readable outputs");
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, looking).await.expect("the message is decided in time")
    }
}

/// Deliveries, one after the other.
pub(crate) struct Mailbox(Consumer);

impl Mailbox {
    pub(crate) async fn next(&mut self) -> Delivery {
        self.try_next(PATIENCE).await.expect("a delivery in time")
    }

    pub(crate) async fn try_next(&mut self, patience: Duration) -> Option<Delivery> {
        let received = tokio::time::timeout(patience, self.0.receive(1, usize::MAX)).await.ok()?;
        received.expect("the broker stays").pop()
    }
}

/// What a purchase gave.
#[derive(Clone, Debug)]
pub(crate) struct Bought {
    pub(crate) certificates: Vec<Uuid>,
    pub(crate) tokens: Vec<String>,
    pub(crate) container: Option<Uuid>,
    pub(crate) container_token: Option<String>,
    pub(crate) amount: Money,
}

impl Bought {
    pub(crate) fn of(output: Output) -> Self {
        let Output::CertificateIssued(issued) = output else { panic!("a purchase was answered with {output:?}") };
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

pub(crate) fn usd(minor: i64) -> Money {
    Money::new(minor, Currency::try_from("USD").expect("a currency")).expect("an amount")
}

pub(crate) fn song(grants: i64) -> ContentPut {
    ContentPut {
        content: name("song"),
        version: Version::try_from(1i64).expect("a version"),
        title: Text::try_from("A song").expect("a text"),
        price: usd(1000),
        grants: Grants::try_from(grants).expect("a count"),
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
        settlement: ExternalId::try_from(format!("pay-{}", bought.certificates[0])).expect("an id"),
        provider: name("bank"),
        amount: bought.amount,
        grants: None,
    })
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

pub(crate) fn license_return(license_token: &str, user: &str, deleted: bool) -> Request {
    let privilege = Privilege::Points;
    Request::LicenseReturn(LicenseReturn {
        license_token: license_token.to_owned(),
        user: name(user),
        privilege,
        deleted,
    })
}

/// A message to Licet with the usual properties.
pub(crate) fn message(id: Uuid, request: &Request, reply_to: Option<&str>) -> Outgoing {
    raw(id, request.kind(), request.encode(Format::Json).expect("JSON"), reply_to)
}

/// Any body with the usual properties.
pub(crate) fn raw(id: Uuid, kind: &str, body: Vec<u8>, reply_to: Option<&str>) -> Outgoing {
    Outgoing {
        exchange: topology::IN.into(),
        routing_key: kind.into(),
        mandatory: true,
        properties: Properties {
            message_id: Some(id.to_string()),
            kind: Some(kind.into()),
            content_type: Some("application/json".into()),
            reply_to: reply_to.map(str::to_owned),
            ..Properties::default()
        },
        body: body.into(),
    }
}

/// The refusal code of an answer, or else its type.
pub(crate) fn verdict(output: &Output) -> &'static str {
    match output {
        Output::RequestRefused(refused) => refused.code.as_str(),
        other => other.kind(),
    }
}

pub(crate) fn amqp_url() -> String {
    std::env::var("LICET_TEST_AMQP_URL").expect("LICET_TEST_AMQP_URL names a RabbitMQ: run tests/run.sh")
}

fn admin_url() -> String {
    std::env::var("LICET_TEST_DATABASE_URL").expect("LICET_TEST_DATABASE_URL names a PostgreSQL: run tests/run.sh")
}

/// A new, empty database on the test's server.
pub(crate) async fn new_database() -> String {
    let name = format!("licet_test_{}", Uuid::new_v4().simple());
    let admin = Database::connect(admin_url()).await.expect("PostgreSQL answers");
    admin.execute_unprepared(&format!("CREATE DATABASE {name}")).await.expect("the role may create databases");
    let (server, _) =
        admin_url().rsplit_once('/').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("a URL with a database");
    format!("{server}/{name}")
}

/// Takes every queue and exchange of Licet's away, with what is in them.
pub(crate) async fn empty_broker() {
    let connection = lapin::Connection::connect(&amqp_url(), lapin::ConnectionProperties::default())
        .await
        .expect("RabbitMQ answers");
    let channel = connection.create_channel().await.expect("a channel");
    let topology = topology();
    for queue in &topology.queues {
        channel
            .queue_delete(queue.name.as_str().into(), Default::default())
            .await
            .expect("a queue goes, or was not there");
    }
    for exchange in &topology.exchanges {
        channel.exchange_delete(exchange.name.as_str().into(), Default::default()).await.expect("an exchange goes");
    }
    connection.close(200, "done".into()).await.expect("a goodbye");
}

/// The program of this name: from the folder `LICET_TEST_PROGRAMS`, if that is set, or else built
/// from the sources as they are.
pub(crate) fn program(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("LICET_TEST_PROGRAMS") {
        return PathBuf::from(folder).join(name);
    }
    static BUILT: std::sync::Once = std::sync::Once::new();
    BUILT.call_once(|| {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let build = std::process::Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--workspace", "--bins"])
            .current_dir(root)
            // Set by cargo for what it runs, from `.cargo/config.toml`. Set from outside, it would be another
            // setting to cargo, and everything would be built anew.
            .env_remove("JEMALLOC_SYS_WITH_MALLOC_CONF")
            .status();
        assert!(build.expect("cargo runs").success(), "the programs could not be built");
    });
    let test = std::env::current_exe().expect("the test's own path");
    test.parent().and_then(|deps| deps.parent()).expect("the target folder").join(name)
}

/// What a message brought about.
#[derive(Debug)]
pub(crate) struct Told {
    /// Its id, which is the cause of all that follows.
    pub(crate) id: Uuid,
    pub(crate) answer: Output,
    /// What everybody heard of it, in order.
    pub(crate) events: Vec<Output>,
}

impl World {
    /// Sends a message, and looks up in the journal all that was sent because of it.
    pub(crate) async fn tell(&self, request: &Request) -> Told {
        let id = Uuid::now_v7();
        let answer = self.client.ask_as(id, request).await.expect("an answer");
        Told { id, answer, events: self.events_of(id).await }
    }

    /// What everybody heard because of a message, once it is decided.
    pub(crate) async fn events_of(&self, id: Uuid) -> Vec<Output> {
        let outputs = self.decided(id).await.into_iter().filter(|output| !output.reply);
        let event = |output: StoredOutput| Output::decode(&output.kind, output.format(), &output.body);
        outputs.map(|output| event(output).expect("an event")).collect()
    }

    /// Every row of a table, by key.
    pub(crate) async fn rows<E: Keyed>(&self) -> Vec<E::Model> {
        let mut rows = E::find().all(&self.machine.store.reader()).await.expect("the table can be read");
        rows.sort_by_key(E::key);
        rows
    }

    /// The row of this id, if there is one.
    pub(crate) async fn row<E: Keyed>(&self, id: Uuid) -> Option<E::Model>
    where
        Uuid: Into<<E::PrimaryKey as PrimaryKeyTrait>::ValueType>,
    {
        E::find_by_id(id.into()).one(&self.machine.store.reader()).await.expect("the table can be read")
    }
}

impl Told {
    /// The types of what everybody heard.
    pub(crate) fn kinds(&self) -> Vec<&'static str> {
        self.events.iter().map(Output::kind).collect()
    }
}

impl Mailbox {
    /// The next event, and the message that caused it.
    pub(crate) async fn event(&mut self) -> (Output, Uuid) {
        let Delivery { properties, body, .. } = self.next().await;
        let kind = properties.kind.expect("a type");
        let cause = properties.headers.get(topology::HEADER_CAUSE).and_then(|cause| Uuid::parse_str(cause).ok());
        (Output::decode(&kind, Format::Json, &body).expect("an event"), cause.expect("a cause"))
    }
}

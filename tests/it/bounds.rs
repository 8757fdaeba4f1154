//! Batches, message sizes, queues and the memory of a worker are bounded for every input.

use std::{
    collections::HashSet,
    fs::{self, File},
    process::{Child, Command, Stdio},
    sync::{LazyLock, Mutex, PoisonError},
    time::Duration,
};

use licet_common::transport::{Outcome, Outgoing};
use licet_schema::{
    Output, Request,
    entity::{certificate_record, journal},
    topology::{self, MESSAGE_BYTES_MAX},
};
use licet_tests::figures;
use sea_orm::{EntityTrait, PaginatorTrait};
use serde_json::json;
use uuid::Uuid;

use crate::system::{
    TIMEOUT, TestSystem, amqp_url, empty_broker, message, on_both, outcome, program, purchase, raw, song,
};

on_both!(
    a_batch_is_limited_in_messages_and_in_bytes,
    a_body_above_the_limit_from_our_own_broker_is_refused_unread_and_dead_lettered_in_full,
);

/// The memory limit of a worker process, in MB.
const RESIDENT_MB_MAX: f64 = 64.0;
/// The memory limit, in MB, while many bodies are twelve times as large as allowed. The client
/// library receives several of them before the worker can count them.
const FLOODED_MB_MAX: f64 = 96.0;
/// The size of a body far above the limit, in bytes.
const HUGE: usize = 12_000_000;

async fn a_batch_is_limited_in_messages_and_in_bytes(system: TestSystem) {
    let body = |bytes| vec![b' '; bytes];
    let messages: Vec<_> = (0..10).map(|_| raw(Uuid::new_v4(), "purchase.request", body(1000), None)).collect();
    system.publish_all(&messages).await;
    let queue = topology::work_queue("purchase");
    let mut consumer = system.resources.transport.consume(&queue, 100).await.expect("the queue");
    let (mut left, mut bounds) = (10, [(100, 2500, 3), (4, 1_000_000, 4), (100, 1, 1)].into_iter().cycle());
    while left > 0 {
        let (count_max, bytes_max, expected) = bounds.next().expect("the bounds repeat");
        let batch = consumer.receive(count_max, bytes_max).await.expect("the connection stays open");
        // RabbitMQ may not have sent all messages yet.
        assert!(batch.len() <= expected, "{} at once", batch.len());
        assert!(batch.len() == expected.min(left) || system.database_url.is_some(), "only {}", batch.len());
        left -= batch.len();
        consumer.ack_through(batch.last().expect("a delivery").tag).await.expect("the connection stays open");
    }
    system.finish().await;
}

async fn a_body_above_the_limit_from_our_own_broker_is_refused_unread_and_dead_lettered_in_full(
    mut system: TestSystem,
) {
    let limit = RaisedLimit::set(&system);
    system.put_song_with_workers().await;
    let (queue, mut replies) = system.listen(&[]).await;
    let mut dead = system.dead_letters("purchase").await;
    // The padding consists of spaces before a valid body, so a worker that did read the body could
    // decode it.
    let valid = purchase("alice", 1).encode().expect("JSON");
    let padded = |bytes: usize| [vec![b' '; bytes - valid.len()], valid.clone()].concat();
    let largest = raw(Uuid::new_v4(), "purchase.request", padded(MESSAGE_BYTES_MAX), Some(&queue));
    system.publish(largest).await;
    assert_eq!(reply(&replies.next().await.body, "certificate.issued").kind(), "certificate.issued");
    let larger = padded(MESSAGE_BYTES_MAX + 1);
    system.publish(raw(Uuid::new_v4(), "purchase.request", larger.clone(), Some(&queue))).await;
    let Output::RequestRefused(refused) = reply(&replies.next().await.body, "request.refused") else { unreachable!() };
    assert_eq!(refused.code.as_str(), "malformed");
    assert!(refused.detail.contains("1048577 bytes") && refused.detail.contains("1048576"), "{}", refused.detail);
    let letter = dead.next().await;
    assert!(letter.body == larger, "the dead letter contains the whole body");
    assert_eq!(outcome(&system.ask(&purchase("alice", 1)).await), "certificate.issued", "the worker continues");
    drop(limit);
    system.finish().await;
}

fn reply(body: &[u8], kind: &str) -> Output {
    Output::decode(kind, body).unwrap_or_else(|error| panic!("{error}: {:?}", str::from_utf8(body)))
}

/// A worker program with its default limits. It is killed when this value is dropped.
struct WorkerProgram(Child);

impl WorkerProgram {
    fn start(system: &TestSystem, name: &str) -> Self {
        let log = File::create(system.folder.path().join(format!("{name}.log"))).expect("a log file");
        let child = Command::new(program(name))
            .current_dir(system.folder.path())
            .env("LICET_AMQP_URL", amqp_url())
            .env("LICET_DATABASE_URL", system.database_url.as_deref().expect("a PostgreSQL database"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        Self(child.expect("the program starts"))
    }

    /// The highest resident memory of the process up to now, in MB.
    fn resident_mb(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("the process runs");
        let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("the line VmHWM");
        let kib: f64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a size in KiB");
        kib * 1024.0 / 1e6
    }

    /// Records the memory and further figures of this case, and checks the limit.
    fn assert_memory_below(&self, mb_max: f64, case: &str, more: &[(&str, usize)]) {
        static FIGURES: LazyLock<Mutex<serde_json::Map<String, serde_json::Value>>> = LazyLock::new(Mutex::default);
        let resident_mb = self.resident_mb();
        println!("{case}: {resident_mb:.1} MB");
        let mut case_figures = serde_json::Map::from_iter([("resident_mb".to_owned(), json!(resident_mb.round()))]);
        case_figures.extend(more.iter().map(|(name, number)| ((*name).to_owned(), json!(number))));
        let mut all = FIGURES.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(case.to_owned(), case_figures.into());
        figures::record("bounds", &all.clone().into()).expect("the figures are recorded");
        assert!(resident_mb < mb_max, "{case}: {resident_mb:.1} MB resident");
    }
}

impl Drop for WorkerProgram {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs rabbitmqctl against the broker of the tests.
fn rabbitmqctl(arguments: &[&str]) -> String {
    let program = std::env::var("LICET_TEST_BROKER_RESTART").expect("LICET_TEST_BROKER_RESTART: run tests/run.sh");
    let output = Command::new(program).arg("--quiet").args(arguments).output().expect("rabbitmqctl runs");
    assert!(output.status.success(), "rabbitmqctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The broker accepts messages larger than Licet's limit until this value is dropped. Drop it
/// before the system, or the next test starts with the wrong limit.
struct RaisedLimit {
    is_rabbit: bool,
}

impl RaisedLimit {
    fn set(system: &TestSystem) -> Self {
        let is_rabbit = system.database_url.is_some();
        if is_rabbit {
            Self::set_bytes(100_000_000);
        }
        Self { is_rabbit }
    }

    /// The limit applies to channels that are opened later. Newer versions of RabbitMQ read it from
    /// a persistent term.
    fn set_bytes(bytes: usize) {
        let persistent_term = "persistent_term:put(max_message_size, Most)";
        rabbitmqctl(&[
            "eval",
            &format!("Most = {bytes}, application:set_env(rabbit, max_message_size, Most), {persistent_term}."),
        ]);
    }
}

impl Drop for RaisedLimit {
    fn drop(&mut self) {
        if self.is_rabbit {
            Self::set_bytes(MESSAGE_BYTES_MAX);
        }
    }
}

fn huge(queue: &str) -> Outgoing {
    raw(Uuid::new_v4(), "purchase.request", vec![b'['; HUGE], Some(queue))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_body_of_12_mb_from_our_own_broker_is_refused_within_the_memory_limit() {
    let mut system = TestSystem::services().await;
    let limit = RaisedLimit::set(&system);
    system.put_song_with_workers().await;
    system.stop_workers().await;
    let worker = WorkerProgram::start(&system, "licet-purchase");
    let (queue, mut replies) = system.listen(&[]).await;
    let mut dead = system.dead_letters("purchase").await;
    system.publish(huge(&queue)).await;
    let refused = reply(&replies.next().await.body, "request.refused");
    assert_eq!(outcome(&refused), "malformed");
    assert_eq!(dead.next().await.body.len(), HUGE);
    assert_eq!(outcome(&system.ask(&purchase("alice", 1)).await), "certificate.issued");
    worker.assert_memory_below(RESIDENT_MB_MAX, "one_body_of_12_mb", &[]);
    drop(limit);
    system.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn many_large_bodies_from_our_own_broker_are_refused_within_the_memory_limit() {
    let mut system = TestSystem::services().await;
    let limit = RaisedLimit::set(&system);
    system.put_song_with_workers().await;
    system.stop_workers().await;
    let (queue, mut replies) = system.listen(&[]).await;
    let (huge_count, large_count, ordinary_count) = (20, 200, 600);
    for _ in 0..huge_count {
        system.publish(huge(&queue)).await;
        let large = || raw(Uuid::new_v4(), "purchase.request", vec![b'['; 900_000], Some(&queue));
        system.publish_all(&(0..large_count / huge_count).map(|_| large()).collect::<Vec<_>>()).await;
        let ordinary = || message(Uuid::new_v4(), &purchase("alice", 1), Some(&queue));
        system.publish_all(&(0..ordinary_count / huge_count).map(|_| ordinary()).collect::<Vec<_>>()).await;
    }
    let worker = WorkerProgram::start(&system, "licet-purchase");
    let (mut refused, mut issued) = (HashSet::new(), HashSet::new());
    // A reply may be repeated if a worker closed a connection before it acknowledged the request.
    while refused.len() < huge_count + large_count || issued.len() < ordinary_count {
        let reply = replies.next().await;
        let replies = match reply.properties.kind.as_deref() {
            Some("request.refused") => &mut refused,
            _ => &mut issued,
        };
        replies.insert(reply.properties.correlation_id.expect("the id of the request"));
    }
    let bodies = [("huge", huge_count), ("large", large_count), ("ordinary", ordinary_count)];
    worker.assert_memory_below(FLOODED_MB_MAX, "large_bodies_among_ordinary_ones", &bodies);
    let records = certificate_record::Entity::find().count(&system.resources.store.pool()).await;
    assert_eq!(records.expect("the certificate records"), ordinary_count as u64);
    let dead = async {
        while system.resources.transport.depth("licet.dead.purchase").await.expect("the queue") as usize
            != huge_count + large_count
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TIMEOUT, dead).await.expect("each refused message is dead-lettered once");
    drop(limit);
    system.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_worker_with_a_backlog_of_a_million_messages_stays_within_the_memory_limit() {
    const BACKLOG: usize = 1_000_000;
    const HANDLED: u64 = 10_000;
    let mut system = TestSystem::services().await;
    system.put_song_with_workers().await;
    system.stop_workers().await;
    let publisher = system.resources.transport.publisher().await.expect("the broker answers");
    let body = purchase(&"x".repeat(100), 1).encode().expect("JSON");
    for _ in 0..BACKLOG / 10_000 {
        let batch: Vec<_> =
            (0..10_000).map(|_| raw(Uuid::new_v4(), "purchase.request", body.clone(), Some("nobody"))).collect();
        let outcomes = publisher.publish(&batch, TIMEOUT).await.expect("the connection stays open");
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Confirmed));
    }
    publisher.close().await;
    let waiting = system.resources.transport.depth("licet.purchase").await.expect("the queue");
    assert_eq!(waiting as usize, BACKLOG);
    let worker = WorkerProgram::start(&system, "licet-purchase");
    let handled = async {
        let pool = system.resources.store.pool();
        let decided = || journal::Entity::find().count(&pool);
        while decided().await.expect("the journal") < HANDLED {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(TIMEOUT * 2, handled).await.expect("the worker processes the backlog");
    let bytes = bytes_of(&body);
    worker.assert_memory_below(RESIDENT_MB_MAX, "backlog", &[("messages", BACKLOG), ("message_bytes", bytes)]);
    drop(worker);
    // The rest of the backlog is not needed.
    empty_broker().await;
    system.finish().await;
}

/// The size of a message: its body and its text properties.
fn bytes_of(body: &[u8]) -> usize {
    let properties = raw(Uuid::nil(), "purchase.request", Vec::new(), Some("nobody")).properties;
    let texts = [properties.message_id, properties.kind, properties.content_type, properties.reply_to];
    body.len() + texts.iter().flatten().map(String::len).sum::<usize>()
}

/// A queue policy that is removed when this value is dropped.
struct Policy(String);

impl Drop for Policy {
    fn drop(&mut self) {
        rabbitmqctl(&["clear_policy", &self.0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_full_queue_of_our_own_broker_rejects_messages_until_it_has_space() {
    const LENGTH_MAX: usize = 50;
    let mut system = TestSystem::services().await;
    let printed = Command::new(program("licet")).args(["topology", "policies", "--json"]).output().expect("licet runs");
    let printed: serde_json::Value = serde_json::from_slice(&printed.stdout).expect("JSON");
    let printed =
        printed["policies"].as_array().expect("policies").iter().find(|policy| policy["name"] == "licet-work");
    let mut policy = printed.expect("the policy of the work queues").clone();
    policy["definition"]["max-length"] = json!(LENGTH_MAX);
    let text = |key: &str| policy[key].as_str().expect("a text").to_owned();
    let definition = policy["definition"].to_string();
    rabbitmqctl(&["set_policy", "--apply-to", &text("apply-to"), &text("name"), &text("pattern"), &definition]);
    let policy = Policy(text("name"));

    let (queue, mut replies) = system.listen(&[]).await;
    let publisher = system.resources.transport.publisher().await.expect("the broker answers");
    let put = || message(Uuid::new_v4(), &Request::ContentPut(song(1)), Some(&queue));
    let (mut accepted, mut rejected) = (0, 0);
    // The policy takes effect after a delay, and RabbitMQ accepts a few messages above the limit.
    while rejected < 10 {
        assert!(accepted < 100 * LENGTH_MAX, "the queue is never full");
        match publisher.publish(&[put()], TIMEOUT).await.expect("the connection stays open")[..] {
            [Outcome::Confirmed] => accepted += 1,
            [Outcome::Refused] => rejected += 1,
            ref other => panic!("{other:?}"),
        }
    }
    println!("{accepted} accepted, then {rejected} rejected");
    system.start_workers();
    for _ in 0..accepted {
        let reply = replies.next().await;
        assert_eq!(reply.properties.kind.as_deref(), Some("content.registered"));
    }
    let reply = system.ask(&Request::ContentPut(song(2))).await;
    assert_eq!(outcome(&reply), "content.registered", "the queue accepts messages again");
    assert!(replies.try_next(Duration::from_millis(500)).await.is_none(), "rejected messages are not in the queue");
    publisher.close().await;
    // Remove the policy before another test starts.
    drop(policy);
    system.finish().await;
}

//! Everything is bounded: batches, message sizes, queues, and the memory of a worker, whatever waits
//! for it or is thrown at it.

use std::{
    fs::{self, File},
    process::{Child, Command, Stdio},
    sync::{LazyLock, Mutex, PoisonError},
    time::Duration,
};

use licet_common::transport::{Outcome, Outgoing};
use licet_schema::{
    Format, Output, Request,
    topology::{self, MESSAGE_BYTES_MAX},
};
use licet_tests::figures;
use sea_orm::{EntityTrait, PaginatorTrait};
use serde_json::json;
use uuid::Uuid;

use crate::world::{PATIENCE, World, amqp_url, message, on_both, program, purchase, raw, song, verdict};

on_both!(
    a_batch_is_bounded_in_number_and_in_bytes,
    a_body_too_large_for_our_own_broker_is_refused_unread_and_set_aside_whole,
);

/// A worker's memory stays below this, with its program and all.
const RESIDENT_MB_MAX: f64 = 64.0;
/// The same while one body after the other is twelve times as large as any may be: a few of them are
/// on their way at once, on both sides of being counted.
const FLOODED_MB_MAX: f64 = 96.0;
/// A hostile body, in bytes.
const HUGE: usize = 12_000_000;

async fn a_batch_is_bounded_in_number_and_in_bytes(world: World) {
    let body = |bytes| vec![b' '; bytes];
    let messages: Vec<_> = (0..10).map(|_| raw(Uuid::new_v4(), "purchase.request", body(1000), None)).collect();
    world.publish_all(&messages).await;
    let queue = topology::work_queue("purchase");
    let mut consumer = world.machine.transport.consume(&queue, 100).await.expect("the queue");
    let (mut left, mut bounds) = (10, [(100, 2500, 3), (4, 1_000_000, 4), (100, 1, 1)].into_iter().cycle());
    while left > 0 {
        let (most, most_bytes, fit) = bounds.next().expect("they come round");
        let portion = consumer.receive(most, most_bytes).await.expect("the broker stays");
        // RabbitMQ may not have sent them all yet.
        assert!(portion.len() <= fit, "{} at once", portion.len());
        assert!(portion.len() == fit.min(left) || world.database_url.is_some(), "{} and no more", portion.len());
        left -= portion.len();
        consumer.ack_through(portion.last().expect("a delivery").tag).await.expect("the broker stays");
    }
    world.finish().await;
}

async fn a_body_too_large_for_our_own_broker_is_refused_unread_and_set_aside_whole(mut world: World) {
    let limit = Limit::lift(&world);
    world.put_song_with_workers().await;
    let (queue, mut replies) = world.listen(&[]).await;
    let mut dead = world.dead_letters("purchase").await;
    // Blanks before a good body: it could be read, if anybody read it.
    let good = purchase("alice", 1).encode(Format::Json).expect("JSON");
    let padded = |bytes: usize| [vec![b' '; bytes - good.len()], good.clone()].concat();
    let largest = raw(Uuid::new_v4(), "purchase.request", padded(MESSAGE_BYTES_MAX), Some(&queue));
    world.publish(largest).await;
    assert_eq!(answer(&replies.next().await.body, "certificate.issued").kind(), "certificate.issued");
    let larger = padded(MESSAGE_BYTES_MAX + 1);
    world.publish(raw(Uuid::new_v4(), "purchase.request", larger.clone(), Some(&queue))).await;
    let Output::RequestRefused(refused) = answer(&replies.next().await.body, "request.refused") else { unreachable!() };
    assert_eq!(refused.code.as_str(), "malformed");
    assert!(refused.detail.contains("1048577 bytes") && refused.detail.contains("1048576"), "{}", refused.detail);
    let letter = dead.next().await;
    assert!(letter.body == larger, "all of it is kept");
    assert_eq!(verdict(&world.ask(&purchase("alice", 1)).await), "certificate.issued", "the worker goes on");
    drop(limit);
    world.finish().await;
}

fn answer(body: &[u8], kind: &str) -> Output {
    Output::decode(kind, Format::Json, body).unwrap_or_else(|error| panic!("{error}: {:?}", str::from_utf8(body)))
}

/// A worker's program with the limits that it has by itself. It is killed when the test is done.
struct Worker(Child);

impl Worker {
    fn start(world: &World, name: &str) -> Self {
        let log = File::create(world.folder.path().join(format!("{name}.log"))).expect("a log file");
        let child = Command::new(program(name))
            .current_dir(world.folder.path())
            .env("LICET_AMQP_URL", amqp_url())
            .env("LICET_DATABASE_URL", world.database_url.as_deref().expect("a PostgreSQL database"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        Self(child.expect("the program starts"))
    }

    /// The most memory that was ever resident, in MB.
    fn resident_mb(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("a line of that name");
        let kib: f64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a size in KiB");
        kib * 1024.0 / 1e6
    }

    /// Keeps the figure, and fails if it is above the bound.
    fn stays_below(&self, mb_max: f64, case: &str, more: &[(&str, usize)]) {
        static FIGURES: LazyLock<Mutex<serde_json::Map<String, serde_json::Value>>> = LazyLock::new(Mutex::default);
        let resident_mb = self.resident_mb();
        println!("{case}: {resident_mb:.1} MB");
        let mut case_figures = serde_json::Map::from_iter([("resident_mb".to_owned(), json!(resident_mb.round()))]);
        case_figures.extend(more.iter().map(|(name, number)| ((*name).to_owned(), json!(number))));
        let mut all = FIGURES.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(case.to_owned(), case_figures.into());
        figures::record("bounds", &all.clone().into()).expect("the figures are kept");
        assert!(resident_mb < mb_max, "{case}: {resident_mb:.1} MB resident");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks the test's own broker with rabbitmqctl.
fn rabbitmqctl(arguments: &[&str]) -> String {
    let program = std::env::var("LICET_TEST_BROKER_RESTART").expect("LICET_TEST_BROKER_RESTART: run tests/run.sh");
    let output = Command::new(program).arg("--quiet").args(arguments).output().expect("rabbitmqctl runs");
    assert!(output.status.success(), "rabbitmqctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A broker that lets larger messages in than ours do, until this is dropped: before the test gives
/// up its turn, or the next one's limit is taken away.
struct Limit(bool);

impl Limit {
    fn lift(world: &World) -> Self {
        let is_rabbit = world.database_url.is_some();
        if is_rabbit {
            Self::set(100_000_000);
        }
        Self(is_rabbit)
    }

    /// Channels that are opened from now on go by it; newer brokers look for it in the second place.
    fn set(bytes: usize) {
        let place = "persistent_term:put(max_message_size, Most)";
        rabbitmqctl(&[
            "eval",
            &format!("Most = {bytes}, application:set_env(rabbit, max_message_size, Most), {place}."),
        ]);
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        if self.0 {
            Self::set(MESSAGE_BYTES_MAX);
        }
    }
}

fn huge(queue: &str) -> Outgoing {
    raw(Uuid::new_v4(), "purchase.request", vec![b'['; HUGE], Some(queue))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_body_of_12_mb_through_our_own_broker_is_refused_within_a_workers_memory() {
    let mut world = World::services().await;
    let limit = Limit::lift(&world);
    world.put_song_with_workers().await;
    world.stop_workers().await;
    let worker = Worker::start(&world, "licet-purchase");
    let (queue, mut replies) = world.listen(&[]).await;
    let mut dead = world.dead_letters("purchase").await;
    world.publish(huge(&queue)).await;
    let refused = answer(&replies.next().await.body, "request.refused");
    assert_eq!(verdict(&refused), "malformed");
    assert_eq!(dead.next().await.body.len(), HUGE);
    assert_eq!(verdict(&world.ask(&purchase("alice", 1)).await), "certificate.issued");
    worker.stays_below(RESIDENT_MB_MAX, "one_body_of_12_mb", &[]);
    drop(limit);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn many_large_bodies_through_our_own_broker_stay_within_a_workers_memory() {
    let mut world = World::services().await;
    let limit = Limit::lift(&world);
    world.put_song_with_workers().await;
    world.stop_workers().await;
    let (queue, mut replies) = world.listen(&[]).await;
    let (huge_count, large_count, ordinary_count) = (20, 200, 600);
    for _ in 0..huge_count {
        world.publish(huge(&queue)).await;
        let large = || raw(Uuid::new_v4(), "purchase.request", vec![b'['; 900_000], Some(&queue));
        world.publish_all(&(0..large_count / huge_count).map(|_| large()).collect::<Vec<_>>()).await;
        let ordinary = || message(Uuid::new_v4(), &purchase("alice", 1), Some(&queue));
        world.publish_all(&(0..ordinary_count / huge_count).map(|_| ordinary()).collect::<Vec<_>>()).await;
    }
    let worker = Worker::start(&world, "licet-purchase");
    let (mut refused, mut issued) = (std::collections::HashSet::new(), std::collections::HashSet::new());
    // An answer may come again, if a worker's connection was given up before the acknowledgement.
    while refused.len() < huge_count + large_count || issued.len() < ordinary_count {
        let reply = replies.next().await;
        let told = match reply.properties.kind.as_deref() {
            Some("request.refused") => &mut refused,
            _ => &mut issued,
        };
        told.insert(reply.properties.correlation_id.expect("the request's"));
    }
    let bodies = [("huge", huge_count), ("large", large_count), ("ordinary", ordinary_count)];
    worker.stays_below(FLOODED_MB_MAX, "large_bodies_among_ordinary_ones", &bodies);
    let purchases = licet_schema::entity::purchase::Entity::find().count(&world.machine.store.reader()).await;
    assert_eq!(purchases.expect("the purchases"), ordinary_count as u64);
    let dead = async {
        while world.machine.transport.depth("licet.dead.purchase").await.expect("the queue") as usize
            != huge_count + large_count
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, dead).await.expect("each is set aside once");
    drop(limit);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_worker_that_faces_a_million_messages_stays_small() {
    const BACKLOG: usize = 1_000_000;
    const HANDLED: u64 = 10_000;
    let mut world = World::services().await;
    world.put_song_with_workers().await;
    world.stop_workers().await;
    let publisher = world.machine.transport.publisher().await.expect("the broker answers");
    let body = purchase(&"x".repeat(100), 1).encode(Format::Json).expect("JSON");
    for _ in 0..BACKLOG / 10_000 {
        let portion: Vec<_> =
            (0..10_000).map(|_| raw(Uuid::new_v4(), "purchase.request", body.clone(), Some("nobody"))).collect();
        let outcomes = publisher.publish(&portion, PATIENCE).await.expect("the broker stays");
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Confirmed));
    }
    publisher.close().await;
    let waiting = world.machine.transport.depth("licet.purchase").await.expect("the queue");
    assert_eq!(waiting as usize, BACKLOG);
    let worker = Worker::start(&world, "licet-purchase");
    let handled = async {
        let store = world.machine.store.reader();
        let journal = || licet_schema::entity::journal::Entity::find().count(&store);
        while journal().await.expect("the journal") < HANDLED {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE * 2, handled).await.expect("it works it off");
    let bytes = bytes_of(&body);
    worker.stays_below(RESIDENT_MB_MAX, "backlog", &[("messages", BACKLOG), ("message_bytes", bytes)]);
    drop(worker);
    // Nobody waits for the rest.
    crate::world::empty_broker().await;
    world.finish().await;
}

/// A message's body, with its properties as far as they are text.
fn bytes_of(body: &[u8]) -> usize {
    let properties = raw(Uuid::nil(), "purchase.request", Vec::new(), Some("nobody")).properties;
    let texts = [properties.message_id, properties.kind, properties.content_type, properties.reply_to];
    body.len() + texts.iter().flatten().map(String::len).sum::<usize>()
}

/// A policy that is taken away again when this is dropped.
struct Policy(String);

impl Drop for Policy {
    fn drop(&mut self) {
        rabbitmqctl(&["clear_policy", &self.0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_full_queue_of_our_own_broker_refuses_its_publishers_until_there_is_room_again() {
    const ROOM: usize = 50;
    let mut world = World::services().await;
    let printed = Command::new(program("licet")).args(["topology", "policies", "--json"]).output().expect("it runs");
    let printed: serde_json::Value = serde_json::from_slice(&printed.stdout).expect("JSON");
    let printed =
        printed["policies"].as_array().expect("policies").iter().find(|policy| policy["name"] == "licet-work");
    let mut policy = printed.expect("the policy of the work queues").clone();
    policy["definition"]["max-length"] = json!(ROOM);
    let text = |key: &str| policy[key].as_str().expect("a text").to_owned();
    let definition = policy["definition"].to_string();
    rabbitmqctl(&["set_policy", "--apply-to", &text("apply-to"), &text("name"), &text("pattern"), &definition]);
    let policy = Policy(text("name"));

    let (queue, mut replies) = world.listen(&[]).await;
    let publisher = world.machine.transport.publisher().await.expect("the broker answers");
    let put = || message(Uuid::new_v4(), &Request::ContentPut(song(1)), Some(&queue));
    let (mut accepted, mut refused) = (0, 0);
    // The policy reaches the queue a little later; and a queue is full a little late.
    while refused < 10 {
        assert!(accepted < 100 * ROOM, "the queue never fills");
        match publisher.publish(&[put()], PATIENCE).await.expect("the broker stays")[..] {
            [Outcome::Confirmed] => accepted += 1,
            [Outcome::Refused] => refused += 1,
            ref other => panic!("{other:?}"),
        }
    }
    println!("{accepted} accepted, then {refused} refused");
    world.start_workers();
    for _ in 0..accepted {
        let reply = replies.next().await;
        assert_eq!(reply.properties.kind.as_deref(), Some("content.registered"));
    }
    assert_eq!(verdict(&world.ask(&Request::ContentPut(song(2))).await), "content.registered", "there is room again");
    assert!(replies.try_next(Duration::from_millis(500)).await.is_none(), "what was refused is not there");
    publisher.close().await;
    // While it is still this test's turn.
    drop(policy);
    world.finish().await;
}

//! Messages that keep failing: increasing delays, dead letters with their reasons, and replays.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use licet_common::{
    config::Senders,
    decision::{Context, Decision, RuleError},
    rows::Defect,
    runtime::{Trust, Worker, run},
    signing::Keyring,
    store::{Source, StoreError},
    transport::{Delivery, Lost, Outgoing, Properties},
};
use licet_operator::dead_letters::{Action, DeadLetterError, Details, Filter, Letter, Replayer, Scan, Scanned};
use licet_schema::{
    Output, Refusal, Request, Timestamp,
    message::{ContentPut, ContentRegistered},
    topology,
};
use licet_workers::{domain::Tables, registry};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::system::{TIMEOUT, TestSystem, amqp_url, message, name, on_both, outcome, raw, song};

mod commands;

on_both!(
    a_message_that_keeps_failing_waits_longer_each_time_and_its_dead_letter_records_the_reason,
    no_attempt_is_counted_while_the_database_is_unavailable,
    a_panic_and_a_defect_among_fifty_good_messages_are_dead_lettered_alone,
    a_replay_that_is_interrupted_before_its_acknowledgement_can_be_repeated_safely,
    replays_respect_the_rate_limit_and_a_letter_that_fails_again_is_not_replayed_twice,
    a_scan_stops_at_its_limit_and_preserves_the_order_of_the_letters,
    a_sender_named_by_an_untrusted_publisher_is_not_trusted_and_the_message_is_not_lost,
    a_decided_message_is_answered_even_if_its_sender_has_lost_the_permission,
);

/// A catalog worker that fails on content items with certain names.
struct FailingCatalog {
    attempts: Arc<AtomicU32>,
}

impl Worker for FailingCatalog {
    const NAME: &'static str = "catalog";
    const HANDLES: &'static [&'static str] = &["content.put"];

    type Input = ContentPut;
    type Rows = Tables;

    fn read(&self, _: &Keyring, request: Request) -> Result<ContentPut, Refusal> {
        let Request::ContentPut(put) = request else { panic!("the queue has only content.put") };
        Ok(put)
    }

    async fn load<S: Source>(&self, _: &S, inputs: &[&ContentPut]) -> Result<Tables, StoreError> {
        let has = |name: &str| inputs.iter().any(|put| put.content.as_str() == name);
        let attempt = || self.attempts.fetch_add(1, Ordering::SeqCst) + 1;
        if has("rejected") {
            return Err(StoreError::rejected(format!("failure {}", attempt())));
        }
        // A message becomes a dead letter after fewer failed attempts than this.
        if has("early") && attempt() <= 8 {
            return Err(StoreError::Unavailable { why: "it is starting".into(), source: None });
        }
        Ok(Tables::default())
    }

    fn decide(&self, context: &Context<'_>, _: &mut Tables, put: &ContentPut) -> Result<Decision, RuleError> {
        assert_ne!(put.content.as_str(), "poison", "this content is poison");
        if put.content.as_str() == "defective" {
            return Err(Defect::violated("no content is defective", context.message_id).into());
        }
        let registered = ContentRegistered { content: put.content.clone(), version: put.version };
        Ok(Decision::new(Output::ContentRegistered(registered)))
    }
}

fn put(content: &str) -> Request {
    Request::ContentPut(ContentPut { content: name(content), ..song(1) })
}

/// A running [`FailingCatalog`].
struct Running(CancellationToken, tokio::task::JoinHandle<()>);

impl Running {
    fn start(system: &TestSystem) -> Self {
        let stop = CancellationToken::new();
        let worker = FailingCatalog { attempts: Arc::default() };
        let running = tokio::spawn(run(worker, system.resources.clone(), stop.clone()));
        Self(stop, running)
    }

    async fn stop(self) {
        self.0.cancel();
        self.1.await.expect("the worker stops");
    }
}

/// A copy of a message for its last attempt, in the form in which a worker publishes it.
fn on_its_last_attempt(message: Outgoing) -> Outgoing {
    let mut copy = Outgoing { exchange: topology::RETRY.into(), routing_key: "licet.catalog".into(), ..message };
    copy.properties.headers.insert(topology::HEADER_ATTEMPT.into(), topology::WAITS.len().to_string());
    copy
}

async fn wait_for_depth(system: &TestSystem, queue: &str, count: u32) {
    let counting = async {
        while system.resources.transport.depth(queue).await.expect("the broker answers") != count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TIMEOUT, counting).await.unwrap_or_else(|_| panic!("{queue} never had {count} messages"));
}

/// Moves the copy in a wait queue to its work queue at once, as if its delay were over.
async fn skip_delay(system: &TestSystem, wait: &topology::Wait) -> Delivery {
    wait_for_depth(system, &wait.queue(), 1).await;
    let mut browser = system.resources.transport.browse(&wait.queue()).await.expect("the broker answers");
    let copy = browser.next().await.expect("the connection stays open").expect("a copy");
    system
        .publish(Outgoing {
            exchange: topology::RETRY.into(),
            routing_key: copy.routing_key.clone(),
            mandatory: true,
            properties: copy.properties.clone(),
            body: copy.body.clone(),
        })
        .await;
    browser.ack(copy.tag).await.expect("the connection stays open");
    browser.close().await;
    copy
}

async fn a_message_that_keeps_failing_waits_longer_each_time_and_its_dead_letter_records_the_reason(
    system: TestSystem,
) {
    let worker = Running::start(&system);
    let began = system.resources.clock.now();
    let mut sent = message(Uuid::new_v4(), &put("rejected"), Some("somebody"));
    sent.properties.correlation_id = Some("their own".into());
    sent.properties.kind = None;
    sent.properties.headers.insert("traceparent".into(), "00-ab-cd-01".into());
    let published = Instant::now();
    system.publish(sent.clone()).await;
    // The test waits for the first delay and skips the others, which differ only in their length.
    let user = system.resources.transport.user().map(str::to_owned);
    for (attempts, wait) in topology::WAITS.iter().enumerate().skip(1) {
        wait_for_depth(&system, &wait.queue(), 1).await;
        system.resources.clock.advance_ms(1_000);
        let copy = skip_delay(&system, wait).await;
        assert!(published.elapsed() >= Duration::from_millis(topology::WAITS[0].delay_ms.unsigned_abs()));
        assert_eq!(copy.properties.headers[topology::HEADER_ATTEMPT], (attempts + 1).to_string());
        assert_eq!(copy.properties.user_id, user, "the copy has the user of the worker, not of the sender");
    }
    let letter = system.dead_letters("catalog").await.next().await;
    assert_eq!((&letter.body, &letter.properties.message_id), (&sent.body, &sent.properties.message_id));
    assert_eq!(letter.properties.correlation_id.as_deref(), Some("their own"));
    assert_eq!(letter.properties.reply_to.as_deref(), Some("somebody"));
    let header = |name: &str| letter.properties.headers.get(name).cloned();
    assert_eq!(header("traceparent").as_deref(), Some("00-ab-cd-01"));
    // Each attempt is made twice, with a check of the database after each.
    assert_eq!(header(topology::HEADER_REASON).as_deref(), Some("the database rejected the operation: failure 10"));
    assert_eq!(header(topology::HEADER_ATTEMPT).as_deref(), Some("5"));
    assert_eq!(
        header(topology::HEADER_FIRST_FAILURE).as_deref(),
        Some("the database rejected the operation: failure 2")
    );
    assert_eq!(header(topology::HEADER_FIRST_FAILED_AT), Some(began.to_string()));
    let later = Timestamp::from_millis(began.as_millis() + 3_000);
    assert_eq!(header(topology::HEADER_FAILED_AT), Some(later.to_string()));
    assert_eq!(header(topology::HEADER_ROUTING_KEY).as_deref(), Some("content.put"));
    assert_eq!(header(topology::HEADER_SENDER), user, "the sender is the test's own user");
    worker.stop().await;
    assert!(system.journal().await.is_empty());
}

async fn no_attempt_is_counted_while_the_database_is_unavailable(system: TestSystem) {
    let worker = Running::start(&system);
    let reply = system.ask(&put("early")).await;
    assert_eq!(outcome(&reply), "content.registered");
    worker.stop().await;
    for queue in topology::WAITS.iter().map(topology::Wait::queue).chain(["licet.dead.catalog".into()]) {
        assert_eq!(system.resources.transport.depth(&queue).await.expect("the broker answers"), 0, "{queue}");
    }
}

async fn a_panic_and_a_defect_among_fifty_good_messages_are_dead_lettered_alone(system: TestSystem) {
    let (queue, mut replies) = system.listen(&[]).await;
    let good = |number: usize| message(Uuid::new_v4(), &put(&format!("content-{number}")), Some(&queue));
    let mut batch: Vec<_> = (0..50).map(good).collect();
    let (poison, defective) = (Uuid::new_v4(), Uuid::new_v4());
    batch.insert(29, on_its_last_attempt(message(poison, &put("poison"), Some(&queue))));
    batch.insert(40, on_its_last_attempt(message(defective, &put("defective"), Some(&queue))));
    system.publish_all(&batch).await;
    let worker = Running::start(&system);
    for _ in 0..50 {
        assert_eq!(replies.next().await.properties.kind.as_deref(), Some("content.registered"));
    }
    let mut dead = system.dead_letters("catalog").await;
    let mut letters = [dead.next().await, dead.next().await];
    worker.stop().await;
    letters.sort_by_key(|letter| letter.properties.message_id != Some(poison.to_string()));
    let expected = [
        (poison, "a rule panicked: ".to_owned()),
        (defective, format!("a rule found a defect: no content is defective (at {defective})")),
    ];
    for (letter, (id, reason)) in letters.iter().zip(expected) {
        assert_eq!(letter.properties.message_id, Some(id.to_string()));
        let headers = &letter.properties.headers;
        assert!(headers[topology::HEADER_REASON].contains(&reason), "{headers:?}");
        assert_eq!(headers[topology::HEADER_ATTEMPT], "5");
    }
    let decided: Vec<_> = system.journal().await.iter().map(|row| row.id).collect();
    assert_eq!(decided.len(), 50, "the other messages are decided as usual");
    assert!(!decided.contains(&poison) && !decided.contains(&defective));
    let more = system.resources.transport.depth("licet.dead.catalog").await.expect("the queue");
    assert_eq!(more, 0, "no other message is dead-lettered");
}

/// Scans the dead letters of the catalog worker.
async fn scan(
    system: &TestSystem,
    filter: Filter,
    limit: u32,
    visit: impl AsyncFnMut(&Letter) -> Result<Action, DeadLetterError>,
) -> Result<Scanned, DeadLetterError> {
    let filter = Filter { worker: Some("catalog".into()), ..filter };
    let trust = Trust::new(system.resources.transport.user(), system.resources.senders.clone());
    let (transport, stop) = (&system.resources.transport, &CancellationToken::new());
    Scan { transport, trust: &trust, filter: &filter, limit, stop }.run(visit).await
}

/// Turns these messages into dead letters, with a worker that panics on them.
async fn dead_letter(system: &TestSystem, messages: Vec<Outgoing>) {
    let before = system.resources.transport.depth("licet.dead.catalog").await.expect("the queue");
    let count = before + u32::try_from(messages.len()).expect("a small number");
    // A copy names the sender of the original message: here, the test's own user.
    let user = system.resources.transport.user().map(|user| (topology::HEADER_SENDER.to_owned(), user.to_owned()));
    let copy = |message| {
        let mut copy = on_its_last_attempt(message);
        copy.properties.headers.extend(user.clone());
        copy
    };
    system.publish_all(&messages.into_iter().map(copy).collect::<Vec<_>>()).await;
    let worker = Running::start(system);
    wait_for_depth(system, "licet.dead.catalog", count).await;
    worker.stop().await;
}

async fn a_replay_that_is_interrupted_before_its_acknowledgement_can_be_repeated_safely(mut system: TestSystem) {
    let (queue, mut replies) = system.listen(&[]).await;
    let (_, mut events) = system.listen(&[(topology::EVENTS, "content.registered")]).await;
    let id = Uuid::new_v4();
    // This worker panics on the message. The real catalog worker, which is started below, does not.
    system.publish(message(id, &put("poison"), Some(&queue))).await;
    let worker = Running::start(&system);
    for wait in &topology::WAITS[1..] {
        skip_delay(&system, wait).await;
    }
    wait_for_depth(&system, "licet.dead.catalog", 1).await;
    worker.stop().await;

    system.start_workers();
    let mut replayer = Replayer::connect(&system.resources.transport, 100).await.expect("the broker answers");
    let interrupted = scan(&system, Filter::default(), 100, async |letter: &Letter| {
        assert_eq!(replayer.replay(letter).await.expect("the replay is confirmed"), Action::Remove);
        Err(Lost::Unavailable("interrupted before the acknowledgement".into()).into())
    });
    assert!(
        matches!(interrupted.await, Err(DeadLetterError::Broker(Lost::Unavailable(why))) if why.starts_with("interrupted"))
    );
    wait_for_depth(&system, "licet.dead.catalog", 1).await;
    let first = (replies.next().await, events.next().await);
    let again = scan(&system, Filter::default(), 100, async |letter: &Letter| replayer.replay(letter).await).await;
    assert_eq!(again.expect("the letter is replayed"), Scanned { examined: 1, beyond_limit: 0, removed: 1 });
    let second = (replies.next().await, events.next().await);
    for (first, second) in [(&first.0, &second.0), (&first.1, &second.1)] {
        assert_eq!((&first.body, &first.properties), (&second.body, &second.properties), "byte for byte");
    }
    assert_eq!(system.resources.transport.depth("licet.dead.catalog").await.expect("the queue"), 0);
    assert_eq!(system.journal().await.iter().filter(|row| row.id == id).count(), 1, "the message took effect once");
    // A replay is the same message, so its sender can repeat it and gets the stored reply, not a
    // conflict.
    system.publish(message(id, &put("poison"), Some(&queue))).await;
    assert_eq!(replies.next().await.body, first.0.body);
    replayer.close().await;
    system.finish().await;
}

async fn replays_respect_the_rate_limit_and_a_letter_that_fails_again_is_not_replayed_twice(system: TestSystem) {
    // No worker can read this message, so it is a dead letter again long before the scan has ended.
    system.publish(raw(Uuid::new_v4(), "content.put", b"{}".to_vec(), None)).await;
    let worker = Running::start(&system);
    wait_for_depth(&system, "licet.dead.catalog", 1).await;
    worker.stop().await;
    let messages = (0..10).map(|_| message(Uuid::new_v4(), &put("poison"), None)).collect();
    dead_letter(&system, messages).await;
    let worker = Running::start(&system);

    let mut replayer = Replayer::connect(&system.resources.transport, 20).await.expect("the broker answers");
    let began = Instant::now();
    let scanned = scan(&system, Filter::default(), 100, async |letter: &Letter| replayer.replay(letter).await).await;
    let elapsed = began.elapsed();
    assert_eq!(scanned.expect("all are replayed"), Scanned { examined: 11, beyond_limit: 0, removed: 11 });
    assert!(elapsed >= Duration::from_millis(500), "at 20 replays per second, eleven replays took only {elapsed:?}");
    replayer.close().await;
    // Ten messages wait for the second attempt of a new series. The unreadable message is a dead
    // letter again.
    wait_for_depth(&system, "licet.dead.catalog", 1).await;
    worker.stop().await;
    let mut details = Vec::new();
    let scanned = scan(&system, Filter::default(), 100, async |letter: &Letter| {
        details.push(letter.details.clone());
        Ok(Action::Keep)
    });
    assert_eq!(scanned.await.expect("a scan"), Scanned { examined: 1, beyond_limit: 0, removed: 0 });
    assert_eq!(details[0].attempts, 1);
    assert!(details[0].reason.starts_with("malformed"), "{details:?}");
}

async fn a_scan_stops_at_its_limit_and_preserves_the_order_of_the_letters(system: TestSystem) {
    let ids: Vec<_> = (0..60).map(|_| Uuid::new_v4().to_string()).collect();
    let poison = |id: &String| message(Uuid::parse_str(id).expect("an id"), &put("poison"), None);
    dead_letter(&system, ids.iter().map(poison).collect()).await;
    let visited = async |filter: Filter, limit: u32, action: Action| {
        let mut visited = Vec::new();
        let scanned = scan(&system, filter, limit, async |letter: &Letter| {
            visited.push(letter.details.clone());
            Ok(action)
        });
        let scanned = scanned.await.expect("a scan");
        let left = scanned.examined + scanned.beyond_limit - scanned.removed;
        wait_for_depth(&system, "licet.dead.catalog", left).await;
        (scanned, visited)
    };
    let ids_of = |letters: &[Details]| {
        letters.iter().map(|details| details.message_id.clone().expect("an id")).collect::<Vec<_>>()
    };
    let (scanned, letters) = visited(Filter::default(), 45, Action::Keep).await;
    assert_eq!(scanned, Scanned { examined: 45, beyond_limit: 15, removed: 0 });
    assert_eq!(ids_of(&letters), ids[..45]);
    let as_expected = |letter: &Details| letter.attempts == 5 && letter.reason.contains("this content is poison");
    assert!(letters.iter().all(as_expected));
    let (scanned, letters) = visited(Filter::default(), 100, Action::Keep).await;
    assert_eq!((scanned.examined, ids_of(&letters)), (60, ids.clone()), "all letters in their original order");
    // Only letters that the filter selects are removed.
    let chosen = Filter { ids: vec![ids[7].clone(), ids[50].clone()], ..Filter::default() };
    let (scanned, letters) = visited(chosen, 100, Action::Remove).await;
    assert_eq!((scanned.removed, ids_of(&letters)), (2, vec![ids[7].clone(), ids[50].clone()]));
    let rest: Vec<_> =
        ids.iter().enumerate().filter(|(index, _)| ![7, 50].contains(index)).map(|(_, id)| id.clone()).collect();
    let (_, letters) = visited(Filter::default(), 100, Action::Keep).await;
    assert_eq!(ids_of(&letters), rest);
}

async fn a_sender_named_by_an_untrusted_publisher_is_not_trusted_and_the_message_is_not_lost(mut system: TestSystem) {
    system.start_workers();
    let (queue, mut replies) = system.listen(&[]).await;
    let mut dead = system.dead_letters("catalog").await;
    let id = Uuid::new_v4();
    let mut forged = message(id, &put("song"), Some(&queue));
    forged.exchange = topology::RETRY.into();
    forged.routing_key = "licet.catalog".into();
    forged.properties.headers.insert(topology::HEADER_SENDER.into(), "bank".into());
    let mallory = publish_as_another_user(&system, forged.clone()).await;
    let reply = replies.next().await;
    let kind = reply.properties.kind.expect("a type");
    assert_eq!(outcome(&Output::decode(&kind, &reply.body).expect("a reply")), "forbidden");
    let letter = dead.next().await;
    let headers = &letter.properties.headers;
    assert!(headers[topology::HEADER_REASON].contains("not trusted"), "{headers:?}");
    assert_eq!((headers[topology::HEADER_SENDER].as_str(), &headers[topology::HEADER_CLAIMED_BY]), ("bank", &mallory));
    assert_eq!(letter.body, forged.body);
    assert!(system.journal().await.is_empty(), "a forbidden message has no journal row");
    system.finish().await;
}

/// Publishes with a `user_id` other than the system's, or without one. Returns that `user_id`.
async fn publish_as_another_user(system: &TestSystem, message: Outgoing) -> String {
    if system.database_url.is_none() {
        let properties = Properties { user_id: Some("mallory".into()), ..message.properties };
        system.publish(Outgoing { properties, ..message }).await;
        return "mallory".into();
    }
    let mut headers = lapin::types::FieldTable::default();
    for (name, value) in message.properties.headers {
        headers.insert(name.into(), lapin::types::AMQPValue::LongString(value.into()));
    }
    let properties = lapin::BasicProperties::default()
        .with_message_id(message.properties.message_id.expect("an id").into())
        .with_type(message.properties.kind.expect("a type").into())
        .with_reply_to(message.properties.reply_to.expect("a queue").into())
        .with_headers(headers);
    let (connection, channel) = raw_channel().await;
    let publishing = channel.basic_publish(
        message.exchange.into(),
        message.routing_key.into(),
        Default::default(),
        &message.body,
        properties,
    );
    publishing.await.expect("the message is sent");
    connection.close(200, "done".into()).await.expect("the connection closes");
    String::new()
}

/// Opens a connection and a channel with lapin, without Licet's own code.
pub(crate) async fn raw_channel() -> (lapin::Connection, lapin::Channel) {
    let url = amqp_url();
    let connection = lapin::Connection::connect(&url, lapin::ConnectionProperties::default());
    let connection = connection.await.expect("RabbitMQ answers");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

/// A worker decides a message and crashes before it publishes the outputs. Before another worker
/// receives the message, the operator withdraws the permission of its sender. The other worker must
/// still publish the stored outputs.
async fn a_decided_message_is_answered_even_if_its_sender_has_lost_the_permission(mut system: TestSystem) {
    let (queue, mut replies) = system.listen(&[]).await;
    crate::failures::remove_events_exchange(&system).await;
    let id = Uuid::new_v4();
    system.publish(message(id, &put("song"), Some(&queue))).await;
    crate::runtime::start_and_abandon(&system.resources, "catalog", system.stored_outputs(id)).await;

    system.resources.transport.apply(&registry::topology()).await.expect("the exchange is declared again");
    let (_, mut events) = system.listen(&[(topology::EVENTS, "content.registered")]).await;
    let table = [("another user".to_owned(), vec!["*".to_owned()])];
    system.resources.senders = Arc::new(Senders::new(Some(table.into())).expect("a valid table"));
    system.start_workers();
    let cause = Some(id.to_string());
    assert_eq!(events.next().await.properties.headers.get(topology::HEADER_CAUSE).cloned(), cause);
    // The same id with another body is another message, and is forbidden like any other.
    system.publish(message(id, &put("film"), Some(&queue))).await;
    system.publish(message(Uuid::new_v4(), &put("song"), Some(&queue))).await;
    let (mut registered, mut forbidden) = (0, 0);
    while forbidden < 2 {
        let reply = replies.next().await;
        let kind = reply.properties.kind.expect("a type");
        match outcome(&Output::decode(&kind, &reply.body).expect("a reply")) {
            // The first worker may also have sent this reply before it crashed.
            "content.registered" => registered += 1,
            "forbidden" => forbidden += 1,
            other => panic!("{other}"),
        }
    }
    assert!(registered > 0, "the stored reply is sent");
    assert_eq!(system.journal().await.len(), 1, "forbidden messages have no journal row");
    assert_eq!(system.resources.transport.depth("licet.dead.catalog").await.expect("the queue"), 0);
    system.finish().await;
}

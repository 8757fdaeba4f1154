//! What becomes of a message that keeps failing: growing delays, dead letters that tell, replays.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use licet_common::{
    config::Senders,
    decision::{Context, Decision, Tables},
    runtime::{Trust, Worker, run},
    signing::Keyring,
    store::{StoreError, Transaction},
    transport::{Delivery, Outgoing, Properties},
};
use licet_schema::{
    Format, Output, Refusal, Request, Timestamp,
    message::{ContentPut, ContentRegistered},
    topology,
};
use licet_workers::{
    dead::{Fate, Filter, Letter, Look, Looked, Replayer, Told},
    program::Failure,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::world::{PATIENCE, World, amqp_url, message, name, on_both, raw, song, verdict};

mod commands;

on_both!(
    a_message_that_keeps_failing_waits_longer_each_time_and_then_tells_its_story,
    no_attempt_is_counted_while_the_database_is_away,
    poison_among_fifty_good_messages_is_dead_lettered_alone,
    a_replay_that_dies_before_its_acknowledgement_is_repeated_without_harm,
    replays_go_back_at_their_rate_and_what_fails_again_waits_for_the_next_look,
    a_look_goes_no_further_than_its_limit_and_leaves_everything_in_place,
    who_names_another_as_the_sender_is_not_believed_and_nothing_is_lost,
    what_was_decided_is_answered_although_its_sender_was_forbidden_meanwhile,
);

/// A catalog worker with the troubles that contents are named after.
struct Troubled {
    attempts: Arc<AtomicU32>,
}

impl Worker for Troubled {
    type Input = ContentPut;

    fn name(&self) -> &'static str {
        "catalog"
    }

    fn read(&self, _: &Keyring, request: Request) -> Result<ContentPut, Refusal> {
        let Request::ContentPut(put) = request else { panic!("only contents come here") };
        Ok(put)
    }

    async fn load(&self, _: &Transaction, inputs: &[&ContentPut]) -> Result<Tables, StoreError> {
        let has = |name: &str| inputs.iter().any(|put| put.content.as_str() == name);
        let attempt = || self.attempts.fetch_add(1, Ordering::SeqCst) + 1;
        if has("refused") {
            return Err(StoreError::Refused(format!("failure {}", attempt())));
        }
        // Oftener than a message is tried before it is a dead letter.
        if has("early") && attempt() <= 8 {
            return Err(StoreError::Away("it is being restarted".into()));
        }
        Ok(Tables::default())
    }

    fn decide(&self, _: &Context<'_>, _: &mut Tables, put: &ContentPut) -> Result<Decision, Refusal> {
        assert_ne!(put.content.as_str(), "poison", "this content is poison");
        let registered = ContentRegistered { content: put.content.clone(), version: put.version };
        Ok(Decision::new(Output::ContentRegistered(registered)))
    }
}

fn put(content: &str) -> Request {
    Request::ContentPut(ContentPut { content: name(content), ..song(1) })
}

struct Running(CancellationToken, tokio::task::JoinHandle<()>);

impl Running {
    fn start(world: &World) -> Self {
        let stop = CancellationToken::new();
        let worker = Troubled { attempts: Arc::default() };
        let running = tokio::spawn(run(worker, world.machine.clone(), stop.clone()));
        Self(stop, running)
    }

    async fn stop(self) {
        self.0.cancel();
        self.1.await.expect("the worker stops by itself");
    }
}

/// A copy that comes back for its last attempt, as its worker would have published it.
fn on_its_last_attempt(message: Outgoing) -> Outgoing {
    let mut copy = Outgoing { exchange: topology::RETRY.into(), routing_key: "licet.catalog".into(), ..message };
    copy.properties.headers.insert(topology::HEADER_ATTEMPT.into(), topology::WAITS.len().to_string());
    copy
}

async fn until_it_holds(world: &World, queue: &str, count: u32) {
    let counting = async {
        while world.machine.transport.depth(queue).await.expect("the broker answers") != count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, counting).await.unwrap_or_else(|_| panic!("{queue} never held {count}"));
}

/// Takes the copy out of a wait queue and lets it come back at once, as if its time were over.
async fn hasten(world: &World, wait: &topology::Wait) -> Delivery {
    until_it_holds(world, &wait.queue(), 1).await;
    let mut browser = world.machine.transport.browse(&wait.queue()).await.expect("the broker answers");
    let copy = browser.next().await.expect("the broker stays").expect("a copy");
    world
        .publish(Outgoing {
            exchange: topology::RETRY.into(),
            routing_key: copy.routing_key.clone(),
            mandatory: true,
            properties: copy.properties.clone(),
            body: copy.body.clone(),
        })
        .await;
    browser.ack(copy.tag).await.expect("the broker stays");
    browser.close().await;
    copy
}

async fn a_message_that_keeps_failing_waits_longer_each_time_and_then_tells_its_story(world: World) {
    let worker = Running::start(&world);
    let began = world.machine.clock.now();
    let mut sent = message(Uuid::new_v4(), &put("refused"), Some("somebody"));
    sent.properties.correlation_id = Some("their own".into());
    sent.properties.kind = None;
    sent.properties.headers.insert("traceparent".into(), "00-ab-cd-01".into());
    let published = Instant::now();
    world.publish(sent.clone()).await;
    // The first delay is really waited for; the others are the same with other numbers.
    let user = world.machine.transport.user().map(str::to_owned);
    for (attempts, wait) in topology::WAITS.iter().enumerate().skip(1) {
        until_it_holds(&world, &wait.queue(), 1).await;
        world.machine.clock.advance_ms(1_000);
        let copy = hasten(&world, wait).await;
        assert!(published.elapsed() >= Duration::from_millis(topology::WAITS[0].delay_ms.unsigned_abs()));
        assert_eq!(copy.properties.headers[topology::HEADER_ATTEMPT], (attempts + 1).to_string());
        assert_eq!(copy.properties.user_id, user, "our own, and never the sender's");
    }
    let letter = world.dead_letters("catalog").await.next().await;
    assert_eq!((&letter.body, &letter.properties.message_id), (&sent.body, &sent.properties.message_id));
    assert_eq!(letter.properties.correlation_id.as_deref(), Some("their own"));
    assert_eq!(letter.properties.reply_to.as_deref(), Some("somebody"));
    let header = |name: &str| letter.properties.headers.get(name).cloned();
    assert_eq!(header("traceparent").as_deref(), Some("00-ab-cd-01"));
    assert_eq!(header(topology::HEADER_REASON).as_deref(), Some("the database refused: failure 5"));
    assert_eq!(header(topology::HEADER_ATTEMPT).as_deref(), Some("5"));
    assert_eq!(header(topology::HEADER_FIRST_FAILURE).as_deref(), Some("the database refused: failure 1"));
    assert_eq!(header(topology::HEADER_FIRST_FAILED_AT), Some(began.to_string()));
    let later = Timestamp::from_millis(began.as_millis() + 3_000);
    assert_eq!(header(topology::HEADER_FAILED_AT), Some(later.to_string()));
    assert_eq!(header(topology::HEADER_ROUTING_KEY).as_deref(), Some("content.put"));
    assert_eq!(header(topology::HEADER_SENDER), user, "the test's user has sent it");
    worker.stop().await;
    assert!(world.journal().await.is_empty());
}

async fn no_attempt_is_counted_while_the_database_is_away(world: World) {
    let worker = Running::start(&world);
    let answer = world.ask(&put("early")).await;
    assert_eq!(verdict(&answer), "content.registered");
    worker.stop().await;
    for queue in topology::WAITS.iter().map(topology::Wait::queue).chain(["licet.dead.catalog".into()]) {
        assert_eq!(world.machine.transport.depth(&queue).await.expect("the broker answers"), 0, "{queue}");
    }
}

async fn poison_among_fifty_good_messages_is_dead_lettered_alone(world: World) {
    let (queue, mut replies) = world.listen(&[]).await;
    let good = |number: usize| message(Uuid::new_v4(), &put(&format!("content-{number}")), Some(&queue));
    let mut batch: Vec<_> = (0..50).map(good).collect();
    let poison = Uuid::new_v4();
    batch.insert(29, on_its_last_attempt(message(poison, &put("poison"), Some(&queue))));
    world.publish_all(&batch).await;
    let worker = Running::start(&world);
    for _ in 0..50 {
        assert_eq!(replies.next().await.properties.kind.as_deref(), Some("content.registered"));
    }
    let mut dead = world.dead_letters("catalog").await;
    let letter = dead.next().await;
    worker.stop().await;
    assert_eq!(letter.properties.message_id, Some(poison.to_string()));
    let headers = &letter.properties.headers;
    assert!(headers[topology::HEADER_REASON].contains("a rule panicked: "), "{headers:?}");
    assert_eq!(headers[topology::HEADER_ATTEMPT], "5");
    let decided: Vec<_> = world.journal().await.iter().map(|row| row.id).collect();
    assert!(decided.len() == 50 && !decided.contains(&poison), "its neighbours are decided as usual");
    assert_eq!(world.machine.transport.depth("licet.dead.catalog").await.expect("the queue"), 0, "it alone");
}

/// Looks through all dead letters of the catalog worker.
async fn look(
    world: &World,
    filter: Filter,
    limit: u32,
    visit: impl AsyncFnMut(&Letter) -> Result<Fate, Failure>,
) -> Result<Looked, Failure> {
    let filter = Filter { worker: Some("catalog".into()), ..filter };
    let trust = Trust::new(world.machine.transport.user(), world.machine.senders.clone());
    let (transport, stop) = (&world.machine.transport, &CancellationToken::new());
    Look { transport, trust: &trust, filter: &filter, limit, stop }.through(visit).await
}

/// Has a worker with a defect make dead letters of these messages.
async fn let_die(world: &World, messages: Vec<Outgoing>) {
    let there = world.machine.transport.depth("licet.dead.catalog").await.expect("the queue");
    let count = there + u32::try_from(messages.len()).expect("a few");
    // A copy tells who sent the original: here, the test's own user.
    let user = world.machine.transport.user().map(|user| (topology::HEADER_SENDER.to_owned(), user.to_owned()));
    let copy = |message| {
        let mut copy = on_its_last_attempt(message);
        copy.properties.headers.extend(user.clone());
        copy
    };
    world.publish_all(&messages.into_iter().map(copy).collect::<Vec<_>>()).await;
    let worker = Running::start(world);
    until_it_holds(world, "licet.dead.catalog", count).await;
    worker.stop().await;
}

async fn a_replay_that_dies_before_its_acknowledgement_is_repeated_without_harm(mut world: World) {
    let (queue, mut replies) = world.listen(&[]).await;
    let (_, mut events) = world.listen(&[(topology::EVENTS, "content.registered")]).await;
    let id = Uuid::new_v4();
    // The defect: whatever it is called, this worker panics on it. The next release does not.
    world.publish(message(id, &put("poison"), Some(&queue))).await;
    let worker = Running::start(&world);
    for wait in &topology::WAITS[1..] {
        hasten(&world, wait).await;
    }
    until_it_holds(&world, "licet.dead.catalog", 1).await;
    worker.stop().await;

    world.start_workers();
    let mut replayer = Replayer::connect(&world.machine.transport, 100).await.expect("the broker answers");
    let dying = look(&world, Filter::default(), 100, async |letter: &Letter| {
        assert_eq!(replayer.replay(letter).await.expect("confirmed"), Fate::Taken);
        Err(Failure::Work("killed before it could acknowledge".into()))
    });
    assert!(matches!(dying.await, Err(Failure::Work(said)) if said.starts_with("killed")));
    until_it_holds(&world, "licet.dead.catalog", 1).await;
    let first = (replies.next().await, events.next().await);
    let again = look(&world, Filter::default(), 100, async |letter: &Letter| replayer.replay(letter).await).await;
    assert_eq!(again.expect("it is replayed"), Looked { at: 1, beyond: 0, taken: 1 });
    let second = (replies.next().await, events.next().await);
    for (first, second) in [(&first.0, &second.0), (&first.1, &second.1)] {
        assert_eq!((&first.body, &first.properties), (&second.body, &second.properties), "byte for byte");
    }
    assert_eq!(world.machine.transport.depth("licet.dead.catalog").await.expect("the queue"), 0);
    assert_eq!(world.journal().await.iter().filter(|row| row.id == id).count(), 1, "it took effect once");
    // It is the same message still: whoever sent it first is answered, and no conflict.
    world.publish(message(id, &put("poison"), Some(&queue))).await;
    assert_eq!(replies.next().await.body, first.0.body);
    replayer.close().await;
    world.finish().await;
}

async fn replays_go_back_at_their_rate_and_what_fails_again_waits_for_the_next_look(world: World) {
    // Nobody can ever read this one: it comes back long before the look has ended.
    world.publish(raw(Uuid::new_v4(), "content.put", b"{}".to_vec(), None)).await;
    let worker = Running::start(&world);
    until_it_holds(&world, "licet.dead.catalog", 1).await;
    worker.stop().await;
    let messages = (0..10).map(|_| message(Uuid::new_v4(), &put("poison"), None)).collect();
    let_die(&world, messages).await;
    let worker = Running::start(&world);

    let mut replayer = Replayer::connect(&world.machine.transport, 20).await.expect("the broker answers");
    let began = Instant::now();
    let looked = look(&world, Filter::default(), 100, async |letter: &Letter| replayer.replay(letter).await).await;
    let elapsed = began.elapsed();
    assert_eq!(looked.expect("all are replayed"), Looked { at: 11, beyond: 0, taken: 11 });
    assert!(elapsed >= Duration::from_millis(500), "20 a second: eleven took only {elapsed:?}");
    replayer.close().await;
    // The ten wait for the second attempt of a new series, the other one is a letter again.
    until_it_holds(&world, "licet.dead.catalog", 1).await;
    worker.stop().await;
    let mut told = Vec::new();
    let looked = look(&world, Filter::default(), 100, async |letter: &Letter| {
        told.push(letter.told.clone());
        Ok(Fate::Left)
    });
    assert_eq!(looked.await.expect("a look"), Looked { at: 1, beyond: 0, taken: 0 });
    assert_eq!(told[0].attempts, 1);
    assert!(told[0].reason.starts_with("malformed"), "{told:?}");
}

async fn a_look_goes_no_further_than_its_limit_and_leaves_everything_in_place(world: World) {
    let ids: Vec<_> = (0..60).map(|_| Uuid::new_v4().to_string()).collect();
    let poison = |id: &String| message(Uuid::parse_str(id).expect("an id"), &put("poison"), None);
    let_die(&world, ids.iter().map(poison).collect()).await;
    let seen = async |filter: Filter, limit: u32, fate: Fate| {
        let mut seen = Vec::new();
        let looked = look(&world, filter, limit, async |letter: &Letter| {
            seen.push(letter.told.clone());
            Ok(fate)
        });
        let looked = looked.await.expect("a look");
        until_it_holds(&world, "licet.dead.catalog", looked.at + looked.beyond - looked.taken).await;
        (looked, seen)
    };
    let named = |seen: &[Told]| seen.iter().map(|told| told.message_id.clone().expect("an id")).collect::<Vec<_>>();
    let (looked, told) = seen(Filter::default(), 45, Fate::Left).await;
    assert_eq!((looked, named(&told)), (Looked { at: 45, beyond: 15, taken: 0 }, ids[..45].to_vec()));
    assert!(told.iter().all(|told| told.attempts == 5 && told.reason.contains("this content is poison")));
    let (looked, told) = seen(Filter::default(), 100, Fate::Left).await;
    assert_eq!((looked.at, named(&told)), (60, ids.clone()), "in place and in order");
    // What a filter allows is taken, and all else is left.
    let chosen = Filter { ids: vec![ids[7].clone(), ids[50].clone()], ..Filter::default() };
    let (looked, told) = seen(chosen, 100, Fate::Taken).await;
    assert_eq!((looked.taken, named(&told)), (2, vec![ids[7].clone(), ids[50].clone()]));
    let rest: Vec<_> =
        ids.iter().enumerate().filter(|(index, _)| ![7, 50].contains(index)).map(|(_, id)| id.clone()).collect();
    let (_, told) = seen(Filter::default(), 100, Fate::Left).await;
    assert_eq!(named(&told), rest);
}

async fn who_names_another_as_the_sender_is_not_believed_and_nothing_is_lost(mut world: World) {
    world.start_workers();
    let (queue, mut replies) = world.listen(&[]).await;
    let mut dead = world.dead_letters("catalog").await;
    let id = Uuid::new_v4();
    let mut forged = message(id, &put("song"), Some(&queue));
    forged.exchange = topology::RETRY.into();
    forged.routing_key = "licet.catalog".into();
    forged.properties.headers.insert(topology::HEADER_SENDER.into(), "bank".into());
    let mallory = publish_as_somebody_else(&world, forged.clone()).await;
    let reply = replies.next().await;
    let kind = reply.properties.kind.expect("a type");
    assert_eq!(verdict(&Output::decode(&kind, Format::Json, &reply.body).expect("a reply")), "forbidden");
    let letter = dead.next().await;
    let headers = &letter.properties.headers;
    assert!(headers[topology::HEADER_REASON].contains("not believed"), "{headers:?}");
    assert_eq!((headers[topology::HEADER_SENDER].as_str(), &headers[topology::HEADER_CLAIMED_BY]), ("bank", &mallory));
    assert_eq!(letter.body, forged.body);
    assert!(world.journal().await.is_empty(), "it leaves no row");
    world.finish().await;
}

/// Publishes under no name of ours; says whose it is.
async fn publish_as_somebody_else(world: &World, message: Outgoing) -> String {
    if world.database_url.is_none() {
        let properties = Properties { user_id: Some("mallory".into()), ..message.properties };
        world.publish(Outgoing { properties, ..message }).await;
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
    publishing.await.expect("it is sent");
    connection.close(200, "done".into()).await.expect("a goodbye");
    String::new()
}

/// A channel of lapin's own, and its connection.
pub(crate) async fn raw_channel() -> (lapin::Connection, lapin::Channel) {
    let url = amqp_url();
    let connection = lapin::Connection::connect(&url, lapin::ConnectionProperties::default());
    let connection = connection.await.expect("RabbitMQ answers");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

/// A message was decided, its worker died before it could say so, and before another gets it the
/// operator takes its sender's right away. What was decided stands, and everybody hears of it.
async fn what_was_decided_is_answered_although_its_sender_was_forbidden_meanwhile(mut world: World) {
    let (queue, mut replies) = world.listen(&[]).await;
    crate::failures::remove_events_exchange(&world).await;
    let id = Uuid::new_v4();
    world.publish(message(id, &put("song"), Some(&queue))).await;
    crate::runtime::start_and_abandon(&world.machine, "catalog", world.decided(id)).await;

    world.machine.transport.apply(&topology::topology()).await.expect("the exchange is back");
    let (_, mut events) = world.listen(&[(topology::EVENTS, "content.registered")]).await;
    let table = [("somebody else".to_owned(), vec!["*".to_owned()])];
    world.machine.senders = Arc::new(Senders::new(Some(table.into())).expect("types that there are"));
    world.start_workers();
    let cause = Some(id.to_string());
    assert_eq!(events.next().await.properties.headers.get(topology::HEADER_CAUSE).cloned(), cause);
    // The same id with another body is a stranger's attempt, and so is any other message.
    world.publish(message(id, &put("film"), Some(&queue))).await;
    world.publish(message(Uuid::new_v4(), &put("song"), Some(&queue))).await;
    let (mut registered, mut forbidden) = (0, 0);
    while forbidden < 2 {
        let reply = replies.next().await;
        let kind = reply.properties.kind.expect("a type");
        match verdict(&Output::decode(&kind, Format::Json, &reply.body).expect("a reply")) {
            // It may have got through before its worker died, too.
            "content.registered" => registered += 1,
            "forbidden" => forbidden += 1,
            other => panic!("{other}"),
        }
    }
    assert!(registered > 0, "its stored answer is sent");
    assert_eq!(world.journal().await.len(), 1, "what is forbidden leaves no row");
    assert_eq!(world.machine.transport.depth("licet.dead.catalog").await.expect("the queue"), 0);
    world.finish().await;
}

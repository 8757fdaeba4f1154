//! Crashes between the steps of the loop, and a client cut off.

use std::{
    collections::BTreeSet,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use licet_client::{Client, Patience};
use licet_common::{
    decision::{Change, Tables},
    store::{Store, StoreError, Transaction, Writes, locks},
    transport::Delivery,
};
use licet_schema::{
    Format, Request,
    entity::{account, pending_reception},
    topology::{self, Topology, topology},
};
use sea_orm::{ConnectionTrait, EntityTrait, Statement};
use uuid::Uuid;

use crate::{
    proxy::{Network, Proxy},
    world::{PATIENCE, World, amqp_url, message, new_database, on_both, purchase, song, verdict},
};

on_both!(
    redelivery_after_commit_gives_byte_identical_outputs,
    a_row_that_is_not_there_is_refused_and_a_key_that_is_there_is_contended,
    only_what_changed_of_a_row_is_written,
);

/// The exchange for events is away while a purchase is decided, so that its worker has committed
/// and cannot publish. It is stopped there, the message is delivered again to another worker at a
/// later time, and what comes out must be what the journal has held all along.
async fn redelivery_after_commit_gives_byte_identical_outputs(mut world: World) {
    world.start_workers();
    world.put_song(1).await;
    world.stop_workers().await;
    remove_events_exchange(&world).await;

    let (queue, mut replies) = world.listen(&[]).await;
    let id = Uuid::new_v4();
    world.publish(message(id, &purchase("alice", 2), Some(&queue))).await;
    let first = crate::runtime::start_and_abandon(&world.machine, "purchase", world.decided(id)).await;
    let decided = world.decided(id).await;
    assert_eq!(first, decided);

    world.machine.clock.advance_ms(3_600_000);
    world.machine.transport.apply(&topology()).await.expect("the exchange is back");
    let (_, mut events) = world.listen(&[(topology::EVENTS, "certificate.issued")]).await;
    world.start_workers();
    let event = events.next().await;
    let mut reply = replies.next().await;
    if let Some(second) = replies.try_next(Duration::from_millis(300)).await {
        // The reply may have got through before the events failed: then it came twice, the same.
        assert_eq!((&reply.body, &reply.properties), (&second.body, &second.properties));
        reply = second;
    }
    let same = |delivery: &Delivery, reply: bool| {
        let stored = decided.iter().find(|output| output.reply == reply).expect("both are stored");
        assert_eq!(delivery.body.as_ref(), stored.body, "byte for byte");
        assert_eq!(delivery.properties.message_id, Some(stored.message_id.to_string()));
        assert_eq!(delivery.properties.timestamp, u64::try_from(stored.timestamp_s).ok());
    };
    same(&reply, true);
    same(&event, false);
    assert_eq!(world.journal().await.iter().filter(|row| row.id == id).count(), 1);
    world.finish().await;
}

pub(crate) async fn remove_events_exchange(world: &World) {
    if world.database_url.is_none() {
        world.machine.transport.remove_exchange(topology::EVENTS);
        return;
    }
    let connection =
        lapin::Connection::connect(&amqp_url(), lapin::ConnectionProperties::default()).await.expect("RabbitMQ");
    let channel = connection.create_channel().await.expect("a channel");
    channel.exchange_delete(topology::EVENTS.into(), Default::default()).await.expect("the exchange goes");
    connection.close(200, "done".into()).await.expect("a goodbye");
    let gone = Topology { queues: Vec::new(), bindings: Vec::new(), ..topology() };
    assert_eq!(world.machine.transport.missing(&gone).await.expect("the broker answers"), ["exchange licet.events"]);
}

fn whole<M>(now: &M) -> Change<'_, M> {
    Change { was: None, now }
}

async fn a_row_that_is_not_there_is_refused_and_a_key_that_is_there_is_contended(world: World) {
    let store = &world.machine.store;
    let row = |name: &str, balance| account::Model { name: name.into(), balance };
    let key = |name: &str| vec![vec![name.into()]];
    let write = async |fill: &dyn Fn(&mut Writes)| {
        let transaction = store.begin().await.expect("a transaction");
        let mut writes = Writes::new(store.backend());
        fill(&mut writes);
        writes.run(&transaction).await?;
        transaction.commit().await
    };
    let (here, there, gone) = (row("here", 1), row("there", 2), row("gone", 3));
    write(&|writes| writes.insert::<account::Entity>(&[&here, &there])).await.expect("two rows");
    let refused = write(&|writes| writes.update::<account::Entity>(&[whole(&here), whole(&gone)]))
        .await
        .expect_err("one is not there");
    assert!(matches!(&refused, StoreError::Refused(text) if text.contains("1 of 2 rows of account")), "{refused}");
    let absent = |writes: &mut Writes| {
        writes.insert::<account::Entity>(&[&row("fresh", 4)]);
        writes.delete::<account::Entity>(key("gone"));
    };
    let refused = write(&absent).await.expect_err("it is not there");
    assert!(matches!(&refused, StoreError::Refused(text) if text.contains("0 of 1 rows of account")), "{refused}");
    let contended = write(&|writes| writes.insert::<account::Entity>(&[&here])).await.expect_err("the key is there");
    assert!(matches!(contended, StoreError::Contended(_)), "{contended}");
    // What comes then has the place that was left, and its values are its own.
    let replacing = |writes: &mut Writes| {
        writes.update::<account::Entity>(&[whole(&row("there", 20))]);
        writes.delete::<account::Entity>(key("here"));
        writes.then();
        writes.insert::<account::Entity>(&[&row("here", 10)]);
    };
    write(&replacing).await.expect("replaced");
    let mut rows = account::Entity::find().all(&store.reader()).await.expect("the accounts");
    rows.sort_by(|one, other| one.name.cmp(&other.name));
    assert_eq!(rows, [row("here", 10), row("there", 20)], "and nothing of what failed");
}

async fn only_what_changed_of_a_row_is_written(world: World) {
    let store = &world.machine.store;
    let row = |number| pending_reception::Model {
        id: Uuid::from_u128(number),
        container: false,
        user: "alice".into(),
        token_digest: vec![7; 32],
        due_at: Some(1),
    };
    let write = async |fill: &dyn Fn(&mut Writes)| {
        let transaction = store.begin().await.expect("a transaction");
        let mut writes = Writes::new(store.backend());
        fill(&mut writes);
        writes.run(&transaction).await.expect("it is written");
        transaction.commit().await.expect("it is committed");
    };
    let was = [row(1), row(2), row(3)];
    write(&|writes| writes.insert::<pending_reception::Entity>(&was.each_ref())).await;
    // What nobody has read stays as it is, whoever wrote it.
    let aside = "UPDATE pending_reception SET \"user\" = 'bob'";
    store.reader().execute_unprepared(aside).await.expect("every user changes");
    let now = [
        pending_reception::Model { due_at: None, ..row(1) },
        pending_reception::Model { container: true, ..row(2) },
        row(3),
    ];
    let changes: Vec<_> = was.iter().zip(&now).map(|(was, now)| Change { was: Some(was), now }).collect();
    write(&|writes| writes.update::<pending_reception::Entity>(&changes)).await;
    write(&|writes| writes.update::<pending_reception::Entity>(&changes[2..])).await;
    let mut rows = world.rows::<pending_reception::Entity>().await;
    rows.sort_by_key(|row| row.id);
    assert_eq!(rows, now.map(|row| pending_reception::Model { user: "bob".into(), ..row }));
}

async fn insert(transaction: &Transaction, row: &account::Model) -> Result<(), StoreError> {
    let mut writes = Writes::new(transaction.get_database_backend());
    writes.insert::<account::Entity>(&[row]);
    writes.run(transaction).await
}

/// On PostgreSQL a statement that waited for a lock sees only that row anew, and no row that was
/// inserted meanwhile: a debt must not be missed so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_debt_that_was_opened_while_somebody_waited_for_the_points_is_seen() {
    let world = World::services().await;
    let store = world.machine.store.clone();
    let row = |name: &str, balance| account::Model { name: name.into(), balance };
    let setup = store.begin().await.expect("a transaction");
    insert(&setup, &row("points:alice", 50)).await.expect("a row");
    setup.commit().await.expect("it is there");

    let names: BTreeSet<String> = ["points:alice".to_owned(), "debt:alice".to_owned()].into();
    let first = store.begin().await.expect("a transaction");
    let mut tables = Tables::default();
    locks::accounts(&first, &names, &mut tables).await.expect("locked");
    insert(&first, &row("debt:alice", 150)).await.expect("a debt");
    let second = tokio::spawn(async move {
        let second = store.begin().await.expect("a transaction");
        let mut tables = Tables::default();
        locks::accounts(&second, &names, &mut tables).await.expect("locked, after a while");
        tables.accounts.get(&"debt:alice".to_owned()).map(|row| row.balance)
    });
    // Once it waits, PostgreSQL says so.
    let waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let waiting = Statement::from_string(world.machine.store.backend(), waiting);
    while world.machine.store.reader().query_one(waiting.clone()).await.expect("it answers").is_none() {
        tokio::task::yield_now().await;
    }
    first.commit().await.expect("the first is done");
    assert_eq!(second.await.expect("the second is done"), Some(150));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_client_whose_publisher_alone_is_lost_connects_again() {
    let mut world = World::services().await;
    world.start_workers();
    let patience = Patience { each: Duration::from_secs(2), attempts: 3 };
    let client = Client::connect(&world.machine.transport, Format::Json, patience).await;
    let client = client.expect("the broker answers");
    // Above the largest message that the private broker takes (1 MiB): it closes the channel for that.
    let huge = vec![b' '; 3 << 20];
    assert!(client.ask_raw(Uuid::new_v4(), "content.put", huge.into()).await.is_err());
    let answer = client.ask(&Request::ContentPut(song(1))).await.expect("an answer");
    assert_eq!(verdict(&answer), "content.registered");
    world.finish().await;
}

/// What sqlx cannot do by itself: connections that went silent in mid-transaction keep their places.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_pool_whose_connections_went_silent_is_replaced() {
    let url = new_database().await;
    let (server, database) = url.rsplit_once('/').expect("a URL with a database");
    let (host, port) = server.rsplit_once(':').expect("a URL with a port");
    let proxy = Proxy::before(vec![port.parse().expect("a port")]).await;
    let through = format!("{host}:{}/{database}", proxy.port);
    // So long that the server does not end the transactions, and with them the old connections, meanwhile.
    let store = Store::open_within(&through.into(), 2, 2 * PATIENCE).await.expect("the database answers");
    let both = (store.begin().await.expect("a transaction"), store.begin().await.expect("another"));
    proxy.set(Network::BlackHole);
    drop(both);
    // Each says goodbye into the hole, and waits for an answer.
    const GOODBYE: &[u8] = b"Q\0\0\0\x0dROLLBACK\0";
    let deadline = Instant::now() + PATIENCE;
    while (proxy.done.swallowed.load(Ordering::Relaxed) as usize) < 2 * GOODBYE.len() {
        assert!(Instant::now() < deadline, "not both were swallowed");
        tokio::task::yield_now().await;
    }
    proxy.heal();
    assert!(store.ping(false).await.is_err(), "the old pool has no place left");
    store.renew(false).await.expect("a new pool is had at once");
    store.ping(false).await.expect("and it answers");
}

/// A database whose disk is full answers, and takes nothing. Nobody's message is to blame, and given
/// back each time it would use up its deliveries and become a dead letter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_message_is_not_used_up_while_the_database_answers_and_takes_nothing() {
    let mut world = World::services().await;
    let database = world.machine.store.reader();
    for statement in [
        "CREATE SEQUENCE tried",
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         PERFORM nextval('tried'); RAISE EXCEPTION 'the disk is full' USING ERRCODE = '53100'; END $$",
        "CREATE TRIGGER full_disk BEFORE INSERT ON journal FOR EACH ROW EXECUTE FUNCTION full_disk()",
    ] {
        database.execute_unprepared(statement).await.expect("done");
    }
    let (queue, mut replies) = world.listen(&[]).await;
    let put = licet_schema::Request::ContentPut(crate::world::song(1));
    world.publish(message(Uuid::new_v4(), &put, Some(&queue))).await;
    world.start_workers();
    let tried = Statement::from_string(world.machine.store.backend(), "SELECT last_value FROM tried");
    let tried = async || {
        let row = database.query_one(tried.clone()).await.expect("it answers").expect("a row");
        row.try_get_by_index::<i64>(0).expect("a number")
    };
    let often = async {
        while tried().await < 10 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::world::PATIENCE, often).await.expect("it is tried again and again");
    world.stop_workers().await;
    {
        let mut consumer =
            world.machine.transport.consume(&topology::work_queue("catalog"), 1).await.expect("the queue");
        let waiting = consumer.receive(1, usize::MAX).await.expect("it is still there");
        // Three sessions with their neighbours, and the one that kept it.
        assert!(waiting[0].redeliveries <= 5, "it was given back {} times", waiting[0].redeliveries);
        consumer.close().await;
    }
    database.execute_unprepared("DROP TRIGGER full_disk ON journal").await.expect("there is room again");
    world.start_workers();
    assert_eq!(replies.next().await.properties.kind.as_deref(), Some("content.registered"));
    world.finish().await;
}

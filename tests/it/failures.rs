//! Crashes between the steps of the loop, concurrent transactions, and connections that fail.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use licet_client::{Client, LicenseClaims, Patience};
use licet_common::{
    rows::Change,
    runtime::Worker,
    signing::Draft,
    store::{Store, StoreError, Transaction, Writes},
    transport::Delivery,
};
use licet_schema::{
    Request, Timestamp,
    entity::{Digest, account, pending_reception},
    topology::{self, Topology},
};
use licet_workers::{registry, returns::Returns};
use sea_orm::{ConnectionTrait, Statement};
use uuid::Uuid;

use crate::{
    processes::{Process, log_of},
    proxy::{Network, Proxy},
    system::{
        TIMEOUT, TestSystem, amqp_url, license_return, message, name, new_database, on_both, outcome, purchase, song,
        version,
    },
};

on_both!(
    redelivery_after_a_commit_yields_byte_identical_outputs,
    writing_a_missing_row_is_rejected_and_inserting_an_existing_key_reports_contention,
    only_the_changed_columns_of_a_row_are_written,
);

/// Without the exchange for events, a worker commits its decision but cannot publish the event. The
/// test ends the worker at this point. Later, another worker receives the message again and must
/// publish exactly the outputs that are stored in the journal.
async fn redelivery_after_a_commit_yields_byte_identical_outputs(mut system: TestSystem) {
    system.start_workers();
    system.put_song(1).await;
    system.stop_workers().await;
    remove_events_exchange(&system).await;

    let (queue, mut replies) = system.listen(&[]).await;
    let id = Uuid::new_v4();
    system.publish(message(id, &purchase("alice", 2), Some(&queue))).await;
    let first = crate::runtime::start_and_abandon(&system.resources, "purchase", system.stored_outputs(id)).await;
    let stored = system.stored_outputs(id).await;
    assert_eq!(first, stored);

    system.resources.clock.advance_ms(3_600_000);
    system.resources.transport.apply(&registry::topology()).await.expect("the exchange is declared again");
    let (_, mut events) = system.listen(&[(topology::EVENTS, "certificate.issued")]).await;
    system.start_workers();
    let event = events.next().await;
    let mut reply = replies.next().await;
    if let Some(second) = replies.try_next(Duration::from_millis(300)).await {
        // The first worker may have sent the reply before it failed to publish the event.
        assert_eq!((&reply.body, &reply.properties), (&second.body, &second.properties));
        reply = second;
    }
    let assert_stored = |delivery: &Delivery, reply: bool| {
        let stored = stored.iter().find(|output| output.reply == reply).expect("both are stored");
        assert_eq!(delivery.body.as_ref(), stored.body, "byte for byte");
        assert_eq!(delivery.properties.message_id, Some(stored.message_id.to_string()));
        assert_eq!(delivery.properties.timestamp, u64::try_from(stored.timestamp_s).ok());
    };
    assert_stored(&reply, true);
    assert_stored(&event, false);
    assert_eq!(system.journal().await.iter().filter(|row| row.id == id).count(), 1);
    system.finish().await;
}

pub(crate) async fn remove_events_exchange(system: &TestSystem) {
    if system.database_url.is_none() {
        system.resources.transport.remove_exchange(topology::EVENTS);
        return;
    }
    let connection =
        lapin::Connection::connect(&amqp_url(), lapin::ConnectionProperties::default()).await.expect("RabbitMQ");
    let channel = connection.create_channel().await.expect("a channel");
    channel.exchange_delete(topology::EVENTS.into(), Default::default()).await.expect("the exchange is deleted");
    connection.close(200, "done".into()).await.expect("the connection closes");
    let exchanges = Topology { queues: Vec::new(), bindings: Vec::new(), ..registry::topology() };
    let missing = system.resources.transport.missing(&exchanges).await.expect("the broker answers");
    assert_eq!(missing, ["exchange licet.events"]);
}

fn change<'a, M>(stored: &'a M, now: &'a M) -> Change<'a, M> {
    Change { stored, now }
}

async fn write(store: &Store, fill: impl FnOnce(&mut Writes)) -> Result<(), StoreError> {
    let transaction = store.begin().await?;
    let mut writes = Writes::new(store.backend());
    fill(&mut writes);
    writes.run(&transaction).await?;
    transaction.commit().await
}

fn account(name: &str, balance: i64) -> account::Model {
    account::Model { name: name.into(), balance }
}

#[track_caller]
fn assert_rejected(error: &StoreError, expected: &str) {
    assert!(matches!(error, StoreError::Rejected { why, .. } if why.contains(expected)), "{error}");
}

async fn writing_a_missing_row_is_rejected_and_inserting_an_existing_key_reports_contention(system: TestSystem) {
    let store = &system.resources.store;
    let (first, second, missing) = (account("first", 1), account("second", 2), account("missing", 3));
    let key = |name: &str| vec![vec![name.into()]];
    write(store, |writes| writes.insert::<account::Entity>(&[&first, &second])).await.expect("two new rows");
    let before = ["first", "second", "missing"].map(|name| account(name, 0));
    let update = |writes: &mut Writes| {
        writes.update::<account::Entity>(&[change(&before[0], &first), change(&before[2], &missing)]);
    };
    assert_rejected(&write(store, update).await.expect_err("one row is missing"), "1 of 2 rows of account");
    let delete = |writes: &mut Writes| {
        writes.insert::<account::Entity>(&[&account("new", 4)]);
        writes.delete::<account::Entity>(key("missing"));
    };
    assert_rejected(&write(store, delete).await.expect_err("the row is missing"), "0 of 1 rows of account");
    let insert = |writes: &mut Writes| writes.insert::<account::Entity>(&[&first]);
    let contended = write(store, insert).await.expect_err("the key exists");
    assert!(matches!(contended, StoreError::Contended { .. }), "{contended}");
    // A later step can use a key that an earlier step has freed.
    let replace = |writes: &mut Writes| {
        writes.update::<account::Entity>(&[change(&before[1], &account("second", 20))]);
        writes.delete::<account::Entity>(key("first"));
        writes.then();
        writes.insert::<account::Entity>(&[&account("first", 10)]);
    };
    write(store, replace).await.expect("the rows are replaced");
    let rows = system.rows::<account::Entity>().await;
    assert_eq!(rows, [account("first", 10), account("second", 20)], "failed writes changed nothing");
}

async fn only_the_changed_columns_of_a_row_are_written(system: TestSystem) {
    let store = &system.resources.store;
    let row = |number| pending_reception::Model {
        id: Uuid::from_u128(number),
        container: false,
        user: name("alice"),
        token_digest: Some(Digest([7; 32])),
        due_at: Some(Timestamp::from_millis(1)),
    };
    let stored = [row(1), row(2), row(3)];
    write(store, |writes| writes.insert::<pending_reception::Entity>(&stored.each_ref())).await.expect("three rows");
    // Another program changes a column that the changes below do not contain.
    let other = "UPDATE pending_reception SET \"user\" = 'bob'";
    store.pool().execute_unprepared(other).await.expect("every user is changed");
    let now = [
        pending_reception::Model { due_at: None, ..row(1) },
        pending_reception::Model { container: true, ..row(2) },
        row(3),
    ];
    let changes: Vec<_> = stored.iter().zip(&now).map(|(stored, now)| Change { stored, now }).collect();
    write(store, |writes| writes.update::<pending_reception::Entity>(&changes)).await.expect("three changes");
    write(store, |writes| writes.update::<pending_reception::Entity>(&changes[2..])).await.expect("no change");
    let rows = system.rows::<pending_reception::Entity>().await;
    assert_eq!(rows, now.map(|row| pending_reception::Model { user: name("bob"), ..row }));
}

async fn insert(transaction: &Transaction, row: &account::Model) -> Result<(), StoreError> {
    let mut writes = Writes::new(transaction.get_database_backend());
    writes.insert::<account::Entity>(&[row]);
    writes.run(transaction).await
}

/// In PostgreSQL, a statement that has waited for a lock sees the new version of that row, but not
/// the rows that were inserted during the wait. A debt must not be missed for this reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_debt_opened_while_another_transaction_waits_for_the_points_is_not_missed() {
    let system = TestSystem::services().await;
    let store = system.resources.store.clone();
    let setup = store.begin().await.expect("a transaction");
    insert(&setup, &account("points:alice", 50)).await.expect("a row");
    setup.commit().await.expect("the row is committed");

    // The return worker locks the points and the debt of the user.
    let claims = LicenseClaims {
        iss: "licet".into(),
        jti: Uuid::from_u128(1),
        sub: name("alice"),
        certificate: Uuid::from_u128(2),
        content: name("song"),
        version: version(1),
        terminal: None,
        iat: 1,
    };
    let token = Draft::new(&claims).and_then(|draft| draft.sign(system.keyring())).expect("a token").token;
    let input = Returns.read(system.keyring(), license_return(&token, "alice", true)).expect("a license token");
    let first = store.begin().await.expect("a transaction");
    Returns.load(&first, &[&input]).await.expect("both accounts are locked");
    insert(&first, &account("debt:alice", 150)).await.expect("a debt");
    let second = tokio::spawn(async move {
        let second = store.begin().await.expect("a transaction");
        let tables = Returns.load(&second, &[&input]).await.expect("both accounts are locked after a wait");
        let debt = tables.accounts.get(&"debt:alice".to_owned()).expect("the load asked for it");
        debt.map(|row| row.balance)
    });
    // Wait until PostgreSQL reports that the second transaction waits for a lock.
    let waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let waiting = Statement::from_string(system.resources.store.backend(), waiting);
    let pool = system.resources.store.pool();
    while pool.query_one(waiting.clone()).await.expect("PostgreSQL answers").is_none() {
        tokio::task::yield_now().await;
    }
    first.commit().await.expect("the first transaction commits");
    assert_eq!(second.await.expect("the second transaction loads"), Some(150));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_client_that_loses_only_its_publisher_reconnects() {
    let mut system = TestSystem::services().await;
    system.start_workers();
    let patience = Patience { each: Duration::from_secs(2), attempts: 3 };
    let client = Client::connect(&system.resources.transport, patience).await.expect("the broker answers");
    // The broker of the tests closes the channel of a publisher that sends more than 1 MiB.
    let huge = vec![b' '; 3 << 20];
    assert!(client.ask_raw(Uuid::new_v4(), "content.put", huge.into()).await.is_err());
    let reply = client.ask(&Request::ContentPut(song(1))).await.expect("a reply");
    assert_eq!(outcome(&reply), "content.registered");
    system.finish().await;
}

/// sqlx keeps connections that stop responding in a transaction in its pool. Licet must replace the
/// pool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_pool_whose_connections_stop_responding_is_replaced() {
    let url = new_database().await;
    let (server, database) = url.rsplit_once('/').expect("a URL with a database");
    let (host, port) = server.rsplit_once(':').expect("a URL with a port");
    let proxy = Proxy::start(vec![port.parse().expect("a port")]).await;
    let proxied = format!("{host}:{}/{database}", proxy.port);
    // The timeout is longer than the test, so that the server does not end the transactions and
    // their connections.
    let store = Store::open_within(&proxied.into(), 2, 2 * TIMEOUT).await.expect("the database answers");
    store.migrate().await.expect("the tables are created");
    let both = (store.begin().await.expect("a transaction"), store.begin().await.expect("another transaction"));
    proxy.set(Network::BlackHole);
    drop(both);
    // Each connection sends a rollback that the proxy swallows, and waits for the answer.
    const ROLLBACK: &[u8] = b"Q\0\0\0\x0dROLLBACK\0";
    let deadline = Instant::now() + TIMEOUT;
    while (proxy.counters.swallowed.load(Ordering::Relaxed) as usize) < 2 * ROLLBACK.len() {
        assert!(Instant::now() < deadline, "the proxy swallowed fewer than two rollbacks");
        tokio::task::yield_now().await;
    }
    proxy.heal();
    assert!(store.ping(false).await.is_err(), "the old pool has no free connection");
    store.renew(false).await.expect("a new pool opens at once");
    store.ping(false).await.expect("the new pool works");
}

/// A database with a full disk answers, but rejects every write. This does not count as a failed
/// attempt of any message. If the worker returned the message to its queue each time, it would
/// become a dead letter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_message_is_kept_while_the_database_rejects_every_write() {
    let mut system = TestSystem::services().await;
    let database = system.resources.store.pool();
    for statement in [
        "CREATE SEQUENCE tried",
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         PERFORM nextval('tried'); RAISE EXCEPTION 'the disk is full' USING ERRCODE = '53100'; END $$",
        "CREATE TRIGGER full_disk BEFORE INSERT ON journal FOR EACH ROW EXECUTE FUNCTION full_disk()",
    ] {
        database.execute_unprepared(statement).await.expect("the statement succeeds");
    }
    let (queue, mut replies) = system.listen(&[]).await;
    system.publish(message(Uuid::new_v4(), &Request::ContentPut(song(1)), Some(&queue))).await;
    system.start_workers();
    let tried = Statement::from_string(system.resources.store.backend(), "SELECT last_value FROM tried");
    let tried = async || {
        let row = database.query_one(tried.clone()).await.expect("PostgreSQL answers").expect("a row");
        row.try_get_by_index::<i64>(0).expect("a number")
    };
    let ten_times = async {
        while tried().await < 10 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TIMEOUT, ten_times).await.expect("the worker tries again");
    system.stop_workers().await;
    {
        let queue = topology::work_queue("catalog");
        let mut consumer = system.resources.transport.consume(&queue, 1).await.expect("the queue");
        let waiting = consumer.receive(1, usize::MAX).await.expect("the message is still in its queue");
        // Three sessions receive whole batches before one session keeps the message.
        assert!(waiting[0].redeliveries <= 5, "it was redelivered {} times", waiting[0].redeliveries);
        consumer.close().await;
    }
    database.execute_unprepared("DROP TRIGGER full_disk ON journal").await.expect("the disk has space again");
    system.start_workers();
    assert_eq!(replies.next().await.properties.kind.as_deref(), Some("content.registered"));
    system.finish().await;
}

/// An SQLite database keeps its connection, so only the comparison of its tables shows whether it
/// can be used again.
#[tokio::test]
async fn a_changed_table_is_named_before_a_worker_uses_an_sqlite_database_again() {
    let system = TestSystem::embedded().await;
    let (store, pool) = (&system.resources.store, system.resources.store.pool());
    pool.execute_unprepared("ALTER TABLE license RENAME TO x").await.expect("SQLite renames the table");
    let error = store.renew(true).await.expect_err("a table is missing");
    assert!(matches!(&error, StoreError::Misconfigured { why, .. } if why.contains("table license")), "{error}");
    pool.execute_unprepared("ALTER TABLE x RENAME TO license").await.expect("SQLite renames the table");
    store.renew(true).await.expect("the table is back");
}

/// The setup may be corrected after an attempt failed and before the tables are checked. A trigger that
/// refuses one row, and that the check does not see, plays this.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_single_message_that_fails_once_with_correct_tables_is_decided_at_once() {
    let system = TestSystem::services().await;
    let trigger = "CREATE SEQUENCE attempts; \
                   CREATE FUNCTION refuse_once() RETURNS trigger LANGUAGE plpgsql AS \
                   $$ BEGIN IF nextval('attempts') = 1 THEN \
                   RAISE EXCEPTION 'refused once' USING ERRCODE = '23514'; END IF; RETURN NEW; END $$; \
                   CREATE TRIGGER refuse_once BEFORE INSERT ON journal FOR EACH ROW EXECUTE FUNCTION refuse_once()";
    let database_url = system.database_url.clone().expect("PostgreSQL");
    let database = sea_orm::Database::connect(database_url).await.expect("the database answers");
    database.execute_unprepared(trigger).await.expect("the trigger is created");
    let worker = Process::start(&system, "licet-catalog");
    system.ask(&Request::ContentPut(song(1))).await;
    let attempts = Statement::from_string(database.get_database_backend(), "SELECT last_value FROM attempts");
    let attempts = database.query_one(attempts).await.expect("the sequence").expect("a row");
    assert_eq!(attempts.try_get_by_index::<i64>(0).expect("a number"), 2, "the first attempt was refused");
    assert_eq!(worker.terminate(), Some(0));
    let log = std::fs::read_to_string(log_of(&system, "licet-catalog")).expect("its log");
    assert!(log.contains("delayed=0 "), "no attempt is counted: {log}");
    database.close().await.expect("closed");
    system.finish().await;
}

//! Case A12: a worker whose clock is wrong.

use licet_common::{
    clock::Clock,
    runtime::outputs_of,
    store::{ClockDifference, clock_difference},
};
use licet_schema::{
    Output, Request, Seconds, Text,
    entity::{certificate, certificate_record, journal},
    message::{CertificateReissue, ContentPut, Ending, SweepDue, SweepKind},
};
use sea_orm::ConnectionTrait;
use uuid::Uuid;

use super::a10::await_line;
use crate::{
    processes::{Process, log_of},
    programs::run,
    system::{TIMEOUT, TestSystem, amqp_url, message, on_both, outcome, song},
};

on_both!(
    case_a12_an_audit_passes_after_a_certificate_was_reissued_at_an_earlier_time_than_it_ended,
    case_a12_positions_in_the_journal_have_the_order_in_which_several_workers_decided,
);

const DAY_MS: i64 = 86_400_000;

fn due(system: &TestSystem, kind: SweepKind) -> Request {
    Request::SweepDue(SweepDue { kind, before: system.resources.clock.now() })
}

fn reissue(certificate: Uuid) -> Request {
    let reason = Text::try_from("the clock was wrong").expect("a text");
    Request::CertificateReissue(CertificateReissue { certificate, reason, granted: None })
}

async fn case_a12_an_audit_passes_after_a_certificate_was_reissued_at_an_earlier_time_than_it_ended(
    mut system: TestSystem,
) {
    system.put_song_with_workers().await;
    let id = system.ready("alice", 1).await.certificates[0];
    let sweep = Uuid::now_v7();
    system.resources.clock.advance_ms(40 * DAY_MS);
    system.publish(message(sweep, &due(&system, SweepKind::Certificate), None)).await;
    let events = system.events_of(sweep).await;
    assert!(matches!(events.as_slice(), [Output::CertificateRetired(_)]), "{events:?}");
    system.resources.clock.advance_ms(-40 * DAY_MS);
    assert_eq!(outcome(&system.ask(&reissue(id)).await), "certificate.reissued");
    assert!(system.row::<certificate::Entity>(id).await.is_some(), "the certificate is live again");
    let rows = system.journal().await;
    let row = |kind: &str| rows.iter().find(|row| row.kind == kind).expect("a row");
    let (ended, reissued) = (row("sweep.due"), row("certificate.reissue"));
    assert!(ended.decided_at > reissued.decided_at && ended.position < reissued.position);
    system.finish().await;
}

async fn case_a12_positions_in_the_journal_have_the_order_in_which_several_workers_decided(mut system: TestSystem) {
    const REISSUES: i64 = 100;
    system.resources.limits.batch_max = 8;
    system.start_workers().start_workers();
    system.put_song(1).await;
    let id = system.ready("alice", 1).await.certificates[0];
    // The rows of a batch are inserted in the order of their ids, which are random here.
    let ids: Vec<_> = (0..REISSUES).map(|_| Uuid::new_v4()).collect();
    system
        .publish_all(&ids.iter().map(|message_id| message(*message_id, &reissue(id), None)).collect::<Vec<_>>())
        .await;
    for id in ids {
        system.stored_outputs(id).await;
    }
    let mut rows = system.journal().await;
    rows.retain(|row| row.kind == "certificate.reissue");
    rows.sort_by_key(|row| row.position);
    let generation = |row: &journal::Model| {
        let reply = outputs_of(row).expect("readable outputs").swap_remove(0);
        let reply = Output::decode(&reply.kind, &reply.body).expect("a reply");
        let Output::CertificateReissued(body) = reply else { panic!("{reply:?}") };
        body.generation.get()
    };
    let generations: Vec<_> = rows.iter().map(generation).collect();
    assert_eq!(generations, (2..REISSUES + 2).collect::<Vec<_>>());
    system.finish().await;
}

/// SQLite has no clock of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn case_a12_a_sweep_worker_whose_clock_is_ahead_ends_nothing_until_it_is_corrected() {
    let mut system = TestSystem::services().await;
    system.resources.clock = Clock::ahead();
    system.start_workers();
    put_short_song(&system).await;
    let (paid, unpaid) = (system.ready("alice", 1).await, system.buy("bob", 1).await);
    system.stop_workers().await;

    system.resources.clock.advance_ms(40 * DAY_MS);
    let difference = clock_difference(&system.resources.store.pool(), &system.resources.clock).await;
    let Ok(Some(ClockDifference { ahead_ms })) = difference else { panic!("{difference:?}") };
    assert!((ahead_ms - 40 * DAY_MS).abs() < 60_000, "{ahead_ms}");
    system.start_workers();
    for kind in SweepKind::ALL {
        system.publish(message(Uuid::now_v7(), &due(&system, kind), None)).await;
    }
    while system.resources.transport.depth("licet.sweep").await.expect("the queue") > 0 {
        tokio::task::yield_now().await;
    }
    // A worker finishes the messages that it has received before it stops.
    system.stop_workers().await;
    for id in paid.certificates.iter().chain(&unpaid.certificates) {
        assert!(system.row::<certificate::Entity>(*id).await.is_some(), "the certificate is live");
    }
    assert!(system.journal().await.iter().all(|row| row.kind != "sweep.due"), "no sweep had an effect");

    // A sweep ends overdue certificates when the difference is small.
    system.resources.clock.advance_ms(50_000 - 40 * DAY_MS);
    system.start_workers();
    let sweep = Uuid::now_v7();
    system.publish(message(sweep, &due(&system, SweepKind::Certificate), None)).await;
    assert_eq!(system.events_of(sweep).await.len(), 2);
    system.finish().await;
}

/// Registers the song with certificates that expire after 30 s.
async fn put_short_song(system: &TestSystem) {
    let certificate_ttl_s = Seconds::try_from(30i64).expect("a time");
    let reply = system.ask(&Request::ContentPut(ContentPut { certificate_ttl_s, ..song(1) })).await;
    assert_eq!(outcome(&reply), "content.registered");
}

/// The statement that sets the clock of a database: it replaces the function that reports the time.
fn set_database_clock(interval: &str) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE \
         AS $$ SELECT pg_catalog.clock_timestamp() - interval '{interval}' $$"
    )
}

/// SQLite has no clock of its own, and worker programs refuse it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn case_a12_every_program_logs_a_clock_that_differs_and_the_sweep_program_ends_nothing() {
    const DIFFERS: &str = "40 d 0 h ahead of the clock of the database";
    let mut system = TestSystem::services().await;
    // The certificate expires 20 s before the present.
    system.resources.clock = Clock::ahead();
    system.resources.clock.advance_ms(-50_000);
    system.start_workers();
    put_short_song(&system).await;
    let id = system.ready("alice", 1).await.certificates[0];
    system.stop_workers().await;
    system.resources.clock.advance_ms(50_000);
    let database = system.database_url.clone().expect("PostgreSQL");
    let pool = system.resources.store.pool();
    let (_, database_name) = database.rsplit_once('/').expect("a URL with a database");
    // Functions of the schema public now hide those of PostgreSQL.
    let path = format!("ALTER DATABASE {database_name} SET search_path = public, pg_catalog");
    pool.execute_unprepared(&path).await.expect("the search path");
    pool.execute_unprepared(&set_database_clock("40 days")).await.expect("a function");

    let log = log_of(&system, "licet-sweep");
    let settings = [
        ("LICET_AMQP_URL", amqp_url()),
        ("LICET_DATABASE_URL", database.clone()),
        ("LICET_SWEEP_INTERVAL_S", "1".into()),
    ];
    let worker = Process::with("licet-sweep", &log, &settings);
    await_line(&log, "nothing that is overdue is ended, because the clock of this machine is").await;
    assert!(std::fs::read_to_string(&log).expect("a log").contains("ERROR"));
    // A sweep that another worker publishes is not carried out, either.
    system.publish(message(Uuid::now_v7(), &due(&system, SweepKind::Certificate), None)).await;
    while system.resources.transport.depth("licet.sweep").await.expect("the queue") > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(worker.terminate(), Some(0));
    assert!(std::fs::read_to_string(&log).expect("a log").contains(DIFFERS));
    assert!(system.row::<certificate::Entity>(id).await.is_some(), "the certificate is live");
    let settings = [("LICET_DATABASE_URL", database.as_str())];
    let audited = run("licet", &["audit"], &settings, system.folder.path());
    let errors = String::from_utf8_lossy(&audited.stderr).into_owned();
    assert!(audited.status.success() && errors.contains(DIFFERS), "{errors}");

    pool.execute_unprepared(&set_database_clock("0 days")).await.expect("the clock is corrected");
    let settings = [
        ("LICET_AMQP_URL", amqp_url()),
        ("LICET_DATABASE_URL", database.clone()),
        ("LICET_SWEEP_INTERVAL_S", "1".into()),
    ];
    let _worker = Process::with("licet-sweep", &log, &settings);
    let ended = async {
        while system.row::<certificate::Entity>(id).await.is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TIMEOUT, ended).await.expect("the certificate is swept");
    let record = system.row::<certificate_record::Entity>(id).await.expect("a record");
    assert_eq!(record.ended, Some(Ending::Expired));
    system.finish().await;
}

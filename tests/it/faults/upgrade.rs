//! A rolling upgrade: the tables are expanded for a newer release while the programs of this
//! release run, and then each program is replaced.
//!
//! The programs in the folder `LICET_TEST_PROGRAMS`, if it is set, stand for the older release.

use super::fixture::Fixture;
use crate::nodes::postgres::DATABASE;

/// What a newer release may do to the tables: add tables, columns that may be NULL, and indexes
/// that are not unique.
const EXPANSION: [&str; 5] = [
    "ALTER TABLE certificate ADD COLUMN note text",
    "ALTER TABLE journal ADD COLUMN flags bigint",
    "CREATE TABLE note (id uuid PRIMARY KEY, certificate uuid NOT NULL)",
    "CREATE INDEX CONCURRENTLY license_content ON license (content)",
    "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
     VALUES (990000000, '9.9.0', true, '', 0)",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn a_rolling_upgrade_of_the_tables_and_then_of_each_program_loses_no_message() {
    let mut fixture = Fixture::single("upgrade").await;
    for statement in EXPANSION {
        fixture.load.wait_for_replies(40).await;
        fixture.postgres.execute(DATABASE, statement).await;
    }
    fixture.record_recovery("tables_expanded", "the migration of release 9.9.0 is recorded").await;
    for _ in 0..fixture.workers.len() {
        let worker = fixture.workers.remove(0);
        let name = worker.name;
        assert_eq!(tokio::task::block_in_place(|| worker.process.terminate()), Some(0), "{name} stops cleanly");
        let log = {
            let started = fixture.start_worker(name);
            let started = started.process.id();
            let worker = fixture.workers.iter().find(|worker| worker.process.id() == started).expect("it was started");
            fixture.log_path(worker)
        };
        let consumes = || std::fs::read_to_string(&log).unwrap_or_default().contains("consuming");
        fixture.wait_until("the new program consumes", consumes).await;
        fixture.load.wait_for_replies(10).await;
    }
    let said: Vec<_> = fixture.logs();
    let refused = said.iter().find(|log| log.contains("No messages are taken until this is corrected"));
    assert!(refused.is_none(), "a worker refused the expanded tables: {refused:?}");
    fixture.record_recovery("programs_replaced", "each program was stopped and started on the new tables").await;
    fixture.finish().await;
}

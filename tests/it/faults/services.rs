//! PostgreSQL and RabbitMQ are stopped, killed and started again.

use super::fixture::Fixture;

const BROKER_UNAVAILABLE: &str = "the broker is unavailable";
const DATABASE_UNAVAILABLE: &str = "the database is unavailable";

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn stopping_or_killing_the_services_loses_no_message() {
    let mut fixture = Fixture::single("services").await;
    for _ in 0..2 {
        fixture.pause(500, 1_500).await;
        stop_the_database(&mut fixture).await;
    }
    for killed in [false, true] {
        fixture.load.wait_for_replies(60).await;
        restart_the_broker(&mut fixture, killed).await;
    }
    fixture.load.wait_for_replies(100).await;
    for log in fixture.logs() {
        let noticed = log.contains(BROKER_UNAVAILABLE) || log.contains(DATABASE_UNAVAILABLE);
        assert!(noticed, "a worker noticed no outage: {log}");
    }
    let logs = fixture.logs();
    assert!(logs.iter().any(|log| log.contains(DATABASE_UNAVAILABLE)), "no worker noticed the database outage");
    fixture.finish().await;
}

/// Stops the database without a checkpoint, as `pg_ctl stop -m immediate` does, and starts it
/// again.
pub(super) async fn stop_the_database(fixture: &mut Fixture) {
    const RECOVERY: &str = "database system was not properly shut down";
    let before = fixture.postgres.count_in_log(RECOVERY);
    tokio::task::block_in_place(|| fixture.postgres.stop_immediately());
    fixture.pause(200, 3_000).await;
    tokio::task::block_in_place(|| fixture.postgres.launch());
    assert_eq!(fixture.postgres.count_in_log(RECOVERY), before + 1);
    let evidence = "the log of the server: it was not properly shut down";
    fixture.record_recovery("database_stopped_immediately", evidence).await;
}

/// Stops the broker cleanly or kills it (SIGKILL), and starts it again.
pub(super) async fn restart_the_broker(fixture: &mut Fixture, killed: bool) {
    let before = fixture.rabbits[0].id();
    tokio::task::block_in_place(|| if killed { fixture.rabbits[0].kill() } else { fixture.rabbits[0].stop() });
    fixture.pause(200, 2_000).await;
    tokio::task::block_in_place(|| {
        fixture.rabbits[0].launch();
        fixture.rabbits[0].wait_until_ready();
    });
    assert_ne!(fixture.rabbits[0].id(), before);
    let kind = if killed { "broker_killed" } else { "broker_stopped" };
    fixture.record_recovery(kind, "the node has a new process, and every worker had to reconnect").await;
}

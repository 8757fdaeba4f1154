//! PostgreSQL and RabbitMQ stopped, killed and started again.

use super::stage::Stage;

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn services_that_are_stopped_or_killed_come_back_to_every_promise() {
    let mut stage = Stage::single("services").await;
    for _ in 0..2 {
        stage.meanwhile(500, 1_500).await;
        stop_the_database(&mut stage).await;
    }
    for killed in [false, true] {
        stage.load.answered(60).await;
        restart_the_broker(&mut stage, killed).await;
    }
    stage.load.answered(100).await;
    for log in stage.logs() {
        assert!(log.contains("the broker is away") || log.contains("the database is away"), "never noticed: {log}");
    }
    assert!(stage.logs().iter().any(|log| log.contains("the database is away")), "no worker noticed");
    stage.finish().await;
}

/// As `pg_ctl stop -m immediate`: no checkpoint, no goodbye.
pub(super) async fn stop_the_database(stage: &mut Stage) {
    const RECOVERY: &str = "database system was not properly shut down";
    let before = stage.postgres.said(RECOVERY);
    tokio::task::block_in_place(|| stage.postgres.stop_immediately());
    stage.meanwhile(200, 3_000).await;
    tokio::task::block_in_place(|| stage.postgres.launch());
    assert_eq!(stage.postgres.said(RECOVERY), before + 1);
    stage.recovered("database_stopped_immediately", "its log: it was not properly shut down").await;
}

/// A clean stop, or SIGKILL.
pub(super) async fn restart_the_broker(stage: &mut Stage, killed: bool) {
    let before = stage.rabbits[0].id();
    tokio::task::block_in_place(|| if killed { stage.rabbits[0].kill() } else { stage.rabbits[0].stop() });
    stage.meanwhile(200, 2_000).await;
    tokio::task::block_in_place(|| {
        stage.rabbits[0].launch();
        stage.rabbits[0].await_answer();
    });
    assert_ne!(stage.rabbits[0].id(), before);
    let kind = if killed { "broker_killed" } else { "broker_stopped" };
    stage.recovered(kind, "the node has another process, and every worker had to connect anew").await;
}

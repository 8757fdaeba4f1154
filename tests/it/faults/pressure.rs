//! RabbitMQ short of memory, and with full queues.

use std::time::Duration;

use super::stage::Stage;

/// An alarm, for longer than a worker waits for a confirmation: no worker may open connection
/// after connection meanwhile, since the broker would keep them all.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn a_memory_alarm_and_a_full_queue_hold_everything_up_and_lose_nothing() {
    let mut stage = Stage::single("pressure").await;
    let before = connections(&stage);
    tokio::task::block_in_place(|| stage.rabbits[0].ctl(&["set_vm_memory_high_watermark", "absolute", "1MB"]));
    let ledger = stage.load.upstream.ledger.clone();
    assert!(ledger.until(Duration::from_secs(20), |pages| pages.blocked > 0).await, "connection.blocked has come");
    stage.meanwhile(7_000, 8_000).await;
    let during = connections(&stage);
    assert!(during <= before + 2, "{before} connections became {during} under the alarm");
    tokio::task::block_in_place(|| stage.rabbits[0].ctl(&["set_vm_memory_high_watermark", "0.4"]));
    let shown = format!("connection.blocked came; {before} connections before, {during} during the alarm");
    stage.recovered("memory_alarm", shown).await;
    stage.load.answered(100).await;

    let full = r#"{"max-length":1}"#;
    let queues = "^licet\\.(purchase|reception|license|instructed)$";
    tokio::task::block_in_place(|| {
        stage.rabbits[0].ctl(&["set_policy", "--apply-to", "queues", "full", queues, full]);
    });
    assert!(ledger.until(Duration::from_secs(30), |pages| pages.nacks > 0).await, "a publish was refused");
    let stage_logs = || stage.logs().iter().any(|log| log.contains("the broker does not take a message"));
    stage.until("a worker's own message was refused", stage_logs).await;
    tokio::task::block_in_place(|| stage.rabbits[0].ctl(&["clear_policy", "full"]));
    let nacks = ledger.open().nacks;
    stage.recovered("queue_full", format!("{nacks} negative confirmations")).await;
    stage.load.answered(100).await;
    stage.finish().await;
}

fn connections(stage: &Stage) -> usize {
    tokio::task::block_in_place(|| stage.rabbits[0].table(&["list_connections", "pid"]).len())
}

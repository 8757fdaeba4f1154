//! RabbitMQ with a memory alarm, and with full queues.

use std::time::Duration;

use super::fixture::Fixture;

/// The alarm lasts longer than a worker waits for a confirmation. If a worker opened a new
/// connection after each timeout, all of them would stay open at the broker.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn a_memory_alarm_and_a_full_queue_delay_messages_but_lose_none() {
    let mut fixture = Fixture::single("pressure").await;
    let before = connections(&fixture);
    tokio::task::block_in_place(|| fixture.rabbits[0].ctl(&["set_vm_memory_high_watermark", "absolute", "1MB"]));
    let ledger = fixture.load.upstream.ledger.clone();
    assert!(
        ledger.wait_until(Duration::from_secs(20), |records| records.blocked > 0).await,
        "the client receives connection.blocked"
    );
    fixture.pause(7_000, 8_000).await;
    let during = connections(&fixture);
    assert!(during <= before + 2, "{before} connections became {during} during the alarm");
    tokio::task::block_in_place(|| fixture.rabbits[0].ctl(&["set_vm_memory_high_watermark", "0.4"]));
    let evidence =
        format!("connection.blocked was received; {before} connections before the alarm, {during} during it");
    fixture.record_recovery("memory_alarm", evidence).await;
    fixture.load.wait_for_replies(100).await;

    let full = r#"{"max-length":1}"#;
    let queues = "^licet\\.(purchase|reception|license|instructed)$";
    tokio::task::block_in_place(|| {
        fixture.rabbits[0].ctl(&["set_policy", "--apply-to", "queues", "full", queues, full]);
    });
    assert!(
        ledger.wait_until(Duration::from_secs(30), |records| records.nacks > 0).await,
        "a message of the client is rejected"
    );
    let was_rejected = || fixture.logs().iter().any(|log| log.contains("the broker did not accept a message"));
    fixture.wait_until("a message of a worker is rejected", was_rejected).await;
    tokio::task::block_in_place(|| fixture.rabbits[0].ctl(&["clear_policy", "full"]));
    let nacks = ledger.lock().nacks;
    fixture.record_recovery("queue_full", format!("{nacks} negative confirmations")).await;
    fixture.load.wait_for_replies(100).await;
    fixture.finish().await;
}

fn connections(fixture: &Fixture) -> usize {
    tokio::task::block_in_place(|| fixture.rabbits[0].table(&["list_connections", "pid"]).len())
}

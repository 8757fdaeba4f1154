//! On SIGTERM, a worker takes no more messages, finishes its batch, publishes, acknowledges and
//! exits.

use std::time::{Duration, Instant};

use super::fixture::Fixture;

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn a_rolling_restart_of_every_worker_returns_no_message_to_its_queue() {
    let mut fixture = Fixture::single("drain").await;
    let mut logs = Vec::new();
    let restarts = fixture.workers.len();
    for _ in 0..restarts {
        let old = fixture.workers.remove(0);
        // The new process starts first, as in a rolling restart.
        fixture.start_worker(old.name);
        fixture.pause(100, 400).await;
        let (name, log) = (old.name, fixture.log_path(&old));
        let began = Instant::now();
        assert_eq!(tokio::task::block_in_place(|| old.process.terminate()), Some(0), "{name} exits with 0");
        let elapsed = began.elapsed();
        assert!(elapsed < Duration::from_secs(10), "{name} took {elapsed:.1?} to stop");
        let log = std::fs::read_to_string(log).expect("its log");
        assert!(!log.contains("not finished in time"), "{log}");
        logs.push(log);
        fixture.record_fault("worker_terminated", "exit code 0 in time, with no unfinished message", Some(elapsed));
    }
    fixture.load.wait_for_replies(100).await;
    let (_, remaining) = fixture.finish().await;
    logs.extend(remaining);
    // RabbitMQ itself redelivers a message, and counts the delivery, if the consumer is cancelled
    // while the message is on its way inside the broker (rabbitmq-server, issue 3729). This affects
    // at most one message for each restart.
    let redelivered: Vec<u64> = logs.iter().map(|log| redelivered(log)).collect();
    println!("redelivered: {redelivered:?}");
    assert!(redelivered.iter().sum::<u64>() <= restarts as u64, "messages were redelivered: {redelivered:?}");
}

/// The number of redelivered messages, from the line that a worker logs when it stops.
fn redelivered(log: &str) -> u64 {
    let (_, rest) = log.rsplit_once("redelivered=").expect("the worker stopped");
    let digits = rest.split(|letter: char| !letter.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn workers_stop_in_time_while_a_service_does_not_respond() {
    let mut fixture = Fixture::single("stop").await;
    for broker in [true, false] {
        let proxy = if broker { &fixture.amqp } else { &fixture.sql };
        proxy.set(crate::proxy::Network::BlackHole);
        fixture.pause(200, 1_500).await;
        let began = Instant::now();
        let names: Vec<_> = fixture.workers.iter().map(|worker| worker.name).collect();
        let old = std::mem::take(&mut fixture.workers);
        let logs: Vec<_> = old.iter().map(|worker| fixture.log_path(worker)).collect();
        let stopping: Vec<_> = old
            .into_iter()
            .map(|worker| tokio::task::spawn_blocking(move || (worker.name, worker.process.terminate())))
            .collect();
        for (stopped, log) in stopping.into_iter().zip(logs) {
            let (name, code) = stopped.await.expect("the worker stops");
            let log = std::fs::read_to_string(log).expect("its log");
            assert_eq!(code, Some(0), "{name} exits with 0: {log}");
        }
        let elapsed = began.elapsed();
        // The shutdown timeout is 10 s. On a busy machine, twelve programs may need one more second
        // to end.
        assert!(elapsed < Duration::from_secs(11), "all workers stopped after {elapsed:.1?}");
        if broker { &fixture.amqp } else { &fixture.sql }.heal();
        for name in names {
            fixture.start_worker(name);
        }
        let kind = if broker { "stopped_in_broker_silence" } else { "stopped_in_database_silence" };
        let evidence = format!("every worker ended with exit code 0 within {elapsed:.1?}");
        fixture.record_recovery(kind, evidence).await;
        fixture.load.wait_for_replies(60).await;
    }
    fixture.finish().await;
}

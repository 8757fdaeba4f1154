//! SIGTERM: stop taking, finish the batch, confirm, acknowledge, close.

use std::time::{Duration, Instant};

use super::stage::Stage;

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn a_rolling_restart_of_every_worker_gives_nothing_back_that_it_was_given() {
    let mut stage = Stage::single("drain").await;
    let mut logs = Vec::new();
    let restarts = stage.workers.len();
    for _ in 0..restarts {
        let old = stage.workers.remove(0);
        // The new one first, as a rolling restart does.
        stage.start_worker(old.name);
        stage.meanwhile(100, 400).await;
        let (name, log) = (old.name, stage.log_of(&old));
        let began = Instant::now();
        assert_eq!(tokio::task::block_in_place(|| old.process.terminate()), Some(0), "{name} ends well");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(10), "{name} took {took:.1?} to end");
        let log = std::fs::read_to_string(log).expect("its log");
        assert!(!log.contains("not finished in time"), "{log}");
        logs.push(log);
        stage.injected("worker_terminated", "exit code 0 in time, with nothing left in hand", Some(took));
    }
    stage.load.answered(100).await;
    let (_, rest) = stage.finish().await;
    logs.extend(rest);
    // A message that crosses a cancellation inside RabbitMQ is put back by the broker itself, and
    // counted (rabbitmq-server, issue 3729): at most one in so short a time, and none twice.
    let redelivered: Vec<u64> = logs.iter().map(|log| redelivered(log)).collect();
    println!("redelivered: {redelivered:?}");
    assert!(redelivered.iter().sum::<u64>() <= restarts as u64, "deliveries came back: {redelivered:?}");
}

/// What a worker says of itself when it stops: how many deliveries had been delivered before.
fn redelivered(log: &str) -> u64 {
    let (_, rest) = log.rsplit_once("redelivered=").expect("it stopped");
    let digits = rest.split(|letter: char| !letter.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn workers_that_are_told_to_stop_while_a_service_is_silent_end_in_time() {
    let mut stage = Stage::single("stop").await;
    for broker in [true, false] {
        let proxy = if broker { &stage.amqp } else { &stage.sql };
        proxy.set(crate::proxy::Network::BlackHole);
        stage.meanwhile(200, 1_500).await;
        let began = Instant::now();
        let names: Vec<_> = stage.workers.iter().map(|worker| worker.name).collect();
        let old = std::mem::take(&mut stage.workers);
        let logs: Vec<_> = old.iter().map(|worker| stage.log_of(worker)).collect();
        let ending: Vec<_> = old
            .into_iter()
            .map(|worker| tokio::task::spawn_blocking(move || (worker.name, worker.process.terminate())))
            .collect();
        for (ended, log) in ending.into_iter().zip(logs) {
            let (name, code) = ended.await.expect("it ends");
            let said = std::fs::read_to_string(log).expect("its log");
            assert_eq!(code, Some(0), "{name} ends well: {said}");
        }
        let took = began.elapsed();
        // The timeout for finishing is 10 s; a second for twelve programs on a busy machine to end.
        assert!(took < Duration::from_secs(11), "all ended after {took:.1?}");
        if broker { &stage.amqp } else { &stage.sql }.heal();
        names.into_iter().for_each(|name| {
            stage.start_worker(name);
        });
        let kind = if broker { "stopped_in_broker_silence" } else { "stopped_in_database_silence" };
        stage.recovered(kind, format!("every worker ended with exit code 0 within {took:.1?}")).await;
        stage.load.answered(60).await;
    }
    stage.finish().await;
}

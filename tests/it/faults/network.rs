//! A network between workers and services that is cut, slow, half closed or silent.

use std::time::Duration;

use super::fixture::{Fixture, count};
use crate::proxy::Network;

/// The duration of a silence. It is longer than the heartbeat, the database timeout and the reply
/// timeout of these tests.
const SILENCE_MS: (u64, u64) = (6_000, 7_000);

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn network_faults_between_workers_and_services_lose_no_message() {
    let mut fixture = Fixture::single("network").await;
    for broker in [true, false] {
        for fault in ["cut", "slow", "half_closed", "black_hole"] {
            inject(&mut fixture, broker, fault).await;
            fixture.load.wait_for_replies(60).await;
        }
    }
    fixture.finish().await;
}

/// Injects a fault into one of the two networks, and ends it after a random time.
pub(super) async fn inject(fixture: &mut Fixture, broker: bool, fault: &str) {
    let (network, kind, (from, to)) = match (fault, broker) {
        ("cut", true) => (Network::Cut, "broker_cut", (500, 2_000)),
        ("cut", false) => (Network::Cut, "database_cut", (500, 2_000)),
        ("slow", true) => (Network::Slow(Duration::from_millis(150)), "broker_slow", (1_500, 2_500)),
        ("slow", false) => (Network::Slow(Duration::from_millis(30)), "database_slow", (1_500, 2_500)),
        ("half_closed", true) => (Network::HalfClosed, "broker_half_closed", (500, 2_000)),
        ("half_closed", false) => (Network::HalfClosed, "database_half_closed", (500, 2_000)),
        ("black_hole", true) => (Network::BlackHole, "broker_black_hole", SILENCE_MS),
        _ => (Network::BlackHole, "database_black_hole", SILENCE_MS),
    };
    let proxy = if broker { &fixture.amqp } else { &fixture.sql };
    let counters = proxy.counters.clone();
    let counter = match network {
        Network::Cut => &counters.cut,
        Network::Slow(_) => &counters.delayed,
        Network::HalfClosed => &counters.half_closed,
        Network::BlackHole | Network::Normal => &counters.swallowed,
    };
    let before = count(counter);
    proxy.set(network);
    fixture.pause(from, to).await;
    if broker { &fixture.amqp } else { &fixture.sql }.heal();
    let affected = count(counter) - before;
    assert!(affected > 0, "{kind} had no effect");
    let unit = match network {
        Network::Cut => "connections reset",
        Network::Slow(_) => "chunks delayed",
        Network::HalfClosed => "connections half closed",
        Network::BlackHole | Network::Normal => "bytes swallowed",
    };
    fixture.record_recovery(kind, format!("the proxy counted {affected} {unit}")).await;
}

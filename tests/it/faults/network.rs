//! The network between workers and services cut, slow, half closed, and silent.

use std::time::Duration;

use super::stage::{Stage, count};
use crate::proxy::Network;

/// Longer than a heartbeat, a database timeout and a reply timeout, as they are set here.
const SILENCE_MS: (u64, u64) = (6_000, 7_000);

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn a_network_that_fails_between_workers_and_services_loses_nothing() {
    let mut stage = Stage::single("network").await;
    for broker in [true, false] {
        for fault in ["cut", "slow", "half_closed", "black_hole"] {
            fail(&mut stage, broker, fault).await;
            stage.load.answered(60).await;
        }
    }
    stage.finish().await;
}

/// Lets one of the two networks fail in this way for a while, and heals it.
pub(super) async fn fail(stage: &mut Stage, broker: bool, fault: &str) {
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
    let proxy = if broker { &stage.amqp } else { &stage.sql };
    let done = proxy.done.clone();
    let counter = match network {
        Network::Cut => &done.cut,
        Network::Slow(_) => &done.delayed,
        Network::HalfClosed => &done.half_closed,
        Network::BlackHole | Network::Sound => &done.swallowed,
    };
    let before = count(counter);
    proxy.set(network);
    stage.meanwhile(from, to).await;
    if broker { &stage.amqp } else { &stage.sql }.heal();
    let met = count(counter) - before;
    assert!(met > 0, "{kind} met nothing");
    let unit = match network {
        Network::Cut => "connections reset",
        Network::Slow(_) => "chunks delayed",
        Network::HalfClosed => "connections half closed",
        Network::BlackHole | Network::Sound => "bytes swallowed",
    };
    stage.recovered(kind, format!("the proxy counted {met} {unit}")).await;
}

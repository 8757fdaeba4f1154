//! A sweep of many overdue certificates while licenses are requested.
//!
//! By default, the test sweeps 20,000 certificates and checks the result. `LICET_TEST_OVERDUE` sets
//! another number. `LICET_TEST_OVERDUE_RATIO` enables the full measurement: the p99 latency of
//! license requests during the sweep must be at most this many times the p99 latency without it.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, future::join_all, stream};
use licet_schema::{
    Output,
    entity::certificate_record::{Column, Entity},
    message::Ending,
};
use licet_workers::registry;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter};

use crate::{
    processes::Process,
    system::{Bought, TestSystem, completion, license_request, outcome, purchase, receipt},
};

const CONTAINER: usize = 100;
const IN_FLIGHT: usize = 256;
/// The duration of each of the two loads.
const LOAD: Duration = Duration::from_secs(20);
/// The longest time that the sweep may take.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(600);

fn setting(name: &str) -> Option<f64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_large_sweep_stays_within_its_time_and_memory_limits_and_does_not_delay_licenses() {
    let overdue = setting("LICET_TEST_OVERDUE").unwrap_or(20_000.0) as u64;
    let full = setting("LICET_TEST_OVERDUE_RATIO");
    let load = if full.is_some() { LOAD } else { LOAD / 10 };
    let mut system = TestSystem::services().await;
    // The worker programs use the clock of the operating system, so this process must use it, too.
    system.resources.clock = licet_common::clock::Clock::System;
    let others = registry::names().filter(|name| *name != "sweep");
    let _others: Vec<_> = others.map(|name| Process::start(&system, &format!("licet-{name}"))).collect();
    system.put_song(1).await;

    let mut tokens = ready(&system, if full.is_some() { 40_000 } else { 4_000 }).await;
    let peak = peak(&system, tokens.split_off(tokens.len() * 3 / 4)).await;
    let rate = peak / 4.0;
    let calm = open_loop(&system, &mut tokens, rate, load).await;

    fill(&system, overdue).await;
    let sweep_worker = Process::start(&system, "licet-sweep");
    let began = Instant::now();
    let busy = open_loop(&system, &mut tokens, rate, load).await;
    let left_after_load = left(&system).await;
    while left(&system).await > 0 {
        assert!(
            began.elapsed() < SWEEP_TIMEOUT,
            "{} of {overdue} certificates are not swept after {:?}",
            left(&system).await,
            began.elapsed()
        );
        tokio::task::yield_now().await;
    }
    let swept = began.elapsed();
    let resident = resident_kib(&sweep_worker);
    println!(
        "{overdue} overdue certificates were swept in {swept:.1?} ({left_after_load} left when the load ended) by a worker \
         with {resident} KiB of private memory; license requests at {rate:.0}/s (a quarter of {peak:.0}/s): \
         p99 {calm:.1?} without the sweep, {busy:.1?} with it"
    );
    assert!(resident < 64 << 10, "{resident} KiB of private memory");
    let lapsed = ended(&system, Ending::Lapsed).await;
    let expired = ended(&system, Ending::Expired).await;
    assert_eq!((lapsed, expired), (overdue / 2, overdue - overdue / 2));
    if let Some(ratio) = full {
        assert!(left_after_load > 0, "the sweep ended before the load: increase LICET_TEST_OVERDUE");
        assert!(busy.as_secs_f64() <= calm.as_secs_f64() * ratio, "p99 {calm:?} became {busy:?}");
    }
    // There is no audit, because the inserted certificates have no journal rows.
    system.stop_workers().await;
}

/// Buys certificates, acknowledges their receipt and pays for them. Returns their tokens.
async fn ready(system: &TestSystem, count: usize) -> Vec<String> {
    let purchases = (0..count.div_ceil(CONTAINER)).map(|_| async {
        let bought = Bought::of(system.ask(&purchase("alice", CONTAINER)).await);
        assert_eq!(outcome(&system.ask(&receipt(&bought)).await), "certificate.accepted");
        assert_eq!(outcome(&system.ask(&completion(&bought)).await), "settlement.registered");
        bought.tokens
    });
    stream::iter(purchases).buffer_unordered(16).concat().await
}

/// The number of license requests per second with many requests in flight.
async fn peak(system: &TestSystem, tokens: Vec<String>) -> f64 {
    let (count, began) = (tokens.len(), Instant::now());
    let asked = tokens.into_iter().map(|token| async move { license(system, &token).await });
    stream::iter(asked).buffer_unordered(IN_FLIGHT).collect::<Vec<_>>().await;
    count as f64 / began.elapsed().as_secs_f64()
}

/// The p99 latency of license requests that are sent at this rate, whether or not earlier ones were
/// answered. A latency is measured from the time at which the request was scheduled.
async fn open_loop(system: &TestSystem, tokens: &mut Vec<String>, rate: f64, length: Duration) -> Duration {
    let wanted = (rate * length.as_secs_f64()) as usize;
    let count = wanted.min(tokens.len() / 2);
    let batch = tokens.split_off(tokens.len() - count);
    let began = tokio::time::Instant::now();
    let asked = batch.into_iter().enumerate().map(|(index, token)| async move {
        let scheduled = began + Duration::from_secs_f64(index as f64 / rate);
        tokio::time::sleep_until(scheduled).await;
        license(system, &token).await;
        scheduled.elapsed()
    });
    let mut latencies = join_all(asked).await;
    latencies.sort_unstable();
    latencies[latencies.len() * 99 / 100]
}

async fn license(system: &TestSystem, token: &str) {
    let reply = system.ask(&license_request(token, "player")).await;
    assert!(matches!(reply, Output::LicenseIssued(_)), "{reply:?}");
}

/// Inserts overdue certificates. One half was not acknowledged in time. The other half was not paid
/// for in time.
async fn fill(system: &TestSystem, count: u64) {
    let half = count / 2;
    let statements = [
        format!(
            "INSERT INTO certificate_record (id, \"user\", content, version, revision, amount_minor, currency, points, purchased_at, generation, granted, reinstated) \
             SELECT ('01800000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'user-' || (n % 1000), 'song', 1, 1, 1000, 'USD', 0, 0, 1, 0, false \
             FROM generate_series(1, {count}) n"
        ),
        format!(
            "INSERT INTO certificate (id, \"user\", content, version, revision, amount_minor, currency, points, generation, token_digest, \
             issued_at, receipt_due_at, expires_at, received_at, grants, granted, outstanding) \
             SELECT ('01800000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'user-' || (n % 1000), 'song', 1, 1, 1000, 'USD', 0, 1, decode(repeat('00', 32), 'hex'), \
             0, 1000 + n, CASE WHEN n <= {half} THEN 4102444800000 ELSE 1000 + n END, CASE WHEN n <= {half} THEN NULL ELSE 1 END, 1, 0, 0 \
             FROM generate_series(1, {count}) n"
        ),
        format!(
            "INSERT INTO pending_reception (id, container, \"user\", token_digest, due_at) \
             SELECT ('01800000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, false, 'user-' || (n % 1000), decode(repeat('00', 32), 'hex'), 1000 + n \
             FROM generate_series(1, {half}) n"
        ),
        "ANALYZE".to_owned(),
    ];
    let url = system.database_url.as_deref().expect("a PostgreSQL database");
    let database = sea_orm::Database::connect(url).await.expect("PostgreSQL answers");
    for statement in statements {
        database.execute_unprepared(&statement).await.expect("the rows are inserted");
    }
}

/// The number of inserted certificates that the sweep has not ended.
async fn left(system: &TestSystem) -> u64 {
    let inserted = Entity::find().filter(Column::PurchasedAt.eq(0));
    let left = inserted.filter(Column::Ended.is_null()).count(&system.resources.store.pool()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    left.expect("the records")
}

async fn ended(system: &TestSystem, ending: Ending) -> u64 {
    let ended = Entity::find().filter(Column::Ended.eq(ending));
    ended.count(&system.resources.store.pool()).await.expect("the records")
}

fn resident_kib(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with("RssAnon")).and_then(|line| line.split_whitespace().nth(1));
    line.and_then(|kib| kib.parse().ok()).expect("a size")
}

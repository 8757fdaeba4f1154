//! A great many overdue certificates, while licenses are being asked for.
//!
//! Plain runs sweep 20,000 and look at the outcome; `LICET_TEST_OVERDUE` names another number, and
//! `LICET_TEST_OVERDUE_RATIO` asserts that the p99 of license requests stays within so many times
//! its value without the sweep.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, future::join_all, stream};
use licet_schema::{
    Output,
    entity::{Ending, purchase},
    topology::WORKERS,
};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter};

use crate::{
    processes::Process,
    world::{Bought, World, completion, license_request, purchase as buy, receipt, verdict},
};

const CONTAINER: usize = 100;
const IN_FLIGHT: usize = 256;
/// How long each of the two loads lasts.
const LOAD: Duration = Duration::from_secs(20);
const SWEPT_WITHIN: Duration = Duration::from_secs(600);

fn setting(name: &str) -> Option<f64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_great_sweep_ends_in_time_and_memory_and_leaves_room_for_licenses() {
    let overdue = setting("LICET_TEST_OVERDUE").unwrap_or(20_000.0) as u64;
    let full = setting("LICET_TEST_OVERDUE_RATIO");
    let load = if full.is_some() { LOAD } else { LOAD / 10 };
    let mut world = World::services().await;
    // The clock of these processes is the system's, and so must be what they judge.
    world.machine.clock = licet_common::clock::Clock::System;
    let others = WORKERS.iter().filter(|worker| worker.name != "sweep");
    let _others: Vec<_> = others.map(|worker| Process::start(&world, &format!("licet-{}", worker.name))).collect();
    world.put_song(1).await;

    let mut tokens = ready(&world, if full.is_some() { 40_000 } else { 4_000 }).await;
    let peak = peak(&world, tokens.split_off(tokens.len() * 3 / 4)).await;
    let rate = peak / 4.0;
    let calm = open_loop(&world, &mut tokens, rate, load).await;

    fill(&world, overdue).await;
    let sweeper = Process::start(&world, "licet-sweep");
    let began = Instant::now();
    let busy = open_loop(&world, &mut tokens, rate, load).await;
    let left_after_load = left(&world).await;
    while left(&world).await > 0 {
        assert!(
            began.elapsed() < SWEPT_WITHIN,
            "{} of {overdue} are left after {:?}",
            left(&world).await,
            began.elapsed()
        );
        tokio::task::yield_now().await;
    }
    let swept = began.elapsed();
    let resident = resident_kib(&sweeper);
    println!(
        "{overdue} overdue certificates were swept in {swept:.1?} ({left_after_load} left when the load ended), {resident} KiB of its own; \
         license requests at {rate:.0}/s (a quarter of {peak:.0}/s): p99 {calm:.1?} without the sweep, {busy:.1?} with it"
    );
    assert!(resident < 64 << 10, "{resident} KiB of its own");
    let lapsed = ended(&world, Ending::Lapsed).await;
    let expired = ended(&world, Ending::Expired).await;
    assert_eq!((lapsed, expired), (overdue / 2, overdue - overdue / 2));
    if let Some(ratio) = full {
        assert!(left_after_load > 0, "the sweep was over before the load was: sweep more");
        assert!(busy.as_secs_f64() <= calm.as_secs_f64() * ratio, "p99 {calm:?} became {busy:?}");
    }
    // The auditor would ask for the journal rows of what was filled in by hand.
    world.stop_workers().await;
}

/// Certificates that are received and paid for.
async fn ready(world: &World, count: usize) -> Vec<String> {
    let purchases = (0..count.div_ceil(CONTAINER)).map(|_| async {
        let bought = Bought::of(world.ask(&buy("alice", CONTAINER)).await);
        assert_eq!(verdict(&world.ask(&receipt(&bought)).await), "certificate.accepted");
        assert_eq!(verdict(&world.ask(&completion(&bought)).await), "settlement.registered");
        bought.tokens
    });
    stream::iter(purchases).buffer_unordered(16).concat().await
}

/// License requests per second, with many in flight.
async fn peak(world: &World, tokens: Vec<String>) -> f64 {
    let (count, began) = (tokens.len(), Instant::now());
    let asked = tokens.into_iter().map(|token| async move { license(world, &token).await });
    stream::iter(asked).buffer_unordered(IN_FLIGHT).collect::<Vec<_>>().await;
    count as f64 / began.elapsed().as_secs_f64()
}

/// The p99 of license requests that come at this rate, answered or not: each counts from the
/// moment at which it was due.
async fn open_loop(world: &World, tokens: &mut Vec<String>, rate: f64, length: Duration) -> Duration {
    let due = (rate * length.as_secs_f64()) as usize;
    let count = due.min(tokens.len() / 2);
    let batch = tokens.split_off(tokens.len() - count);
    let began = tokio::time::Instant::now();
    let asked = batch.into_iter().enumerate().map(|(index, token)| async move {
        let due = began + Duration::from_secs_f64(index as f64 / rate);
        tokio::time::sleep_until(due).await;
        license(world, &token).await;
        due.elapsed()
    });
    let mut latencies = join_all(asked).await;
    latencies.sort_unstable();
    latencies[latencies.len() * 99 / 100]
}

async fn license(world: &World, token: &str) {
    let answer = world.ask(&license_request(token, "player")).await;
    assert!(matches!(answer, Output::LicenseIssued(_)), "{answer:?}");
}

/// Half of them never acknowledged, half of them never paid for.
async fn fill(world: &World, count: u64) {
    let half = count / 2;
    let statements = [
        format!(
            "INSERT INTO purchase (id, \"user\", content, version, revision, amount_minor, currency, points, purchased_at, generation, granted) \
             SELECT ('01800000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'user-' || (n % 1000), 'song', 1, 1, 1000, 'USD', 0, 0, 1, 0 \
             FROM generate_series(1, {count}) n"
        ),
        format!(
            "INSERT INTO certificate (id, \"user\", content, version, revision, amount_minor, currency, points, generation, token_digest, \
             issued_at, receipt_due_at, expires_at, received_at, grants, granted, outstanding) \
             SELECT ('01800000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'user-' || (n % 1000), 'song', 1, 1, 1000, 'USD', 0, 1, '\\x00', \
             0, 1000 + n, CASE WHEN n <= {half} THEN 4102444800000 ELSE 1000 + n END, CASE WHEN n <= {half} THEN NULL ELSE 1 END, 1, 0, 0 \
             FROM generate_series(1, {count}) n"
        ),
        format!(
            "INSERT INTO pending_reception (id, container, \"user\", token_digest, due_at) \
             SELECT ('01800000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, false, 'user-' || (n % 1000), '\\x00', 1000 + n \
             FROM generate_series(1, {half}) n"
        ),
        "ANALYZE".to_owned(),
    ];
    let url = world.database_url.as_deref().expect("a PostgreSQL database");
    let database = sea_orm::Database::connect(url).await.expect("it answers");
    for statement in statements {
        database.execute_unprepared(&statement).await.expect("it takes the rows");
    }
}

async fn left(world: &World) -> u64 {
    let filled = purchase::Entity::find().filter(purchase::Column::PurchasedAt.eq(0));
    let left = filled.filter(purchase::Column::Ended.is_null()).count(&world.machine.store.reader()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    left.expect("the purchases")
}

async fn ended(world: &World, ending: Ending) -> u64 {
    let ended = purchase::Entity::find().filter(purchase::Column::Ended.eq(ending));
    ended.count(&world.machine.store.reader()).await.expect("the purchases")
}

fn resident_kib(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("RssAnon")).and_then(|line| line.split_whitespace().nth(1));
    line.and_then(|kib| kib.parse().ok()).expect("a size")
}

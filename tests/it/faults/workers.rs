//! Worker processes that are killed at random times, and while many terminals request licenses.

use super::{fixture::Fixture, storm};

const KILLS: usize = 15;

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn killing_workers_at_random_times_and_in_a_request_storm_loses_and_repeats_no_effect() {
    let mut fixture = Fixture::single("workers").await;
    for _ in 0..KILLS {
        fixture.pause(50, 600).await;
        kill_one(&mut fixture).await;
    }
    storm::run(&mut fixture).await;
    fixture.finish().await;
}

/// Kills one of the workers (SIGKILL) and starts another process in its place.
pub(super) async fn kill_one(fixture: &mut Fixture) {
    let victim = fixture.random.below(fixture.workers.len());
    let victim = fixture.workers.swap_remove(victim);
    let (name, id) = (victim.name, victim.process.id());
    victim.process.kill();
    assert!(!std::path::Path::new(&format!("/proc/{id}")).exists(), "the process of {name} has ended");
    assert_ne!(fixture.start_worker(name).process.id(), id);
    fixture.record_recovery("worker_killed", "the process has ended, and its replacement has another id").await;
}

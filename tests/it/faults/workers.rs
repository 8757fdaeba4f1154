//! Worker processes killed at random moments, and in a storm.

use super::{stage::Stage, storm};

const KILLS: usize = 15;

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn workers_killed_at_random_moments_and_in_a_storm_lose_nothing_and_do_nothing_twice() {
    let mut stage = Stage::single("workers").await;
    for _ in 0..KILLS {
        stage.meanwhile(50, 600).await;
        kill_one(&mut stage).await;
    }
    storm::blow(&mut stage).await;
    stage.finish().await;
}

/// SIGKILL for one of the workers; another process takes its place.
pub(super) async fn kill_one(stage: &mut Stage) {
    let victim = stage.chance.below(stage.workers.len());
    let victim = stage.workers.swap_remove(victim);
    let (name, id) = (victim.name, victim.process.id());
    victim.process.kill();
    assert!(!std::path::Path::new(&format!("/proc/{id}")).exists(), "{name} is gone");
    assert_ne!(stage.start_worker(name).process.id(), id);
    stage.recovered("worker_killed", "the process is gone, and its replacement has another id").await;
}

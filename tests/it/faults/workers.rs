//! Worker processes killed at random moments.

use super::stage::Stage;

const KILLS: usize = 15;

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn workers_killed_at_random_moments_lose_nothing_and_do_nothing_twice() {
    let mut stage = Stage::single("workers").await;
    for _ in 0..KILLS {
        stage.meanwhile(50, 600).await;
        let victim = stage.chance.below(stage.workers.len());
        let victim = stage.workers.swap_remove(victim);
        let (name, id) = (victim.name, victim.process.id());
        victim.process.kill();
        assert!(!std::path::Path::new(&format!("/proc/{id}")).exists(), "{name} is gone");
        let replacement = stage.start_worker(name).process.id();
        assert_ne!(id, replacement);
        stage.recovered("worker_killed", "the process is gone, and its replacement has another id").await;
    }
    stage.finish().await;
}

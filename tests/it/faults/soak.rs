//! Faults of all kinds in random order, for as long as somebody asks for.

use std::time::{Duration, Instant};

use super::{network, stage::Stage};

/// `LICET_TEST_SOAK_S`, or else this.
const SOAK_S: u64 = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn a_soak_of_random_faults_loses_nothing() {
    let named = std::env::var("LICET_TEST_SOAK_S").ok();
    let lasts = Duration::from_secs(named.map_or(SOAK_S, |text| text.parse().expect("LICET_TEST_SOAK_S is a number")));
    let mut stage = Stage::single("soak").await;
    let began = Instant::now();
    while began.elapsed() < lasts {
        match stage.chance.below(8) {
            0 => kill_a_worker(&mut stage).await,
            1 => restart_the_database(&mut stage).await,
            2 => restart_the_broker(&mut stage).await,
            chosen => {
                let fault = ["cut", "slow", "half_closed", "black_hole", "cut"][chosen - 3];
                let broker = stage.chance.below(2) == 0;
                network::fail(&mut stage, broker, fault).await;
            }
        }
        stage.meanwhile(200, 2_000).await;
    }
    stage.load.answered(60).await;
    stage.finish().await;
}

async fn kill_a_worker(stage: &mut Stage) {
    let victim = stage.chance.below(stage.workers.len());
    let victim = stage.workers.swap_remove(victim);
    let (name, id) = (victim.name, victim.process.id());
    victim.process.kill();
    assert_ne!(stage.start_worker(name).process.id(), id);
    stage.recovered("worker_killed", "the process is gone, and its replacement has another id").await;
}

async fn restart_the_database(stage: &mut Stage) {
    let before = stage.postgres.said("was not properly shut down");
    tokio::task::block_in_place(|| stage.postgres.stop_immediately());
    stage.meanwhile(200, 3_000).await;
    tokio::task::block_in_place(|| stage.postgres.launch());
    assert_eq!(stage.postgres.said("was not properly shut down"), before + 1);
    stage.recovered("database_stopped_immediately", "its log: it was not properly shut down").await;
}

async fn restart_the_broker(stage: &mut Stage) {
    let before = stage.rabbits[0].id();
    tokio::task::block_in_place(|| stage.rabbits[0].kill());
    stage.meanwhile(200, 2_000).await;
    tokio::task::block_in_place(|| {
        stage.rabbits[0].launch();
        stage.rabbits[0].await_answer();
    });
    assert_ne!(stage.rabbits[0].id(), before);
    stage.recovered("broker_killed", "the node has another process").await;
}

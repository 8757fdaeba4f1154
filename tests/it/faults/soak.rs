//! Faults of all kinds in random order, for as long as somebody asks for.

use std::time::{Duration, Instant};

use super::{network, services, stage::Stage, workers};

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
            0 => workers::kill_one(&mut stage).await,
            1 => services::stop_the_database(&mut stage).await,
            2 => services::restart_the_broker(&mut stage, true).await,
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

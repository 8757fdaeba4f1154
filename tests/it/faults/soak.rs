//! Faults of all kinds in random order, for a configurable time.

use std::time::{Duration, Instant};

use super::{fixture::Fixture, network, services, workers};

/// The number of seconds for which the test injects faults, unless `LICET_TEST_SOAK_S` is set.
const SOAK_S: u64 = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn a_soak_test_with_random_faults_loses_no_message() {
    let configured = std::env::var("LICET_TEST_SOAK_S").ok();
    let seconds = configured.map_or(SOAK_S, |text| text.parse().expect("LICET_TEST_SOAK_S is a number"));
    let duration = Duration::from_secs(seconds);
    let mut fixture = Fixture::single("soak").await;
    let began = Instant::now();
    while began.elapsed() < duration {
        match fixture.random.below(8) {
            0 => workers::kill_one(&mut fixture).await,
            1 => services::stop_the_database(&mut fixture).await,
            2 => services::restart_the_broker(&mut fixture, true).await,
            choice => {
                let fault = ["cut", "slow", "half_closed", "black_hole", "cut"][choice - 3];
                let broker = fixture.random.below(2) == 0;
                network::inject(&mut fixture, broker, fault).await;
            }
        }
        fixture.pause(200, 2_000).await;
    }
    fixture.load.wait_for_replies(60).await;
    fixture.finish().await;
}

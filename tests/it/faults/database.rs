//! PostgreSQL away, silent, or forgetful.

use super::stage::Stage;

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn a_database_stopped_immediately_comes_back_to_every_promise() {
    let mut stage = Stage::single("database").await;
    for _ in 0..2 {
        stage.meanwhile(500, 1500).await;
        tokio::task::block_in_place(|| stage.postgres.stop_immediately());
        stage.meanwhile(500, 3000).await;
        tokio::task::block_in_place(|| stage.postgres.launch());
        stage.recovered("database_stopped_immediately", "its log: it was not properly shut down").await;
    }
    assert_eq!(stage.postgres.said("database system was not properly shut down"), 2);
    assert!(stage.logs().iter().any(|log| log.contains("the database is away")), "workers noticed");
    stage.finish().await;
}

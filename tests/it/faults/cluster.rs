//! A broker of three nodes that loses the one on which everything hangs.

use super::stage::Stage;

const QUEUES: [&str; 2] = ["licet.purchase", "licet.license"];

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn a_cluster_whose_leader_is_killed_under_load_loses_nothing() {
    let mut stage = Stage::cluster("cluster").await;
    for queue in QUEUES {
        stage.meanwhile(300, 1500).await;
        let (at, leader) = tokio::task::block_in_place(|| {
            let leader = stage.rabbits[0].leader_of(queue);
            (stage.rabbits.iter().position(|node| node.leads(&leader)).expect("one of the three"), leader)
        });
        stage.rabbits[at].kill();
        // The two that are left go on by themselves.
        stage.recovered("leader_killed", format!("{leader} led {queue} and was killed; another leads it now")).await;
        let other = (at + 1) % stage.rabbits.len();
        let now = tokio::task::block_in_place(|| stage.rabbits[other].leader_of(queue));
        assert_ne!(now, leader, "another node leads {queue}");
        stage.load.answered(60).await;
        tokio::task::block_in_place(|| {
            stage.rabbits[at].launch();
            stage.rabbits[at].await_answer();
        });
        stage.load.answered(60).await;
    }
    stage.finish().await;
}

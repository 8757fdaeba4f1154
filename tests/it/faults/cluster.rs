//! A broker with three nodes. The test kills the node that leads a queue.

use super::fixture::Fixture;

const QUEUES: [&str; 2] = ["licet.purchase", "licet.license"];

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn a_cluster_loses_no_message_when_the_leader_of_a_queue_is_killed_under_load() {
    let mut fixture = Fixture::cluster("cluster").await;
    for queue in QUEUES {
        fixture.pause(300, 1500).await;
        let (index, leader) = tokio::task::block_in_place(|| {
            let leader = fixture.rabbits[0].leader_of(queue);
            (fixture.rabbits.iter().position(|node| node.is_named(&leader)).expect("one of the three nodes"), leader)
        });
        fixture.rabbits[index].kill();
        // The other two nodes elect a new leader.
        let evidence = format!("{leader} led {queue} and was killed; another node leads it now");
        fixture.record_recovery("leader_killed", evidence).await;
        let other = (index + 1) % fixture.rabbits.len();
        let new_leader = tokio::task::block_in_place(|| fixture.rabbits[other].leader_of(queue));
        assert_ne!(new_leader, leader, "another node leads {queue}");
        fixture.load.wait_for_replies(60).await;
        tokio::task::block_in_place(|| {
            fixture.rabbits[index].launch();
            fixture.rabbits[index].wait_until_ready();
        });
        fixture.load.wait_for_replies(60).await;
    }
    fixture.finish().await;
}

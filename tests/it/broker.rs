//! Properties of RabbitMQ that Licet relies on and that differ between versions: the counting of
//! deliveries to a lost consumer, and the effect of the delivery limit.
//!
//! The tests run on RabbitMQ only, because the in-process transport has no delivery limit.

use licet_schema::topology;
use uuid::Uuid;

use crate::system::{TIMEOUT, TestSystem, raw};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn each_lost_consumer_counts_as_a_delivery_and_the_message_is_dead_lettered_after_the_limit() {
    let system = TestSystem::services().await;
    let id = Uuid::new_v4();
    system.publish(raw(id, "content.put", b"{}".to_vec(), None)).await;
    let limit = u32::try_from(topology::DELIVERY_LIMIT).expect("a small number");
    system.lose_deliveries(&topology::work_queue("catalog"), limit + 1).await;
    let letter = system.dead_letters("catalog").await.next().await;
    assert_eq!(letter.properties.message_id, Some(id.to_string()));
    system.finish().await;
}

/// RabbitMQ 4 drops a message after 20 deliveries unless the queue sets a limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_queue_without_a_dead_letter_queue_never_drops_a_message() {
    let system = TestSystem::services().await;
    for queue in [topology::dead_queue("catalog"), topology::INSTRUCTED.to_owned()] {
        let mut message = raw(Uuid::new_v4(), "content.put", b"{}".to_vec(), None);
        (message.exchange, message.routing_key) = (topology::DEFAULT.to_owned(), queue.clone());
        system.publish(message).await;
        system.lose_deliveries(&queue, 30).await;
    }
    system.finish().await;
}

impl TestSystem {
    /// Receives the only message of a queue this many times, and drops the connection each time.
    async fn lose_deliveries(&self, queue: &str, times: u32) {
        for earlier in 0..times {
            let mut consumer = self.resources.transport.consume(queue, 10).await.expect("the broker answers");
            let received = tokio::time::timeout(TIMEOUT, consumer.receive(10, usize::MAX)).await;
            let received = received.unwrap_or_else(|_| panic!("{queue} delivered nothing after {earlier} deliveries"));
            let redeliveries: Vec<_> =
                received.expect("the connection stays open").iter().map(|delivery| delivery.redeliveries).collect();
            assert_eq!(redeliveries, [earlier]);
            drop(consumer);
        }
    }
}

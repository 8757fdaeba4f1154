//! What Licet counts on in a broker and what differs between its versions: how a delivery is counted
//! whose consumer is lost, and what becomes of a message that is lost too often.
//!
//! RabbitMQ alone: the transport in this process knows no delivery limit.

use licet_schema::topology;
use uuid::Uuid;

use crate::world::{PATIENCE, World, raw};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_message_whose_consumers_are_lost_is_counted_and_after_the_limit_is_a_dead_letter() {
    let world = World::services().await;
    let id = Uuid::new_v4();
    world.publish(raw(id, "content.put", b"{}".to_vec(), None)).await;
    let limit = u32::try_from(topology::DELIVERY_LIMIT).expect("a small number");
    world.lose_deliveries(&topology::work_queue("catalog"), limit + 1).await;
    let letter = world.dead_letters("catalog").await.next().await;
    assert_eq!(letter.properties.message_id, Some(id.to_string()));
    world.finish().await;
}

/// RabbitMQ 4 drops what was given back 20 times, unless the queue says otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn what_has_nowhere_to_go_stays_however_often_somebody_looks_at_it() {
    let world = World::services().await;
    for queue in [topology::dead_queue("catalog"), topology::INSTRUCTED.to_owned()] {
        let mut message = raw(Uuid::new_v4(), "content.put", b"{}".to_vec(), None);
        (message.exchange, message.routing_key) = (topology::DEFAULT.to_owned(), queue.clone());
        world.publish(message).await;
        world.lose_deliveries(&queue, 30).await;
    }
    world.finish().await;
}

impl World {
    /// Takes the only message of a queue so many times, and each time loses the connection with it.
    async fn lose_deliveries(&self, queue: &str, times: u32) {
        for earlier in 0..times {
            let mut consumer = self.machine.transport.consume(queue, 10).await.expect("the broker answers");
            let received = tokio::time::timeout(PATIENCE, consumer.receive(10, usize::MAX)).await;
            let received = received.unwrap_or_else(|_| panic!("{queue} gave nothing after {earlier} deliveries"));
            let redeliveries: Vec<_> =
                received.expect("the broker stays").iter().map(|delivery| delivery.redeliveries).collect();
            assert_eq!(redeliveries, [earlier]);
            drop(consumer);
        }
    }
}

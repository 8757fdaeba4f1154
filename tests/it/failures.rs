//! Crashes between the steps of the loop.

use licet_common::transport::Delivery;
use licet_schema::topology::{self, Topology, topology};
use uuid::Uuid;

use crate::world::{World, amqp_url, message, on_both, purchase};

on_both!(redelivery_after_commit_gives_byte_identical_outputs);

/// The exchange for events is away while a purchase is decided, so that its worker has committed
/// and cannot publish. It is stopped there, the message is delivered again to another worker at a
/// later time, and what comes out must be what the journal has held all along.
async fn redelivery_after_commit_gives_byte_identical_outputs(mut world: World) {
    world.start_workers();
    world.put_song(1).await;
    world.stop_workers().await;
    remove_events_exchange(&world).await;

    let (queue, mut replies) = world.listen(&[]).await;
    let id = Uuid::new_v4();
    world.publish(message(id, &purchase("alice", 2), Some(&queue))).await;
    let first = crate::runtime::start_and_abandon(&world.machine, "purchase", world.decided(id)).await;
    let decided = world.decided(id).await;
    assert_eq!(first, decided);

    world.machine.clock.advance_ms(3_600_000);
    world.machine.transport.apply(&topology()).await.expect("the exchange is back");
    let (_, mut events) = world.listen(&[(topology::EVENTS, "certificate.issued")]).await;
    world.start_workers();
    let event = events.next().await;
    let mut reply = replies.next().await;
    if let Some(second) = replies.try_next(std::time::Duration::from_millis(300)).await {
        // The reply may have got through before the events failed: then it came twice, the same.
        assert_eq!((&reply.body, &reply.properties), (&second.body, &second.properties));
        reply = second;
    }
    let same = |delivery: &Delivery, reply: bool| {
        let stored = decided.iter().find(|output| output.reply == reply).expect("both are stored");
        assert_eq!(delivery.body.as_ref(), stored.body, "byte for byte");
        assert_eq!(delivery.properties.message_id, Some(stored.message_id.to_string()));
        assert_eq!(delivery.properties.timestamp, u64::try_from(stored.timestamp_s).ok());
    };
    same(&reply, true);
    same(&event, false);
    assert_eq!(world.journal().await.iter().filter(|row| row.id == id).count(), 1);
    world.finish().await;
}

async fn remove_events_exchange(world: &World) {
    if world.database_url.is_none() {
        world.machine.transport.remove_exchange(topology::EVENTS);
        return;
    }
    let connection =
        lapin::Connection::connect(&amqp_url(), lapin::ConnectionProperties::default()).await.expect("RabbitMQ");
    let channel = connection.create_channel().await.expect("a channel");
    channel.exchange_delete(topology::EVENTS.into(), Default::default()).await.expect("the exchange goes");
    connection.close(200, "done".into()).await.expect("a goodbye");
    let gone = Topology { queues: Vec::new(), bindings: Vec::new(), ..topology() };
    assert_eq!(world.machine.transport.missing(&gone).await.expect("the broker answers"), ["exchange licet.events"]);
}

//! Tests bindings by publishing, because AMQP cannot list them.
//!
//! A probe is an empty message with the header [`topology::HEADER_PROBE`] and the `mandatory` flag.
//! If no queue is bound, the broker returns it. Otherwise, a worker receives it and acknowledges it
//! without an answer. An empty message can be no request, so no request is lost.

use std::time::Duration;

use bytes::Bytes;
use licet_schema::topology::{self, Binding, ExchangeKind, Topology};
use uuid::Uuid;

use crate::transport::{Delivery, Lost, Outcome, Outgoing, Properties, Transport};

/// The maximum time in which the broker must respond to all probes.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// Whether a delivery is a probe.
pub(super) fn is_probe(delivery: &Delivery) -> bool {
    delivery.body.is_empty() && delivery.properties.headers.contains_key(topology::HEADER_PROBE)
}

/// The bindings of `topology` whose messages reach no queue. The exchanges must exist. A binding
/// counts as present if any queue receives its messages, also one that is not in `topology`.
///
/// # Errors
/// The broker is unavailable, or it does not respond in time.
pub async fn unrouted(transport: &Transport, topology: &Topology) -> Result<Vec<Binding>, Lost> {
    let probes: Vec<_> = topology.bindings.iter().map(|binding| probe(topology, binding)).collect();
    let publisher = transport.publisher().await?;
    let outcomes = publisher.publish(&probes, TIME_LIMIT).await?;
    publisher.close().await;
    if outcomes.contains(&Outcome::Unconfirmed) {
        return Err(Lost("it did not respond to a message in time".into()));
    }
    let outcomes = topology.bindings.iter().zip(outcomes);
    // A queue that refuses a message exists and is bound.
    Ok(outcomes.filter(|(_, outcome)| *outcome == Outcome::Returned).map(|(binding, _)| binding.clone()).collect())
}

fn probe(topology: &Topology, binding: &Binding) -> Outgoing {
    let exchange = topology.exchanges.iter().find(|exchange| exchange.name == binding.exchange);
    let is_fanout = exchange.is_some_and(|exchange| exchange.kind == ExchangeKind::Fanout);
    // A wait queue sends its messages to the work queue that their routing key names.
    let work = topology.bindings.iter().find(|binding| binding.exchange == topology::RETRY);
    let routing_key = work.filter(|_| is_fanout).unwrap_or(binding).key.clone();
    Outgoing {
        exchange: binding.exchange.clone(),
        routing_key,
        mandatory: true,
        properties: Properties {
            message_id: Some(Uuid::new_v4().to_string()),
            app_id: Some(topology::APP_ID.to_owned()),
            headers: [(topology::HEADER_PROBE.to_owned(), binding.queue.clone())].into(),
            ..Properties::default()
        },
        body: Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use licet_schema::topology::{WAITS, WorkerQueue, topology};

    use super::*;

    #[tokio::test]
    async fn a_missing_binding_is_found_and_a_probe_reaches_the_queue_of_each_other_binding() {
        let transport = Transport::memory();
        let complete = topology(&[WorkerQueue { name: "first", handles: &["work.due", "work.done"] }]);
        let mut applied = complete.clone();
        applied.bindings.retain(|binding| binding.key != "work.done");
        transport.apply(&applied).await.expect("the in-process broker accepts any topology");
        let missing = unrouted(&transport, &complete).await.expect("the broker answers");
        assert_eq!(
            missing.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["binding of licet.first to licet.in by work.done"]
        );

        let mut consumer = transport.consume("licet.first", 10).await.expect("the queue");
        let probes = consumer.receive(10, usize::MAX).await.expect("deliveries");
        assert_eq!(probes.len(), 2, "through licet.in and licet.retry");
        assert!(probes.iter().all(is_probe));
        for wait in WAITS {
            let mut consumer = transport.consume(&wait.queue(), 10).await.expect("the queue");
            let probes = consumer.receive(10, usize::MAX).await.expect("deliveries");
            assert_eq!(probes[0].routing_key, "licet.first", "the probe returns to a work queue");
        }
        let real = Delivery { body: Bytes::from_static(b"{}"), ..probes[0].clone() };
        assert!(!is_probe(&real), "a message with a body is never dropped");
    }
}

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

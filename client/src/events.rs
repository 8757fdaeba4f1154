//! What Licet tells everybody.

use std::collections::VecDeque;

use licet_common::transport::{Consumer, Delivery, Lost, Transport};
use licet_schema::{Format, Output, topology};

/// Events as they come, from the moment of subscribing. What happens while nobody listens is not
/// told again: a system that must not miss any binds a durable queue of its own.
#[derive(Debug)]
pub struct Events {
    consumer: Consumer,
    at_hand: VecDeque<Delivery>,
}

impl Events {
    /// Listens to these types; patterns of a topic exchange work too.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn subscribe(transport: &Transport, kinds: &[&str]) -> Result<Self, Lost> {
        let bindings: Vec<_> = kinds.iter().map(|kind| (topology::EVENTS, *kind)).collect();
        let (_, consumer) = transport.subscribe(&bindings).await?;
        Ok(Self { consumer, at_hand: VecDeque::new() })
    }

    /// The next event. Those of types that this release does not know are passed over.
    ///
    /// # Errors
    /// The connection is gone: subscribe again.
    pub async fn next(&mut self) -> Result<Output, Lost> {
        loop {
            while let Some(delivery) = self.at_hand.pop_front() {
                let kind = delivery.properties.kind.as_deref().unwrap_or_default();
                if let Ok(event) = Output::decode(kind, Format::Json, &delivery.body) {
                    return Ok(event);
                }
            }
            self.at_hand.extend(self.consumer.receive(256, usize::MAX).await?);
        }
    }
}

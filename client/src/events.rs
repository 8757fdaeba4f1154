//! [`Events`]: a subscription to the events that Licet publishes.

use std::collections::VecDeque;

use licet_common::transport::{Consumer, Delivery, Lost, Transport};
use licet_schema::{Output, topology};

use crate::ask::decode;

/// A subscription, which receives events from the moment of subscribing. Events that are published
/// while it does not exist are lost. A system that needs every event binds its own durable queue to
/// `licet.events`.
#[derive(Debug)]
pub struct Events {
    consumer: Consumer,
    received: VecDeque<Delivery>,
}

impl Events {
    /// Subscribes to these event types. Patterns of a topic exchange are allowed.
    ///
    /// # Errors
    /// The broker is unavailable.
    pub async fn subscribe(transport: &Transport, kinds: &[&str]) -> Result<Self, Lost> {
        let bindings: Vec<_> = kinds.iter().map(|kind| (topology::EVENTS, *kind)).collect();
        let (_, consumer) = transport.subscribe(&bindings).await?;
        Ok(Self { consumer, received: VecDeque::new() })
    }

    /// Returns the next event. Events that this release cannot decode are skipped. Their type or
    /// one of their fields was added in a later release.
    ///
    /// # Errors
    /// The connection is lost. Subscribe again.
    pub async fn next(&mut self) -> Result<Output, Lost> {
        loop {
            while let Some(delivery) = self.received.pop_front() {
                if let Ok(event) = decode(&delivery) {
                    return Ok(event);
                }
            }
            self.received.extend(self.consumer.receive(256, usize::MAX).await?);
        }
    }
}

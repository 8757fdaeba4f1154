//! Messages in and out: one handle over RabbitMQ and over an in-process broker with the same
//! delivery contract (at least once, redelivery, confirms, returns, dead letters).
//!
//! A transport holds no connection. A [`Consumer`] and a [`Publisher`] each have one of their own:
//! a broker that is short of memory stops reading from connections that publish, and the
//! acknowledgements must still get through. When either reports [`Lost`], both are thrown away
//! with all that they hold, and new ones are made; nothing is ever resumed.
//!
//! Architecture invariant: nothing here knows a message type or a worker.

use std::{borrow::Borrow, collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use licet_schema::topology::Topology;
use secrecy::SecretString;

use crate::gate::Gate;

mod memory;
mod rabbit;

/// The most bytes of bodies that a consumer holds before somebody takes them, unless it is one body.
pub const PREFETCHED_BYTES_MAX: usize = 4 << 20;

/// A broker, by address or in this process.
#[derive(Clone, Debug)]
pub struct Transport(Backend);

#[derive(Clone, Debug)]
enum Backend {
    Memory(memory::Broker),
    Rabbit(rabbit::Address),
}

/// The connection is gone, or cannot be made: begin again with a new one.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the broker is away: {0}")]
pub struct Lost(pub String);

/// Why a broker cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransportError {
    /// It does not answer.
    #[error("the broker at {address} cannot be reached: {cause}. Check LICET_AMQP_URL, and that it runs")]
    Unreachable {
        /// Its URL without user and password.
        address: String,
        /// What was said.
        cause: String,
    },
    /// It has something of that name with other properties.
    #[error(
        "the broker has {what}, but not as this release needs it: {cause}. Move its messages away, delete it and run `licet topology apply`"
    )]
    Different {
        /// The exchange or queue.
        what: String,
        /// What was said.
        cause: String,
    },
    /// The URL cannot be read.
    #[error("LICET_AMQP_URL is not an AMQP URL: {0}")]
    Url(String),
}

impl From<TransportError> for Lost {
    fn from(error: TransportError) -> Self {
        Self(error.to_string())
    }
}

/// Properties of a message, as far as Licet reads or writes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// `message_id`
    pub message_id: Option<String>,
    /// `type`
    pub kind: Option<String>,
    /// `content_type`
    pub content_type: Option<String>,
    /// `reply_to`
    pub reply_to: Option<String>,
    /// `correlation_id`
    pub correlation_id: Option<String>,
    /// `user_id`, which RabbitMQ has validated
    pub user_id: Option<String>,
    /// `app_id`
    pub app_id: Option<String>,
    /// `timestamp`, in seconds since 1970
    pub timestamp: Option<u64>,
    /// Headers with a text for a value; others are passed over.
    pub headers: BTreeMap<String, String>,
}

/// A message that arrived and waits for its acknowledgement.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its place in the order of deliveries of its consumer.
    pub tag: u64,
    /// The exchange it was published to.
    pub exchange: String,
    /// The routing key it was published with.
    pub routing_key: String,
    /// How often it was delivered before (`x-delivery-count`).
    pub redeliveries: u32,
    /// Its properties.
    pub properties: Properties,
    /// How it left the queue before this one, if the broker itself moved it here.
    pub death: Option<Death>,
    /// Its body.
    pub body: Bytes,
}

/// What the broker says of a message that it has moved itself (the newest entry of `x-death`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// Why: `delivery_limit`, `rejected`, `expired` or `maxlen`.
    pub reason: String,
    /// The exchange through which it had come into that queue.
    pub exchange: String,
    /// The routing key with which it had come there.
    pub routing_key: String,
    /// When, in seconds since 1970.
    pub at_s: Option<u64>,
}

/// A message to be published.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The exchange; empty for the default one.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// Whether it is returned if no queue takes it.
    pub mandatory: bool,
    /// Its properties.
    pub properties: Properties,
    /// Its body.
    pub body: Bytes,
}

/// What the broker said of a published message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has it.
    Confirmed,
    /// No queue takes it.
    Returned,
    /// A queue is full, or could not store it.
    Refused,
    /// It said nothing in time.
    Unconfirmed,
}

impl Transport {
    /// A broker in this process, empty.
    pub fn memory() -> Self {
        Self(Backend::Memory(memory::Broker::default()))
    }

    /// A broker in this process whose wait queues let messages go only by [`Transport::expire`].
    pub fn simulated() -> Self {
        Self(Backend::Memory(memory::Broker::with_held_waits()))
    }

    /// The same broker in this process, for a worker whose calls this gate decides; a RabbitMQ
    /// knows no gates.
    #[must_use]
    pub fn gated(&self, gate: Arc<dyn Gate>) -> Self {
        match &self.0 {
            Backend::Memory(broker) => Self(Backend::Memory(broker.gated(gate))),
            Backend::Rabbit(_) => self.clone(),
        }
    }

    /// Lets the first message of a simulated wait queue go where it is to go.
    pub fn expire(&self, queue: &str) {
        if let Backend::Memory(broker) = &self.0 {
            broker.expire(queue);
        }
    }

    /// Puts the first message of a queue of the broker in this process behind the others.
    pub fn postpone(&self, queue: &str) {
        if let Backend::Memory(broker) = &self.0 {
            broker.postpone(queue);
        }
    }

    /// The RabbitMQ at `url`. Nothing is connected yet.
    ///
    /// # Errors
    /// The URL cannot be read.
    pub fn rabbit(url: &SecretString) -> Result<Self, TransportError> {
        rabbit::Address::new(url).map(|address| Self(Backend::Rabbit(address)))
    }

    /// The broker's name for whoever publishes here, as far as it is known.
    pub fn user(&self) -> Option<&str> {
        match &self.0 {
            Backend::Memory(_) => None,
            Backend::Rabbit(address) => address.user(),
        }
    }

    /// Declares exchanges, queues and bindings. What is there already stays.
    ///
    /// # Errors
    /// The broker cannot be reached, or has one of them with other properties.
    pub async fn apply(&self, topology: &Topology) -> Result<(), TransportError> {
        match &self.0 {
            Backend::Memory(broker) => {
                broker.apply(topology);
                Ok(())
            }
            Backend::Rabbit(address) => address.apply(topology).await,
        }
    }

    /// The exchanges and queues of `topology` that are not there.
    ///
    /// # Errors
    /// The broker cannot be reached.
    pub async fn missing(&self, topology: &Topology) -> Result<Vec<String>, TransportError> {
        match &self.0 {
            Backend::Memory(broker) => Ok(broker.missing(topology)),
            Backend::Rabbit(address) => address.missing(topology).await,
        }
    }

    /// Begins to consume `queue`, with at most `prefetch` deliveries unacknowledged.
    ///
    /// # Errors
    /// The broker is away, or the queue is not there.
    pub async fn consume(&self, queue: &str, prefetch: u16) -> Result<Consumer, Lost> {
        Ok(Consumer(match &self.0 {
            Backend::Memory(broker) => ConsumerBackend::Memory(broker.consume(queue).await?),
            Backend::Rabbit(address) => ConsumerBackend::Rabbit(Box::new(address.consume(queue, prefetch).await?)),
        }))
    }

    /// Begins to look through `queue` from its head.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn browse(&self, queue: &str) -> Result<Browser, Lost> {
        Ok(Browser(match &self.0 {
            Backend::Memory(broker) => BrowserBackend::Memory(broker.consume(queue).await?),
            Backend::Rabbit(address) => BrowserBackend::Rabbit(Box::new(address.browse(queue).await?)),
        }))
    }

    /// A temporary queue that goes away with its consumer, bound to `bindings` (exchange, key):
    /// its name, and its consumer, which needs no acknowledgements.
    ///
    /// # Errors
    /// The broker is away, or an exchange is not there.
    pub async fn subscribe(&self, bindings: &[(&str, &str)]) -> Result<(String, Consumer), Lost> {
        match &self.0 {
            Backend::Memory(broker) => {
                let (name, consumer) = broker.subscribe(bindings)?;
                Ok((name, Consumer(ConsumerBackend::Memory(consumer))))
            }
            Backend::Rabbit(address) => {
                let (name, consumer) = address.subscribe(bindings).await?;
                Ok((name, Consumer(ConsumerBackend::Rabbit(Box::new(consumer)))))
            }
        }
    }

    /// Begins to publish.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn publisher(&self) -> Result<Publisher, Lost> {
        Ok(Publisher(match &self.0 {
            Backend::Memory(broker) => PublisherBackend::Memory(broker.connect().await?),
            Backend::Rabbit(address) => PublisherBackend::Rabbit(address.publisher().await?),
        }))
    }

    /// Takes an exchange of the broker in this process away, as a fault; does nothing to others.
    pub fn remove_exchange(&self, name: &str) {
        if let Backend::Memory(broker) = &self.0 {
            broker.remove_exchange(name);
        }
    }

    /// How many messages wait in `queue`.
    ///
    /// # Errors
    /// The broker is away, or the queue is not there.
    pub async fn depth(&self, queue: &str) -> Result<u32, Lost> {
        match &self.0 {
            Backend::Memory(broker) => broker.depth(queue),
            Backend::Rabbit(address) => address.depth(queue).await,
        }
    }

    /// How many consumers take from `queue`.
    ///
    /// # Errors
    /// The broker is away, or the queue is not there.
    pub async fn consumers(&self, queue: &str) -> Result<u32, Lost> {
        match &self.0 {
            Backend::Memory(broker) => broker.consumers(queue),
            Backend::Rabbit(address) => address.consumers(queue).await,
        }
    }
}

/// Deliveries from one queue, over a connection of its own. What is not acknowledged when it is
/// dropped is delivered again.
#[derive(Debug)]
pub struct Consumer(ConsumerBackend);

#[derive(Debug)]
enum ConsumerBackend {
    Memory(memory::Consumer),
    Rabbit(Box<rabbit::Consumer>),
}

impl Consumer {
    /// What is there, up to `most` deliveries and about `most_bytes` of bodies; waits only while
    /// there is nothing. Cancelling the wait loses nothing.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn receive(&mut self, most: usize, most_bytes: usize) -> Result<Vec<Delivery>, Lost> {
        match &mut self.0 {
            ConsumerBackend::Memory(consumer) => consumer.receive(most, most_bytes).await,
            ConsumerBackend::Rabbit(consumer) => consumer.receive(most, most_bytes).await,
        }
    }

    /// Acknowledges every delivery up to and including `tag`. All of them must be settled.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn ack_through(&self, tag: u64) -> Result<(), Lost> {
        match &self.0 {
            ConsumerBackend::Memory(consumer) => consumer.ack_through(tag).await,
            ConsumerBackend::Rabbit(consumer) => consumer.ack_through(tag).await,
        }
    }

    /// Has the broker itself move a delivery to its queue's dead letters: no copy is made here.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn reject(&self, tag: u64) -> Result<(), Lost> {
        match &self.0 {
            ConsumerBackend::Memory(consumer) => {
                consumer.reject(tag);
                Ok(())
            }
            ConsumerBackend::Rabbit(consumer) => consumer.reject(tag).await,
        }
    }

    /// Whether the deliveries ended because more bodies waited than memory is for: the bytes of the
    /// largest. Close it and consume again, with a smaller prefetch.
    pub fn flooded(&self) -> Option<usize> {
        match &self.0 {
            ConsumerBackend::Memory(_) => None,
            ConsumerBackend::Rabbit(consumer) => consumer.flooded(),
        }
    }

    /// Asks for no more deliveries. What is at hand still comes out of [`Consumer::receive`],
    /// and then nothing, which is an empty answer.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn stop(&mut self) -> Result<(), Lost> {
        match &mut self.0 {
            ConsumerBackend::Memory(consumer) => {
                consumer.stop();
                Ok(())
            }
            ConsumerBackend::Rabbit(consumer) => consumer.stop().await,
        }
    }

    /// Gives back what is unacknowledged and closes the connection.
    pub async fn close(self) {
        match self.0 {
            ConsumerBackend::Memory(consumer) => drop(consumer),
            ConsumerBackend::Rabbit(consumer) => consumer.close().await,
        }
    }
}

/// Looks through a queue, one message at a time, over a connection of its own. What was looked at
/// and not acknowledged is out of everybody else's sight until the browser is closed; then it is back
/// in the queue, before what was never looked at, in its old order, with one delivery more to its
/// count. (A browser that is dropped, or loses its connection, gives it back in any order.) The
/// broker keeps track of it meanwhile; here only the message at hand is held.
#[derive(Debug)]
pub struct Browser(BrowserBackend);

#[derive(Debug)]
enum BrowserBackend {
    Memory(memory::Consumer),
    Rabbit(Box<rabbit::Browser>),
}

impl Browser {
    /// The next message; none at the end of the queue.
    ///
    /// # Errors
    /// The connection is gone, or the queue is not there.
    pub async fn next(&mut self) -> Result<Option<Delivery>, Lost> {
        match &mut self.0 {
            BrowserBackend::Memory(consumer) => consumer.next(),
            BrowserBackend::Rabbit(browser) => browser.next().await,
        }
    }

    /// Takes this one message out of the queue.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn ack(&mut self, tag: u64) -> Result<(), Lost> {
        match &mut self.0 {
            BrowserBackend::Memory(consumer) => {
                consumer.ack(tag);
                Ok(())
            }
            BrowserBackend::Rabbit(browser) => browser.ack(tag).await,
        }
    }

    /// Puts back what was looked at, and closes the connection.
    pub async fn close(self) {
        match self.0 {
            BrowserBackend::Memory(consumer) => drop(consumer),
            BrowserBackend::Rabbit(browser) => browser.close().await,
        }
    }
}

/// Publishes with confirms, over a connection of its own.
#[derive(Clone, Debug)]
pub struct Publisher(PublisherBackend);

#[derive(Clone, Debug)]
enum PublisherBackend {
    Memory(memory::Broker),
    Rabbit(rabbit::Publisher),
}

impl Publisher {
    /// Publishes all and waits until the broker has answered for each, or `patience` is over:
    /// what it said, in their order.
    ///
    /// # Errors
    /// The connection is gone; any of them may have arrived.
    pub async fn publish<M: Borrow<Outgoing> + Sync>(
        &self,
        messages: &[M],
        patience: Duration,
    ) -> Result<Vec<Outcome>, Lost> {
        match &self.0 {
            PublisherBackend::Memory(broker) => {
                let mut outcomes = Vec::with_capacity(messages.len());
                for message in messages {
                    outcomes.push(broker.publish(message.borrow()).await?);
                }
                Ok(outcomes)
            }
            PublisherBackend::Rabbit(publisher) => publisher.publish(messages, patience).await,
        }
    }

    /// Closes the connection.
    pub async fn close(self) {
        if let PublisherBackend::Rabbit(publisher) = self.0 {
            publisher.close().await;
        }
    }
}

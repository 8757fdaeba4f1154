//! Sends and receives messages through one interface to RabbitMQ and to an in-process broker. Both
//! provide the same delivery guarantees (at-least-once delivery, redelivery, confirms, returns,
//! dead letters).
//!
//! Inputs: a topology to declare, a queue to consume, messages to publish ([`Outgoing`]). Outputs:
//! deliveries ([`Delivery`]) and the broker's response to each published message ([`Outcome`]).
//!
//! A [`Transport`] has no connection. Each [`Consumer`] and each [`Publisher`] has its own
//! connection, because a broker that is short of memory stops reading from connections that
//! publish, and acknowledgements must still reach it. After [`Lost`], the caller drops the consumer
//! or publisher and creates a new one. Nothing is resumed.
//!
//! Deliberately absent: any knowledge of message types and workers.

#[cfg(feature = "simulation")]
use std::sync::Arc;
use std::{borrow::Borrow, collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use licet_schema::topology::Topology;
use secrecy::SecretString;

use crate::address::AddressError;
#[cfg(feature = "simulation")]
use crate::fault_injection::FaultInjector;

mod memory;
mod rabbit;

/// The maximum total size of the bodies that a consumer buffers, in bytes. A single body may exceed
/// it.
pub const PREFETCHED_BYTES_MAX: usize = 4 << 20;

/// A broker: RabbitMQ at an address, or one in this process.
#[derive(Clone, Debug)]
pub struct Transport(Backend);

#[derive(Clone, Debug)]
enum Backend {
    Memory(memory::Broker),
    Rabbit(rabbit::Address),
}

/// The connection was lost or cannot be established. Create a new consumer or publisher.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Lost {
    /// The broker does not respond, or ended the connection.
    #[error("the broker is unavailable: {0}")]
    Unavailable(String),
    /// The broker responds and refuses. The text says what to check.
    #[error("{0}")]
    Refused(String),
}

/// The reason a broker cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransportError {
    /// The broker cannot be reached.
    #[error(
        "the broker at {address} cannot be reached: {reason}. Check LICET_AMQP_URL, and that the broker is running"
    )]
    Unreachable {
        /// The host, port and virtual host, without user and password.
        address: String,
        /// What failed.
        reason: String,
        /// The client library's error. `None` if the broker did not respond in time.
        source: Option<Box<lapin::Error>>,
    },
    /// The broker responds and refuses the user, the virtual host, or an operation.
    #[error(
        "the broker at {address} refused: {reason}. Check the user, the password and the virtual host in \
         LICET_AMQP_URL, and the permissions of the user"
    )]
    Refused {
        /// The host, port and virtual host, without user and password.
        address: String,
        /// The broker's reason.
        reason: String,
    },
    /// An exchange or queue exists, but its properties differ from those that this release
    /// declares.
    #[error(
        "{name} exists on the broker with different properties than this release requires: {source}. \
         Move its messages to another queue, delete it and run `licet topology apply`"
    )]
    Mismatch {
        /// The name of the exchange or queue.
        name: String,
        /// The broker's error.
        source: Box<lapin::Error>,
    },
    /// The address is not valid.
    #[error("LICET_AMQP_URL cannot be used: {0}")]
    Address(#[from] AddressError),
}

impl From<TransportError> for Lost {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Refused { .. } => Self::Refused(error.to_string()),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

/// The properties of a message that Licet reads or writes.
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
    /// `user_id`: the publisher's broker user, which RabbitMQ has validated.
    pub user_id: Option<String>,
    /// `app_id`
    pub app_id: Option<String>,
    /// `timestamp`, in Unix seconds
    pub timestamp: Option<u64>,
    /// The headers whose value is text. Other headers are ignored.
    pub headers: BTreeMap<String, String>,
}

/// A message that was received and is not acknowledged yet.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The delivery tag: increases with each delivery to the same consumer.
    pub tag: u64,
    /// The exchange that the message was published to.
    pub exchange: String,
    /// The routing key that the message was published with.
    pub routing_key: String,
    /// How often the message was delivered before (`x-delivery-count`).
    pub redeliveries: u32,
    /// The properties.
    pub properties: Properties,
    /// Why the message left its previous queue, if the broker itself moved it to this one.
    pub death: Option<Death>,
    /// The body.
    pub body: Bytes,
}

/// The newest entry of the header `x-death`, which the broker adds to a message that it
/// dead-letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// The reason: `delivery_limit`, `rejected`, `expired` or `maxlen`.
    pub reason: String,
    /// The exchange that the message was published to before it entered the previous queue.
    pub exchange: String,
    /// The routing key that the message had in the previous queue.
    pub routing_key: String,
    /// When the broker moved the message, in Unix seconds.
    pub at_s: Option<u64>,
}

/// A message to be published.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The exchange. Empty for the default exchange.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// Whether the broker returns the message if it routes to no queue.
    pub mandatory: bool,
    /// The properties.
    pub properties: Properties,
    /// The body.
    pub body: Bytes,
}

/// The broker's response to a published message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The broker stored the message, or it is not mandatory and routes to no queue.
    Confirmed,
    /// The message is mandatory and routes to no queue.
    Returned,
    /// A queue is full or could not store the message.
    Refused,
    /// The broker did not respond in time. The message may have arrived.
    Unconfirmed,
}

impl Transport {
    /// An empty broker in this process.
    pub fn memory() -> Self {
        Self(Backend::Memory(memory::Broker::default()))
    }

    /// An in-process broker whose wait queues release a message only when [`Transport::expire`] is
    /// called.
    #[cfg(feature = "simulation")]
    pub fn simulated() -> Self {
        Self(Backend::Memory(memory::Broker::with_manual_expiry()))
    }

    /// The same in-process broker, for a worker whose faults are decided by `injector`. This has no
    /// effect on RabbitMQ.
    #[cfg(feature = "simulation")]
    #[must_use]
    pub fn with_faults(&self, injector: Arc<dyn FaultInjector>) -> Self {
        match &self.0 {
            Backend::Memory(broker) => Self(Backend::Memory(broker.with_faults(injector))),
            Backend::Rabbit(_) => self.clone(),
        }
    }

    /// Releases the first message of a simulated wait queue.
    #[cfg(feature = "simulation")]
    pub fn expire(&self, queue: &str) {
        if let Backend::Memory(broker) = &self.0 {
            broker.expire(queue);
        }
    }

    /// Moves the first message of a queue of the in-process broker to the end of the queue.
    #[cfg(feature = "simulation")]
    pub fn postpone(&self, queue: &str) {
        if let Backend::Memory(broker) = &self.0 {
            broker.postpone(queue);
        }
    }

    /// The RabbitMQ broker at `url`. This does not connect yet.
    ///
    /// # Errors
    /// The URL is not valid.
    pub fn rabbit(url: &SecretString) -> Result<Self, TransportError> {
        rabbit::Address::new(url).map(|address| Self(Backend::Rabbit(address)))
    }

    /// The broker user that this transport publishes as, if known.
    pub fn user(&self) -> Option<&str> {
        match &self.0 {
            Backend::Memory(_) => None,
            Backend::Rabbit(address) => address.user(),
        }
    }

    /// Declares exchanges, queues and bindings, and removes obsolete bindings. Other existing
    /// exchanges, queues and bindings are not changed.
    ///
    /// # Errors
    /// The broker cannot be reached, or an exchange or queue exists with different properties.
    pub fn apply<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<(), TransportError>> {
        Box::pin(async move {
            match &self.0 {
                Backend::Memory(broker) => {
                    broker.apply(topology);
                    Ok(())
                }
                Backend::Rabbit(address) => address.apply(topology).await,
            }
        })
    }

    /// The exchanges and queues of `topology` that do not exist.
    ///
    /// # Errors
    /// The broker cannot be reached.
    pub fn missing<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<Vec<String>, TransportError>> {
        Box::pin(async move {
            match &self.0 {
                Backend::Memory(broker) => Ok(broker.missing(topology)),
                Backend::Rabbit(address) => address.missing(topology).await,
            }
        })
    }

    /// Starts to consume `queue`, with at most `prefetch` unacknowledged deliveries.
    ///
    /// # Errors
    /// The broker is unavailable, or the queue does not exist.
    pub fn consume<'a>(&'a self, queue: &'a str, prefetch: u16) -> BoxFuture<'a, Result<Consumer, Lost>> {
        Box::pin(async move {
            Ok(Consumer(match &self.0 {
                Backend::Memory(broker) => ConsumerBackend::Memory(broker.consume(queue).await?),
                Backend::Rabbit(address) => ConsumerBackend::Rabbit(Box::new(address.consume(queue, prefetch).await?)),
            }))
        })
    }

    /// Starts to browse `queue` from its head.
    ///
    /// # Errors
    /// The broker is unavailable.
    pub fn browse<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Browser, Lost>> {
        Box::pin(async move {
            Ok(Browser(match &self.0 {
                Backend::Memory(broker) => BrowserBackend::Memory(broker.consume(queue).await?),
                Backend::Rabbit(address) => BrowserBackend::Rabbit(Box::new(address.browse(queue).await?)),
            }))
        })
    }

    /// Creates a temporary queue with `bindings` (exchange, key), and consumes it. Returns its name
    /// and its consumer. Deliveries need no acknowledgement, and the queue is deleted with its
    /// consumer.
    ///
    /// # Errors
    /// The broker is unavailable, or an exchange does not exist.
    pub fn subscribe<'a>(
        &'a self,
        bindings: &'a [(&'a str, &'a str)],
    ) -> BoxFuture<'a, Result<(String, Consumer), Lost>> {
        Box::pin(async move {
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
        })
    }

    /// Opens a connection for publishing.
    ///
    /// # Errors
    /// The broker is unavailable.
    pub fn publisher(&self) -> BoxFuture<'_, Result<Publisher, Lost>> {
        Box::pin(async move {
            Ok(Publisher(match &self.0 {
                Backend::Memory(broker) => PublisherBackend::Memory(broker.connect().await?),
                Backend::Rabbit(address) => PublisherBackend::Rabbit(address.publisher().await?),
            }))
        })
    }

    /// Removes a queue of the in-process broker with its messages and bindings, as an injected
    /// fault. This has no effect on RabbitMQ.
    #[cfg(feature = "simulation")]
    pub fn remove_queue(&self, name: &str) {
        if let Backend::Memory(broker) = &self.0 {
            broker.remove_queue(name);
        }
    }

    /// Removes an exchange of the in-process broker, as an injected fault. This has no effect on
    /// RabbitMQ.
    #[cfg(feature = "simulation")]
    pub fn remove_exchange(&self, name: &str) {
        if let Backend::Memory(broker) = &self.0 {
            broker.remove_exchange(name);
        }
    }

    /// The number of messages in `queue` that are ready for delivery.
    ///
    /// # Errors
    /// The broker is unavailable, or the queue does not exist.
    pub fn depth<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<u32, Lost>> {
        Box::pin(async move {
            match &self.0 {
                Backend::Memory(broker) => broker.depth(queue),
                Backend::Rabbit(address) => address.depth(queue).await,
            }
        })
    }

    /// The number of consumers of `queue`.
    ///
    /// # Errors
    /// The broker is unavailable, or the queue does not exist.
    pub fn consumers<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<u32, Lost>> {
        Box::pin(async move {
            match &self.0 {
                Backend::Memory(broker) => broker.consumers(queue),
                Backend::Rabbit(address) => address.consumers(queue).await,
            }
        })
    }
}

/// Receives the deliveries of one queue over its own connection. Deliveries that are not
/// acknowledged when the consumer is dropped are delivered again.
#[derive(Debug)]
pub struct Consumer(ConsumerBackend);

#[derive(Debug)]
enum ConsumerBackend {
    Memory(memory::Consumer),
    Rabbit(Box<rabbit::Consumer>),
}

impl Consumer {
    /// Returns the deliveries that have arrived, and waits only if there are none. Returns at most
    /// `max` deliveries, and adds no more once their bodies have `max_bytes` bytes or more. If this
    /// future is cancelled, no delivery is lost. After [`Consumer::stop`], an empty result means
    /// that there are no more deliveries.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn receive(&mut self, max: usize, max_bytes: usize) -> Result<Vec<Delivery>, Lost> {
        match &mut self.0 {
            ConsumerBackend::Memory(consumer) => consumer.receive(max, max_bytes).await,
            ConsumerBackend::Rabbit(consumer) => consumer.receive(max, max_bytes).await,
        }
    }

    /// Acknowledges every delivery up to and including `tag`. All of them must be settled.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn ack_through(&self, tag: u64) -> Result<(), Lost> {
        match &self.0 {
            ConsumerBackend::Memory(consumer) => consumer.ack_through(tag).await,
            ConsumerBackend::Rabbit(consumer) => consumer.ack_through(tag).await,
        }
    }

    /// Rejects a delivery, so that the broker moves it to the queue's dead letters.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn reject(&self, tag: u64) -> Result<(), Lost> {
        match &self.0 {
            ConsumerBackend::Memory(consumer) => {
                consumer.reject(tag);
                Ok(())
            }
            ConsumerBackend::Rabbit(consumer) => consumer.reject(tag).await,
        }
    }

    /// The size of the largest body in bytes, if the deliveries ended because the buffered bodies
    /// exceeded [`PREFETCHED_BYTES_MAX`]. Close this consumer and start another with a smaller
    /// prefetch.
    pub fn overfilled(&self) -> Option<usize> {
        match &self.0 {
            ConsumerBackend::Memory(_) => None,
            ConsumerBackend::Rabbit(consumer) => consumer.overfilled(),
        }
    }

    /// Stops consuming. [`Consumer::receive`] still returns the deliveries that have arrived, and
    /// then an empty result.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn stop(&mut self) -> Result<(), Lost> {
        match &mut self.0 {
            ConsumerBackend::Memory(consumer) => {
                consumer.stop();
                Ok(())
            }
            ConsumerBackend::Rabbit(consumer) => consumer.stop().await,
        }
    }

    /// Closes the connection. The broker requeues the unacknowledged deliveries.
    pub async fn close(self) {
        match self.0 {
            ConsumerBackend::Memory(consumer) => drop(consumer),
            ConsumerBackend::Rabbit(consumer) => consumer.close().await,
        }
    }
}

/// Reads a queue from its head, one message at a time, over its own connection.
///
/// Until the browser is closed, other consumers do not see the messages that it has read. Closing
/// it returns the unacknowledged messages to the head of the queue, in their original order. Some
/// versions of RabbitMQ also increase their delivery counts. If the browser is dropped or loses its
/// connection instead, the order is undefined. This process has only one message at a time in
/// memory.
#[derive(Debug)]
pub struct Browser(BrowserBackend);

#[derive(Debug)]
enum BrowserBackend {
    Memory(memory::Consumer),
    Rabbit(Box<rabbit::Browser>),
}

impl Browser {
    /// The next message. `None` at the end of the queue.
    ///
    /// # Errors
    /// The connection is lost, or the queue does not exist.
    pub async fn next(&mut self) -> Result<Option<Delivery>, Lost> {
        match &mut self.0 {
            BrowserBackend::Memory(consumer) => consumer.next(),
            BrowserBackend::Rabbit(browser) => browser.next().await,
        }
    }

    /// Acknowledges one message, which removes it from the queue.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn ack(&mut self, tag: u64) -> Result<(), Lost> {
        match &mut self.0 {
            BrowserBackend::Memory(consumer) => {
                consumer.ack(tag);
                Ok(())
            }
            BrowserBackend::Rabbit(browser) => browser.ack(tag).await,
        }
    }

    /// Requeues the messages that were not acknowledged, and closes the connection.
    pub async fn close(self) {
        match self.0 {
            BrowserBackend::Memory(consumer) => drop(consumer),
            BrowserBackend::Rabbit(browser) => browser.close().await,
        }
    }
}

/// Publishes with confirms over its own connection. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Publisher(PublisherBackend);

#[derive(Clone, Debug)]
enum PublisherBackend {
    Memory(memory::Broker),
    Rabbit(rabbit::Publisher),
}

impl Publisher {
    /// Publishes messages and waits until the broker has responded to each, at most for
    /// `time_limit`. Returns the outcome of each message, in the same order.
    ///
    /// # Errors
    /// The connection is lost. Any of the messages may have arrived.
    pub async fn publish<M: Borrow<Outgoing> + Sync>(
        &self,
        messages: &[M],
        time_limit: Duration,
    ) -> Result<Vec<Outcome>, Lost> {
        match &self.0 {
            PublisherBackend::Memory(broker) => {
                let mut outcomes = Vec::with_capacity(messages.len());
                for message in messages {
                    outcomes.push(broker.publish(message.borrow()).await?);
                }
                Ok(outcomes)
            }
            PublisherBackend::Rabbit(publisher) => publisher.publish(messages, time_limit).await,
        }
    }

    /// Closes the connection.
    pub async fn close(self) {
        if let PublisherBackend::Rabbit(publisher) = self.0 {
            publisher.close().await;
        }
    }
}

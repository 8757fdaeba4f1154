//! The transport over RabbitMQ, with the client library lapin.
//!
//! lapin's own recovery is disabled, because an acknowledgement must never contain a delivery tag
//! of another connection. After a connection is lost, none of its parts is used again.
//!
//! Every call to the broker has a timeout. Waiting for deliveries and publishing guaranteed outputs
//! again have no overall timeout, but each of their steps has one.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use lapin::{
    Channel, Connection, ConnectionProperties, ErrorKind,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions,
        ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
    uri::{AMQPUri, SASLMechanism},
};
use licet_schema::topology::{Argument, Exchange, ExchangeKind, Queue, Topology};
use secrecy::SecretString;
use tokio::time::timeout;

use super::{Delivery, Lost, PREFETCHED_BYTES_MAX, TransportError};
use crate::address::BrokerAddress;

mod browser;
mod inbox;
mod pace;
mod properties;
mod publisher;

pub(super) use browser::Browser;
use inbox::Inbox;
use pace::Pace;
use properties::{from_lapin, short};
pub(super) use publisher::Publisher;

/// The maximum time to establish a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum time for a single call, such as a declaration or the opening of a channel.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The AMQP heartbeat, in seconds. After twice this time without traffic, the connection counts as
/// lost.
const HEARTBEAT_S: u16 = 10;

/// The frame size of connections that only send. lapin buffers 32 frames in each direction. A
/// receiving connection keeps the broker's frame size, because a header must fit in one frame.
const SEND_FRAME_BYTES_MAX: u32 = 32 << 10;

const CONSUMER_TAG: &str = "licet";
const NO_RESPONSE: &str = "no response in time";
/// The AMQP reply code of a user or permission that is refused.
const ACCESS_REFUSED: u16 = 403;
/// The AMQP reply code of a virtual host that does not exist, or that the user may not use.
const NOT_ALLOWED: u16 = 530;
/// The AMQP reply code for a close without an error.
const REPLY_SUCCESS: u16 = 200;

/// A broker, and the user who connects to it.
#[derive(Clone, Debug)]
pub(super) struct Address {
    address: BrokerAddress,
    /// The broker user that the address names, if it authenticates with a password.
    user: Option<String>,
}

impl Address {
    pub(super) fn new(url: &SecretString) -> Result<Self, TransportError> {
        let address = BrokerAddress::parse(url)?;
        let uri = address.uri();
        // With another mechanism (a client certificate), the broker derives the user differently.
        let by_password = uri.query.auth_mechanism.is_none_or(|mechanism| mechanism == SASLMechanism::Plain);
        let user = Some(uri.authority.userinfo.username.clone()).filter(|_| by_password);
        Ok(Self { address, user })
    }

    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    pub(super) async fn apply(&self, topology: &Topology) -> Result<(), TransportError> {
        let connection = self.connect("topology", Some(SEND_FRAME_BYTES_MAX)).await?;
        let channel = self.channel(&connection).await?;
        for exchange in &topology.exchanges {
            self.declared(&exchange.name, self.within_timeout(declare_exchange(&channel, exchange, false)).await?)?;
        }
        for queue in &topology.queues {
            self.declared(&queue.name, self.within_timeout(declare_queue(&channel, queue, false)).await?)?;
        }
        for binding in &topology.bindings {
            let bound = channel.queue_bind(
                short(&binding.queue),
                short(&binding.exchange),
                short(&binding.key),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            self.within_timeout(bound).await?.map_err(|error| self.unreachable(error))?;
        }
        for binding in &topology.obsolete {
            // RabbitMQ confirms the removal of a binding that does not exist.
            let unbound = channel.queue_unbind(
                short(&binding.queue),
                short(&binding.exchange),
                short(&binding.key),
                FieldTable::default(),
            );
            self.within_timeout(unbound).await?.map_err(|error| self.unreachable(error))?;
        }
        close_connection(&connection).await;
        Ok(())
    }

    pub(super) async fn missing(&self, topology: &Topology) -> Result<Vec<String>, TransportError> {
        let connection = self.connect("topology", Some(SEND_FRAME_BYTES_MAX)).await?;
        let mut channel = self.channel(&connection).await?;
        let mut missing = Vec::new();
        for exchange in &topology.exchanges {
            if !self.found(self.within_timeout(declare_exchange(&channel, exchange, true)).await?)? {
                missing.push(format!("exchange {}", exchange.name));
                // The broker closes a channel on which a passive declaration fails.
                channel = self.channel(&connection).await?;
            }
        }
        for queue in &topology.queues {
            if !self.found(self.within_timeout(declare_queue(&channel, queue, true)).await?)? {
                missing.push(format!("queue {}", queue.name));
                channel = self.channel(&connection).await?;
            }
        }
        close_connection(&connection).await;
        Ok(missing)
    }

    pub(super) async fn consume(&self, queue: &str, prefetch: u16) -> Result<Consumer, Lost> {
        let (connection, pace) = self.connect_paced(queue).await?;
        let channel = self.channel(&connection).await?;
        call(channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
        Consumer::start(connection, channel, pace, queue, false).await
    }

    pub(super) async fn browse(&self, queue: &str) -> Result<Browser, Lost> {
        let connection = self.connect(queue, None).await?;
        let channel = self.channel(&connection).await?;
        Ok(Browser::new(connection, channel, queue))
    }

    pub(super) async fn subscribe(&self, bindings: &[(&str, &str)]) -> Result<(String, Consumer), Lost> {
        let (connection, pace) = self.connect_paced("client").await?;
        let channel = self.channel(&connection).await?;
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let queue = call(channel.queue_declare(short(""), options, FieldTable::default())).await?;
        let name = queue.name().as_str().to_owned();
        for (exchange, key) in bindings {
            let bound = channel.queue_bind(
                short(&name),
                short(exchange),
                short(key),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            call(bound).await?;
        }
        let consumer = Consumer::start(connection, channel, pace, &name, true).await?;
        Ok((name, consumer))
    }

    pub(super) async fn publisher(&self) -> Result<Publisher, Lost> {
        let connection = self.connect("publisher", Some(SEND_FRAME_BYTES_MAX)).await?;
        Publisher::start(connection, self.user.clone()).await
    }

    pub(super) async fn depth(&self, queue: &str) -> Result<u32, Lost> {
        Ok(self.declare_passively(queue).await?.message_count())
    }

    pub(super) async fn consumers(&self, queue: &str) -> Result<u32, Lost> {
        Ok(self.declare_passively(queue).await?.consumer_count())
    }

    async fn declare_passively(&self, queue: &str) -> Result<lapin::Queue, Lost> {
        let connection = self.connect("depth", Some(SEND_FRAME_BYTES_MAX)).await?;
        let channel = self.channel(&connection).await?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = call(channel.queue_declare(short(queue), options, FieldTable::default())).await?;
        close_connection(&connection).await;
        Ok(queue)
    }

    async fn connect(&self, purpose: &str, frame_bytes_max: Option<u32>) -> Result<Connection, TransportError> {
        let mut uri = self.uri();
        if let Some(bytes) = frame_bytes_max {
            uri.query.frame_max.get_or_insert(bytes);
        }
        self.connected(Connection::connect_uri(uri, connection_properties(purpose))).await
    }

    /// Connects for receiving. The returned [`Pace`] limits how far the socket is read ahead.
    async fn connect_paced(&self, purpose: &str) -> Result<(Connection, Arc<Pace>), TransportError> {
        let pace = Pace::new(PREFETCHED_BYTES_MAX);
        let connecting =
            Connection::connect_uri_with_runtime(self.uri(), connection_properties(purpose), pace.runtime());
        Ok((self.connected(connecting).await?, pace))
    }

    fn uri(&self) -> AMQPUri {
        let mut uri = self.address.uri().clone();
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        uri
    }

    async fn connected(
        &self,
        connecting: impl Future<Output = lapin::Result<Connection>>,
    ) -> Result<Connection, TransportError> {
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(self.unreachable(error)),
            Err(_) => Err(self.no_response()),
        }
    }

    async fn channel(&self, connection: &Connection) -> Result<Channel, TransportError> {
        self.within_timeout(connection.create_channel()).await?.map_err(|error| self.unreachable(error))
    }

    /// The result of a future, if it completes within [`CALL_TIMEOUT`].
    async fn within_timeout<T>(&self, future: impl Future<Output = T>) -> Result<T, TransportError> {
        timeout(CALL_TIMEOUT, future).await.map_err(|_| self.no_response())
    }

    /// The result of a declaration.
    fn declared(&self, name: &str, result: lapin::Result<()>) -> Result<(), TransportError> {
        match result {
            Err(error) if reply_code(&error) == Some(406) => {
                Err(TransportError::Mismatch { name: name.to_owned(), source: Box::new(error) })
            }
            other => other.map_err(|error| self.unreachable(error)),
        }
    }

    /// Whether a passive declaration found the exchange or queue.
    fn found(&self, result: lapin::Result<()>) -> Result<bool, TransportError> {
        match result {
            Err(error) if reply_code(&error) == Some(404) => Ok(false),
            other => other.map(|()| true).map_err(|error| self.unreachable(error)),
        }
    }

    fn unreachable(&self, error: lapin::Error) -> TransportError {
        let address = self.address.to_string();
        if let Some(reason) = refusal(&error) {
            return TransportError::Refused { address, reason };
        }
        TransportError::Unreachable { address, reason: error.to_string(), source: Some(Box::new(error)) }
    }

    fn no_response(&self) -> TransportError {
        TransportError::Unreachable { address: self.address.to_string(), reason: NO_RESPONSE.into(), source: None }
    }
}

fn connection_properties(purpose: &str) -> ConnectionProperties {
    ConnectionProperties::default().with_connection_name(format!("licet {purpose}").into())
}

async fn declare_exchange(channel: &Channel, exchange: &Exchange, passive: bool) -> lapin::Result<()> {
    let kind = match exchange.kind {
        ExchangeKind::Topic => lapin::ExchangeKind::Topic,
        ExchangeKind::Direct => lapin::ExchangeKind::Direct,
        ExchangeKind::Fanout => lapin::ExchangeKind::Fanout,
    };
    let options = ExchangeDeclareOptions { passive, durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(short(&exchange.name), kind, options, FieldTable::default()).await
}

async fn declare_queue(channel: &Channel, queue: &Queue, passive: bool) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    for (name, value) in &queue.arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
        };
        arguments.insert(short(name), value);
    }
    let options = QueueDeclareOptions { passive, durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(short(&queue.name), options, arguments).await.map(|_| ())
}

/// See [`super::Consumer`].
pub(super) struct Consumer {
    connection: Connection,
    channel: Channel,
    inbox: Inbox,
    stopped: bool,
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Consumer")
    }
}

impl Consumer {
    async fn start(
        connection: Connection,
        channel: Channel,
        pace: Arc<Pace>,
        queue: &str,
        no_ack: bool,
    ) -> Result<Self, Lost> {
        let options = BasicConsumeOptions { no_ack, ..BasicConsumeOptions::default() };
        let consume = channel.basic_consume(short(queue), short(CONSUMER_TAG), options, FieldTable::default());
        let deliveries = match call(consume).await {
            Ok(deliveries) => deliveries,
            Err(lost) => {
                // If the broker starts the consumer after this point, no task takes the deliveries.
                // Closing the connection requeues them.
                pace.end();
                close_connection(&connection).await;
                return Err(lost);
            }
        };
        // Deliveries that need no acknowledgement are not redelivered, so none may be dropped.
        let bytes_max = if no_ack { usize::MAX } else { PREFETCHED_BYTES_MAX };
        let inbox = Inbox::start(deliveries, channel.clone(), pace, bytes_max);
        Ok(Self { connection, channel, inbox, stopped: false })
    }

    pub(super) async fn receive(&mut self, max: usize, max_bytes: usize) -> Result<Vec<Delivery>, Lost> {
        let next = self.inbox.next().await;
        let Some(first) = self.arrived(Some(next))? else { return Ok(Vec::new()) };
        let mut bytes = first.body.len();
        let mut taken = vec![first];
        while taken.len() < max && bytes < max_bytes {
            let next = self.inbox.next().now_or_never();
            let Some(next) = self.arrived(next)? else { break };
            bytes += next.body.len();
            taken.push(next);
        }
        Ok(taken)
    }

    /// A received delivery. A stream that ends before [`Consumer::stop`] means that the connection
    /// is lost.
    fn arrived(&self, next: Option<Option<Result<Delivery, Lost>>>) -> Result<Option<Delivery>, Lost> {
        if self.overfilled().is_some() {
            return Err(Lost::Unavailable("the prefetched messages exceed the buffer".into()));
        }
        match next {
            Some(Some(delivery)) => delivery.map(Some),
            Some(None) if !self.stopped => Err(Lost::Unavailable("the broker cancelled the consumer".into())),
            Some(None) | None => Ok(None),
        }
    }

    pub(super) fn overfilled(&self) -> Option<usize> {
        self.inbox.overfilled()
    }

    pub(super) async fn reject(&self, tag: u64) -> Result<(), Lost> {
        call(self.channel.basic_reject(tag, BasicRejectOptions { requeue: false })).await
    }

    /// RabbitMQ requeues messages that are in transit during the cancellation, and counts them as
    /// redelivered (rabbitmq-server issue 3729). lapin reports the end of deliveries only once, so
    /// the consumer records that it was stopped.
    pub(super) async fn stop(&mut self) -> Result<(), Lost> {
        self.stopped = true;
        let cancel = self.channel.basic_cancel(short(CONSUMER_TAG), BasicCancelOptions::default());
        call(cancel).await
    }

    pub(super) async fn ack_through(&self, tag: u64) -> Result<(), Lost> {
        call(self.channel.basic_ack(tag, BasicAckOptions { multiple: true })).await
    }

    pub(super) async fn close(self) {
        let _ = timeout(CALL_TIMEOUT, self.channel.close(REPLY_SUCCESS, short("done"))).await;
        close_connection(&self.connection).await;
    }
}

/// The AMQP reply code of an error that the broker reported.
fn reply_code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

fn lost(error: lapin::Error) -> Lost {
    match refusal(&error) {
        Some(reason) => {
            Lost::Refused(format!("the broker refused: {reason}. Check the permissions of the user in LICET_AMQP_URL"))
        }
        None => Lost::Unavailable(error.to_string()),
    }
}

/// Why the broker refused an operation or a connection, if it did.
fn refusal(error: &lapin::Error) -> Option<String> {
    match error.kind() {
        ErrorKind::ProtocolError(error) if [ACCESS_REFUSED, NOT_ALLOWED].contains(&error.get_id()) => {
            Some(error.get_message().to_string())
        }
        _ => None,
    }
}

/// The broker's response to a call, if it arrives within [`CALL_TIMEOUT`].
async fn call<T>(request: impl Future<Output = lapin::Result<T>>) -> Result<T, Lost> {
    match timeout(CALL_TIMEOUT, request).await {
        Ok(response) => response.map_err(lost),
        Err(_) => Err(Lost::Unavailable(NO_RESPONSE.into())),
    }
}

async fn close_connection(connection: &Connection) {
    let _ = timeout(CALL_TIMEOUT, connection.close(REPLY_SUCCESS, short("done"))).await;
}

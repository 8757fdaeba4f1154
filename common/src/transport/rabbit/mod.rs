//! RabbitMQ through lapin.
//!
//! lapin's own recovery is left off: after a lost connection nothing of it is used again (an
//! acknowledgement must never meet a delivery tag of another connection).

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
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use super::{Delivery, Lost, PREFETCHED_BYTES_MAX, TransportError};

mod browser;
mod inbox;
mod pace;
mod properties;
mod publisher;

pub(super) use browser::Browser;
use inbox::Inbox;
use pace::Pace;
use properties::{read, short};
pub(super) use publisher::Publisher;

/// A connection that is not made within this time is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer to a declaration, or to opening a channel, is not waited for any longer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A broker that is silent this long is away (the AMQP heartbeat, in seconds).
const HEARTBEAT_S: u16 = 10;

/// lapin holds 32 frames of buffer each way for each connection. What only sends does with small
/// ones, and idles at 6 MB less; what receives must take headers as large as the broker lets in.
const SENT_FRAME_BYTES_MAX: u32 = 32 << 10;

const CONSUMER_TAG: &str = "licet";
const GOODBYE: u16 = 200;

/// Where the broker is.
#[derive(Clone, Debug)]
pub(super) struct Address {
    url: SecretString,
    /// The broker's name for us, where the URL tells it.
    user: Option<String>,
}

impl Address {
    pub(super) fn new(url: &SecretString) -> Result<Self, TransportError> {
        let parsed = url.expose_secret().parse::<AMQPUri>().map_err(TransportError::Url)?;
        // Under another mechanism (a client certificate) the broker names its user otherwise.
        let by_password = parsed.query.auth_mechanism.is_none_or(|mechanism| mechanism == SASLMechanism::Plain);
        let user = Some(parsed.authority.userinfo.username).filter(|_| by_password);
        Ok(Self { url: url.clone(), user })
    }

    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    pub(super) async fn apply(&self, topology: &Topology) -> Result<(), TransportError> {
        let connection = self.connect("topology", Some(SENT_FRAME_BYTES_MAX)).await?;
        let channel = self.channel(&connection).await?;
        for exchange in &topology.exchanges {
            self.declared(&exchange.name, self.in_time(declare_exchange(&channel, exchange, false)).await?)?;
        }
        for queue in &topology.queues {
            self.declared(&queue.name, self.in_time(declare_queue(&channel, queue, false)).await?)?;
        }
        for binding in &topology.bindings {
            let bound = channel.queue_bind(
                short(&binding.queue),
                short(&binding.exchange),
                short(&binding.key),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            self.in_time(bound).await?.map_err(|error| self.unreachable(&error))?;
        }
        goodbye(&connection).await;
        Ok(())
    }

    pub(super) async fn missing(&self, topology: &Topology) -> Result<Vec<String>, TransportError> {
        let connection = self.connect("topology", Some(SENT_FRAME_BYTES_MAX)).await?;
        let mut channel = self.channel(&connection).await?;
        let mut missing = Vec::new();
        for exchange in &topology.exchanges {
            if !self.found(self.in_time(declare_exchange(&channel, exchange, true)).await?)? {
                missing.push(format!("exchange {}", exchange.name));
                // The broker closes the channel on which something was not there.
                channel = self.channel(&connection).await?;
            }
        }
        for queue in &topology.queues {
            if !self.found(self.in_time(declare_queue(&channel, queue, true)).await?)? {
                missing.push(format!("queue {}", queue.name));
                channel = self.channel(&connection).await?;
            }
        }
        goodbye(&connection).await;
        Ok(missing)
    }

    pub(super) async fn consume(&self, queue: &str, prefetch: u16) -> Result<Consumer, Lost> {
        let (connection, pace) = self.connect_paced(queue).await?;
        let channel = self.channel(&connection).await?;
        answered(channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
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
        let queue = answered(channel.queue_declare(short(""), options, FieldTable::default())).await?;
        let name = queue.name().as_str().to_owned();
        for (exchange, key) in bindings {
            let bound = channel.queue_bind(
                short(&name),
                short(exchange),
                short(key),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            answered(bound).await?;
        }
        let consumer = Consumer::start(connection, channel, pace, &name, true).await?;
        Ok((name, consumer))
    }

    pub(super) async fn publisher(&self) -> Result<Publisher, Lost> {
        let connection = self.connect("publisher", Some(SENT_FRAME_BYTES_MAX)).await?;
        Publisher::start(connection, self.user.clone()).await
    }

    pub(super) async fn depth(&self, queue: &str) -> Result<u32, Lost> {
        Ok(self.look(queue).await?.message_count())
    }

    pub(super) async fn consumers(&self, queue: &str) -> Result<u32, Lost> {
        Ok(self.look(queue).await?.consumer_count())
    }

    async fn look(&self, queue: &str) -> Result<lapin::Queue, Lost> {
        let connection = self.connect("depth", Some(SENT_FRAME_BYTES_MAX)).await?;
        let channel = self.channel(&connection).await?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = answered(channel.queue_declare(short(queue), options, FieldTable::default())).await?;
        goodbye(&connection).await;
        Ok(queue)
    }

    async fn connect(&self, purpose: &str, frame_bytes_max: Option<u32>) -> Result<Connection, TransportError> {
        let mut uri = self.uri()?;
        if let Some(bytes) = frame_bytes_max {
            uri.query.frame_max.get_or_insert(bytes);
        }
        self.connected(Connection::connect_uri(uri, named(purpose))).await
    }

    /// For what is received. Whoever takes it says so to the pace.
    async fn connect_paced(&self, purpose: &str) -> Result<(Connection, Arc<Pace>), TransportError> {
        let pace = Pace::new(PREFETCHED_BYTES_MAX);
        let connecting = Connection::connect_uri_with_runtime(self.uri()?, named(purpose), pace.runtime());
        Ok((self.connected(connecting).await?, pace))
    }

    fn uri(&self) -> Result<AMQPUri, TransportError> {
        let mut uri: AMQPUri = self.url.expose_secret().parse().map_err(TransportError::Url)?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        Ok(uri)
    }

    async fn connected(
        &self,
        connecting: impl Future<Output = lapin::Result<Connection>>,
    ) -> Result<Connection, TransportError> {
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(self.unreachable(&error)),
            Err(_) => Err(self.silent()),
        }
    }

    async fn channel(&self, connection: &Connection) -> Result<Channel, TransportError> {
        self.in_time(connection.create_channel()).await?.map_err(|error| self.unreachable(&error))
    }

    /// What a call gives, if it does so in time.
    async fn in_time<T>(&self, call: impl Future<Output = T>) -> Result<T, TransportError> {
        timeout(CALL_TIMEOUT, call).await.map_err(|_| self.silent())
    }

    fn declared(&self, what: &str, result: lapin::Result<()>) -> Result<(), TransportError> {
        match result {
            Err(error) if reply_code(&error) == Some(406) => {
                Err(TransportError::Different { what: what.to_owned(), cause: error.to_string() })
            }
            other => other.map_err(|error| self.unreachable(&error)),
        }
    }

    fn found(&self, result: lapin::Result<()>) -> Result<bool, TransportError> {
        match result {
            Err(error) if reply_code(&error) == Some(404) => Ok(false),
            other => other.map(|()| true).map_err(|error| self.unreachable(&error)),
        }
    }

    fn unreachable(&self, error: &lapin::Error) -> TransportError {
        TransportError::Unreachable { address: self.shown(), cause: error.to_string() }
    }

    fn silent(&self) -> TransportError {
        TransportError::Unreachable { address: self.shown(), cause: "it does not answer".into() }
    }

    /// The address without user and password.
    fn shown(&self) -> String {
        match self.url.expose_secret().parse::<AMQPUri>() {
            Ok(uri) if uri.vhost == "/" => format!("{}:{}", uri.authority.host, uri.authority.port),
            Ok(uri) => format!("{}:{} (vhost {})", uri.authority.host, uri.authority.port, uri.vhost),
            Err(_) => "LICET_AMQP_URL".into(),
        }
    }
}

fn named(purpose: &str) -> ConnectionProperties {
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
        let deliveries = match answered(consume).await {
            Ok(deliveries) => deliveries,
            Err(lost) => {
                // If it begins only now, nobody takes what comes: it is to end, and come again.
                pace.end();
                goodbye(&connection).await;
                return Err(lost);
            }
        };
        // What needs no acknowledgement does not come again.
        let bytes_max = if no_ack { usize::MAX } else { PREFETCHED_BYTES_MAX };
        let inbox = Inbox::start(deliveries, channel.clone(), pace, bytes_max);
        Ok(Self { connection, channel, inbox, stopped: false })
    }

    pub(super) async fn receive(&mut self, most: usize, most_bytes: usize) -> Result<Vec<Delivery>, Lost> {
        let next = self.inbox.next().await;
        let Some(first) = self.arrived(Some(next))? else { return Ok(Vec::new()) };
        let mut bytes = first.body.len();
        let mut taken = vec![first];
        while taken.len() < most && bytes < most_bytes {
            let next = self.inbox.next().now_or_never();
            let Some(next) = self.arrived(next)? else { break };
            bytes += next.body.len();
            taken.push(next);
        }
        Ok(taken)
    }

    /// A stream that ends by itself is a lost connection, never a clean end: we end it ourselves.
    fn arrived(&self, next: Option<Option<Result<Delivery, Lost>>>) -> Result<Option<Delivery>, Lost> {
        if self.flooded().is_some() {
            return Err(Lost("more came than can be held".into()));
        }
        match next {
            Some(Some(delivery)) => delivery.map(Some),
            Some(None) if !self.stopped => Err(Lost("the broker ended the deliveries".into())),
            Some(None) | None => Ok(None),
        }
    }

    pub(super) fn flooded(&self) -> Option<usize> {
        self.inbox.flooded()
    }

    pub(super) async fn reject(&self, tag: u64) -> Result<(), Lost> {
        answered(self.channel.basic_reject(tag, BasicRejectOptions { requeue: false })).await
    }

    pub(super) async fn stop(&mut self) -> Result<(), Lost> {
        self.stopped = true;
        let cancel = self.channel.basic_cancel(short(CONSUMER_TAG), BasicCancelOptions::default());
        answered(cancel).await
    }

    pub(super) async fn ack_through(&self, tag: u64) -> Result<(), Lost> {
        answered(self.channel.basic_ack(tag, BasicAckOptions { multiple: true })).await
    }

    pub(super) async fn close(self) {
        let _ = timeout(CALL_TIMEOUT, self.channel.close(GOODBYE, short("done"))).await;
        goodbye(&self.connection).await;
    }
}

fn reply_code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(answer) => Some(answer.get_id()),
        _ => None,
    }
}

fn lost(error: lapin::Error) -> Lost {
    Lost(error.to_string())
}

/// What the broker answers, if it does.
async fn answered<T>(call: impl Future<Output = lapin::Result<T>>) -> Result<T, Lost> {
    match timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(lost),
        Err(_) => Err(Lost("it does not answer".into())),
    }
}

async fn goodbye(connection: &Connection) {
    let _ = timeout(CALL_TIMEOUT, connection.close(GOODBYE, short("done"))).await;
}

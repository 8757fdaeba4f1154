//! The client's connections, which use lapin and none of Licet's code. One connection publishes,
//! the other receives replies and events. A lost connection is replaced by a connection to the next
//! node.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Event,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        QueueBindOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use super::ledger::{Ledger, Received};

const REPLIES: &str = "upstream.replies";
const EVENTS: &str = "upstream.events";
/// The timeout of a call to the broker.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// Connects to the first of these nodes that answers, starting with node number `turn`.
pub(crate) async fn connect(urls: &[String], turn: u64) -> Option<Connection> {
    let turn = usize::try_from(turn).unwrap_or_default();
    for url in urls.iter().cycle().skip(turn % urls.len()).take(urls.len()) {
        let connecting = Connection::connect(url, ConnectionProperties::default());
        if let Ok(Ok(connection)) = tokio::time::timeout(CALL_TIMEOUT, connecting).await {
            return Some(connection);
        }
    }
    None
}

/// Publishes the messages of the ledger, over one connection at a time.
#[derive(Debug)]
pub(crate) struct Sender {
    ids: mpsc::UnboundedSender<Uuid>,
    /// The number of the current connection.
    connection: AtomicU64,
    reconnect: Notify,
}

impl Sender {
    /// A sender, and the task that publishes for it.
    pub(crate) fn new(urls: Vec<String>, ledger: Arc<Ledger>) -> (Arc<Self>, impl Future<Output = ()>) {
        let (ids, waiting) = mpsc::unbounded_channel();
        let sender = Arc::new(Self { ids, connection: AtomicU64::new(0), reconnect: Notify::new() });
        (sender.clone(), publish(urls, ledger, sender, waiting))
    }

    /// Queues a message of the ledger to be published. Returns the number of the current
    /// connection.
    pub(crate) fn send(&self, id: Uuid) -> u64 {
        let _ = self.ids.send(id);
        self.connection.load(Ordering::SeqCst)
    }

    /// Opens a new connection, unless `connection` has been replaced already.
    pub(crate) fn reconnect(&self, connection: u64) {
        if self.connection.load(Ordering::SeqCst) == connection {
            self.reconnect.notify_one();
        }
    }
}

async fn publish(
    urls: Vec<String>,
    ledger: Arc<Ledger>,
    sender: Arc<Sender>,
    mut waiting: mpsc::UnboundedReceiver<Uuid>,
) {
    loop {
        let turn = sender.connection.fetch_add(1, Ordering::SeqCst);
        let opened = async {
            let connection = connect(&urls, turn).await?;
            let channel = in_time(connection.create_channel()).await?;
            in_time(channel.confirm_select(ConfirmSelectOptions::default())).await?;
            Some((connection, channel))
        };
        let Some((connection, channel)) = opened.await else {
            tokio::time::sleep(RECONNECT_PAUSE).await;
            continue;
        };
        ledger.lock().connections += 1;
        let mut events = std::pin::pin!(connection.events_listener());
        let mut confirms = FuturesUnordered::new();
        loop {
            tokio::select! {
                id = waiting.recv() => match id {
                    Some(id) => confirms.push(publish_one(&channel, &ledger, id).map(move |outcome| (id, outcome))),
                    None => return,
                },
                Some((id, outcome)) = confirms.next() => {
                    let Ok(confirmation) = outcome else { break };
                    record_confirmation(&ledger, id, confirmation);
                }
                Some(event) = events.next() => if matches!(event, Event::ConnectionBlocked(_)) {
                    ledger.lock().blocked += 1;
                },
                // A new connection would also be blocked, so a blocked connection is kept.
                () = sender.reconnect.notified() => if !connection.status().blocked() { break },
            }
        }
    }
}

async fn publish_one(channel: &Channel, ledger: &Ledger, id: Uuid) -> lapin::Result<Confirmation> {
    let (kind, body) = {
        let mut records = ledger.lock();
        let records = &mut *records;
        let entry = records.entries.get_mut(&id).expect("the message was added to the ledger");
        records.resent += u64::from(entry.sent > 0);
        entry.sent += 1;
        (entry.kind, entry.body.clone())
    };
    let properties = BasicProperties::default()
        .with_message_id(id.to_string().into())
        .with_correlation_id(id.to_string().into())
        .with_reply_to(REPLIES.into())
        .with_type(kind.into())
        .with_content_type("application/json".into())
        .with_delivery_mode(2);
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    channel.basic_publish("licet.in".into(), kind.into(), options, &body, properties).await?.await
}

fn record_confirmation(ledger: &Ledger, id: Uuid, confirmation: Confirmation) {
    let mut records = ledger.lock();
    match confirmation {
        Confirmation::Ack(None) => {
            if let Some(entry) = records.entries.get_mut(&id) {
                entry.accepted = true;
            }
        }
        Confirmation::Ack(Some(_)) => records.returned += 1,
        Confirmation::Nack(_) => records.nacks += 1,
        Confirmation::NotRequested => records.violations.push("the channel does not confirm".into()),
    }
}

/// Declares the client's queues. The queues survive the loss of a connection and the failure of a
/// node.
pub(crate) async fn declare(urls: &[String]) {
    let connection = connect(urls, 0).await.expect("the broker answers");
    let channel = connection.create_channel().await.expect("a channel");
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(1_000_000));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    for queue in [REPLIES, EVENTS] {
        channel.queue_declare(queue.into(), durable, arguments.clone()).await.expect("a queue");
    }
    let bound = channel.queue_bind(
        EVENTS.into(),
        "licet.events".into(),
        "#".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await.expect("a binding");
    connection.close(200, "done".into()).await.expect("the connection closes");
}

/// Records replies and events in the ledger, over one connection at a time.
pub(crate) async fn consume(urls: Vec<String>, ledger: Arc<Ledger>) {
    for turn in 0.. {
        let _ = consume_once(&urls, turn, &ledger).await;
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

/// Receives messages until the connection is lost.
async fn consume_once(urls: &[String], turn: u64, ledger: &Ledger) -> Option<()> {
    let connection = connect(urls, turn).await?;
    let channel = in_time(connection.create_channel()).await?;
    in_time(channel.basic_qos(500, BasicQosOptions::default())).await?;
    let consume = |queue: &'static str| {
        channel.basic_consume(queue.into(), queue.into(), BasicConsumeOptions::default(), FieldTable::default())
    };
    let (replies, events) = (in_time(consume(REPLIES)).await?, in_time(consume(EVENTS)).await?);
    let replies = replies.map(|delivery| (true, delivery));
    let mut both = futures_util::stream::select(replies, events.map(|delivery| (false, delivery)));
    while let Some((is_reply, delivery)) = both.next().await {
        let delivery = delivery.ok()?;
        let received = read(&delivery);
        let id = delivery.properties.correlation_id().as_ref().and_then(|id| Uuid::parse_str(id.as_str()).ok());
        ledger.record(received, id.filter(|_| is_reply));
        in_time(delivery.ack(BasicAckOptions::default())).await?;
    }
    None
}

fn read(delivery: &lapin::message::Delivery) -> Received {
    let properties = &delivery.properties;
    let text = |value: &Option<lapin::types::ShortString>| {
        value.as_ref().map(|text| text.as_str().to_owned()).unwrap_or_default()
    };
    let cause = properties.headers().as_ref().and_then(|table| match table.inner().get("licet-cause") {
        Some(AMQPValue::LongString(id)) => Uuid::parse_str(std::str::from_utf8(id.as_bytes()).ok()?).ok(),
        _ => None,
    });
    Received {
        message_id: text(properties.message_id()),
        kind: text(properties.kind()),
        content_type: text(properties.content_type()),
        timestamp: *properties.timestamp(),
        cause,
        body: delivery.data.clone(),
    }
}

/// The number of messages in a queue.
pub(crate) async fn depth(urls: &[String], queue: &str) -> u32 {
    let connection = connect(urls, 0).await.expect("the broker answers");
    let channel = connection.create_channel().await.expect("a channel");
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(queue.into(), passive, FieldTable::default()).await.expect("the queue");
    let depth = queue.message_count();
    connection.close(200, "done".into()).await.expect("the connection closes");
    depth
}

async fn in_time<T>(call: impl Future<Output = lapin::Result<T>>) -> Option<T> {
    tokio::time::timeout(CALL_TIMEOUT, call).await.ok()?.ok()
}

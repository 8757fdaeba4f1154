//! The upstream's connections, on lapin alone: one that publishes, one that hears replies and
//! events. Each begins again when it is lost, at the next node in turn.

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

use super::ledger::{Arrived, Ledger};

const REPLIES: &str = "upstream.replies";
const EVENTS: &str = "upstream.events";
/// What a broker owes within this time.
const CALL: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

/// A connection to the first of these nodes that answers, from the `turn`th on.
pub(crate) async fn connect(urls: &[String], turn: u64) -> Option<Connection> {
    let turn = usize::try_from(turn).unwrap_or_default();
    for url in urls.iter().cycle().skip(turn % urls.len()).take(urls.len()) {
        let connecting = Connection::connect(url, ConnectionProperties::default());
        if let Ok(Ok(connection)) = tokio::time::timeout(CALL, connecting).await {
            return Some(connection);
        }
    }
    None
}

/// What publishes, and a new connection for it when somebody finds the present one wanting.
#[derive(Debug)]
pub(crate) struct Line {
    ids: mpsc::UnboundedSender<Uuid>,
    generation: AtomicU64,
    wanting: Notify,
}

impl Line {
    /// A line, and what publishes for it as long as it is run.
    pub(crate) fn open(urls: Vec<String>, ledger: Arc<Ledger>) -> (Arc<Self>, impl Future<Output = ()>) {
        let (ids, waiting) = mpsc::unbounded_channel();
        let line = Arc::new(Self { ids, generation: AtomicU64::new(0), wanting: Notify::new() });
        (line.clone(), publish(urls, ledger, line, waiting))
    }

    /// Publishes a message of the ledger, now or soon; says on which connection.
    pub(crate) fn send(&self, id: Uuid) -> u64 {
        let _ = self.ids.send(id);
        self.generation.load(Ordering::SeqCst)
    }

    /// Nothing came of what was sent on that connection: the next one, please.
    pub(crate) fn renew(&self, generation: u64) {
        if self.generation.load(Ordering::SeqCst) == generation {
            self.wanting.notify_one();
        }
    }
}

async fn publish(urls: Vec<String>, ledger: Arc<Ledger>, line: Arc<Line>, mut waiting: mpsc::UnboundedReceiver<Uuid>) {
    loop {
        let turn = line.generation.fetch_add(1, Ordering::SeqCst);
        let opened = async {
            let connection = connect(&urls, turn).await?;
            let channel = answered(connection.create_channel()).await?;
            answered(channel.confirm_select(ConfirmSelectOptions::default())).await?;
            Some((connection, channel))
        };
        let Some((connection, channel)) = opened.await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        ledger.open().connections += 1;
        let mut events = std::pin::pin!(connection.events_listener());
        let mut confirms = FuturesUnordered::new();
        loop {
            tokio::select! {
                id = waiting.recv() => match id {
                    Some(id) => confirms.push(post(&channel, &ledger, id).map(move |outcome| (id, outcome))),
                    None => return,
                },
                Some((id, outcome)) = confirms.next() => {
                    let Ok(confirmation) = outcome else { break };
                    note(&ledger, id, confirmation);
                }
                Some(event) = events.next() => if matches!(event, Event::ConnectionBlocked(_)) {
                    ledger.open().blocked += 1;
                },
                // A blocked connection is sound: another would be blocked too.
                () = line.wanting.notified() => if !connection.status().blocked() { break },
            }
        }
    }
}

async fn post(channel: &Channel, ledger: &Ledger, id: Uuid) -> lapin::Result<Confirmation> {
    let (kind, body) = {
        let mut pages = ledger.open();
        let pages = &mut *pages;
        let entry = pages.entries.get_mut(&id).expect("it is in the book");
        pages.resent += u64::from(entry.sent > 0);
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

fn note(ledger: &Ledger, id: Uuid, confirmation: Confirmation) {
    let mut pages = ledger.open();
    match confirmation {
        Confirmation::Ack(None) => {
            if let Some(entry) = pages.entries.get_mut(&id) {
                entry.accepted = true;
            }
        }
        Confirmation::Ack(Some(_)) => pages.returned += 1,
        Confirmation::Nack(_) => pages.nacks += 1,
        Confirmation::NotRequested => pages.wrong.push("the channel does not confirm".into()),
    }
}

/// The queues of the upstream's own, which outlive its connections and any one node.
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
    bound.await.expect("bound");
    connection.close(200, "done".into()).await.expect("a goodbye");
}

/// Writes down what comes, for ever.
pub(crate) async fn listen(urls: Vec<String>, ledger: Arc<Ledger>) {
    for turn in 0.. {
        let _ = hear(&urls, turn, &ledger).await;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Until the connection is lost.
async fn hear(urls: &[String], turn: u64, ledger: &Ledger) -> Option<()> {
    let connection = connect(urls, turn).await?;
    let channel = answered(connection.create_channel()).await?;
    answered(channel.basic_qos(500, BasicQosOptions::default())).await?;
    let consume = |queue: &'static str| {
        channel.basic_consume(queue.into(), queue.into(), BasicConsumeOptions::default(), FieldTable::default())
    };
    let (replies, events) = (answered(consume(REPLIES)).await?, answered(consume(EVENTS)).await?);
    let mut both = futures_util::stream::select(replies.map(|one| (true, one)), events.map(|one| (false, one)));
    while let Some((reply, delivery)) = both.next().await {
        let delivery = delivery.ok()?;
        let arrived = read(&delivery);
        let id = delivery.properties.correlation_id().as_ref().and_then(|id| Uuid::parse_str(id.as_str()).ok());
        ledger.arrived(arrived, id.filter(|_| reply));
        answered(delivery.ack(BasicAckOptions::default())).await?;
    }
    None
}

fn read(delivery: &lapin::message::Delivery) -> Arrived {
    let properties = &delivery.properties;
    let text = |value: &Option<lapin::types::ShortString>| {
        value.as_ref().map(|text| text.as_str().to_owned()).unwrap_or_default()
    };
    let cause = properties.headers().as_ref().and_then(|table| match table.inner().get("licet-cause") {
        Some(AMQPValue::LongString(id)) => Uuid::parse_str(std::str::from_utf8(id.as_bytes()).ok()?).ok(),
        _ => None,
    });
    Arrived {
        message_id: text(properties.message_id()),
        kind: text(properties.kind()),
        content_type: text(properties.content_type()),
        timestamp: *properties.timestamp(),
        cause,
        body: delivery.data.clone(),
    }
}

/// How many messages wait in a queue.
pub(crate) async fn depth(urls: &[String], queue: &str) -> u32 {
    let connection = connect(urls, 0).await.expect("the broker answers");
    let channel = connection.create_channel().await.expect("a channel");
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(queue.into(), passive, FieldTable::default()).await.expect("the queue");
    let depth = queue.message_count();
    connection.close(200, "done".into()).await.expect("a goodbye");
    depth
}

async fn answered<T>(call: impl Future<Output = lapin::Result<T>>) -> Option<T> {
    tokio::time::timeout(CALL, call).await.ok()?.ok()
}

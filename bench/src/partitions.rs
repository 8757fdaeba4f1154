//! Partitioned queues: the messages of a worker are distributed over several queues by user.
//! docs/scaling.md plans this for the case that one queue is not enough. The broker needs the
//! plugin `rabbitmq_consistent_hash_exchange`.
//!
//! The exchange `licet.bench.in` replaces `licet.in`. It routes the message types of each worker to
//! a separate exchange, which distributes them to the worker's queues. Messages are distributed by
//! the user in a header. Settlements have no user, so they are distributed by message id.
//!
//! Only measurements need these exchanges and queues. They are not part of Licet's topology.

use lapin::{
    Channel, Connection, ConnectionProperties, ExchangeKind,
    options::{
        ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use licet_client::schema::topology::{self, Argument};
use licet_common::{address::BrokerAddress, program::Failure};
use licet_workers::registry;
use secrecy::SecretString;

/// The workers that a lifecycle uses. The ceiling replaces these workers.
pub(super) const LIFECYCLE_WORKERS: [&str; 5] = ["purchase", "reception", "settlement", "license", "return"];

/// The exchange to which the load publishes.
pub(super) const IN: &str = "licet.bench.in";
/// The header that contains the user.
pub(super) const HEADER_USER: &str = "licet-user";

const HASH: &str = "x-consistent-hash";
/// AMQP's reply code for a normal close.
const REPLY_SUCCESS: u16 = 200;

/// The maximum number of queues for each worker. [`remove`] deletes this many.
pub(super) const PARTITIONS_MAX: u16 = 64;

/// The number of queues for each worker of a lifecycle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Partitions(pub(super) u16);

impl Partitions {
    /// The queues of a worker.
    pub(super) fn queues(self, worker: &str) -> Vec<String> {
        (1..=self.0).map(|number| format!("licet.bench.{worker}.{number}")).collect()
    }

    /// Calls [`remove`], and then declares the exchanges, queues and bindings.
    ///
    /// # Errors
    /// The broker is unavailable, or does not have the plugin.
    pub(super) async fn declare(self, url: &SecretString) -> Result<(), Failure> {
        remove(url).await?;
        let (connection, channel) = connect(url).await?;
        let declared = self.declare_all(&channel).await;
        close(&connection).await;
        declared.map_err(|error| {
            Failure::Work(format!(
                "partitioned queues cannot be declared ({error}): run `rabbitmq-plugins enable \
                 rabbitmq_consistent_hash_exchange` on the broker, or skip them with --partitions 0"
            ))
        })
    }

    async fn declare_all(self, channel: &Channel) -> lapin::Result<()> {
        exchange(channel, IN, ExchangeKind::Topic, FieldTable::default()).await?;
        for worker in registry::WORKERS.iter().filter(|worker| LIFECYCLE_WORKERS.contains(&worker.name)) {
            let name = distributing_exchange(worker.name);
            let by = if worker.name == "settlement" {
                ("hash-property", "message_id")
            } else {
                ("hash-header", HEADER_USER)
            };
            exchange(channel, &name, ExchangeKind::Custom(HASH.into()), table([(by.0, text(by.1))])).await?;
            for kind in worker.handles {
                let (to, from, key) = (name.as_str().into(), IN.into(), (*kind).into());
                channel.exchange_bind(to, from, key, ExchangeBindOptions::default(), FieldTable::default()).await?;
            }
            for queue in self.queues(worker.name) {
                let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
                channel.queue_declare(queue.as_str().into(), durable, arguments(worker.name)).await?;
                // The routing key of a binding to a hash exchange is the weight of the queue.
                let (to, from, weight) = (queue.as_str().into(), name.as_str().into(), "1".into());
                channel.queue_bind(to, from, weight, QueueBindOptions::default(), FieldTable::default()).await?;
            }
        }
        Ok(())
    }
}

/// Deletes everything that this module declares, including what an interrupted measurement left
/// behind.
///
/// # Errors
/// The broker is unavailable.
pub(super) async fn remove(url: &SecretString) -> Result<(), Failure> {
    let (connection, channel) = connect(url).await?;
    let removed = remove_all(&channel).await;
    close(&connection).await;
    removed.map_err(|error| Failure::Work(format!("exchanges and queues licet.bench.… remain on the broker: {error}")))
}

async fn remove_all(channel: &Channel) -> lapin::Result<()> {
    channel.exchange_delete(IN.into(), ExchangeDeleteOptions::default()).await?;
    for worker in LIFECYCLE_WORKERS {
        channel
            .exchange_delete(distributing_exchange(worker).as_str().into(), ExchangeDeleteOptions::default())
            .await?;
        for queue in Partitions(PARTITIONS_MAX).queues(worker) {
            channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
        }
    }
    Ok(())
}

/// The arguments of the worker's work queue, plus a single active consumer.
fn arguments(worker: &str) -> FieldTable {
    let name = topology::work_queue(worker);
    let topology = registry::topology();
    let work = topology.queues.iter().filter(|queue| queue.name == name).flat_map(|queue| &queue.arguments);
    let arguments = work.map(|(name, value)| match value {
        Argument::Text(value) => (*name, text(value)),
        Argument::Number(value) => (*name, AMQPValue::LongLongInt(*value)),
    });
    table(arguments.chain([("x-single-active-consumer", AMQPValue::Boolean(true))]))
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// The exchange that distributes a worker's messages.
fn distributing_exchange(worker: &str) -> String {
    format!("licet.bench.{worker}")
}

async fn exchange(channel: &Channel, name: &str, kind: ExchangeKind, arguments: FieldTable) -> lapin::Result<()> {
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(name.into(), kind, durable, arguments).await
}

fn table<'a>(entries: impl IntoIterator<Item = (&'a str, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

async fn connect(url: &SecretString) -> Result<(Connection, Channel), Failure> {
    let address = BrokerAddress::parse(url).map_err(Failure::work)?;
    let connection = Connection::connect_uri(address.uri().clone(), ConnectionProperties::default());
    let connection = connection.await.map_err(Failure::work)?;
    let channel = connection.create_channel().await.map_err(Failure::work)?;
    Ok((connection, channel))
}

async fn close(connection: &Connection) {
    let _ = connection.close(REPLY_SUCCESS, "done".into()).await;
}

//! Queues that share a worker's messages by their user: what docs/SCALING.md plans for when one queue
//! is not enough, on a broker that has the plugin `rabbitmq_consistent_hash_exchange`.
//!
//! `licet.bench.in` takes the place of `licet.in`: it hands each worker's types to an exchange of
//! this worker, which chooses among its queues: by the user, whom a header names, or for settlements, which
//! have none, by their id.

use lapin::{
    Channel, Connection, ConnectionProperties, ExchangeKind,
    options::{
        ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use licet_client::schema::topology::{self, Argument};
use licet_workers::program::Failure;
use secrecy::{ExposeSecret, SecretString};

use super::stand::MET;

/// Where a load publishes.
pub(super) const IN: &str = "licet.bench.in";
/// The header that tells the user.
pub(super) const HEADER_USER: &str = "licet-user";

const HASH: &str = "x-consistent-hash";
const GOODBYE: u16 = 200;

/// More are neither declared nor looked for.
pub(super) const PARTITIONS_MAX: u16 = 64;

/// So many queues for each worker that a lifecycle meets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Partitions(pub(super) u16);

impl Partitions {
    /// The queues of a worker.
    pub(super) fn queues(self, worker: &str) -> Vec<String> {
        (1..=self.0).map(|number| format!("licet.bench.{worker}.{number}")).collect()
    }

    /// Declares exchanges, queues and bindings, where [`remove`] has left none.
    ///
    /// # Errors
    /// The broker is away, or has no such exchanges.
    pub(super) async fn declare(self, url: &SecretString) -> Result<(), Failure> {
        remove(url).await?;
        let (connection, channel) = connect(url).await?;
        let declared = self.declare_all(&channel).await;
        close(&connection).await;
        declared.map_err(|error| {
            Failure::Work(format!(
                "partitioned queues cannot be declared ({error}): they need \
                 `rabbitmq-plugins enable rabbitmq_consistent_hash_exchange` at the broker; \
                 --partitions 0 leaves them out"
            ))
        })
    }

    async fn declare_all(self, channel: &Channel) -> lapin::Result<()> {
        exchange(channel, IN, ExchangeKind::Topic, FieldTable::default()).await?;
        for worker in topology::WORKERS.iter().filter(|worker| MET.contains(&worker.name)) {
            let name = spreading(worker.name);
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
                // The key of a binding is the queue's weight.
                let (to, from, weight) = (queue.as_str().into(), name.as_str().into(), "1".into());
                channel.queue_bind(to, from, weight, QueueBindOptions::default(), FieldTable::default()).await?;
            }
        }
        Ok(())
    }
}

/// Takes away whatever was declared here, also by a measurement that was broken off.
///
/// # Errors
/// The broker is away.
pub(super) async fn remove(url: &SecretString) -> Result<(), Failure> {
    let (connection, channel) = connect(url).await?;
    let removed = remove_all(&channel).await;
    close(&connection).await;
    removed.map_err(|error| Failure::Work(format!("what begins with licet.bench is left at the broker: {error}")))
}

async fn remove_all(channel: &Channel) -> lapin::Result<()> {
    channel.exchange_delete(IN.into(), ExchangeDeleteOptions::default()).await?;
    for worker in MET {
        channel.exchange_delete(spreading(worker).as_str().into(), ExchangeDeleteOptions::default()).await?;
        for queue in Partitions(PARTITIONS_MAX).queues(worker) {
            channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
        }
    }
    Ok(())
}

/// Those of its work queue, and one worker at a time.
fn arguments(worker: &str) -> FieldTable {
    let name = topology::work_queue(worker);
    let topology = topology::topology();
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

/// The exchange that spreads a worker's messages.
fn spreading(worker: &str) -> String {
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
    let lost = |error: lapin::Error| Failure::Work(error.to_string());
    let connection = Connection::connect(url.expose_secret(), ConnectionProperties::default()).await.map_err(lost)?;
    let channel = connection.create_channel().await.map_err(lost)?;
    Ok((connection, channel))
}

async fn close(connection: &Connection) {
    let _ = connection.close(GOODBYE, "done".into()).await;
}

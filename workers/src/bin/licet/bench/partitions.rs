//! Queues that share a worker's messages by their user: what docs/SCALING.md plans for when one queue
//! is not enough, on a broker that has the plugin `rabbitmq_consistent_hash_exchange`.
//!
//! `licet.bench.in` takes the place of `licet.in`: it hands each worker's types to an exchange of
//! this worker, which chooses among its queues by a header, the user. All of it is gone afterwards.

use lapin::{
    Channel, Connection, ConnectionProperties, ExchangeKind,
    options::{
        ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use licet_client::schema::topology;
use licet_workers::program::Failure;
use secrecy::{ExposeSecret, SecretString};

use super::stand::MET;

/// Where a load publishes.
pub(super) const IN: &str = "licet.bench.in";
/// The header that tells the user.
pub(super) const HEADER_USER: &str = "licet-user";

const HASH: &str = "x-consistent-hash";
const GOODBYE: u16 = 200;

/// So many queues for each worker that a lifecycle meets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Partitions(pub(super) usize);

impl Partitions {
    /// The queues of a worker.
    pub(super) fn queues(self, worker: &str) -> Vec<String> {
        (1..=self.0).map(|number| format!("licet.bench.{worker}.{number}")).collect()
    }

    /// Declares exchanges, queues and bindings.
    ///
    /// # Errors
    /// The broker is away, or has no such exchanges.
    pub(super) async fn declare(self, url: &SecretString) -> Result<(), Failure> {
        // What a measurement that was broken off has left would keep its bindings.
        self.remove(url).await?;
        let (connection, channel) = connect(url).await?;
        let declared = self.declare_all(&channel).await;
        close(&connection).await;
        if declared.is_err() {
            let _ = self.remove(url).await;
        }
        declared.map_err(|error| {
            Failure::Work(format!(
                "partitioned queues cannot be declared ({error}): they need \
                 `rabbitmq-plugins enable rabbitmq_consistent_hash_exchange` at the broker"
            ))
        })
    }

    async fn declare_all(self, channel: &Channel) -> lapin::Result<()> {
        exchange(channel, IN, ExchangeKind::Topic, FieldTable::default()).await?;
        for worker in topology::WORKERS.iter().filter(|worker| MET.contains(&worker.name)) {
            let name = spreading(worker.name);
            let by_user = AMQPValue::LongString(HEADER_USER.into());
            let kind = ExchangeKind::Custom(HASH.into());
            exchange(channel, &name, kind, table([("hash-header", by_user)])).await?;
            for kind in worker.handles {
                let (to, from, key) = (name.as_str().into(), IN.into(), (*kind).into());
                channel.exchange_bind(to, from, key, ExchangeBindOptions::default(), FieldTable::default()).await?;
            }
            for queue in self.queues(worker.name) {
                let quorum = table([("x-queue-type", AMQPValue::LongString("quorum".into()))]);
                let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
                channel.queue_declare(queue.as_str().into(), durable, quorum).await?;
                // The key of a binding is the queue's weight.
                let (to, from, weight) = (queue.as_str().into(), name.as_str().into(), "1".into());
                channel.queue_bind(to, from, weight, QueueBindOptions::default(), FieldTable::default()).await?;
            }
        }
        Ok(())
    }

    /// Takes all of it away.
    ///
    /// # Errors
    /// The broker is away.
    pub(super) async fn remove(self, url: &SecretString) -> Result<(), Failure> {
        let (connection, channel) = connect(url).await?;
        let removed = self.remove_all(&channel).await;
        close(&connection).await;
        removed.map_err(|error| Failure::Work(format!("what begins with licet.bench is left at the broker: {error}")))
    }

    async fn remove_all(self, channel: &Channel) -> lapin::Result<()> {
        channel.exchange_delete(IN.into(), ExchangeDeleteOptions::default()).await?;
        for worker in MET {
            channel.exchange_delete(spreading(worker).as_str().into(), ExchangeDeleteOptions::default()).await?;
            for queue in self.queues(worker) {
                channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
            }
        }
        Ok(())
    }
}

/// The exchange that spreads a worker's messages.
fn spreading(worker: &str) -> String {
    format!("licet.bench.{worker}")
}

async fn exchange(channel: &Channel, name: &str, kind: ExchangeKind, arguments: FieldTable) -> lapin::Result<()> {
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(name.into(), kind, durable, arguments).await
}

fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
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

//! Looking through a queue with `basic.get`: a consumer would be sent as many bodies at once as its
//! prefetch allows, and would never see what lies behind them.

use std::{collections::BTreeSet, time::Duration};

use lapin::{
    Channel, Connection,
    options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio::time::timeout;

use super::{Delivery, Lost, answered, goodbye, read, short};

/// A channel of RabbitMQ has at most 32 commands under way to a quorum queue; further ones it puts
/// off and sends in an order of its own.
const RETURNED_AT_ONCE: usize = 16;
/// How long the return of such a portion is waited for.
const RETURN_TIMEOUT: Duration = Duration::from_secs(1);

/// See [`super::super::Browser`].
pub(in crate::transport) struct Browser {
    connection: Connection,
    channel: Channel,
    queue: String,
    /// The tags of what was looked at and not acknowledged.
    held: BTreeSet<u64>,
}

impl std::fmt::Debug for Browser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Browser")
    }
}

impl Browser {
    pub(super) fn new(connection: Connection, channel: Channel, queue: &str) -> Self {
        Self { connection, channel, queue: queue.to_owned(), held: BTreeSet::new() }
    }

    pub(in crate::transport) async fn next(&mut self) -> Result<Option<Delivery>, Lost> {
        let got = answered(self.channel.basic_get(short(&self.queue), BasicGetOptions { no_ack: false })).await?;
        self.held.extend(got.iter().map(|message| message.delivery.delivery_tag));
        Ok(got.map(|message| read(message.delivery)))
    }

    pub(in crate::transport) async fn ack(&mut self, tag: u64) -> Result<(), Lost> {
        self.held.remove(&tag);
        answered(self.channel.basic_ack(tag, BasicAckOptions { multiple: false })).await
    }

    /// Each by itself and in order: what is left to the end of the connection, a quorum queue puts
    /// back in any order. By nack, which newer brokers do not count as a delivery that failed.
    pub(in crate::transport) async fn close(self) {
        // If the connection has gone, the broker gives it back without being asked.
        let _ = self.give_back().await;
        goodbye(&self.connection).await;
    }

    async fn give_back(&self) -> Result<(), Lost> {
        let held: Vec<u64> = self.held.iter().copied().collect();
        for portion in held.chunks(RETURNED_AT_ONCE) {
            let before = self.depth().await?;
            for tag in portion {
                let requeued = BasicNackOptions { multiple: false, requeue: true };
                answered(self.channel.basic_nack(*tag, requeued)).await?;
            }
            let back = async {
                while self.depth().await? < before + portion.len() {}
                Ok::<_, Lost>(())
            };
            // Whoever takes from the queue meanwhile keeps the count from coming about: go on then.
            timeout(RETURN_TIMEOUT, back).await.unwrap_or(Ok(()))?;
        }
        Ok(())
    }

    async fn depth(&self) -> Result<usize, Lost> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = answered(self.channel.queue_declare(short(&self.queue), options, FieldTable::default())).await?;
        Ok(queue.message_count() as usize)
    }
}

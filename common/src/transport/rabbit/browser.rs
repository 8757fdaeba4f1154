//! Reads a queue one message at a time, and removes only messages that are acknowledged.
//!
//! With `basic.get`, only one body is in memory. A quorum queue may reorder messages if a channel
//! is closed before it acknowledges them, or if more than 32 messages are returned at once
//! (observed with RabbitMQ 3.10.8). Messages are therefore returned in order, sixteen at a time.

use std::{collections::BTreeSet, time::Duration};

use lapin::{
    Channel, Connection,
    options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio::time::timeout;

use super::{Delivery, Lost, call, close_connection, from_lapin, short};

/// The number of messages that are requeued at a time. A RabbitMQ channel has at most 32 commands
/// in flight to a quorum queue. It defers further commands and may reorder them.
const REQUEUE_CHUNK: usize = 16;
/// The maximum time to wait until a chunk is back in the queue.
const REQUEUE_TIMEOUT: Duration = Duration::from_secs(1);

/// See [`super::super::Browser`].
pub(in crate::transport) struct Browser {
    connection: Connection,
    channel: Channel,
    queue: String,
    /// The delivery tags of the messages that were read and not acknowledged.
    unacknowledged: BTreeSet<u64>,
}

impl std::fmt::Debug for Browser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Browser")
    }
}

impl Browser {
    pub(super) fn new(connection: Connection, channel: Channel, queue: &str) -> Self {
        Self { connection, channel, queue: queue.to_owned(), unacknowledged: BTreeSet::new() }
    }

    pub(in crate::transport) async fn next(&mut self) -> Result<Option<Delivery>, Lost> {
        let got = call(self.channel.basic_get(short(&self.queue), BasicGetOptions { no_ack: false })).await?;
        self.unacknowledged.extend(got.iter().map(|message| message.delivery.delivery_tag));
        Ok(got.map(|message| from_lapin(message.delivery)))
    }

    pub(in crate::transport) async fn ack(&mut self, tag: u64) -> Result<(), Lost> {
        self.unacknowledged.remove(&tag);
        call(self.channel.basic_ack(tag, BasicAckOptions { multiple: false })).await
    }

    /// Requeues the messages in order and closes the connection. The messages are requeued with
    /// nack, which newer brokers do not count as a failed delivery.
    pub(in crate::transport) async fn close(self) {
        // If the connection is lost, the broker itself requeues the messages.
        let _ = self.requeue().await;
        close_connection(&self.connection).await;
    }

    async fn requeue(&self) -> Result<(), Lost> {
        let tags: Vec<u64> = self.unacknowledged.iter().copied().collect();
        for chunk in tags.chunks(REQUEUE_CHUNK) {
            let before = self.depth().await?;
            for tag in chunk {
                let requeued = BasicNackOptions { multiple: false, requeue: true };
                call(self.channel.basic_nack(*tag, requeued)).await?;
            }
            let back = async {
                while self.depth().await? < before + chunk.len() {}
                Ok::<_, Lost>(())
            };
            // If another consumer takes messages in the meantime, this count is not reached.
            // Continue after the timeout.
            timeout(REQUEUE_TIMEOUT, back).await.unwrap_or(Ok(()))?;
        }
        Ok(())
    }

    async fn depth(&self) -> Result<usize, Lost> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = call(self.channel.queue_declare(short(&self.queue), options, FieldTable::default())).await?;
        Ok(queue.message_count() as usize)
    }
}

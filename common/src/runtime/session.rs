//! One session of the loop, which opens new connections and ends after a failure, a limit or a
//! stop.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use licet_schema::topology;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    Resources,
    backoff::{Backoff, OutageLog},
    batch::{self, BatchError},
    duplicate_check::DuplicateCheck,
    ignored_log::IgnoredLog,
    intake::{self, is_oversized},
    metrics::Metrics,
    outbox::{self, Outbox},
    session_mode::SessionMode,
    worker::AnyWorker,
};
use crate::{
    store::StoreError,
    transport::{Consumer, Delivery, Lost, PREFETCHED_BYTES_MAX},
};

/// The longest pause after a batch of a worker that pauses after each batch.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A batch of at least this many messages indicates that more are about to arrive.
const BUSY_MIN: usize = 4;
/// The longest time for which a worker waits for the next batch to grow.
const GATHER_MAX: Duration = Duration::from_millis(10);

/// The reason a session ended. The session is dropped, and the deliveries that it did not
/// acknowledge are delivered again.
pub(super) enum Ended {
    /// The program is stopping.
    Stopped,
    /// The broker is unavailable.
    Broker(Lost),
    /// The database is unavailable, or it cannot be used as it is set up.
    Database(StoreError),
    /// The deliveries exceeded the buffer of the consumer. Contains the size of the largest body,
    /// in bytes.
    TooLarge(usize),
    /// The session settled as many messages as its mode allows.
    LimitReached,
}

impl From<Lost> for Ended {
    fn from(lost: Lost) -> Self {
        Self::Broker(lost)
    }
}

/// A worker, and the state that outlives its sessions.
pub(super) struct Runner {
    pub(super) worker: Arc<dyn AnyWorker>,
    pub(super) resources: Resources,
    pub(super) metrics: Metrics,
    pub(super) duplicate_check: DuplicateCheck,
    pub(super) ignored: IgnoredLog,
    pub(super) outages: Mutex<OutageLog>,
}

/// A consumer and the outbox for its results.
pub(super) struct Session {
    consumer: Consumer,
    outbox: Outbox,
}

impl Runner {
    /// The configured prefetch. It is twice the size of a batch, so that the next batch has arrived
    /// when the current batch is done.
    pub(super) fn prefetch(&self) -> u16 {
        self.resources.limits.batch_max.saturating_mul(2)
    }

    pub(super) async fn connect(&self, mode: SessionMode) -> Result<Session, Lost> {
        let timeout = Duration::from_millis(self.resources.limits.reply_timeout_ms);
        let outbox = Outbox::open(&self.resources, self.worker.name(), timeout).await?;
        let prefetch = mode.prefetch(self.prefetch(), PREFETCHED_BYTES_MAX);
        let consumer = self.resources.transport.consume(&topology::work_queue(self.worker.name()), prefetch).await?;
        Ok(Session { consumer, outbox })
    }

    pub(super) async fn serve(&self, mut session: Session, stop: &CancellationToken, mode: SessionMode) -> Ended {
        let timeout = Duration::from_secs(self.resources.limits.shutdown_timeout_s);
        let overtime = async {
            stop.cancelled().await;
            tokio::time::sleep(timeout).await;
        };
        let working = async {
            let ended = match (self.work(&mut session, stop, mode).await, session.consumer.overfilled()) {
                (Ended::Broker(_), Some(largest)) => Ended::TooLarge(largest),
                (ended, _) => ended,
            };
            if matches!(ended, Ended::Stopped | Ended::LimitReached | Ended::TooLarge(_)) {
                session.consumer.close().await;
                session.outbox.close().await;
            }
            ended
        };
        tokio::select! {
            ended = working => ended,
            () = overtime => {
                warn!(
                    worker = self.worker.name(),
                    "not finished in time: the remaining messages will be delivered again"
                );
                Ended::Stopped
            }
        }
    }

    async fn work(&self, session: &mut Session, stop: &CancellationToken, mode: SessionMode) -> Ended {
        self.take_messages(session, stop, mode).await.unwrap_or_else(|ended| ended)
    }

    async fn take_messages(
        &self,
        session: &mut Session,
        stop: &CancellationToken,
        mode: SessionMode,
    ) -> Result<Ended, Ended> {
        let limits = &self.resources.limits;
        let mut left = mode.message_limit(self.prefetch()).unwrap_or(usize::MAX);
        while left > 0 {
            let deliveries = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                deliveries = session.consumer.receive(usize::from(limits.batch_max), limits.batch_max_bytes) => deliveries?,
            };
            left = left.saturating_sub(deliveries.len());
            let (messages, began) = (deliveries.len(), Instant::now());
            let more = messages >= limits.batch_max.into() || bytes(&deliveries) >= limits.batch_max_bytes;
            self.handle(session, deliveries, mode, stop).await?;
            let pause = pause_after(self.worker.pauses(), messages, more, began.elapsed());
            if !pause.is_zero() {
                stop.run_until_cancelled(self.resources.clock.sleep(pause)).await;
            }
        }
        // A delivery that is returned to the queue counts against the delivery limit of its
        // message, so finish the deliveries that have arrived.
        session.consumer.stop().await?;
        loop {
            let deliveries = session.consumer.receive(usize::from(limits.batch_max), limits.batch_max_bytes).await?;
            if deliveries.is_empty() {
                return Ok(if stop.is_cancelled() { Ended::Stopped } else { Ended::LimitReached });
            }
            self.handle(session, deliveries, mode, stop).await?;
        }
    }

    /// Handles deliveries in order. A delivery that was redelivered often is handled in a batch of
    /// its own, because it may be the cause of worker crashes. So is a delivery that is too large,
    /// because the broker must dead-letter it.
    async fn handle(
        &self,
        session: &mut Session,
        deliveries: Vec<Delivery>,
        mode: SessionMode,
        stop: &CancellationToken,
    ) -> Result<(), Ended> {
        let redelivered = deliveries.iter().filter(|delivery| delivery.redeliveries > 0).count();
        self.metrics.redelivered.add(redelivered as u64);
        for batch in batches(deliveries) {
            let Some(last) = batch.last() else { continue };
            let (last, is_moved) = (last.tag, intake::is_moved_by_the_broker(&self.resources, last));
            let publications = self.settle(batch, mode, stop).await?;
            // If the worker crashes after this point, the journal has the outputs and the broker
            // still has the inputs.
            let dropped = session.outbox.deliver(publications).await;
            self.metrics.dropped_replies.add(dropped);
            if is_moved {
                session.consumer.reject(last).await?;
            } else {
                session.consumer.ack_through(last).await?;
            }
            self.metrics.batches.add(1);
        }
        Ok(())
    }

    /// Decides a batch and returns the messages to publish. In quarantine, the worker keeps the
    /// message and tries it again while the database is unavailable. If the worker returned the
    /// message to its queue each time, the message would reach its delivery limit, because a
    /// database that responds may still reject every write (for example, if its disk is full).
    async fn settle(
        &self,
        mut batch: Vec<Delivery>,
        mode: SessionMode,
        stop: &CancellationToken,
    ) -> Result<Vec<outbox::Publication>, Ended> {
        let mut backoff = Backoff::new();
        loop {
            let again = (mode == SessionMode::Quarantine).then(|| batch.clone());
            let readings = intake::read_all(&self.worker, &self.resources, batch).await.map_err(|_| Ended::Stopped)?;
            let (name, now) = (self.worker.name(), self.resources.clock.now());
            let (work, mut publications) = outbox::separate(name, readings, now, &self.metrics, &self.ignored);
            let settled = batch::settle(&self.worker, &self.resources, &self.duplicate_check, work).await;
            match (settled, again) {
                (Ok(settled), _) => {
                    let now = self.resources.clock.now();
                    outbox::extend(name, settled, now, &self.metrics, &mut publications);
                    return Ok(publications);
                }
                (Err(BatchError::Stopping), _) => return Err(Ended::Stopped),
                (Err(BatchError::Unavailable(error)), Some(same)) if !stop.is_cancelled() => {
                    self.until_the_database_can_be_used(error, stop).await;
                    backoff.wait(&self.resources.clock, stop).await;
                    batch = same;
                }
                (Err(BatchError::Unavailable(error)), _) => return Err(Ended::Database(error)),
            }
        }
    }

    /// Waits until the database can be used. Logs `error`, or what the check of the setup finds
    /// instead.
    pub(super) async fn until_the_database_can_be_used(&self, error: StoreError, stop: &CancellationToken) {
        let (mut backoff, mut cause) = (Backoff::new(), Some(error));
        let usable = async {
            loop {
                let found = self.resources.store.renew(self.worker.changes()).await.err();
                if let Some(found @ StoreError::Misconfigured { .. }) = &found {
                    self.outages().must_be_corrected(found);
                    cause = None;
                }
                match cause.take() {
                    Some(error @ StoreError::Misconfigured { .. }) => self.outages().must_be_corrected(&error),
                    Some(error) => self.outages().began(&error),
                    None => {}
                }
                if found.is_none() {
                    return;
                }
                backoff.wait(&self.resources.clock, stop).await;
            }
        };
        stop.run_until_cancelled(usable).await;
    }

    pub(super) fn outages(&self) -> MutexGuard<'_, OutageLog> {
        self.outages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pause after a batch. `more` states that the batch was full. In that case, further messages
/// have probably arrived already, and there is no reason to wait for them.
///
/// Most of the cost of a batch does not depend on its size. A short pause under load makes batches
/// larger and the cost of each message smaller. A fixed wait would delay single messages.
fn pause_after(pauses: bool, messages: usize, more: bool, took: Duration) -> Duration {
    match (pauses, messages) {
        (true, _) => took.min(PAUSE_MAX),
        (false, BUSY_MIN..) if !more => (took / 2).min(GATHER_MAX),
        (false, _) => Duration::ZERO,
    }
}

fn bytes(deliveries: &[Delivery]) -> usize {
    deliveries.iter().map(|delivery| delivery.body.len()).sum()
}

/// Splits deliveries into batches, in order. Each suspect or oversized delivery is in a batch of
/// its own.
fn batches(deliveries: Vec<Delivery>) -> Vec<Vec<Delivery>> {
    let alone = |delivery: &Delivery| delivery.redeliveries >= topology::SUSPECT_DELIVERIES || is_oversized(delivery);
    let mut batches: Vec<Vec<Delivery>> = Vec::new();
    for delivery in deliveries {
        match batches.last_mut() {
            Some(batch) if !alone(&delivery) && !batch.last().is_some_and(alone) => batch.push(delivery),
            _ => batches.push(vec![delivery]),
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_message_is_not_delayed_and_no_batch_is_delayed_for_long() {
        let ms = Duration::from_millis;
        assert_eq!(pause_after(false, 1, false, ms(8)), Duration::ZERO);
        assert_eq!(pause_after(false, BUSY_MIN, false, ms(8)), ms(4));
        assert_eq!(pause_after(false, 200, false, ms(900)), GATHER_MAX);
        assert_eq!(pause_after(false, 256, true, ms(900)), Duration::ZERO);
        assert_eq!(pause_after(true, 1, false, ms(8)), ms(8));
    }

    #[test]
    fn a_suspect_delivery_is_alone_and_the_order_stays() {
        let delivery = |(tag, redeliveries): (u64, u32)| Delivery {
            tag,
            redeliveries,
            exchange: String::new(),
            routing_key: String::new(),
            properties: crate::transport::Properties::default(),
            death: None,
            body: bytes::Bytes::new(),
        };
        let redeliveries = [0, 2, 3, 3, 0, 1, 9];
        let batches = batches((1..).zip(redeliveries).map(delivery).collect());
        let tags: Vec<Vec<u64>> = batches.iter().map(|one| one.iter().map(|delivery| delivery.tag).collect()).collect();
        assert_eq!(tags, [vec![1, 2], vec![3], vec![4], vec![5, 6], vec![7]]);
    }
}

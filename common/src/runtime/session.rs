//! One session of the loop: from a new connection until something ends it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use licet_schema::topology;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    Machine, Worker,
    batch::{self, Lookout},
    intake::{self, is_oversized},
    outbox::{self, Outbox},
    tally::Tally,
    trouble::Pause,
};
use crate::transport::{Consumer, Delivery, Lost, PREFETCHED_BYTES_MAX};

/// A worker that rests does not rest longer than this.
const REST_MAX: Duration = Duration::from_secs(1);
/// So many messages at once say that more are about to come.
const BUSY_MIN: usize = 4;
/// How long at most a worker lets the next batch gather.
const GATHER_MAX: Duration = Duration::from_millis(10);

/// Why a session ended. It is thrown away with all that it holds; what it had not acknowledged is
/// delivered again.
pub(super) enum Ended {
    /// It was told to stop.
    Stopped,
    /// The broker is away.
    Broker(Lost),
    /// The database is away.
    Database(String),
    /// More bytes came at once than are held; the largest body had so many.
    Flooded(usize),
    /// What ended sessions is dealt with: go on as usual.
    Recovered,
}

impl From<Lost> for Ended {
    fn from(lost: Lost) -> Self {
        Self::Broker(lost)
    }
}

/// How a session that is not as usual begins and ends.
#[derive(Clone, Copy)]
pub(super) struct Narrow {
    /// Most messages that the broker sends ahead.
    pub(super) prefetch: u16,
    /// It ends after about so many.
    most: usize,
}

impl Narrow {
    /// A single message: it may be one that ends sessions.
    pub(super) const CAREFUL: Self = Self { prefetch: 1, most: 1 };
}

/// A worker, and what outlives its sessions.
pub(super) struct Runner<W> {
    pub(super) worker: Arc<W>,
    pub(super) machine: Machine,
    pub(super) tally: Tally,
    pub(super) lookout: Lookout,
}

/// A consumer and what publishes for it.
pub(super) struct Session {
    consumer: Consumer,
    outbox: Outbox,
}

impl<W: Worker> Runner<W> {
    /// Twice the batch, so that the next one is at hand when this one is done.
    fn prefetch(&self) -> u16 {
        self.machine.limits.batch_max.saturating_mul(2)
    }

    /// As many messages of this size as are held, until what came and was not held is dealt with.
    pub(super) fn narrowed(&self, largest: usize) -> Narrow {
        let fit = u16::try_from(PREFETCHED_BYTES_MAX / largest.max(1)).unwrap_or(u16::MAX);
        Narrow { prefetch: fit.clamp(1, self.prefetch()), most: usize::from(self.prefetch()) }
    }

    pub(super) async fn connect(&self, narrow: Option<Narrow>) -> Result<Session, Lost> {
        let limits = &self.machine.limits;
        let patience = Duration::from_millis(limits.reply_timeout_ms);
        let outbox = Outbox::open(&self.machine, self.worker.name(), patience).await?;
        let prefetch = narrow.map_or(self.prefetch(), |narrow| narrow.prefetch);
        let consumer = self.machine.transport.consume(&topology::work_queue(self.worker.name()), prefetch).await?;
        Ok(Session { consumer, outbox })
    }

    pub(super) async fn serve(&self, mut session: Session, stop: &CancellationToken, narrow: Option<Narrow>) -> Ended {
        let patience = Duration::from_secs(self.machine.limits.shutdown_timeout_s);
        let overtime = async {
            stop.cancelled().await;
            tokio::time::sleep(patience).await;
        };
        let working = async {
            let ended = match (self.work(&mut session, stop, narrow).await, session.consumer.flooded()) {
                (Err(Ended::Broker(_)), Some(largest)) => Ended::Flooded(largest),
                (ended, _) => ended.err().unwrap_or(Ended::Stopped),
            };
            if matches!(ended, Ended::Stopped | Ended::Recovered | Ended::Flooded(_)) {
                session.consumer.close().await;
                session.outbox.close().await;
            }
            ended
        };
        tokio::select! {
            ended = working => ended,
            () = overtime => {
                warn!(worker = self.worker.name(), "not finished in time: what is left is delivered again");
                Ended::Stopped
            }
        }
    }

    async fn work(&self, session: &mut Session, stop: &CancellationToken, narrow: Option<Narrow>) -> Result<(), Ended> {
        let limits = &self.machine.limits;
        let mut left = narrow.map_or(usize::MAX, |narrow| narrow.most);
        let kept = narrow.filter(|narrow| narrow.prefetch == Narrow::CAREFUL.prefetch).map(|_| stop);
        while left > 0 {
            let deliveries = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                deliveries = session.consumer.receive(usize::from(limits.batch_max), limits.batch_max_bytes) => deliveries?,
            };
            left = left.saturating_sub(deliveries.len());
            let (messages, began) = (deliveries.len(), Instant::now());
            let more = messages >= limits.batch_max.into() || bytes(&deliveries) >= limits.batch_max_bytes;
            self.handle(session, deliveries, kept).await?;
            let rest = rest_after(self.worker.rests(), messages, more, began.elapsed());
            if !rest.is_zero() {
                stop.run_until_cancelled(self.machine.clock.sleep(rest)).await;
            }
        }
        // Finishes what is at hand, so that no delivery is given back and counted against its message.
        session.consumer.stop().await?;
        loop {
            let deliveries = session.consumer.receive(usize::from(limits.batch_max), limits.batch_max_bytes).await?;
            if deliveries.is_empty() {
                return if stop.is_cancelled() { Ok(()) } else { Err(Ended::Recovered) };
            }
            self.handle(session, deliveries, kept).await?;
        }
    }

    /// Handles deliveries in their order; one that came back often is handled alone, because it
    /// may be what brings workers down, and one that is too large, because the broker sets it aside.
    async fn handle(
        &self,
        session: &mut Session,
        deliveries: Vec<Delivery>,
        kept: Option<&CancellationToken>,
    ) -> Result<(), Ended> {
        let again = deliveries.iter().filter(|delivery| delivery.redeliveries > 0).count();
        self.tally.redelivered.add(again as u64);
        for portion in portions(deliveries) {
            let Some((last, oversized)) = portion.last().map(|last| (last.tag, is_oversized(last))) else { continue };
            let outgoing = self.settle(portion, kept).await?;
            // A crash from here on: the journal has the outputs, the broker still has the inputs.
            let dropped = session.outbox.deliver(outgoing).await;
            self.tally.dropped_replies.add(dropped);
            if oversized {
                session.consumer.reject(last).await?;
            } else {
                session.consumer.ack_through(last).await?;
            }
            self.tally.portions.add(1);
        }
        Ok(())
    }

    /// Decides a portion: what is to be published. Where it is kept (until told to stop), it is tried
    /// again while the database is away: a message that is given back each time uses up its deliveries,
    /// and a database that answers may still not take anything, its disk being full.
    async fn settle(
        &self,
        mut portion: Vec<Delivery>,
        kept: Option<&CancellationToken>,
    ) -> Result<Vec<outbox::Duty>, Ended> {
        let mut pause = Pause::new();
        loop {
            let again = kept.map(|stop| (stop, portion.clone()));
            let readings = intake::read_all(&self.worker, &self.machine, portion).await?;
            let (name, now) = (self.worker.name(), self.machine.clock.now());
            let (work, mut outgoing) = outbox::separate(name, readings, now, &self.tally);
            match (batch::settle(&self.worker, &self.machine, &self.lookout, work).await, again) {
                (Ok(settled), _) => {
                    outbox::extend(name, settled, self.machine.clock.now(), &self.tally, &mut outgoing);
                    return Ok(outgoing);
                }
                (Err(_), Some((stop, same))) if !stop.is_cancelled() => {
                    self.until_the_database_answers(stop).await;
                    pause.wait(&self.machine.clock, stop).await;
                    portion = same;
                }
                (Err(cause), _) => return Err(Ended::Database(cause)),
            }
        }
    }

    pub(super) async fn until_the_database_answers(&self, stop: &CancellationToken) {
        let mut pause = Pause::new();
        let answers = async {
            while self.machine.store.renew(self.worker.changes()).await.is_err() {
                pause.wait(&self.machine.clock, stop).await;
            }
        };
        stop.run_until_cancelled(answers).await;
    }
}

/// How long to take nothing after so many messages that took so long. Most of a batch's cost does not depend on
/// its size: under load, a short rest makes the next batch larger and saves whole batches. After a few messages
/// there is none, so that nobody who is alone waits for others; nor where `more` are at hand already.
fn rest_after(rests: bool, messages: usize, more: bool, took: Duration) -> Duration {
    match (rests, messages) {
        (true, _) => took.min(REST_MAX),
        (false, BUSY_MIN..) if !more => (took / 2).min(GATHER_MAX),
        (false, _) => Duration::ZERO,
    }
}

fn bytes(deliveries: &[Delivery]) -> usize {
    deliveries.iter().map(|delivery| delivery.body.len()).sum()
}

/// Deliveries in their order, with each that is suspect or too large in a portion of its own.
fn portions(deliveries: Vec<Delivery>) -> Vec<Vec<Delivery>> {
    let alone = |delivery: &Delivery| delivery.redeliveries >= topology::SUSPECT_DELIVERIES || is_oversized(delivery);
    let mut portions: Vec<Vec<Delivery>> = Vec::new();
    for delivery in deliveries {
        match portions.last_mut() {
            Some(portion) if !alone(&delivery) && !portion.last().is_some_and(alone) => portion.push(delivery),
            _ => portions.push(vec![delivery]),
        }
    }
    portions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_alone_is_not_kept_waiting_and_nobody_is_for_long() {
        let ms = Duration::from_millis;
        assert_eq!(rest_after(false, 1, false, ms(8)), Duration::ZERO);
        assert_eq!(rest_after(false, BUSY_MIN, false, ms(8)), ms(4));
        assert_eq!(rest_after(false, 200, false, ms(900)), GATHER_MAX);
        assert_eq!(rest_after(false, 256, true, ms(900)), Duration::ZERO);
        assert_eq!(rest_after(true, 1, false, ms(8)), ms(8));
    }

    #[test]
    fn a_suspect_is_alone_and_the_order_stays() {
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
        let portions = portions((1..).zip(redeliveries).map(delivery).collect());
        let tags: Vec<Vec<u64>> =
            portions.iter().map(|one| one.iter().map(|delivery| delivery.tag).collect()).collect();
        assert_eq!(tags, [vec![1, 2], vec![3], vec![4], vec![5, 6], vec![7]]);
    }
}

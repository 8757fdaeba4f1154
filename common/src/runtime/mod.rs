//! The loop that every worker runs: acknowledge last.
//!
//! 1. **Receive** what is there ([`crate::transport`]); never wait for more while anything is in hand. After a
//!    batch of several, rest for half as long as it took, at most 10 ms: the next one will be larger.
//! 2. **Read** (`intake`): decode, and read tokens, if they are many off the async threads (`compute`). What cannot be read
//!    becomes a dead letter with its reason.
//! 3. **Decide** (`batch`): one transaction; locks and reads, the worker's pure rules as a fold over the batch,
//!    journal and rows written, commit. An id that is in the journal already is found by its key, or looked up first.
//! 4. **Publish** (`outbox`) all outputs and wait until each is confirmed.
//! 5. **Acknowledge** the batch.
//!
//! A crash before the commit changes nothing, and the broker delivers again. A crash after it finds
//! the journal, whose stored outputs are sent again, byte for byte. So the unacknowledged input is
//! the outbox: there is no other, and nothing is ever recomputed from newer state.
//!
//! When the broker or the database is away, everything in hand is dropped and made anew: nobody's
//! message is to blame, and no attempt is counted.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use licet_schema::{Refusal, Request, topology};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    clock::Clock,
    config::{Limits, Senders, Terms},
    decision::{Context, Decision, Tables},
    signing::Keyring,
    store::{Store, StoreError, Transaction},
    transport::{Consumer, Delivery, Lost, PREFETCHED_BYTES_MAX, Transport},
};

mod batch;
mod compute;
mod copies;
mod intake;
mod outbox;
mod stored;
mod tally;

use batch::Lookout;
pub use copies::{Claim, Distrusted, Failure, Past, Trust, replayed};
use intake::is_oversized;
use outbox::Outbox;
pub use stored::{StoredOutput, outputs_of};
use tally::Tally;

/// What makes a worker: how it reads a request, what it loads for a batch, what it decides.
pub trait Worker: Send + Sync + 'static {
    /// What the rules are given of a request.
    type Input: Send + Sync + 'static;

    /// Its name in [`topology::WORKERS`].
    fn name(&self) -> &'static str;

    /// Reads a request, its tokens above all. Pure, and off the async threads.
    ///
    /// # Errors
    /// A refusal that needs no look at the database.
    fn read(&self, keyring: &Keyring, request: Request) -> Result<Self::Input, Refusal>;

    /// Whether it changes anything. What only looks is not journaled, takes no locks, and answers
    /// anew when it is asked again.
    fn changes(&self) -> bool {
        true
    }

    /// Whether it rests after a batch for as long as that took. For work that nobody waits for,
    /// and that leaves room for what somebody does wait for.
    fn rests(&self) -> bool {
        false
    }

    /// The purchase that an input belongs to, as far as it says itself. Believed only of an input
    /// whose refusal comes after its proof, so that the refusal stands in the purchase's story.
    fn subject(&self, _input: &Self::Input) -> Option<Uuid> {
        None
    }

    /// Takes the locks and reads the rows that these inputs need, with one query for each table.
    ///
    /// # Errors
    /// The database's.
    fn load(
        &self,
        connection: &Transaction,
        inputs: &[&Self::Input],
    ) -> impl Future<Output = Result<Tables, StoreError>> + Send;

    /// Decides one input, seeing what was decided before it in the batch. Pure. Checks come
    /// before changes: a refusal leaves the rows as they were.
    ///
    /// # Errors
    /// A refusal, which is an answer.
    fn decide(&self, context: &Context<'_>, tables: &mut Tables, input: &Self::Input) -> Result<Decision, Refusal>;
}

/// Everything that a worker runs on.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The broker.
    pub transport: Transport,
    /// The database.
    pub store: Store,
    /// The keys.
    pub keyring: Arc<Keyring>,
    /// The time.
    pub clock: Clock,
    /// What the rules are told.
    pub terms: Arc<Terms>,
    /// How the loop is bounded.
    pub limits: Limits,
    /// Who may send what.
    pub senders: Arc<Senders>,
}

/// The first and the longest pause between two attempts at something that is away.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// After so many sessions in a row that settled nothing, the next one takes a single message: it
/// may be one that ends sessions, and it shall not be counted against its neighbours.
const FRUITLESS_MAX: u32 = 3;
const CAREFUL: Narrow = Narrow { prefetch: 1, most: 1 };
/// The pause between two such sessions.
const CAREFUL_PAUSE: Duration = Duration::from_millis(100);
/// How long trouble that comes and goes is not told of again.
const QUIET: Duration = Duration::from_secs(30);
/// A worker that rests does not rest longer than this.
const REST_MAX: Duration = Duration::from_secs(1);
/// So many messages at once say that more are about to come.
const BUSY_MIN: usize = 4;
/// How long at most a worker lets the next batch gather.
const GATHER_MAX: Duration = Duration::from_millis(10);

/// Why a session ended. It is thrown away with all that it holds; what it had not acknowledged is
/// delivered again.
enum Ended {
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

/// How a session that is not as usual begins and ends.
#[derive(Clone, Copy)]
struct Narrow {
    /// Most messages that the broker sends ahead.
    prefetch: u16,
    /// It ends after about so many.
    most: usize,
}

impl From<Lost> for Ended {
    fn from(lost: Lost) -> Self {
        Self::Broker(lost)
    }
}

/// Runs a worker until `stop`: then it takes nothing new, finishes what it has in hand, and returns.
pub async fn run<W: Worker>(worker: W, machine: Machine, stop: CancellationToken) {
    let runner = Runner { worker: Arc::new(worker), machine, tally: Tally::default(), lookout: Lookout::default() };
    let name = runner.worker.name();
    let (mut pause, mut voice) = (Pause::new(), Voice::new(name));
    let (mut fruitless, mut flooded) = (0, None);
    while !stop.is_cancelled() {
        let settled = runner.tally.portions.get();
        let careful = fruitless >= FRUITLESS_MAX;
        let narrow = if careful { Some(CAREFUL) } else { flooded.take() };
        let connected = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            connected = runner.connect(narrow) => connected,
        };
        let ended = match connected {
            Ok(session) => {
                if !careful {
                    voice.up();
                    pause = Pause::new();
                }
                fruitless += 1;
                runner.serve(session, &stop, narrow).await
            }
            Err(lost) => Ended::Broker(lost),
        };
        if runner.tally.portions.get() > settled {
            fruitless = 0;
            pause = Pause::new();
        }
        match ended {
            Ended::Stopped => break,
            Ended::Recovered => continue,
            Ended::Flooded(largest) => {
                let narrow = runner.narrowed(largest);
                info!(worker = name, largest, "large messages: taking {} at a time for a while", narrow.prefetch);
                flooded = Some(narrow);
                continue;
            }
            Ended::Broker(lost) => voice.down(&lost.to_string()),
            Ended::Database(cause) => {
                voice.down(&cause);
                runner.until_the_database_answers(&stop).await;
            }
        }
        if careful {
            pause.next = CAREFUL_PAUSE;
        }
        pause.wait(&runner.machine.clock, &stop).await;
    }
    let tally = &runner.tally;
    info!(
        worker = name,
        redelivered = tally.redelivered.get(),
        dropped_replies = tally.dropped_replies.get(),
        delayed = tally.delayed.get(),
        dead_letters = tally.dead_letters.get(),
        panics = tally.panics.get(),
        "stopped"
    );
}

struct Runner<W> {
    worker: Arc<W>,
    machine: Machine,
    tally: Tally,
    lookout: Lookout,
}

/// A consumer and what publishes for it.
struct Session {
    consumer: Consumer,
    outbox: Outbox,
}

impl<W: Worker> Runner<W> {
    /// Twice the batch, so that the next one is at hand when this one is done.
    fn prefetch(&self) -> u16 {
        self.machine.limits.batch_max.saturating_mul(2)
    }

    /// As many messages of this size as are held, until what came and was not held is dealt with.
    fn narrowed(&self, largest: usize) -> Narrow {
        let fit = u16::try_from(PREFETCHED_BYTES_MAX / largest.max(1)).unwrap_or(u16::MAX);
        Narrow { prefetch: fit.clamp(1, self.prefetch()), most: usize::from(self.prefetch()) }
    }

    async fn connect(&self, narrow: Option<Narrow>) -> Result<Session, Lost> {
        let limits = &self.machine.limits;
        let patience = Duration::from_millis(limits.reply_timeout_ms);
        let outbox = Outbox::open(&self.machine, self.worker.name(), patience).await?;
        let prefetch = narrow.map_or(self.prefetch(), |narrow| narrow.prefetch);
        let consumer = self.machine.transport.consume(&topology::work_queue(self.worker.name()), prefetch).await?;
        Ok(Session { consumer, outbox })
    }

    async fn serve(&self, mut session: Session, stop: &CancellationToken, narrow: Option<Narrow>) -> Ended {
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
        let kept = narrow.filter(|narrow| narrow.prefetch == CAREFUL.prefetch).map(|_| stop);
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

    async fn until_the_database_answers(&self, stop: &CancellationToken) {
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

/// Growing pauses.
struct Pause {
    next: Duration,
}

impl Pause {
    fn new() -> Self {
        Self { next: PAUSE.0 }
    }

    async fn wait(&mut self, clock: &Clock, stop: &CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = clock.sleep(self.next) => {}
        }
        self.next = (self.next * 2).min(PAUSE.1);
    }
}

/// One log line for each change of state; and where states change by the second, a pair of lines
/// now and then.
struct Voice {
    worker: &'static str,
    is_up: bool,
    complained_at: Option<Instant>,
}

impl Voice {
    fn new(worker: &'static str) -> Self {
        Self { worker, is_up: false, complained_at: None }
    }

    fn up(&mut self) {
        if !std::mem::replace(&mut self.is_up, true) {
            info!(worker = self.worker, queue = topology::work_queue(self.worker), "consuming");
        }
    }

    fn down(&mut self, cause: &str) {
        if self.complained_at.is_none_or(|at| at.elapsed() > QUIET) {
            self.is_up = false;
            self.complained_at = Some(Instant::now());
            warn!(worker = self.worker, "{cause}; trying again until it is back");
        }
    }
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

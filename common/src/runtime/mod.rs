//! The loop that every worker runs: acknowledge last.
//!
//! 1. **Receive** what is there ([`crate::transport`]); never wait for more while anything is in hand.
//! 2. **Read** ([`intake`]): decode, and read tokens, off the async threads. What cannot be read
//!    becomes a dead letter with its reason.
//! 3. **Decide** ([`batch`]): one transaction; journal look-up, locks and reads, the worker's pure
//!    rules as a fold over the batch, journal and rows written, commit.
//! 4. **Publish** ([`outbox`]) all outputs and wait until each is confirmed.
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
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use licet_schema::{Refusal, Request, topology};
use sea_orm::DatabaseTransaction;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    clock::Clock,
    config::{Limits, Terms},
    decision::{Context, Decision, Tables},
    signing::Keyring,
    store::{Store, StoreError},
    transport::{Consumer, Delivery, Lost, Publisher, Transport},
};

mod batch;
mod intake;
mod outbox;
mod stored;

pub use stored::{StoredOutput, outputs_of};

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

    /// Takes the locks and reads the rows that these inputs need, with one query for each table.
    ///
    /// # Errors
    /// The database's.
    fn load(
        &self,
        connection: &DatabaseTransaction,
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
}

/// The first and the longest pause between two attempts at something that is away.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Why a batch was not finished. The session is thrown away; the broker delivers it again.
enum Unfinished {
    Broker(Lost),
    Database(String),
}

impl From<Lost> for Unfinished {
    fn from(lost: Lost) -> Self {
        Self::Broker(lost)
    }
}

/// Runs a worker until `stop`: then it takes nothing new, finishes what it has in hand, and returns.
pub async fn run<W: Worker>(worker: W, machine: Machine, stop: CancellationToken) {
    let runner = Runner { worker: Arc::new(worker), machine, dropped_replies: AtomicU64::new(0) };
    let name = runner.worker.name();
    let mut pause = Pause::new();
    while !stop.is_cancelled() {
        let outcome = match runner.connect().await {
            Ok((consumer, publisher)) => {
                info!(worker = name, queue = topology::work_queue(name), "consuming");
                pause.reset();
                runner.serve(consumer, publisher, &stop).await
            }
            Err(lost) => Err(Unfinished::Broker(lost)),
        };
        match outcome {
            Ok(()) => break,
            Err(Unfinished::Broker(lost)) => pause.say(name, &lost.to_string()),
            Err(Unfinished::Database(cause)) => {
                pause.say(name, &cause);
                runner.until_the_database_answers(&stop).await;
            }
        }
        pause.wait(&stop).await;
    }
    info!(worker = name, dropped_replies = runner.dropped_replies.load(Ordering::Relaxed), "stopped");
}

struct Runner<W> {
    worker: Arc<W>,
    machine: Machine,
    /// Replies that no queue took any more: each can be asked for again.
    dropped_replies: AtomicU64,
}

impl<W: Worker> Runner<W> {
    async fn connect(&self) -> Result<(Consumer, Publisher), Lost> {
        let publisher = self.machine.transport.publisher().await?;
        // Twice the batch, so that the next one is at hand when this one is done.
        let prefetch = self.machine.limits.batch_max.saturating_mul(2);
        let consumer = self.machine.transport.consume(&topology::work_queue(self.worker.name()), prefetch).await?;
        Ok((consumer, publisher))
    }

    async fn serve(
        &self,
        mut consumer: Consumer,
        publisher: Publisher,
        stop: &CancellationToken,
    ) -> Result<(), Unfinished> {
        let limits = &self.machine.limits;
        loop {
            let deliveries = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                deliveries = consumer.receive(usize::from(limits.batch_max), limits.batch_max_bytes) => deliveries?,
            };
            self.handle(&consumer, &publisher, deliveries).await?;
        }
        let patience = Duration::from_secs(limits.shutdown_timeout_s);
        if tokio::time::timeout(patience, self.drain(&mut consumer, &publisher)).await.is_err() {
            warn!(worker = self.worker.name(), "not finished in time: what is left is delivered again");
        }
        consumer.close().await;
        publisher.close().await;
        Ok(())
    }

    /// Finishes what is at hand, so that no delivery is given back and counted against its message.
    async fn drain(&self, consumer: &mut Consumer, publisher: &Publisher) -> Result<(), Unfinished> {
        consumer.stop().await?;
        let limits = &self.machine.limits;
        loop {
            let deliveries = consumer.receive(usize::from(limits.batch_max), limits.batch_max_bytes).await?;
            if deliveries.is_empty() {
                return Ok(());
            }
            self.handle(consumer, publisher, deliveries).await?;
        }
    }

    /// Handles deliveries in their order; one that came back often is handled alone, because it
    /// may be what brings workers down.
    async fn handle(
        &self,
        consumer: &Consumer,
        publisher: &Publisher,
        deliveries: Vec<Delivery>,
    ) -> Result<(), Unfinished> {
        let suspect = |delivery: &Delivery| delivery.redeliveries >= topology::SUSPECT_DELIVERIES;
        for portion in deliveries.chunk_by(|one, next| !suspect(one) && !suspect(next)) {
            let Some(last) = portion.last().map(|delivery| delivery.tag) else { continue };
            let readings = intake::read_all(&self.worker, &self.machine.keyring, portion.to_vec()).await;
            let (work, mut outgoing) = outbox::separate(self.worker.name(), readings);
            let settled = batch::settle(&self.worker, &self.machine, work).await.map_err(Unfinished::Database)?;
            outbox::extend(self.worker.name(), settled, &mut outgoing);
            // A crash from here on: the journal has the outputs, the broker still has the inputs.
            let patience = Duration::from_millis(self.machine.limits.reply_timeout_ms);
            let dropped = outbox::deliver(publisher, outgoing, patience).await?;
            self.dropped_replies.fetch_add(dropped, Ordering::Relaxed);
            consumer.ack_through(last).await?;
        }
        Ok(())
    }

    async fn until_the_database_answers(&self, stop: &CancellationToken) {
        let mut pause = Pause::new();
        while !stop.is_cancelled() && self.machine.store.ping().await.is_err() {
            pause.wait(stop).await;
        }
    }
}

/// Growing pauses, and one log line for each change of state.
struct Pause {
    next: Duration,
    said: bool,
}

impl Pause {
    fn new() -> Self {
        Self { next: PAUSE.0, said: false }
    }

    fn reset(&mut self) {
        *self = Self::new();
    }

    fn say(&mut self, worker: &str, cause: &str) {
        if !std::mem::replace(&mut self.said, true) {
            warn!(worker, "{cause}; trying again until it is back");
        }
    }

    async fn wait(&mut self, stop: &CancellationToken) {
        let _ = tokio::time::timeout(self.next, stop.cancelled()).await;
        self.next = (self.next * 2).min(PAUSE.1);
    }
}

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

use std::{future::Future, sync::Arc, time::Duration};

use licet_schema::{Refusal, Request};
use tokio_util::sync::CancellationToken;
use tracing::info;
use uuid::Uuid;

use crate::{
    clock::Clock,
    config::{Limits, Senders, Terms},
    decision::{Context, Decision, Tables},
    signing::Keyring,
    store::{Store, StoreError, Transaction},
    transport::Transport,
};

mod batch;
mod compute;
mod copies;
mod intake;
mod outbox;
mod session;
mod stored;
mod tally;
mod trouble;

use batch::Lookout;
pub use copies::{Claim, Distrusted, Failure, Past, Trust, replayed};
use session::{Ended, Narrow, Runner};
pub use stored::{StoredOutput, outputs_of};
use tally::Tally;
use trouble::{Pause, Voice};

/// What makes a worker: how it reads a request, what it loads for a batch, what it decides.
pub trait Worker: Send + Sync + 'static {
    /// What the rules are given of a request.
    type Input: Send + Sync + 'static;

    /// Its name in [`licet_schema::topology::WORKERS`].
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

/// After so many sessions in a row that settled nothing, the next one takes a single message: it
/// may be one that ends sessions, and it shall not be counted against its neighbours.
const FRUITLESS_MAX: u32 = 3;
/// The pause between two such sessions.
const CAREFUL_PAUSE: Duration = Duration::from_millis(100);

/// Runs a worker until `stop`: then it takes nothing new, finishes what it has in hand, and returns.
pub async fn run<W: Worker>(worker: W, machine: Machine, stop: CancellationToken) {
    let runner = Runner { worker: Arc::new(worker), machine, tally: Tally::default(), lookout: Lookout::default() };
    let name = runner.worker.name();
    let (mut pause, mut voice) = (Pause::new(), Voice::new(name));
    let (mut fruitless, mut flooded) = (0, None);
    while !stop.is_cancelled() {
        let settled = runner.tally.portions.get();
        let careful = fruitless >= FRUITLESS_MAX;
        let narrow = if careful { Some(Narrow::CAREFUL) } else { flooded.take() };
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
            pause = Pause::beginning_with(CAREFUL_PAUSE);
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

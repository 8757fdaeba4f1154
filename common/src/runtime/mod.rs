//! The loop that every worker runs. It acknowledges messages last.
//!
//! 1. **Receive** the messages that have arrived ([`crate::transport`]), and wait only if there are
//!    none. After a batch of four or more messages that was not full, pause for half as long as the
//!    batch took, at most 10 ms, so that the next batch is larger.
//! 2. **Read** the bodies and tokens (`intake`). A large batch is read on a blocking thread
//!    (`offload`). A message that cannot be read becomes a dead letter with a reason.
//! 3. **Decide** the messages in one transaction (`batch`): lock and read the rows, apply the
//!    worker's rules to the messages in order, write the journal and the changed rows, and commit.
//!    If a message was decided earlier, a lookup in the journal finds it, or the key of the journal
//!    rejects it (`duplicate_check`).
//! 4. **Publish** all outputs and wait until each is confirmed (`outbox`). Outputs that a certain
//!    queue must store come first.
//! 5. **Acknowledge** the batch.
//!
//! A crash before the commit has no effect: the broker redelivers the messages. After a crash that
//! follows the commit, the redelivered message is found in the journal, and its stored outputs are
//! sent again, byte for byte. The unacknowledged input therefore serves as the outbox: there is no
//! outbox table, and outputs are never recomputed from newer rows.
//!
//! If the broker or the database becomes unavailable, the session ends without acknowledging its
//! messages, and a new session begins (`session`, `session_mode`). The same applies if the database
//! cannot be used as it is set up, for example because a privilege or a column is missing: the
//! worker takes no messages until an operator has corrected it. Neither is counted as a failed
//! attempt of any message.

use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    clock::Clock,
    config::{Limits, Senders, Terms},
    signing::Keyring,
    store::Store,
    transport::{PREFETCHED_BYTES_MAX, Transport},
};

mod backoff;
mod batch;
mod duplicate_check;
mod ignored_log;
mod intake;
mod journal;
mod metrics;
mod offload;
mod outbox;
mod retry_headers;
mod session;
mod session_mode;
mod worker;

use backoff::{Backoff, OutageLog};
use duplicate_check::DuplicateCheck;
use ignored_log::IgnoredLog;
pub use journal::{JournalError, StoredOutput, changes_of, outputs_of};
use metrics::Metrics;
pub use outbox::published_again;
pub use retry_headers::{Claim, Failure, Origin, Trust, Untrusted, replayed};
use session::{Ended, Runner};
use session_mode::{SessionEnd, SessionMode};
pub use worker::Worker;

/// The resources that a worker uses.
#[derive(Clone, Debug)]
pub struct Resources {
    /// The broker.
    pub transport: Transport,
    /// The database.
    pub store: Store,
    /// The keys that tokens are signed and verified with.
    pub keyring: Arc<Keyring>,
    /// The clock.
    pub clock: Clock,
    /// The terms that the operator configured for the rules.
    pub terms: Arc<Terms>,
    /// The limits of the loop.
    pub limits: Limits,
    /// Which broker users may send which message types.
    pub senders: Arc<Senders>,
}

/// Runs a worker and its background task until `stop` is cancelled. The worker then receives no
/// more messages, finishes those that it has received, and returns.
pub fn run<W: Worker>(worker: W, resources: Resources, stop: CancellationToken) -> BoxFuture<'static, ()> {
    let worker = Arc::new(worker.with_terms(&resources.terms));
    let consuming = run_loop(worker, resources.clone(), stop.clone());
    Box::pin(async move {
        tokio::join!(consuming, W::run_beside(&resources, &stop));
    })
}

fn run_loop(
    worker: Arc<dyn worker::AnyWorker>,
    mut resources: Resources,
    stop: CancellationToken,
) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        resources.limits.batch_max = worker.batch_max().unwrap_or(resources.limits.batch_max);
        let name = worker.name();
        let runner = Runner {
            worker,
            resources,
            metrics: Metrics::default(),
            ignored: IgnoredLog::default(),
            duplicate_check: DuplicateCheck::default(),
            outages: Mutex::new(OutageLog::new(name)),
        };
        let mut backoff = Backoff::new();
        let mut mode = SessionMode::FIRST;
        while !stop.is_cancelled() {
            let settled = runner.metrics.batches.get();
            let connected = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                connected = runner.connect(mode) => connected,
            };
            let (ended, was_connected) = match connected {
                Ok(session) => {
                    if mode != SessionMode::Quarantine {
                        runner.outages().ended();
                        backoff = Backoff::new();
                    }
                    (runner.serve(session, &stop, mode).await, true)
                }
                Err(lost) => (Ended::Broker(lost), false),
            };
            let productive = runner.metrics.batches.get() > settled;
            if productive {
                backoff = Backoff::new();
            }
            if mode == SessionMode::Quarantine {
                backoff = Backoff::in_quarantine();
            }
            mode = mode.next(match ended {
                _ if !was_connected => SessionEnd::NotConnected,
                Ended::TooLarge(largest) => SessionEnd::TooLarge { largest, productive },
                _ => SessionEnd::Ended { productive },
            });
            match ended {
                Ended::Stopped => break,
                Ended::LimitReached => continue,
                Ended::TooLarge(largest) => {
                    let prefetch = mode.prefetch(runner.prefetch(), PREFETCHED_BYTES_MAX);
                    info!(worker = name, largest, "large messages: taking {prefetch} at a time for a while");
                    continue;
                }
                Ended::Broker(lost) => runner.outages().began(&lost),
                Ended::Database(error) => runner.until_the_database_can_be_used(error, &stop).await,
            }
            backoff.wait(&runner.resources.clock, &stop).await;
        }
        let metrics = &runner.metrics;
        info!(
            worker = name,
            redelivered = metrics.redelivered.get(),
            dropped_replies = metrics.dropped_replies.get(),
            delayed = metrics.delayed.get(),
            dead_letters = metrics.dead_letters.get(),
            panics = metrics.panics.get(),
            ignored = metrics.ignored.get(),
            "stopped"
        );
    })
}

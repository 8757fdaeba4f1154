//! Dead letters: messages that a worker could not read, or could not decide in any of its attempts.
//! They wait in `licet.dead.<worker>` until an operator replays or removes them (`licet dead`).
//!
//! A [`Scan`] reads each queue from its head, one letter at a time. It reads at most as many
//! letters as the queue contained when the scan reached it, so a letter that is replayed and fails
//! again is not read twice. A letter leaves its queue only if its replay was confirmed or if it is
//! to be removed. All other letters return to their positions.
//!
//! Deliberately absent: a store for dead letters. The properties and headers of a letter contain
//! all information about it.

use licet_common::{
    runtime::Trust,
    transport::{Browser, Lost, Transport},
};
use licet_schema::{Timestamp, topology};
use licet_workers::registry;
use tokio_util::sync::CancellationToken;

mod letter;
mod replay;

pub use letter::{Body, Details, Letter};
pub use replay::Replayer;

/// Selects the letters that meet every condition.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Letters with one of these message_ids. If empty, any message_id.
    pub ids: Vec<String>,
    /// Letters of this worker.
    pub worker: Option<String>,
    /// Letters whose reason contains this text, ignoring case.
    pub reason: Option<String>,
    /// Letters whose last failure was before this time.
    pub before: Option<Timestamp>,
    /// Letters whose last failure was after this time.
    pub after: Option<Timestamp>,
}

impl Filter {
    /// Whether the filter has no condition.
    pub fn is_open(&self) -> bool {
        let Self { ids, worker, reason, before, after } = self;
        ids.is_empty() && worker.is_none() && reason.is_none() && before.is_none() && after.is_none()
    }

    /// Whether a letter of a selected worker meets the other conditions.
    fn allows(&self, letter: &Letter) -> bool {
        let details = &letter.details;
        let id = details.message_id.as_ref();
        let contains = |part: &String| details.reason.to_lowercase().contains(&part.to_lowercase());
        (self.ids.is_empty() || id.is_some_and(|id| self.ids.contains(id)))
            && self.reason.as_ref().is_none_or(contains)
            && self.before.is_none_or(|before| details.failed_at.is_some_and(|at| at < before))
            && self.after.is_none_or(|after| details.failed_at.is_some_and(|at| at > after))
    }
}

/// The action to take after a letter was examined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The letter stays in its queue.
    Keep,
    /// The letter is removed from its queue.
    Remove,
}

/// The counts of a scan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// The letters that were examined.
    pub examined: u32,
    /// The letters that were not examined, because of the limit.
    pub beyond_limit: u32,
    /// The letters that left their queues.
    pub removed: u32,
}

/// An error while dead letters are read, replayed or removed.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// The connection to the broker was lost, or could not be opened.
    #[error(transparent)]
    Broker(#[from] Lost),
    /// The connection was lost while a letter was read.
    #[error(
        "{source}; if this error repeats, letter {number} of {queue} has a header that no client library can read: \
         remove it with the tools of the broker"
    )]
    Unreadable {
        /// The queue.
        queue: String,
        /// The position in the queue, counted from 1.
        number: u32,
        /// The underlying error.
        source: Lost,
    },
    /// The broker has no work queue for a replay.
    #[error("the broker has no queue {queue}: run `licet topology apply`")]
    NoQueue {
        /// The queue.
        queue: String,
    },
    /// The work queue is full.
    #[error("the queue {queue} is full: try again when its worker has caught up")]
    QueueFull {
        /// The queue.
        queue: String,
    },
    /// The broker did not confirm a replay in time.
    #[error("the broker did not confirm a replay in time: run the command again; the message takes effect only once")]
    NotConfirmed,
    /// Only an untrusted publisher names the sender of the original message. A replay in another
    /// sender's name would be a different message.
    #[error(
        "the sender of a letter in {queue} is known only from the broker user {publisher:?}, which is not trusted: run \
         this as the broker user of the workers, or add {:?} for {publisher:?} and for your own user to the table \
         [senders] of licet.toml, here and where the workers run",
        topology::RETRY
    )]
    UntrustedSender {
        /// The queue.
        queue: String,
        /// The publisher of the letter, or `unknown`.
        publisher: String,
    },
}

/// A scan of the dead-letter queues.
#[derive(Debug)]
pub struct Scan<'a> {
    /// The broker.
    pub transport: &'a Transport,
    /// The publishers that may name the sender of a letter.
    pub trust: &'a Trust,
    /// Selects the letters to visit.
    pub filter: &'a Filter,
    /// The maximum number of letters to examine, over all queues.
    pub limit: u32,
    /// Stops the scan early. Letters that were not removed return to their queues.
    pub stop: &'a CancellationToken,
}

impl Scan<'_> {
    /// Passes each letter to `visit`, which returns the action to take.
    ///
    /// # Errors
    /// The broker is unavailable, or `visit` fails. Letters that were not removed stay in their
    /// queues.
    pub async fn run(
        &self,
        mut visit: impl AsyncFnMut(&Letter) -> Result<Action, DeadLetterError>,
    ) -> Result<Scanned, DeadLetterError> {
        let mut scanned = Scanned::default();
        let selected = |name: &str| self.filter.worker.as_ref().is_none_or(|worker| worker == name);
        for worker in registry::names().filter(|name| selected(name)) {
            let queue = topology::dead_queue(worker);
            let depth = self.transport.depth(&queue).await?;
            let here = depth.min(self.limit - scanned.examined);
            scanned.beyond_limit += depth - here;
            if here == 0 || self.stop.is_cancelled() {
                continue;
            }
            let mut browser = self.transport.browse(&queue).await?;
            let outcome = self.run_one(worker, here, &mut browser, &mut scanned, &mut visit).await;
            browser.close().await;
            outcome?;
        }
        Ok(scanned)
    }

    async fn run_one(
        &self,
        worker: &'static str,
        most: u32,
        browser: &mut Browser,
        scanned: &mut Scanned,
        visit: &mut impl AsyncFnMut(&Letter) -> Result<Action, DeadLetterError>,
    ) -> Result<(), DeadLetterError> {
        let unreadable =
            |number, source| DeadLetterError::Unreadable { queue: topology::dead_queue(worker), number, source };
        for number in 1..=most {
            if self.stop.is_cancelled() {
                break;
            }
            let next = browser.next().await.map_err(|lost| unreadable(number, lost))?;
            let Some(delivery) = next else { break };
            let tag = delivery.tag;
            scanned.examined += 1;
            let letter = Letter::read(worker, delivery, self.trust);
            if self.filter.allows(&letter) && visit(&letter).await? == Action::Remove {
                browser.ack(tag).await?;
                scanned.removed += 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

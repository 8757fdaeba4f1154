//! Dead letters, for operators: what a worker could not read, or could not decide however often it
//! tried, waits in `licet.dead.<worker>` until a person looks at it (`licet dead`).
//!
//! A queue is looked through from its head, one letter at a time, and no further than it reached
//! when the look began: what is replayed and fails again comes back behind that. A letter leaves
//! its queue only when it was taken (its replay confirmed, or its discard said); every other one is
//! put back where it was.
//!
//! Absent: any memory of its own. What a letter tells stands in the letter.

use licet_common::{
    runtime::Trust,
    transport::{Browser, Lost, Transport},
};
use licet_schema::{Timestamp, topology};
use tokio_util::sync::CancellationToken;

mod letter;
mod replaying;

pub use letter::{Body, Letter, Told};
pub use replaying::Replayer;

use crate::program::Failure;

/// Which letters are meant: all that every one of these allows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Those with one of these message_ids; any, if it is empty.
    pub ids: Vec<String>,
    /// Those of this worker.
    pub worker: Option<String>,
    /// Those whose reason contains this, whatever the case of its letters.
    pub reason: Option<String>,
    /// Those that failed last before this.
    pub before: Option<Timestamp>,
    /// Those that failed last after this.
    pub after: Option<Timestamp>,
}

impl Filter {
    /// Whether it allows every letter.
    pub fn is_open(&self) -> bool {
        let Self { ids, worker, reason, before, after } = self;
        ids.is_empty() && worker.is_none() && reason.is_none() && before.is_none() && after.is_none()
    }

    fn allows(&self, letter: &Letter) -> bool {
        let told = &letter.told;
        let id = told.message_id.as_ref();
        let contains = |part: &String| told.reason.to_lowercase().contains(&part.to_lowercase());
        (self.ids.is_empty() || id.is_some_and(|id| self.ids.contains(id)))
            && self.reason.as_ref().is_none_or(contains)
            && self.before.is_none_or(|before| told.failed_at.is_some_and(|at| at < before))
            && self.after.is_none_or(|after| told.failed_at.is_some_and(|at| at > after))
    }
}

/// What becomes of a letter that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays in its queue.
    Left,
    /// It leaves its queue for good.
    Taken,
}

/// How far a look went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Letters looked at.
    pub at: u32,
    /// Letters beyond the limit, which were not looked at.
    pub beyond: u32,
    /// Letters that left their queues.
    pub taken: u32,
}

/// A look through the queues of dead letters.
#[derive(Debug)]
pub struct Look<'a> {
    /// The broker.
    pub transport: &'a Transport,
    /// Whose letters are believed.
    pub trust: &'a Trust,
    /// Which letters are shown to the visitor.
    pub filter: &'a Filter,
    /// The most letters to look at, over all queues.
    pub limit: u32,
    /// Ends the look, and puts back what it holds.
    pub stop: &'a CancellationToken,
}

impl Look<'_> {
    /// Shows each letter to `visit`, which says what becomes of it.
    ///
    /// # Errors
    /// The broker is away, or what `visit` ends with. What was not taken stays.
    pub async fn through(
        &self,
        mut visit: impl AsyncFnMut(&Letter) -> Result<Fate, Failure>,
    ) -> Result<Looked, Failure> {
        let mut looked = Looked::default();
        let wanted = |name: &str| self.filter.worker.as_ref().is_none_or(|worker| worker == name);
        for worker in topology::WORKERS.iter().filter(|worker| wanted(worker.name)) {
            let queue = topology::dead_queue(worker.name);
            let depth = self.transport.depth(&queue).await?;
            let here = depth.min(self.limit - looked.at);
            looked.beyond += depth - here;
            if here == 0 || self.stop.is_cancelled() {
                continue;
            }
            let mut browser = self.transport.browse(&queue).await?;
            let outcome = self.through_one(worker.name, here, &mut browser, &mut looked, &mut visit).await;
            browser.close().await;
            outcome?;
        }
        Ok(looked)
    }

    async fn through_one(
        &self,
        worker: &'static str,
        most: u32,
        browser: &mut Browser,
        looked: &mut Looked,
        visit: &mut impl AsyncFnMut(&Letter) -> Result<Fate, Failure>,
    ) -> Result<(), Failure> {
        for number in 1..=most {
            if self.stop.is_cancelled() {
                break;
            }
            let next = browser.next().await.map_err(|lost| unreadable(worker, number, &lost))?;
            let Some(delivery) = next else { break };
            let tag = delivery.tag;
            looked.at += 1;
            let letter = Letter::read(worker, delivery, self.trust);
            if self.filter.allows(&letter) && visit(&letter).await? == Fate::Taken {
                browser.ack(tag).await?;
                looked.taken += 1;
            }
        }
        Ok(())
    }
}

fn unreadable(worker: &str, number: u32, lost: &Lost) -> Failure {
    Failure::Work(format!(
        "{lost}. If that is so each time, letter {number} of {} has a header that no client can read: take it out with the broker's own tools",
        topology::dead_queue(worker)
    ))
}

#[cfg(test)]
mod tests;

//! Replays: a dead letter goes back to its worker's queue, slowly, and leaves its own only when the
//! broker has confirmed that.
//!
//! A crash between the two leaves the letter, and the next replay sends the message again: the
//! same message under the same id, for which the journal has its answer.

use std::time::Duration;

use licet_common::{
    runtime::{Past, replayed},
    transport::{Outcome, Publisher, Transport},
};
use licet_schema::topology;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{Fate, Letter};
use crate::program::Failure;

/// How long a replay waits for its confirmation.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends dead letters back, so many a second.
#[derive(Debug)]
pub struct Replayer {
    publisher: Publisher,
    pace: Interval,
}

impl Replayer {
    /// Connects. `rate` is in letters a second, at least 1.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn connect(transport: &Transport, rate: u32) -> Result<Self, Failure> {
        let mut pace = interval(Duration::from_secs(1) / rate.max(1));
        // Never catches up: what waits in the work queues shall not be drowned.
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { publisher: transport.publisher().await?, pace })
    }

    /// Sends one letter back when its time has come.
    ///
    /// # Errors
    /// It is not known to have arrived, or nobody knows in whose name to send it.
    pub async fn replay(&mut self, letter: &Letter) -> Result<Fate, Failure> {
        let past = in_whose_name(letter)?;
        self.pace.tick().await;
        let message = replayed(letter.worker, &letter.delivery, past);
        let queue = topology::work_queue(letter.worker);
        let outcomes = self.publisher.publish(&[message], PATIENCE).await?;
        match outcomes.first() {
            Some(Outcome::Confirmed) => Ok(Fate::Taken),
            Some(Outcome::Returned) => {
                Err(Failure::Work(format!("the broker has no queue {queue}: run `licet topology apply`")))
            }
            Some(Outcome::Refused) => Err(Failure::Work(format!(
                "the queue {queue} takes nothing now: try again when its worker has caught up"
            ))),
            Some(Outcome::Unconfirmed) | None => Err(Failure::Work(
                "the broker did not confirm a replay in time: run this again, whatever came of it takes effect once"
                    .into(),
            )),
        }
    }

    /// Closes the connection.
    pub async fn close(self) {
        self.publisher.close().await;
    }
}

/// What is known of a letter, if it is known whose message it is: replayed in another's name it would be
/// another message.
pub(super) fn in_whose_name(letter: &Letter) -> Result<&Past, Failure> {
    let stranger = match &letter.past {
        Ok(Past { claim: None, .. }) => None,
        Ok(Past { claim: Some(claim), .. }) => Some(&claim.by),
        Err(distrusted) => Some(&distrusted.0),
    };
    match (&letter.past, stranger) {
        (Ok(past), None) => Ok(past),
        (_, by) => Err(Failure::Work(format!(
            "whose message a letter in {0} is, only the broker user {1:?} says, who is not yours: run this as the workers' broker user, or name {2:?} for {1:?} and for yours in the table [senders] of licet.toml, here and where the workers run",
            letter.told.queue,
            by.and_then(Option::as_deref).unwrap_or("nobody"),
            topology::RETRY
        ))),
    }
}

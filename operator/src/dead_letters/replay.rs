//! Replays: dead letters return to the work queues of their workers at a limited rate. A letter
//! leaves the dead-letter queue only after the broker has confirmed its replay.
//!
//! A crash between the confirmation and the removal leaves the letter in its queue. The next replay
//! sends the same message with the same id, and the worker answers it from the journal.

use std::time::Duration;

use licet_common::{
    runtime::{Origin, replayed},
    transport::{Outcome, Publisher, Transport},
};
use licet_schema::topology;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{Action, DeadLetterError, Letter};

/// The timeout for the confirmation of a replay.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends dead letters back to their workers, at a limited rate.
#[derive(Debug)]
pub struct Replayer {
    publisher: Publisher,
    pace: Interval,
}

impl Replayer {
    /// Connects to the broker. `rate` is in letters per second, at least 1.
    ///
    /// # Errors
    /// The broker is unavailable.
    pub async fn connect(transport: &Transport, rate: u32) -> Result<Self, DeadLetterError> {
        let mut pace = interval(Duration::from_secs(1) / rate.max(1));
        // Do not catch up after a delay, because the workers have other messages to handle.
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { publisher: transport.publisher().await?, pace })
    }

    /// Sends one letter, as soon as the rate allows.
    ///
    /// # Errors
    /// The broker did not confirm it, or the sender of the original message is unknown.
    pub async fn replay(&mut self, letter: &Letter) -> Result<Action, DeadLetterError> {
        let origin = trusted_origin(letter)?;
        self.pace.tick().await;
        let message = replayed(letter.worker, &letter.delivery, origin);
        let queue = topology::work_queue(letter.worker);
        let outcomes = self.publisher.publish(&[message], CONFIRM_TIMEOUT).await?;
        match outcomes.first() {
            Some(Outcome::Confirmed) => Ok(Action::Remove),
            Some(Outcome::Returned) => Err(DeadLetterError::NoQueue { queue }),
            Some(Outcome::Refused) => Err(DeadLetterError::QueueFull { queue }),
            Some(Outcome::Unconfirmed) | None => Err(DeadLetterError::NotConfirmed),
        }
    }

    /// Closes the connection.
    pub async fn close(self) {
        self.publisher.close().await;
    }
}

/// The origin of a letter, if a trusted publisher names its sender.
pub(super) fn trusted_origin(letter: &Letter) -> Result<&Origin, DeadLetterError> {
    let untrusted = match &letter.origin {
        Ok(origin) => match &origin.claim {
            None => return Ok(origin),
            Some(claim) => &claim.by,
        },
        Err(untrusted) => &untrusted.0,
    };
    Err(DeadLetterError::UntrustedSender {
        queue: letter.details.queue.clone(),
        publisher: untrusted.clone().unwrap_or_else(|| "unknown".to_owned()),
    })
}

//! The behavior while the broker or the database is unavailable: increasing pauses, and few log
//! lines.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

use licet_schema::topology;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::Clock;

/// The first pause between two attempts to reach a service.
const FIRST: Duration = Duration::from_millis(50);
/// The longest pause between two attempts to reach a service.
const LONGEST: Duration = Duration::from_secs(5);
/// The pause between two sessions in quarantine.
const IN_QUARANTINE: Duration = Duration::from_millis(100);
/// For this long after a log line about an outage, further outages are not logged.
const QUIET: Duration = Duration::from_secs(30);

/// Pauses that double, up to a maximum.
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    pub(super) fn in_quarantine() -> Self {
        Self { next: IN_QUARANTINE }
    }

    /// The next pause.
    pub(super) fn next(&mut self) -> Duration {
        let next = self.next;
        self.next = (next * 2).min(LONGEST);
        next
    }

    /// Waits for the next pause, or until `stop` is cancelled.
    pub(super) async fn wait(&mut self, clock: &Clock, stop: &CancellationToken) {
        let pause = self.next();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = clock.sleep(pause) => {}
        }
    }
}

/// Logs one line when an outage begins and one when it ends. If outages follow each other closely,
/// further ones are not logged for [`QUIET`], unless they have another cause that an operator must
/// correct.
pub(super) struct OutageLog {
    worker: &'static str,
    is_up: bool,
    logged_at: Option<Instant>,
    to_correct: Option<String>,
}

impl OutageLog {
    pub(super) fn new(worker: &'static str) -> Self {
        Self { worker, is_up: false, logged_at: None, to_correct: None }
    }

    pub(super) fn ended(&mut self) {
        if !std::mem::replace(&mut self.is_up, true) {
            info!(worker = self.worker, queue = topology::work_queue(self.worker), "consuming");
        }
    }

    pub(super) fn began(&mut self, cause: &impl Display) {
        if self.is_quiet() {
            return;
        }
        (self.is_up, self.logged_at, self.to_correct) = (false, Some(Instant::now()), None);
        warn!(worker = self.worker, "{cause}; trying again until it is back");
    }

    /// Like [`Self::began`], for a cause that an operator must correct.
    pub(super) fn must_be_corrected(&mut self, cause: &impl Display) {
        let cause = cause.to_string();
        if self.is_quiet() && self.to_correct.as_ref() == Some(&cause) {
            return;
        }
        error!(worker = self.worker, "{cause}. No messages are taken until this is corrected");
        (self.is_up, self.logged_at, self.to_correct) = (false, Some(Instant::now()), Some(cause));
    }

    fn is_quiet(&self) -> bool {
        self.logged_at.is_some_and(|at| at.elapsed() <= QUIET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut backoff = Backoff::new();
        let pauses: Vec<_> = (0..9).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }
}

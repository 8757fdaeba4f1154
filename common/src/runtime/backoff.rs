//! Trouble: how it is waited out, and told of.

use std::time::{Duration, Instant};

use licet_schema::topology;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::Clock;

/// The first and the longest pause between two attempts at something that is away.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// How long trouble that comes and goes is not told of again.
const QUIET: Duration = Duration::from_secs(30);

/// Growing pauses.
pub(super) struct Pause {
    next: Duration,
}

impl Pause {
    pub(super) fn new() -> Self {
        Self::beginning_with(PAUSE.0)
    }

    pub(super) fn beginning_with(next: Duration) -> Self {
        Self { next }
    }

    pub(super) async fn wait(&mut self, clock: &Clock, stop: &CancellationToken) {
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
pub(super) struct Voice {
    worker: &'static str,
    is_up: bool,
    complained_at: Option<Instant>,
}

impl Voice {
    pub(super) fn new(worker: &'static str) -> Self {
        Self { worker, is_up: false, complained_at: None }
    }

    pub(super) fn up(&mut self) {
        if !std::mem::replace(&mut self.is_up, true) {
            info!(worker = self.worker, queue = topology::work_queue(self.worker), "consuming");
        }
    }

    pub(super) fn down(&mut self, cause: &str) {
        if self.complained_at.is_none_or(|at| at.elapsed() > QUIET) {
            self.is_up = false;
            self.complained_at = Some(Instant::now());
            warn!(worker = self.worker, "{cause}; trying again until it is back");
        }
    }
}

//! What a worker counts, and tells when it stops.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of a worker's life.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Portions acknowledged.
    pub(super) portions: Count,
    /// Deliveries that had been delivered before.
    pub(super) redelivered: Count,
    /// Replies that no queue took any more: each can be asked for again.
    pub(super) dropped_replies: Count,
    /// Copies put into wait queues for another attempt.
    pub(super) delayed: Count,
    /// Dead letters written.
    pub(super) dead_letters: Count,
    /// Attempts at a single message that ended in the panic of a rule or of a decoder.
    pub(super) panics: Count,
}

//! The counters of a worker over its lifetime. The worker logs most of them when it stops.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of a worker.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    /// Batches acknowledged.
    pub(super) batches: Counter,
    /// Deliveries that the broker had delivered before.
    pub(super) redelivered: Counter,
    /// Replies that no queue accepted. The sender can repeat the request.
    pub(super) dropped_replies: Counter,
    /// Messages put into wait queues for another attempt.
    pub(super) delayed: Counter,
    /// Messages that their senders may not send and that could not be answered.
    pub(super) ignored: Counter,
    /// Dead letters written.
    pub(super) dead_letters: Counter,
    /// Attempts at a single message that ended in a panic or a defect of a rule or decoder.
    pub(super) panics: Counter,
}

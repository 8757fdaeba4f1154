//! Decides whether message ids are looked up in the journal before a batch is decided.
//!
//! Most messages are new, so most batches are decided without a lookup. If a message of such a
//! batch was decided earlier, the primary key of the journal rejects the batch, and the batch is
//! decided again with a lookup. If the lookup finds a duplicate that was not suspected, the ids of
//! the following batches are looked up too, because a sender that repeats one message usually
//! repeats many.

use std::sync::atomic::{AtomicU32, Ordering};

/// The number of batches whose ids are looked up after an unsuspected duplicate was found.
const WINDOW: u32 = 256;

/// The number of following batches whose ids are looked up in any case.
#[derive(Debug, Default)]
pub(super) struct DuplicateCheck(AtomicU32);

impl DuplicateCheck {
    /// Whether to look up the ids of this batch. `suspected` states whether one of its messages may
    /// be a duplicate.
    pub(super) fn looks_up(&self, suspected: bool) -> bool {
        let in_window = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        in_window.is_ok() || suspected
    }

    /// Records that an unsuspected duplicate was found.
    pub(super) fn found_unsuspected(&self) {
        self.0.store(WINDOW, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_looked_up_where_a_duplicate_is_suspected_and_for_a_while_after_an_unsuspected_one() {
        let check = DuplicateCheck::default();
        assert!(!check.looks_up(false));
        assert!(check.looks_up(true));
        assert!(!check.looks_up(false), "a suspected duplicate says nothing about others");
        check.found_unsuspected();
        assert!((0..WINDOW).all(|_| check.looks_up(false)));
        assert!(!check.looks_up(false));
    }
}

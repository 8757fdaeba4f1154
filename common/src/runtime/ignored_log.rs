//! Decides when a worker logs that it ignored messages. Their number must not fill the log.

use std::sync::{Mutex, PoisonError};

use licet_schema::Timestamp;

/// The shortest time between two lines, in milliseconds.
const PAUSE_MS: i64 = 60_000;

/// The messages that were ignored since the last line.
#[derive(Debug, Default)]
pub(super) struct IgnoredLog(Mutex<Ignored>);

#[derive(Debug, Default)]
struct Ignored {
    count: u64,
    logged_at: Option<Timestamp>,
}

impl IgnoredLog {
    /// Counts an ignored message. Returns the number of messages for a line, if one is due.
    pub(super) fn count(&self, now: Timestamp) -> Option<u64> {
        let mut ignored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ignored.count += 1;
        let is_due = |last: Timestamp| now.as_millis() - last.as_millis() >= PAUSE_MS;
        if !ignored.logged_at.is_none_or(is_due) {
            return None;
        }
        ignored.logged_at = Some(now);
        Some(std::mem::take(&mut ignored.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_message_is_logged_at_once_and_the_others_at_most_once_a_minute() {
        let log = IgnoredLog::default();
        let at = |second: i64| log.count(Timestamp::from_millis(second * 1000));
        assert_eq!(at(0), Some(1));
        assert_eq!(at(1), None);
        assert_eq!(at(59), None);
        assert_eq!(at(60), Some(3));
        assert_eq!(at(61), None);
    }
}

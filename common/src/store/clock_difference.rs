//! Compares the clock of this program with the clock of the database, which all programs share.
//!
//! Deadlines are judged by the clock of the worker that decides. A clock that is far ahead would
//! end certificates that are still valid.
//!
//! Deliberately absent: a comparison on SQLite, which runs in the same process, and a comparison of
//! clocks that a test sets.

use std::{
    fmt::{self, Display},
    time::Duration,
};

use licet_schema::Timestamp;
use sea_orm::{ConnectionTrait, DatabaseBackend, Statement};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::{PING_TIMEOUT, Store, StoreError};
use crate::clock::Clock;

/// The largest difference between two clocks that is not reported, in milliseconds.
const DIFFERENCE_MAX_MS: i64 = 60_000;
/// How often a program that runs until it is stopped compares its clock.
const INTERVAL: Duration = Duration::from_secs(60);
/// The clock of the database server. Unlike `now()`, it does not stop during a transaction.
const DATABASE_TIME: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// A difference of more than 60 s between the clock of this program and that of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockDifference {
    /// How far the clock of this program is ahead, in milliseconds. Negative if it is behind.
    pub ahead_ms: i64,
}

impl ClockDifference {
    /// The difference, if the database reported the time `database` between `before` and `after`.
    /// `None` if it is at most 60 s, however long the database took to respond.
    fn between(before: Timestamp, database: Timestamp, after: Timestamp) -> Option<Self> {
        let [before, database, after] = [before, database, after].map(Timestamp::as_millis);
        let ahead_ms = before.saturating_sub(database).max(0) - database.saturating_sub(after).max(0);
        (ahead_ms.abs() > DIFFERENCE_MAX_MS).then_some(Self { ahead_ms })
    }
}

impl Display for ClockDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = (self.ahead_ms.unsigned_abs() + 500) / 1000;
        let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
        f.write_str("the clock of this machine is ")?;
        match (days, hours) {
            (0, 0) => write!(f, "{minutes} min {} s", seconds % 60)?,
            (0, _) => write!(f, "{hours} h {minutes} min")?,
            (..) => write!(f, "{days} d {hours} h")?,
        }
        let direction = if self.ahead_ms > 0 { "ahead of" } else { "behind" };
        write!(f, " {direction} the clock of the database: correct the clock that is wrong (for example with NTP)")
    }
}

/// Compares this clock with the clock of the database. Returns the difference if it is larger than
/// 60 s.
///
/// # Errors
/// The database is unavailable.
pub async fn clock_difference(
    connection: &impl ConnectionTrait,
    clock: &Clock,
) -> Result<Option<ClockDifference>, StoreError> {
    if connection.get_database_backend() != DatabaseBackend::Postgres || !clock.is_real() {
        return Ok(None);
    }
    let before = clock.now();
    let statement = Statement::from_string(DatabaseBackend::Postgres, DATABASE_TIME);
    let Some(row) = connection.query_one(statement).await? else { return Ok(None) };
    let database = Timestamp::from_millis(row.try_get_by_index(0)?);
    Ok(ClockDifference::between(before, database, clock.now()))
}

impl Store {
    /// Compares the clock once and logs an error if it differs.
    ///
    /// # Errors
    /// The database is unavailable.
    pub(super) async fn check_clock(&self) -> Result<(), StoreError> {
        if let Some(difference) = clock_difference(&self.pool(), &Clock::System).await? {
            error!("{difference}");
        }
        Ok(())
    }

    /// Compares the clock every minute until `stop`. Logs an error each time that it differs, and
    /// one line when it no longer does. If the database is unavailable, nothing is compared.
    pub async fn watch_clock(&self, clock: &Clock, stop: &CancellationToken) {
        // The program compared its clock when it started.
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + INTERVAL, INTERVAL);
        let mut differed = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let pool = self.pool();
            match tokio::time::timeout(PING_TIMEOUT, clock_difference(&pool, clock)).await {
                Ok(Ok(Some(difference))) => {
                    differed = true;
                    error!("{difference}");
                }
                Ok(Ok(None)) => {
                    if std::mem::take(&mut differed) {
                        info!("the clock of this machine agrees with the clock of the database again");
                    }
                }
                Ok(Err(unavailable)) => debug!("the clock was not compared: {unavailable}"),
                Err(_) => debug!("the clock was not compared: {}", StoreError::silent()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(before: i64, database: i64, after: i64) -> Option<i64> {
        let [before, database, after] = [before, database, after].map(Timestamp::from_millis);
        ClockDifference::between(before, database, after).map(|difference| difference.ahead_ms)
    }

    #[test]
    fn a_difference_above_a_minute_is_found_in_both_directions_and_a_slow_response_is_not_one() {
        assert_eq!(between(200_000, 200_000, 200_001), None);
        assert_eq!(between(200_000, 140_000, 200_001), None, "exactly 60 s");
        assert_eq!(between(200_000, 139_999, 200_001), Some(60_001));
        assert_eq!(between(200_000, 260_001, 200_001), None, "exactly 60 s");
        assert_eq!(between(200_000, 260_002, 200_001), Some(-60_001));
        assert_eq!(between(0, 100_000, 200_000), None, "the response took 200 s");
    }

    #[test]
    fn the_sentence_says_how_large_the_difference_is_in_which_direction_and_what_to_do() {
        let sentence = |ahead_ms| ClockDifference { ahead_ms }.to_string();
        assert_eq!(
            sentence(40 * 86_400_000),
            "the clock of this machine is 40 d 0 h ahead of the clock of the database: correct the clock that is wrong \
             (for example with NTP)"
        );
        assert!(
            sentence(-61_400).starts_with("the clock of this machine is 1 min 1 s behind the clock of the database")
        );
        assert!(sentence(2 * 3_600_000).contains("2 h 0 min ahead of"));
    }
}

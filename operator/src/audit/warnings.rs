//! Money that waits for an action: payouts that are owed, money that matches no purchase, and
//! refunds whose payment has not arrived. It violates no invariant, so it causes a warning once it
//! is old.

use futures_util::future::BoxFuture;
use licet_common::store::Store;
use licet_schema::Timestamp;
use sea_orm::{ConnectionTrait, Statement};

use super::{AuditError, PLACES, place};

/// Money that waits for an action.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Warning {
    /// The kind of money.
    pub what: String,
    /// The number of waiting rows.
    pub count: i64,
    /// The time since which the oldest item has waited.
    pub oldest: Timestamp,
    /// The ids of some of the items, oldest first.
    pub places: Vec<String>,
}

/// The kinds of money, their time columns, and the queries that find the rows. Each query ends in a
/// condition, to which another one is added.
const WAITING: [(&str, &str, &str); 3] = [
    (
        "buy-backs that are not paid out (see `licet payouts list --open`)",
        "c.returned_at",
        "SELECT p.id, c.returned_at, COUNT(*) OVER () FROM privilege p JOIN collection c ON c.id = p.id \
         WHERE p.kind = 'buyback' AND NOT EXISTS \
         (SELECT 1 FROM payout o WHERE o.license_return = p.id AND o.state = 'completed')",
    ),
    (
        "unmatched money (see `licet unmatched list`)",
        "u.recorded_at",
        "SELECT u.id, u.recorded_at, COUNT(*) OVER () FROM unmatched_settlement u WHERE u.refunded_by IS NULL",
    ),
    (
        "refunds whose payment has not arrived (ask the provider whether the ids are right)",
        "r.registered_at",
        "SELECT r.cause, r.registered_at, COUNT(*) OVER () FROM refund r WHERE r.outcome = 'pending'",
    ),
];

/// The money that has waited since before this time.
///
/// # Errors
/// The database is unavailable.
pub fn warnings(store: &Store, before: Timestamp) -> BoxFuture<'_, Result<Vec<Warning>, AuditError>> {
    Box::pin(async move {
        let view = store.snapshot().await?;
        let mut warnings = Vec::new();
        for (what, time, find) in WAITING {
            let before = before.as_millis();
            let text = format!("{find} AND {time} < {before} ORDER BY {time} LIMIT {PLACES}");
            let rows = view.query_all(Statement::from_string(store.backend(), text)).await?;
            if let Some(first) = rows.first() {
                let (oldest, count) = (first.try_get_by_index(1)?, first.try_get_by_index(2)?);
                let places = rows.iter().map(place).collect::<Result<_, _>>()?;
                warnings.push(Warning { what: what.to_owned(), count, oldest, places });
            }
        }
        Ok(warnings)
    })
}

//! Money that waits for someone: payouts that are owed, money that matches no purchase, and refunds of
//! payments that have not arrived. They violate no invariant, so they are warnings if they are old.

use futures_util::future::BoxFuture;
use licet_common::store::Store;
use licet_schema::Timestamp;
use sea_orm::{ConnectionTrait, Statement};

use super::{AuditError, PLACES, place};

/// Money that waits for someone.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Warning {
    /// What waits.
    pub what: String,
    /// How many wait.
    pub count: i64,
    /// Since when the oldest waits.
    pub oldest: Timestamp,
    /// The ids of some, oldest first.
    pub places: Vec<String>,
}

/// What waits, and the query that finds it: ids and times. The query ends in a condition.
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
        "u.told_at",
        "SELECT u.id, u.told_at, COUNT(*) OVER () FROM unmatched_settlement u WHERE u.id IS NOT NULL",
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

//! Payouts for buy-backs: what is owed, what was paid out, and what failed.
//!
//! [`list`] and [`find`] read the tables. [`instruct`] creates another `payout.instructed`, and
//! [`publish`] sends it to the payment provider. Nothing is written: the settlement worker records
//! the provider's reports.

use std::{collections::BTreeMap, fmt, time::Duration};

use futures_util::future::BoxFuture;
use licet_common::{
    runtime::{StoredOutput, published_again},
    store::{Lock, Store, StoreError, keys, select},
    transport::{Lost, Outcome, Outgoing, Transport},
};
use licet_schema::{
    Count, EncodeError, ExternalId, Money, Name, Output, Timestamp,
    entity::{PayoutState, payout},
    message::PayoutInstructed,
    money::Currency,
    topology,
};
use sea_orm::{ConnectionTrait, DatabaseBackend, DbErr, QueryResult, Statement, Value};
use uuid::Uuid;

/// The timeout for the confirmation of an instruction.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

/// A buy-back with its payouts.
#[derive(Clone, Debug)]
pub struct Buyback {
    /// The return.
    pub license_return: Uuid,
    /// The license that was returned.
    pub license: Uuid,
    /// The certificate that the license was issued under.
    pub certificate: Uuid,
    /// The container of the certificate, if it has one.
    pub container: Option<Uuid>,
    /// The user to pay.
    pub user: Name,
    /// The amount owed.
    pub amount: Money,
    /// When the return was completed. Since then, the amount is owed.
    pub returned_at: Timestamp,
    /// Whether the payment for the license was taken back afterwards. A reversal does not cancel
    /// the buy-back.
    pub reversed: bool,
    /// The reported payouts, in the order in which they were registered.
    pub payouts: Vec<payout::Model>,
}

/// The state of a buy-back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The amount is owed, and no payout has failed.
    Open,
    /// The amount is owed, because a payout failed.
    Failed,
    /// The amount was paid out.
    Paid,
    /// The amount was paid out more than once.
    PaidTwice,
}

impl State {
    /// The word for the state.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Failed => "failed",
            Self::Paid => "paid",
            Self::PaidTwice => "paid_twice",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Buyback {
    /// The state that follows from the payouts.
    pub fn state(&self) -> State {
        match self.payouts.iter().filter(|row| row.state == PayoutState::Completed).count() {
            0 if self.failures() > 0 => State::Failed,
            0 => State::Open,
            1 => State::Paid,
            _ => State::PaidTwice,
        }
    }

    /// The number of failed payouts.
    pub fn failures(&self) -> usize {
        self.payouts.iter().filter(|row| matches!(row.state, PayoutState::Failed | PayoutState::Pending)).count()
    }
}

/// The amount of a payout, if it was reported.
pub fn amount(payout: &payout::Model) -> Option<Money> {
    payout.amount_minor.zip(payout.currency).map(|(amount_minor, currency)| Money { amount_minor, currency })
}

/// Selects the buy-backs that meet every condition.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    /// Only buy-backs that are still owed.
    pub open: bool,
    /// Only buy-backs that are still owed because a payout failed.
    pub failed: bool,
    /// Only buy-backs whose return was completed before this time.
    pub before: Option<Timestamp>,
}

/// An error while payouts are read or instructed.
#[derive(Debug, thiserror::Error)]
pub enum PayoutsError {
    /// The database did not respond, or it rejected a query.
    #[error("the payouts cannot be read: {source}")]
    Store {
        /// The error of the store.
        #[from]
        source: StoreError,
    },
    /// No completed return with this id granted a buy-back.
    #[error("no completed return {id} has a buy-back: `licet payouts list` shows them with their ids")]
    NotFound {
        /// The id.
        id: Uuid,
    },
    /// The return is paid out.
    #[error("the return {id} is already paid out by {payout} from {provider}: a second payout would be a loss")]
    PaidOut {
        /// The return.
        id: Uuid,
        /// The payout that counts.
        payout: ExternalId,
        /// Its provider.
        provider: Name,
    },
    /// The instruction cannot be encoded.
    #[error("the instruction cannot be encoded: {source}")]
    Encode {
        /// The error of the encoder.
        #[from]
        source: EncodeError,
    },
    /// The connection to the broker was lost, or could not be opened.
    #[error(transparent)]
    Broker(#[from] Lost),
    /// The broker has no queue for instructions.
    #[error("the broker has no queue {}: run `licet topology apply`", topology::INSTRUCTED)]
    NoQueue,
    /// The queue for instructions is full.
    #[error("the queue {} is full: start the payment provider, and try again", topology::INSTRUCTED)]
    QueueFull,
    /// The broker did not confirm the instruction in time.
    #[error("the broker did not confirm the instruction in time: run the command again; it sends the same instruction")]
    NotConfirmed,
}

impl From<DbErr> for PayoutsError {
    fn from(error: DbErr) -> Self {
        StoreError::from(error).into()
    }
}

/// The selected buy-backs, oldest first.
///
/// # Errors
/// The database is unavailable.
pub fn list(store: &Store, filter: Filter) -> BoxFuture<'_, Result<Vec<Buyback>, PayoutsError>> {
    Box::pin(async move {
        let exists = |states: &str| {
            format!("EXISTS (SELECT 1 FROM payout o WHERE o.license_return = p.id AND o.state IN ({states}))")
        };
        let (mut conditions, mut values) = (String::new(), Vec::new());
        if filter.open || filter.failed {
            conditions += &format!(" AND NOT {}", exists("'completed'"));
        }
        if filter.failed {
            conditions += &format!(" AND {}", exists("'failed', 'pending'"));
        }
        if let Some(before) = filter.before {
            conditions += &format!(" AND c.returned_at < {}", slot(store));
            values.push(before.into());
        }
        read(store, &conditions, values).await
    })
}

/// The buy-back of a return.
///
/// # Errors
/// There is none, or the database is unavailable.
pub fn find(store: &Store, id: Uuid) -> BoxFuture<'_, Result<Buyback, PayoutsError>> {
    Box::pin(async move {
        let found = read(store, &format!(" AND p.id = {}", slot(store)), vec![id.into()]).await?;
        found.into_iter().next().ok_or(PayoutsError::NotFound { id })
    })
}

/// The placeholder of the only value of a statement.
fn slot(store: &Store) -> &'static str {
    if store.backend() == DatabaseBackend::Postgres { "$1" } else { "?" }
}

/// The buy-backs that meet the conditions, with their payouts.
async fn read(store: &Store, conditions: &str, values: Vec<Value>) -> Result<Vec<Buyback>, PayoutsError> {
    let sql = format!(
        "SELECT p.id, c.license, c.certificate, cr.container, p.\"user\", p.amount_minor, p.currency, \
         c.returned_at, CASE WHEN cr.ended = 'reversed' THEN 1 ELSE 0 END AS reversed \
         FROM privilege p JOIN collection c ON c.id = p.id \
         JOIN certificate_record cr ON cr.id = c.certificate \
         WHERE p.kind = 'buyback'{conditions} ORDER BY c.returned_at, p.id"
    );
    let pool = store.pool();
    let rows = pool.query_all(Statement::from_sql_and_values(store.backend(), sql, values)).await?;
    let mut buybacks = rows.iter().map(buyback).collect::<Result<Vec<_>, _>>()?;
    let ids = keys(buybacks.iter().map(|one| one.license_return));
    let payouts = select::<payout::Entity>(&pool, &[payout::Column::LicenseReturn], ids, Lock::None).await?;
    let mut by_return: BTreeMap<Uuid, Vec<payout::Model>> = BTreeMap::new();
    for row in payouts {
        by_return.entry(row.license_return).or_default().push(row);
    }
    for one in &mut buybacks {
        one.payouts = by_return.remove(&one.license_return).unwrap_or_default();
        one.payouts.sort_by_key(|row| row.sequence);
    }
    Ok(buybacks)
}

fn buyback(row: &QueryResult) -> Result<Buyback, DbErr> {
    let (amount_minor, currency): (Count, Currency) = (row.try_get("", "amount_minor")?, row.try_get("", "currency")?);
    Ok(Buyback {
        license_return: row.try_get("", "id")?,
        license: row.try_get("", "license")?,
        certificate: row.try_get("", "certificate")?,
        container: row.try_get("", "container")?,
        user: row.try_get("", "user")?,
        amount: Money { amount_minor, currency },
        returned_at: row.try_get("", "returned_at")?,
        reversed: row.try_get::<i32>("", "reversed")? == 1,
        payouts: Vec::new(),
    })
}

/// Another instruction to pay out a buy-back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The `message_id`.
    pub message_id: Uuid,
    /// The `payout.instructed`.
    pub output: Output,
}

/// Another instruction for a buy-back that is not paid out.
///
/// Its `message_id` depends on the return and on the number of its failed payouts. Until another
/// payout fails, the same instruction is created again, so a provider that deduplicates by
/// `message_id` pays once, no matter how often the instruction is sent.
///
/// # Errors
/// The return is paid out.
pub fn instruct(buyback: &Buyback) -> Result<Instruction, PayoutsError> {
    let id = buyback.license_return;
    if let Some(paid) = buyback.payouts.iter().find(|row| row.state == PayoutState::Completed) {
        return Err(PayoutsError::PaidOut { id, payout: paid.payout.clone(), provider: paid.provider.clone() });
    }
    let name = format!("payout.instructed:{}", buyback.failures());
    Ok(Instruction {
        message_id: Uuid::new_v5(&id, name.as_bytes()),
        output: Output::PayoutInstructed(PayoutInstructed {
            license_return: id,
            user: buyback.user.clone(),
            amount: buyback.amount,
        }),
    })
}

/// Sends an instruction to the queue of the payment provider and, as an event, to its listeners.
///
/// # Errors
/// The broker is unavailable, or it did not store the instruction.
pub async fn publish(transport: &Transport, instruction: &Instruction, now: Timestamp) -> Result<(), PayoutsError> {
    let messages = messages(instruction, now)?;
    let publisher = transport.publisher().await?;
    let published = publisher.publish(&messages, CONFIRM_TIMEOUT).await;
    publisher.close().await;
    for outcome in published? {
        match outcome {
            Outcome::Confirmed => {}
            Outcome::Returned => return Err(PayoutsError::NoQueue),
            Outcome::Refused => return Err(PayoutsError::QueueFull),
            Outcome::Unconfirmed => return Err(PayoutsError::NotConfirmed),
        }
    }
    Ok(())
}

/// The instruction for the provider, and the event. Both have the same `message_id`. No request
/// caused them.
fn messages(instruction: &Instruction, now: Timestamp) -> Result<Vec<Outgoing>, PayoutsError> {
    let output = StoredOutput {
        reply: false,
        kind: instruction.output.kind().to_owned(),
        message_id: instruction.message_id,
        timestamp_s: now.as_seconds(),
        body: instruction.output.encode()?,
    };
    Ok(published_again(None, &output))
}

#[cfg(test)]
mod tests {
    use licet_schema::{
        Text, Version,
        entity::{certificate_record, collection, privilege},
        message::{Ending, Privilege},
    };

    use super::*;
    use crate::fixture::Database;

    const RETURN: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    fn name(text: &str) -> Name {
        Name::try_from(text).expect("a name")
    }

    fn external_id(text: &str) -> ExternalId {
        ExternalId::try_from(text).expect("an id")
    }

    fn usd(minor: i64) -> (Count, Currency) {
        (Count::try_from(minor).expect("an amount"), Currency::try_from("USD").expect("a code"))
    }

    /// A license that was bought back at this time, under a certificate with this ending.
    async fn buy_back(database: &Database, id: Uuid, at: i64, ended: Ending) {
        let ((amount_minor, currency), at) = (usd(300), Timestamp::from_millis(at));
        let (user, content) = (name("alice"), name("song"));
        let (version, certificate) = (Version::try_from(1i64).expect("a version"), Uuid::new_v5(&id, b"certificate"));
        let record = certificate_record::Model {
            id: certificate,
            container: None,
            user: user.clone(),
            content: content.clone(),
            version,
            revision: 1,
            amount_minor,
            currency,
            points: Count::ZERO,
            reference: None,
            purchased_at: at,
            generation: Count::ONE,
            received_at: None,
            settlement: None,
            provider: None,
            settled_at: None,
            grants: None,
            granted: Count::ONE,
            ended: Some(ended),
            ended_at: None,
            reinstated: false,
            token_digest: None,
            issued_at: None,
            receipt_due_at: None,
            expires_at: None,
        };
        database.put(record).await;
        let (settlement, provider) = (external_id("pay-1"), name("bank"));
        let collected = collection::Model {
            id,
            license: Uuid::new_v5(&id, b"license"),
            user: user.clone(),
            content,
            version,
            certificate,
            settlement,
            provider,
            amount_minor,
            currency,
            kind: Privilege::Buyback,
            purchased_at: at,
            granted_at: at,
            returned_at: at,
        };
        database.put(collected).await;
        let (amount_minor, currency) = (Some(amount_minor), Some(currency));
        let (points, certificate) = (None, None);
        let kind = Privilege::Buyback;
        database.put(privilege::Model { id, user, kind, points, certificate, amount_minor, currency }).await;
    }

    async fn pay(database: &Database, id: Uuid, payout: &str, state: PayoutState) {
        let failed = matches!(state, PayoutState::Failed | PayoutState::Pending);
        let amount = (state != PayoutState::Pending).then(|| usd(300));
        let row = payout::Model {
            provider: name("bank"),
            payout: external_id(payout),
            license_return: id,
            state,
            amount_minor: amount.map(|amount| amount.0),
            currency: amount.map(|amount| amount.1),
            sequence: Count::ONE,
            reason: failed.then(|| Text::try_from("the account is closed").expect("a text")),
            registered_at: Timestamp::from_millis(0),
            cause: Uuid::from_u128(9),
        };
        database.put(row).await;
    }

    async fn states(database: &Database, filter: Filter) -> Vec<(Uuid, &'static str)> {
        let found = list(&database.store, filter).await.expect("a list");
        found.iter().map(|one| (one.license_return, one.state().as_str())).collect()
    }

    #[tokio::test]
    async fn buybacks_are_listed_oldest_first_with_the_state_that_their_payouts_have() {
        let database = Database::new().await;
        buy_back(&database, RETURN, 2000, Ending::Reversed).await;
        buy_back(&database, OTHER, 1000, Ending::Exhausted).await;
        let all = Filter::default();
        assert_eq!(states(&database, all).await, [(OTHER, "open"), (RETURN, "open")]);
        let found = list(&database.store, all).await.expect("a list");
        assert_eq!(found.iter().map(|one| one.reversed).collect::<Vec<_>>(), [false, true]);
        assert_eq!(found[0].amount.to_string(), "3.00 USD");
        pay(&database, OTHER, "out-1", PayoutState::Completed).await;
        pay(&database, RETURN, "out-2", PayoutState::Pending).await;
        assert_eq!(states(&database, all).await, [(OTHER, "paid"), (RETURN, "failed")]);
        for filter in [Filter { open: true, ..all }, Filter { failed: true, ..all }] {
            assert_eq!(states(&database, filter).await, [(RETURN, "failed")]);
        }
        let before = Some(Timestamp::from_millis(2000));
        assert_eq!(states(&database, Filter { before, ..all }).await, [(OTHER, "paid")]);
        assert_eq!(states(&database, Filter { open: true, before, ..all }).await, []);
        pay(&database, OTHER, "out-3", PayoutState::Completed).await;
        assert_eq!(find(&database.store, OTHER).await.expect("a buy-back").state(), State::PaidTwice);
    }

    #[tokio::test]
    async fn a_return_is_instructed_again_under_a_new_id_after_each_failure_but_not_when_it_is_paid_out() {
        let database = Database::new().await;
        let unknown = find(&database.store, RETURN).await;
        assert!(matches!(unknown, Err(PayoutsError::NotFound { id: RETURN })), "{unknown:?}");
        buy_back(&database, RETURN, 0, Ending::Exhausted).await;
        let mut ids = Vec::new();
        for payout in ["out-1", "out-2"] {
            pay(&database, RETURN, payout, PayoutState::Failed).await;
            let buyback = find(&database.store, RETURN).await.expect("a buy-back");
            let instruction = instruct(&buyback).expect("an instruction");
            assert_eq!(instruct(&buyback).expect("an instruction"), instruction, "the same instruction again");
            ids.push(instruction.message_id);
        }
        assert_ne!(ids[0], ids[1], "a provider that deduplicates pays after each failure");
        pay(&database, RETURN, "out-3", PayoutState::Completed).await;
        let paid = instruct(&find(&database.store, RETURN).await.expect("a buy-back"));
        assert!(matches!(paid, Err(PayoutsError::PaidOut { id: RETURN, .. })), "{paid:?}");
    }

    #[tokio::test]
    async fn an_instruction_without_a_queue_is_an_error() {
        let buyback = Buyback {
            license_return: RETURN,
            license: OTHER,
            certificate: OTHER,
            container: None,
            user: name("alice"),
            amount: Money { amount_minor: usd(300).0, currency: usd(300).1 },
            returned_at: Timestamp::from_millis(0),
            reversed: false,
            payouts: Vec::new(),
        };
        let instruction = instruct(&buyback).expect("an instruction");
        let transport = Transport::memory();
        transport.apply(&topology::topology(&[])).await.expect("the topology");
        publish(&transport, &instruction, Timestamp::from_millis(0)).await.expect("the queue exists");
        let mut consumer = transport.consume(topology::INSTRUCTED, 1).await.expect("the queue");
        let delivery = consumer.receive(1, usize::MAX).await.expect("a delivery").pop().expect("a delivery");
        assert_eq!(delivery.properties.message_id, Some(instruction.message_id.to_string()));
        assert_eq!(delivery.properties.kind.as_deref(), Some("payout.instructed"));
        let lost = publish(&Transport::memory(), &instruction, Timestamp::from_millis(0)).await;
        assert!(lost.is_err(), "{lost:?}");
    }
}

//! What several rules say about the rows they share: which certificates belong together, how one
//! has ended, what is due for it, how it is retired, how points move.

use licet_common::decision::{Context, Tables};
use licet_schema::{
    Code, Count, ExternalId, Money, Name, Output, Refusal, Text, Timestamp, Version,
    entity::{Ending, account, certificate, entry, purchase},
    message::{self, CertificateRetired, PointsChanged},
    money::Currency,
};
use uuid::Uuid;

/// Licet's own accounts. They have entries and no balance row.
pub(crate) mod accounts {
    /// Where granted points come from.
    pub(crate) const ISSUED: &str = "licet:issued";
    /// Points that wait for their purchase to be settled.
    pub(crate) const HELD: &str = "licet:held";
    /// Points that paid for something.
    pub(crate) const SPENT: &str = "licet:spent";

    /// A user's points.
    pub(crate) fn points(user: &str) -> String {
        format!("points:{user}")
    }

    /// Whether an account has an owner, and so a balance row.
    pub(crate) fn is_users(account: &str) -> bool {
        account.starts_with("points:")
    }
}

/// The provider of what needs no payment provider: points, and nothing at all.
pub(crate) const OWN_PROVIDER: &str = "licet";

/// A purchase, by what stands for it. The kinds are kept apart: a container's id given for a
/// certificate's names nothing, whatever else is at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// One certificate.
    Certificate(Uuid),
    /// All members of a container.
    Container(Uuid),
}

impl Subject {
    /// The id, of either kind.
    pub(crate) fn id(self) -> Uuid {
        match self {
            Self::Certificate(id) | Self::Container(id) => id,
        }
    }

    fn includes(self, certificate: Uuid, container: Option<Uuid>) -> bool {
        match self {
            Self::Certificate(id) => certificate == id,
            Self::Container(id) => container == Some(id),
        }
    }
}

/// The live certificates of a purchase.
pub(crate) fn members(tables: &Tables, subject: Subject) -> Vec<certificate::Model> {
    match subject {
        Subject::Certificate(id) => tables.certificates.get(&id).cloned().into_iter().collect(),
        Subject::Container(_) => {
            tables.certificates.iter().filter(|row| subject.includes(row.id, row.container)).cloned().collect()
        }
    }
}

/// The ended certificates of a purchase.
pub(crate) fn ended_members(tables: &Tables, subject: Subject) -> Vec<&purchase::Model> {
    let ended = tables.purchases.iter().filter(|row| row.ended.is_some());
    ended.filter(|row| subject.includes(row.id, row.container)).collect()
}

/// The purchase that a certificate belongs to: its container, or itself.
pub(crate) fn subject_of(certificate: Uuid, container: Option<Uuid>) -> Uuid {
    container.unwrap_or(certificate)
}

/// The refusal that an ending earns.
pub(crate) fn refusal_of(ending: Ending) -> Refusal {
    match ending {
        Ending::Granted => Refusal::new(Code::Exhausted, "every grant of this certificate is used up"),
        Ending::Lapsed => Refusal::new(Code::Lapsed, "the certificate's reception was not acknowledged in time"),
        Ending::Expired => Refusal::new(Code::Expired, "the certificate's time is over"),
        Ending::Declined => Refusal::new(Code::Declined, "the payment for this certificate was declined"),
        Ending::Reversed => Refusal::new(Code::Reversed, "the payment for this certificate was taken back"),
    }
}

/// How certificates bought together have ended by their deadlines at `now`, whether or not anybody
/// has swept: unpaid ones whole, at the earliest deadline of any; paid ones each by itself, so that
/// all of them must be over.
pub(crate) fn overdue(certificates: &[certificate::Model], now: Timestamp) -> Option<Ending> {
    let now = now.as_millis();
    if certificates.iter().any(|row| row.settled_at.is_some()) {
        return certificates.iter().all(|row| now > row.expires_at).then_some(Ending::Expired);
    }
    let expiry = certificates.iter().map(|row| row.expires_at).min()?;
    let unreceived = certificates.iter().filter(|row| row.received_at.is_none());
    let receipt = unreceived.map(|row| row.receipt_due_at).min().filter(|due| *due <= expiry);
    match receipt {
        Some(due) if now > due => Some(Ending::Lapsed),
        _ => (now > expiry).then_some(Ending::Expired),
    }
}

/// How a purchase stands that cannot go on: ended, if nothing of it lives, or overdue.
pub(crate) fn over(live: &[certificate::Model], ended: &[&purchase::Model], now: Timestamp) -> Option<Ending> {
    if live.is_empty() { ended.first().and_then(|row| row.ended) } else { overdue(live, now) }
}

/// How many more licenses a certificate permits.
pub(crate) fn remaining(row: &certificate::Model) -> i64 {
    row.grants - row.granted - row.outstanding
}

/// What is charged for certificates bought together: their prices less the points held for them.
pub(crate) fn due(certificates: &[certificate::Model]) -> Money {
    let amount = certificates.iter().map(|row| row.amount_minor - row.points).sum();
    let currency = certificates.first().map_or("", |row| row.currency.as_str());
    money(amount, currency)
}

/// Ends a certificate: its row goes, its purchase tells how.
pub(crate) fn retire(tables: &mut Tables, id: Uuid, ending: Ending, now: Timestamp) -> Option<Output> {
    // Both or neither.
    tables.purchases.get(&id)?;
    let row = tables.certificates.remove(&id)?;
    let purchase = tables.purchases.change(&id)?;
    purchase.received_at = row.received_at;
    purchase.settlement = row.settlement;
    purchase.provider = row.provider;
    purchase.grants = Some(row.grants);
    purchase.granted = row.granted;
    purchase.generation = row.generation;
    purchase.ended = Some(ending);
    purchase.ended_at = Some(now.as_millis());
    Some(Output::CertificateRetired(CertificateRetired { certificate: id, reason: reason(ending) }))
}

fn reason(ending: Ending) -> message::Ending {
    match ending {
        Ending::Granted => message::Ending::Granted,
        Ending::Lapsed => message::Ending::Lapsed,
        Ending::Expired => message::Ending::Expired,
        Ending::Declined => message::Ending::Declined,
        Ending::Reversed => message::Ending::Reversed,
    }
}

/// Settles certificates bought together: the points held for them are spent.
pub(crate) fn settle(
    context: &Context<'_>,
    tables: &mut Tables,
    certificates: &[certificate::Model],
    provider: &str,
    settlement: &str,
    grants: Option<i64>,
) {
    let held: i64 = certificates.iter().map(|row| row.points).sum();
    for member in certificates {
        if let Some(row) = tables.certificates.change(&member.id) {
            row.provider = Some(provider.to_owned());
            row.settlement = Some(settlement.to_owned());
            row.settled_at = Some(context.now.as_millis());
            row.grants = grants.unwrap_or(row.grants);
        }
    }
    transfer(context, tables, accounts::HELD, accounts::SPENT, held);
}

/// Books points from one account to another: two entries that sum to zero.
pub(crate) fn transfer(context: &Context<'_>, tables: &mut Tables, from: &str, to: &str, points: i64) {
    if points == 0 {
        return;
    }
    for (account, delta) in [(from, -points), (to, points)] {
        tables.entries.add(entry::Model {
            id: context.id(&format!("entry:{from}:{to}:{account}"), 0),
            account: account.to_owned(),
            delta,
            cause: context.message_id,
            booked_at: context.now.as_millis(),
        });
        match tables.accounts.change(&account.to_owned()) {
            Some(row) => row.balance += delta,
            None if accounts::is_users(account) => {
                tables.accounts.add(account::Model { name: account.to_owned(), balance: delta });
            }
            None => {}
        }
    }
}

/// What everybody hears of a change to a user's points.
pub(crate) fn points_changed(context: &Context<'_>, tables: &Tables, user: &str, delta: i64) -> Output {
    let balance = balance(tables, user);
    Output::PointsChanged(PointsChanged { user: name(user), delta, balance: count(balance), cause: context.message_id })
}

/// A user's points.
pub(crate) fn balance(tables: &Tables, user: &str) -> i64 {
    tables.accounts.get(&accounts::points(user)).map_or(0, |row: &account::Model| row.balance)
}

// Rows hold what was checked when it came in. A value that no longer fits means a damaged
// database: the runtime catches the panic and sets the one message aside.

/// A name from a row.
pub(crate) fn name(text: &str) -> Name {
    Name::try_from(text).expect("names in the database were checked")
}

/// A text from a row.
pub(crate) fn text(text: &str) -> Text {
    Text::try_from(text).expect("texts in the database were checked")
}

/// Another system's id from a row.
pub(crate) fn external(text: &str) -> ExternalId {
    ExternalId::try_from(text).expect("ids in the database were checked")
}

/// A version from a row.
pub(crate) fn version(number: i64) -> Version {
    Version::try_from(number).expect("versions in the database were checked")
}

/// A count from rows.
pub(crate) fn count(number: i64) -> Count {
    Count::try_from(number).expect("counts in the database are never negative")
}

/// An amount from rows.
pub(crate) fn money(amount_minor: i64, currency: &str) -> Money {
    let currency = Currency::try_from(currency).expect("currencies in the database were checked");
    Money { amount_minor: count(amount_minor), currency }
}

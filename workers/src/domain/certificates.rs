//! What several rules say about the rows they share: which certificates belong together, how one
//! has ended, what is due for it, how it is settled and retired.

use licet_common::decision::{Context, Tables};
use licet_schema::{
    Code, Money, Output, Refusal, Timestamp,
    entity::{Ending, certificate, purchase},
    message::{self, CertificateRetired},
};
use uuid::Uuid;

use crate::{points, values::money};

/// The provider of what needs no payment provider: points, and nothing at all.
pub(crate) const OWN_PROVIDER: &str = "licet";

/// A purchase, by what stands for it. The kinds are kept apart: a container's id given for a
/// certificate's names nothing, whatever else is at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

    /// Of a certificate: its container, or itself.
    pub(crate) fn of(certificate: Uuid, container: Option<Uuid>) -> Self {
        container.map_or(Self::Certificate(certificate), Self::Container)
    }

    /// Whether a certificate belongs to it.
    pub(crate) fn includes(self, certificate: Uuid, container: Option<Uuid>) -> bool {
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
    purchase.settled_at = row.settled_at;
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

/// Settles certificates bought together: the points held for them are spent, and from now on
/// their reception may take as long as they live.
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
    points::transfer(context, tables, points::HELD, points::SPENT, held);
    let subject = certificates.first().map(|row| subject_of(row.id, row.container));
    if let Some(pending) = subject.and_then(|subject| tables.pending_receptions.change(&subject)) {
        pending.due_at = None;
    }
}

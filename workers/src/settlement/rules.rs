//! Code that the rules of the settlement messages share: finding the purchase, and the reply.

use licet_common::{
    decision::{Context, Decision, RuleError},
    rows::Defect,
};
use licet_schema::{
    Code, Count, ExternalId, Money, Name, Output, Refusal,
    entity::{certificate, certificate_record, refund, settlement, unmatched_settlement},
    message::{SettlementOutcome, SettlementRegistered, SettlementUnmatched},
};
use uuid::Uuid;

use crate::domain::{
    Tables,
    certificates::{Subject, ended_members, members},
    refusals::refuse,
};

/// A message about a settlement: the purchase that it names, and the key of the settlement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    pub(super) subject: Subject,
    pub(super) provider: &'a Name,
    pub(super) settlement: &'a ExternalId,
}

impl Named<'_> {
    /// The settlement that was registered under this id, if any.
    pub(super) fn registered_before(&self, tables: &Tables) -> Result<Option<settlement::Model>, Defect> {
        Ok(tables.settlements.get(&(self.provider.clone(), self.settlement.clone()))?.cloned())
    }

    /// A row of the settlement of which only the purchase and the outcome are known.
    pub(super) fn row(&self, context: &Context<'_>, outcome: SettlementOutcome) -> settlement::Model {
        settlement::Model {
            provider: self.provider.clone(),
            provider_reference: self.settlement.clone(),
            certificate: self.subject.certificate(),
            container: self.subject.container(),
            reported_certificate: None,
            reported_container: None,
            outcome,
            amount_minor: None,
            currency: None,
            grants: None,
            refunded_minor: Count::ZERO,
            registered_at: context.now,
            cause: context.message_id,
        }
    }

    /// Returns a function that checks whether another message about the settlement, which names
    /// this certificate or container, means the same purchase.
    pub(super) fn same_purchase(
        &self,
        tables: &Tables,
    ) -> Result<impl Fn(Option<Uuid>, Option<Uuid>) -> bool + use<>, Defect> {
        let (subject, row) = (self.subject, self.registered_before(tables)?);
        let may_name = move |other| row.as_ref().is_some_and(|row| is_for(row, subject) && is_for(row, other));
        Ok(move |certificate, container| {
            Subject::of_either(certificate, container).is_some_and(|other| other == subject || may_name(other))
        })
    }

    /// The refunds of the settlement.
    pub(super) fn refunds(&self, tables: &Tables) -> Result<Vec<refund::Model>, Defect> {
        tables.refunds_of(self.provider, self.settlement)
    }

    /// The reply: an outcome, and the refunds that are registered now.
    pub(super) fn registered(
        &self,
        tables: &Tables,
        outcome: SettlementOutcome,
        repeated: bool,
    ) -> Result<Decision, Defect> {
        let row = self.registered_before(tables)?;
        let refunds = self.refunds(tables)?;
        let purchase = purchase_of(tables, self.subject)?;
        // A completion or failure may name one member, whose container is not loaded.
        let reference = match members(tables, self.subject)?.first() {
            Some(live) => live.reference.clone(),
            None => ended_members(tables, self.subject)?.first().and_then(|record| record.reference.clone()),
        };
        // The history of the purchase to which the payment was assigned also shows this message.
        let assigned = row.as_ref().filter(|row| is_for(row, self.subject));
        let assigned = assigned.and_then(|row| Subject::of_either(row.certificate, row.container));
        let mut decision = Decision::new(Output::SettlementRegistered(SettlementRegistered {
            certificate: self.subject.certificate(),
            container: self.subject.container(),
            settlement: self.settlement.clone(),
            outcome,
            grants: row.as_ref().and_then(|row| row.grants),
            refunded: refunded_so_far(row.as_ref(), &refunds)?,
            repeated,
            reference,
        }))
        .about(purchase.id());
        decision.mentions.extend(assigned.map(Subject::id).filter(|id| *id != purchase.id()));
        Ok(decision)
    }
}

/// Writes the row of a settlement, which may exist already.
pub(super) fn write(tables: &mut Tables, row: settlement::Model) -> Result<(), Defect> {
    let key = (row.provider.clone(), row.provider_reference.clone());
    match tables.settlements.get(&key)? {
        Some(_) => *tables.settlements.change(&key)? = row,
        None => tables.settlements.insert(row)?,
    }
    Ok(())
}

/// Registers a settlement whose payment has not arrived, so that its refunds and reinstatements can
/// be found.
pub(super) fn expect_payment(context: &Context<'_>, tables: &mut Tables, named: Named<'_>) -> Result<(), Defect> {
    if named.registered_before(tables)?.is_some() {
        return Ok(());
    }
    tables.settlements.insert(named.row(context, SettlementOutcome::Pending))
}

/// Records money that matches no purchase. Returns the event that announces it.
pub(super) fn record_unmatched(tables: &mut Tables, row: unmatched_settlement::Model) -> Result<Output, Defect> {
    let event = announcement(&row);
    tables.unmatched_settlements.insert(row)?;
    Ok(event)
}

/// The event that announces unmatched money.
pub(super) fn announcement(row: &unmatched_settlement::Model) -> Output {
    Output::SettlementUnmatched(SettlementUnmatched {
        kind: row.kind,
        settlement: row.settlement.clone(),
        refund: row.refund.clone(),
        provider: row.provider.clone(),
        certificate: row.certificate,
        container: row.container,
        amount: Some(money(row)),
        reason: row.reason,
    })
}

/// The sum of the refunds so far: of the payment, and of unmatched money. `None` if all
/// refunds of the settlement wait for its payment.
fn refunded_so_far(row: Option<&settlement::Model>, refunds: &[refund::Model]) -> Result<Option<Money>, Defect> {
    if refunds.iter().all(|one| one.outcome == SettlementOutcome::Pending) {
        return Ok(None);
    }
    let returned = refunds.iter().filter(|one| one.unmatched && one.outcome == SettlementOutcome::Refunded);
    let mut returned = returned.filter_map(|one| one.counted_minor.zip(one.currency)).peekable();
    let paid = row.and_then(|row| paid(row).map(|paid| (row.refunded_minor, paid.currency)));
    let Some((refunded, currency)) = paid.or_else(|| returned.peek().map(|(_, currency)| (Count::ZERO, *currency)))
    else {
        return Ok(None);
    };
    let mut same = returned.filter(|(_, other)| *other == currency);
    let sum = same.try_fold(refunded, |sum, (amount, _)| sum.checked_add(amount));
    let amount_minor = sum.ok_or_else(|| Defect::violated("a count is at most 2^53-1", "refunds"))?;
    Ok(Some(Money { amount_minor, currency }))
}

/// The amount of unmatched money.
pub(super) fn money(row: &unmatched_settlement::Model) -> Money {
    Money { amount_minor: row.amount_minor, currency: row.currency }
}

/// The amount of a settlement that was paid.
pub(super) fn paid(row: &settlement::Model) -> Option<Money> {
    row.amount_minor.zip(row.currency).map(|(amount_minor, currency)| Money { amount_minor, currency })
}

/// Whether a registered settlement is for this purchase, or was reported for it and then assigned
/// to another one by an operator.
pub(super) fn is_for(row: &settlement::Model, subject: Subject) -> bool {
    let ids = (subject.certificate(), subject.container());
    (row.certificate, row.container) == ids || (row.reported_certificate, row.reported_container) == ids
}

/// The member of the settlement's container that a refund names, if it names one.
pub(super) fn member_of(row: &settlement::Model, one: &refund::Model) -> Option<Uuid> {
    one.certificate.filter(|id| row.container.is_some() && !is_for(row, Subject::Certificate(*id)))
}

/// The purchase to which a certificate or container belongs.
pub(super) fn purchase_of(tables: &Tables, subject: Subject) -> Result<Subject, Defect> {
    let Subject::Certificate(id) = subject else { return Ok(subject) };
    let container = match tables.certificates.get(&id)? {
        Some(live) => live.container,
        None => tables.ended(id)?.and_then(|record| record.container),
    };
    Ok(Subject::of(id, container))
}

/// What the certificate or container that a message names is to the settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The purchase that the settlement is for.
    Whole,
    /// One certificate of the container that the settlement is for.
    Member(Uuid),
    /// Another purchase.
    Other,
}

impl Target {
    pub(super) fn of(tables: &Tables, row: &settlement::Model, subject: Subject) -> Result<Self, Defect> {
        if is_for(row, subject) {
            return Ok(Self::Whole);
        }
        // The purchase of the settlement is loaded. The purchase that an earlier refund names might
        // not be.
        match (subject, row.container) {
            (Subject::Certificate(id), Some(container)) if is_member(tables, id, container)? => Ok(Self::Member(id)),
            _ => Ok(Self::Other),
        }
    }
}

fn is_member(tables: &Tables, certificate: Uuid, container: Uuid) -> Result<bool, Defect> {
    let live = tables.live_in(container)?.iter().any(|row| row.id == certificate);
    Ok(live || tables.ended_in(container)?.iter().any(|row| row.id == certificate))
}

/// The live and the ended certificates of the purchase that a report names.
pub(super) struct Purchase<'a> {
    pub(super) live: Vec<certificate::Model>,
    pub(super) ended: Vec<&'a certificate_record::Model>,
}

impl<'a> Purchase<'a> {
    /// Finds the certificates.
    ///
    /// # Errors
    /// There are none, or the report names a single member of a container.
    pub(super) fn of(tables: &'a Tables, subject: Subject) -> Result<Self, RuleError> {
        let (live, ended) = (members(tables, subject)?, ended_members(tables, subject)?);
        if live.is_empty() && ended.is_empty() {
            return refuse(Code::UnknownCertificate, "no certificate or container with this id was ever issued");
        }
        let container = live.first().map_or_else(|| ended.first().and_then(|row| row.container), |row| row.container);
        match (container, subject) {
            (Some(container), Subject::Certificate(_)) => refuse(
                Code::UnknownCertificate,
                format!("the certificate was bought in a container: settle the container {container}"),
            ),
            _ => Ok(Self { live, ended }),
        }
    }

    /// Whether the purchase is paid for.
    pub(super) fn is_settled(&self) -> bool {
        self.live.iter().any(|row| row.settled_at.is_some()) || self.ended.iter().any(|row| row.settlement.is_some())
    }
}

/// The refusal of a report about a purchase that is already paid for.
pub(super) fn already_settled(how: &str) -> Refusal {
    Refusal::new(Code::AlreadySettled, format!("the purchase is already paid for {how}"))
}

/// The refusal of a report about a settlement that is registered for another purchase.
pub(super) fn for_another_purchase() -> Refusal {
    Refusal::new(Code::AlreadySettled, "this settlement was reported before for another purchase")
}

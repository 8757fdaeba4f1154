//! Rules of `settlement.completion`, including payments that match no purchase.

use licet_common::{
    decision::{Context, Decision, RuleError},
    rows::Defect,
};
use licet_schema::{
    Code, Money, Output, Refusal, Timestamp,
    entity::{certificate, settlement, unmatched_settlement},
    message::{CertificateRestored, Ending, Restoration, SettlementCompletion, SettlementOutcome, UnmatchedKind},
    vocabulary::Grants,
};
use uuid::Uuid;

use super::{
    refund,
    rules::{
        Named, Purchase, already_settled, expect_payment, for_another_purchase, is_for, money, paid, record_unmatched,
        write,
    },
};
use crate::domain::{
    Tables,
    certificates::{Subject, first, over, restore, settle, sum_due, wait_for_reception},
    effects::Effects,
    points,
    refusals::{refusal_of, refuse},
};

/// A provider reports a completed payment.
pub(super) fn decide(
    context: &Context<'_>,
    tables: &mut Tables,
    named: Named<'_>,
    report: &SettlementCompletion,
) -> Result<Decision, Defect> {
    let known = named.registered_before(tables)?;
    if let Some(known) = known.as_ref().filter(|known| paid(known).is_some()) {
        return reported_again(context, tables, named, report, known);
    }
    if known.is_some_and(|known| known.outcome == SettlementOutcome::Failed && !is_for(&known, named.subject)) {
        return unmatched(context, tables, named, report, &for_another_purchase());
    }
    let payable = match payable(context, tables, named.subject, report.amount, Deadline::Expiry) {
        Ok(payable) => payable,
        Err(RuleError::Refused(refusal)) => return unmatched(context, tables, named, report, &refusal),
        Err(RuleError::Defect(defect)) => return Err(defect),
    };
    // This amount is matched now. If it stayed in the table of unmatched payments, it could also be
    // refunded. Other amounts under the same id stay, as they would if they arrived later.
    for kept in tables.unmatched(UnmatchedKind::Payment, named.provider, named.settlement)? {
        if money(&kept) == report.amount {
            tables.unmatched_settlements.remove(&kept.id)?;
        }
    }
    let mut effects = Effects::default();
    let certificates = revive(context, tables, &mut effects, payable)?;
    let payment = Payment { amount: report.amount, grants: report.grants, reported: None };
    register(context, tables, effects, named, payment, &certificates)
}

/// A payment with this id was registered before.
fn reported_again(
    context: &Context<'_>,
    tables: &mut Tables,
    named: Named<'_>,
    report: &SettlementCompletion,
    known: &settlement::Model,
) -> Result<Decision, Defect> {
    if paid(known) != Some(report.amount) {
        let detail = "this settlement was reported before with another amount";
        return unmatched(context, tables, named, report, &Refusal::new(Code::AlreadySettled, detail));
    }
    if known.outcome == SettlementOutcome::Reversed {
        let detail = "this payment was refunded: if the refund was undone, send settlement.reinstatement";
        return unmatched(context, tables, named, report, &Refusal::new(Code::Reversed, detail));
    }
    // From here on, it is the same money, so it is not recorded as unmatched.
    let refused = |refusal: Refusal| Decision::refused(&refusal, "settlement.completion").about(named.subject.id());
    if !is_for(known, named.subject) {
        return Ok(refused(for_another_purchase()));
    }
    if report.grants.is_none() || known.grants == report.grants {
        return named.registered(tables, SettlementOutcome::Completed, true);
    }
    let detail = "this settlement was reported before with a different number of grants";
    Ok(refused(Refusal::new(Code::AlreadySettled, detail)))
}

/// Until when a payment is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deadline {
    /// The earliest expiry of the purchase's certificates.
    Expiry,
    /// There is no deadline, because an operator decides.
    None,
}

/// The unpaid certificates that a payment pays for.
pub(super) struct Payable {
    live: Vec<certificate::Model>,
    ended: Vec<Uuid>,
    /// Whether the purchase has ended, or has passed a deadline and will be ended by a sweep.
    pub(super) is_late: bool,
}

/// The certificates that a payment of this amount pays for.
///
/// # Errors
/// The payment pays for no certificate.
pub(super) fn payable(
    context: &Context<'_>,
    tables: &Tables,
    subject: Subject,
    amount: Money,
    deadline: Deadline,
) -> Result<Payable, RuleError> {
    let purchase = Purchase::of(tables, subject)?;
    if purchase.is_settled() {
        return Err(already_settled("by another settlement").into());
    }
    let ending = over(&purchase.live, &purchase.ended, context.now)?;
    match ending {
        None => {}
        Some(Ending::Lapsed | Ending::Declined | Ending::Expired) if deadline == Deadline::None => {}
        Some(Ending::Lapsed | Ending::Declined) if !is_expired(&purchase, context.now) => {}
        Some(Ending::Lapsed | Ending::Declined | Ending::Expired) => return Err(refusal_of(Ending::Expired).into()),
        Some(Ending::Exhausted) => return Err(already_settled("and all its grants are used").into()),
        Some(Ending::Reversed) => return Err(refusal_of(Ending::Reversed).into()),
    }
    let live = purchase.live.iter().map(|row| (row.amount_minor, row.points, row.currency, &row.user));
    let ended = purchase.ended.iter().map(|row| (row.amount_minor, row.points, row.currency, &row.user));
    let bought: Vec<_> = live.chain(ended).collect();
    let (_, _, currency, user) = *first(&bought, subject.id())?;
    let amounts = bought.iter().map(|(amount, points, ..)| (*amount, *points));
    let due = Money { amount_minor: sum_due(context, amounts)?, currency };
    if due != amount {
        return refuse(Code::AmountMismatch, format!("{amount} was paid, but {due} is due"));
    }
    let points: i64 = bought.iter().map(|(_, points, ..)| points.get()).sum();
    if purchase.live.is_empty() && points > 0 && points::balance(tables, user)? < points {
        let detail = format!("{points} points were to pay part of the price, and {user} no longer has them");
        return refuse(Code::InsufficientPoints, detail);
    }
    let ended = if purchase.live.is_empty() { purchase.ended.iter().map(|row| row.id).collect() } else { Vec::new() };
    Ok(Payable { live: purchase.live, ended, is_late: ending.is_some() })
}

/// Whether an unpaid purchase is past the earliest expiry of its certificates.
fn is_expired(purchase: &Purchase<'_>, now: Timestamp) -> bool {
    let live = purchase.live.iter().map(|row| row.expires_at);
    let expiry = live.chain(purchase.ended.iter().filter_map(|row| row.expires_at)).min();
    expiry.is_some_and(|expiry| now > expiry)
}

/// Makes the certificates of a purchase that ended unpaid live again, with their points held again.
/// Returns all certificates of the purchase.
pub(super) fn revive(
    context: &Context<'_>,
    tables: &mut Tables,
    effects: &mut Effects,
    payable: Payable,
) -> Result<Vec<certificate::Model>, Defect> {
    let mut certificates = payable.live;
    for id in payable.ended {
        let row = restore(tables, id)?;
        points::hold(context, tables, effects.points(), &row.user, row.points.get())?;
        if row.received_at.is_none() {
            wait_for_reception(tables, &row)?;
        }
        effects
            .add_event(Output::CertificateRestored(CertificateRestored { certificate: id, reason: Restoration::Paid }));
        certificates.push(row);
    }
    Ok(certificates)
}

/// A payment that pays for a purchase.
pub(super) struct Payment {
    pub(super) amount: Money,
    /// The number of licenses per certificate, if the provider specified it.
    pub(super) grants: Option<Grants>,
    /// The purchase that the provider named, if an operator assigned the payment to another one.
    pub(super) reported: Option<Subject>,
}

/// Registers a payment for these certificates, which must be all certificates of a purchase.
/// Applies the refunds that arrived before it.
pub(super) fn register(
    context: &Context<'_>,
    tables: &mut Tables,
    mut effects: Effects,
    named: Named<'_>,
    payment: Payment,
    certificates: &[certificate::Model],
) -> Result<Decision, Defect> {
    settle(context, tables, certificates, named.provider, named.settlement, payment.grants.map(Into::into))?;
    let row = settlement::Model {
        reported_certificate: payment.reported.and_then(Subject::certificate),
        reported_container: payment.reported.and_then(Subject::container),
        amount_minor: Some(payment.amount.amount_minor),
        currency: Some(payment.amount.currency),
        grants: payment.grants,
        ..named.row(context, SettlementOutcome::Completed)
    };
    write(tables, row.clone())?;
    let outcome = refund::apply_kept(context, tables, &mut effects, named, &row)?;
    let decision = named.registered(tables, outcome, false)?;
    effects.into(context, tables, decision)
}

/// Refuses a payment that matches no purchase, records it for the operator, and announces it. It is
/// recorded only once, even if it is reported several times or for several purchases. If its refund
/// has arrived already, the record names the refund, and nothing is announced.
fn unmatched(
    context: &Context<'_>,
    tables: &mut Tables,
    named: Named<'_>,
    report: &SettlementCompletion,
    refusal: &Refusal,
) -> Result<Decision, Defect> {
    let amount = report.amount;
    let refused = Decision::refused(refusal, "settlement.completion").about(named.subject.id());
    let kept = tables.unmatched(UnmatchedKind::Payment, named.provider, named.settlement)?;
    if kept.iter().any(|row| money(row) == amount) {
        return Ok(refused);
    }
    // This message was decided before, and its payment was refunded since. Writing the journal row
    // of this decision fails, and the runtime then finds the first reply.
    let returned = tables.returned_payments(named.provider, named.settlement)?;
    if returned.iter().any(|row| row.id == context.message_id) {
        return Ok(refused);
    }
    // Every message about this settlement locks its row, so that a refund that arrives at the same
    // time finds this payment.
    expect_payment(context, tables, named)?;
    let (reason, refunded_by, refused) = match refund::of_unmatched(tables, named, amount)? {
        refund::OfUnmatched::None => (refusal.code, None, refused),
        refund::OfUnmatched::Now(refund) => (refusal.code, Some(refund), refused),
        refund::OfUnmatched::Before => {
            let refusal = Refusal::new(Code::Reversed, "this payment was refunded before");
            (Code::Reversed, None, Decision::refused(&refusal, "settlement.completion").about(named.subject.id()))
        }
    };
    let row = unmatched_settlement::Model {
        id: context.message_id,
        kind: UnmatchedKind::Payment,
        provider: named.provider.clone(),
        settlement: named.settlement.clone(),
        refund: None,
        certificate: named.subject.certificate(),
        container: named.subject.container(),
        amount_minor: amount.amount_minor,
        currency: amount.currency,
        grants: report.grants,
        reason,
        recorded_at: context.now,
        refunded_by,
    };
    if row.refunded_by.is_some() {
        tables.unmatched_settlements.insert(row)?;
        return Ok(refused);
    }
    Ok(refused.with_event(record_unmatched(tables, row)?))
}

//! Rules of `settlement.completion`, including payments that match no purchase.

use licet_common::{
    decision::{Context, Decision, RuleError},
    rows::Defect,
};
use licet_schema::{
    Code, Count, Money, Output, Refusal, Timestamp,
    entity::{certificate, settlement, unmatched_settlement},
    message::{CertificateRestored, Ending, Restoration, SettlementCompletion, SettlementOutcome, UnmatchedKind},
};
use uuid::Uuid;

use super::{
    refund,
    rules::{
        Named, Purchase, already_settled, expect_payment, for_another_purchase, is_for, paid, record_unmatched, write,
    },
};
use crate::domain::{
    Tables,
    certificates::{first, over, restore, settle, sum_due, wait_for_reception},
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
    match payable(context, tables, named, report.amount, known.as_ref()) {
        Ok(certificates) => register(context, tables, named, report, certificates),
        Err(RuleError::Refused(refusal)) => unmatched(context, tables, named, report.amount, &refusal),
        Err(RuleError::Defect(defect)) => Err(defect),
    }
}

/// A payment with this id was registered before.
fn reported_again(
    context: &Context<'_>,
    tables: &mut Tables,
    named: Named<'_>,
    report: &SettlementCompletion,
    known: &settlement::Model,
) -> Result<Decision, Defect> {
    if paid(known) != Some(report.amount) || !is_for(known, named.subject) {
        let detail = "this settlement was reported before for another purchase or amount";
        return unmatched(context, tables, named, report.amount, &Refusal::new(Code::AlreadySettled, detail));
    }
    if known.outcome == SettlementOutcome::Reversed {
        let detail = "this payment was refunded: if the refund was undone, send settlement.reinstatement";
        return unmatched(context, tables, named, report.amount, &Refusal::new(Code::Reversed, detail));
    }
    if report.grants.is_none() || known.grants == report.grants {
        return named.registered(tables, SettlementOutcome::Completed, true);
    }
    // It is the same payment, so no unmatched payment is recorded.
    let detail = "this settlement was reported before with a different number of grants";
    let refusal = Refusal::new(Code::AlreadySettled, detail);
    Ok(Decision::refused(&refusal, "settlement.completion").about(named.subject.id()))
}

/// The certificates that a settlement pays for.
enum Payable {
    /// They wait for the payment.
    Live(Vec<certificate::Model>),
    /// They were declined or lapsed, and the payment makes them live again.
    Ended(Vec<Uuid>),
}

/// The certificates that the settlement pays for.
///
/// # Errors
/// The settlement pays for no certificate.
fn payable(
    context: &Context<'_>,
    tables: &Tables,
    named: Named<'_>,
    amount: Money,
    known: Option<&settlement::Model>,
) -> Result<Payable, RuleError> {
    if known.is_some_and(|known| known.outcome == SettlementOutcome::Failed && !is_for(known, named.subject)) {
        return Err(for_another_purchase().into());
    }
    let purchase = Purchase::of(tables, named.subject)?;
    if purchase.is_settled() {
        return Err(already_settled("by another settlement").into());
    }
    if let Some(ending) = over(&purchase.live, &purchase.ended, context.now)? {
        match ending {
            Ending::Lapsed | Ending::Declined if !is_expired(&purchase, context.now) => {}
            Ending::Lapsed | Ending::Declined | Ending::Expired => return Err(refusal_of(Ending::Expired).into()),
            Ending::Exhausted => return Err(already_settled("and all its grants are used").into()),
            Ending::Reversed => return Err(refusal_of(ending).into()),
        }
    }
    let live = purchase.live.iter().map(|row| (row.amount_minor, row.points, row.currency, &row.user));
    let ended = purchase.ended.iter().map(|row| (row.amount_minor, row.points, row.currency, &row.user));
    let bought: Vec<_> = live.chain(ended).collect();
    let (_, _, currency, user) = *first(&bought, named.subject.id())?;
    let amounts = bought.iter().map(|(amount, points, ..)| (*amount, *points));
    let due = Money { amount_minor: sum_due(context, amounts)?, currency };
    if due != amount {
        return refuse(Code::AmountMismatch, format!("{amount} was paid, but {due} is due"));
    }
    if !purchase.live.is_empty() {
        return Ok(Payable::Live(purchase.live));
    }
    let points: i64 = bought.iter().map(|(_, points, ..)| points.get()).sum();
    if points > 0 && points::balance(tables, user)? < points {
        let detail = format!("{points} points were to pay part of the price, and {user} no longer has them");
        return refuse(Code::InsufficientPoints, detail);
    }
    Ok(Payable::Ended(purchase.ended.iter().map(|row| row.id).collect()))
}

/// Whether an unpaid purchase is past the earliest expiry of its certificates.
fn is_expired(purchase: &Purchase<'_>, now: Timestamp) -> bool {
    let live = purchase.live.iter().map(|row| row.expires_at);
    let expiry = live.chain(purchase.ended.iter().filter_map(|row| row.expires_at)).min();
    expiry.is_some_and(|expiry| now > expiry)
}

fn register(
    context: &Context<'_>,
    tables: &mut Tables,
    named: Named<'_>,
    report: &SettlementCompletion,
    payable: Payable,
) -> Result<Decision, Defect> {
    let mut effects = Effects::default();
    let certificates = match payable {
        Payable::Live(certificates) => certificates,
        Payable::Ended(ids) => restored(context, tables, &mut effects, &ids)?,
    };
    settle(context, tables, &certificates, named.provider, named.settlement, report.grants.map(Into::into))?;
    let row = settlement::Model {
        provider: named.provider.clone(),
        provider_reference: named.settlement.clone(),
        certificate: named.subject.certificate(),
        container: named.subject.container(),
        outcome: SettlementOutcome::Completed,
        amount_minor: Some(report.amount.amount_minor),
        currency: Some(report.amount.currency),
        grants: report.grants,
        refunded_minor: Count::ZERO,
        registered_at: context.now,
        cause: context.message_id,
    };
    write(tables, row.clone())?;
    // The settlement is matched now. If it stayed in the table of unmatched payments, it could also
    // be refunded.
    for kept in tables.unmatched(UnmatchedKind::Payment, named.provider, named.settlement)? {
        tables.unmatched_settlements.remove(&kept.id)?;
    }
    let outcome = refund::apply_kept(context, tables, &mut effects, named, &row)?;
    let decision = named.registered(tables, outcome, false)?;
    effects.into(context, tables, decision)
}

/// Makes the certificates of a purchase that ended unpaid live again. Their points are held again.
fn restored(
    context: &Context<'_>,
    tables: &mut Tables,
    effects: &mut Effects,
    ids: &[Uuid],
) -> Result<Vec<certificate::Model>, Defect> {
    let mut certificates = Vec::new();
    for id in ids {
        let row = restore(tables, *id)?;
        points::hold(context, tables, effects.points(), &row.user, row.points.get())?;
        if row.received_at.is_none() {
            wait_for_reception(tables, &row)?;
        }
        effects.add_event(Output::CertificateRestored(CertificateRestored {
            certificate: *id,
            reason: Restoration::Paid,
        }));
        certificates.push(row);
    }
    Ok(certificates)
}

/// Refuses a payment that matches no purchase, records it for the operator, and announces it. It is
/// recorded only once, even if it is reported several times or for several purchases. It is not
/// recorded if its refund has arrived already.
fn unmatched(
    context: &Context<'_>,
    tables: &mut Tables,
    named: Named<'_>,
    amount: Money,
    refusal: &Refusal,
) -> Result<Decision, Defect> {
    let refused = Decision::refused(refusal, "settlement.completion").about(named.subject.id());
    let kept = tables.unmatched(UnmatchedKind::Payment, named.provider, named.settlement)?;
    if kept.iter().any(|row| is_same_money(row, amount)) {
        return Ok(refused);
    }
    // Every message about this settlement locks its row, so that a refund that arrives at the same time
    // finds this payment.
    expect_payment(context, tables, named)?;
    let (reason, refused) = match refund::of_unmatched(tables, named, amount)? {
        refund::OfUnmatched::None => (refusal.code, refused),
        refund::OfUnmatched::Now => return Ok(refused),
        refund::OfUnmatched::Before => {
            let refusal = Refusal::new(Code::Reversed, "this payment was refunded before");
            (Code::Reversed, Decision::refused(&refusal, "settlement.completion").about(named.subject.id()))
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
        reason,
        told_at: context.now,
    };
    Ok(refused.with_event(record_unmatched(tables, row)?))
}

fn is_same_money(kept: &unmatched_settlement::Model, amount: Money) -> bool {
    (kept.amount_minor, kept.currency) == (amount.amount_minor, amount.currency)
}

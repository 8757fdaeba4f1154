//! Rules of `settlement.reversal`: refunds and chargebacks, in full or in part.
//!
//! The effect of a settlement's refunds depends on the set of refunds alone, not on their order: a
//! certificate is revoked if a refund names it, or if everything is refunded
//! ([`super::revocation`]).

use licet_common::{
    decision::{Context, Decision, RuleError},
    rows::Defect,
};
use licet_schema::{
    Code, Count, ExternalId, Money, Name, Output, Refusal,
    entity::{refund, settlement, unmatched_settlement},
    message::{SettlementOutcome, SettlementReversal, UnmatchedKind},
};

use super::{
    reinstatement, revocation,
    rules::{Named, Target, announcement, expect_payment, for_another_purchase, money, paid, record_unmatched},
};
use crate::domain::{Tables, certificates::Subject, effects::Effects, refusals::refuse};

/// A payment was refunded or charged back.
pub(super) fn decide(
    context: &Context<'_>,
    tables: &mut Tables,
    named: Named<'_>,
    report: &SettlementReversal,
) -> Result<Decision, RuleError> {
    let id = report.refund.as_ref().unwrap_or(named.settlement);
    if let Some(known) = tables.refunds.get(&(named.provider.clone(), named.settlement.clone(), id.clone()))? {
        if named.same_purchase(tables)?(known.certificate, known.container) && reported(known) == report.amount {
            return Ok(named.registered(tables, known.outcome, true)?);
        }
        let detail = "this refund was reported before for another purchase, with another amount, or without an amount";
        return refuse(Code::AmountMismatch, detail);
    }
    let new = refund::Model {
        provider: named.provider.clone(),
        settlement: named.settlement.clone(),
        refund: id.clone(),
        certificate: named.subject.certificate(),
        container: named.subject.container(),
        amount_minor: report.amount.map(|amount| amount.amount_minor),
        currency: report.amount.map(|amount| amount.currency),
        outcome: SettlementOutcome::Pending,
        counted_minor: None,
        unmatched: false,
        registered_at: context.now,
        cause: context.message_id,
    };
    let counted = match named.registered_before(tables)? {
        // A failed settlement may still be paid, for any purchase.
        Some(row) if paid(&row).is_some() => match count(tables, named, &row, &new) {
            Ok(counted) => Ok(counted),
            Err(RuleError::Refused(refusal)) => Err(refusal),
            Err(RuleError::Defect(defect)) => return Err(defect.into()),
        },
        _ => Ok(Counted::Later),
    };
    let mut effects = Effects::default();
    // An amount can select unmatched money. Without an amount, such money is looked for only if
    // nothing is left of the payment.
    let reduces_payment = report.amount.is_none() && matches!(counted, Ok(Counted::Part(_) | Counted::Rest));
    if !reduces_payment && let Some(row) = take_back(tables, named, &new)? {
        expect_payment(context, tables, named)?;
        tables.refunds.insert(row)?;
    } else {
        let row = match counted {
            Ok(counted) => counted.written(new),
            Err(refusal) => return Ok(refused(context, tables, named, &new, &refusal)?),
        };
        expect_payment(context, tables, named)?;
        let is_applied = revocation::counts(&row);
        tables.refunds.insert(row)?;
        if is_applied {
            apply(context, tables, &mut effects, named, id)?;
        }
    }
    // The refund may have been refused before, when more of the payment was refunded.
    reinstatement::forget_refused(tables, named, &|refused| refused.refund.as_ref() == Some(id))?;
    reinstatement::apply_kept(context, tables, &mut effects, named, id)?;
    let key = (named.provider.clone(), named.settlement.clone(), id.clone());
    let outcome = tables.refunds.require(&key)?.outcome;
    let decision = named.registered(tables, outcome, false)?;
    Ok(effects.into(context, tables, decision)?)
}

/// The amount that a message reported.
fn reported(row: &refund::Model) -> Option<Money> {
    row.amount_minor.zip(row.currency).map(|(amount_minor, currency)| Money { amount_minor, currency })
}

fn subject_of(row: &refund::Model) -> Result<Subject, Defect> {
    Subject::of_columns(row.certificate, row.container, &row.refund)
}

/// What a refund counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    /// This part of the payment.
    Part(Count),
    /// Everything that the other refunds leave.
    Rest,
    /// Nothing, because everything is refunded already.
    Nothing,
    /// The payment has not arrived yet.
    Later,
}

impl Counted {
    /// The row of the refund, before it is known whether the refund revokes something.
    fn written(self, row: refund::Model) -> refund::Model {
        match self {
            Self::Part(part) => {
                refund::Model { counted_minor: Some(part), outcome: SettlementOutcome::Refunded, ..row }
            }
            Self::Rest | Self::Nothing => refund::Model { outcome: SettlementOutcome::Refunded, ..row },
            Self::Later => row,
        }
    }
}

/// What a refund counts for, given the other refunds of its settlement.
///
/// # Errors
/// The refund is for another purchase, in another currency, or exceeds what is left of the payment.
fn count(
    tables: &Tables,
    named: Named<'_>,
    row: &settlement::Model,
    one: &refund::Model,
) -> Result<Counted, RuleError> {
    let target = match Target::of(tables, row, subject_of(one)?)? {
        Target::Other => return Err(for_another_purchase().into()),
        target => target,
    };
    let Some(paid) = paid(row) else { return Ok(Counted::Later) };
    let mut others = named.refunds(tables)?;
    others.retain(|other| other.refund != one.refund);
    let left = paid.amount_minor.checked_sub(revocation::sum(&others)?).unwrap_or(Count::ZERO);
    let part = match (target, reported(one)) {
        (_, Some(amount)) => amount,
        (Target::Member(id), None) => {
            let record = tables.records.require(&id)?;
            let price = record.amount_minor.checked_sub(record.points).unwrap_or(Count::ZERO);
            Money { amount_minor: price.min(left), ..paid }
        }
        (Target::Whole | Target::Other, None) if revocation::is_everything(row, &others)? => {
            return Ok(Counted::Nothing);
        }
        (Target::Whole | Target::Other, None) => return Ok(Counted::Rest),
    };
    if part.currency != paid.currency || part.amount_minor > left {
        let left = Money { amount_minor: left, ..paid };
        return refuse(Code::AmountMismatch, format!("{part} was refunded, but only {left} of {paid} was left"));
    }
    Ok(Counted::Part(part.amount_minor))
}

/// Lets a refund take effect, after its row was written with what it counts for.
fn apply(
    context: &Context<'_>,
    tables: &mut Tables,
    effects: &mut Effects,
    named: Named<'_>,
    id: &ExternalId,
) -> Result<(), Defect> {
    let Some(row) = named.registered_before(tables)? else { return Ok(()) };
    if revocation::update(context, tables, effects, &row, Some(id))? {
        let key = (named.provider.clone(), named.settlement.clone(), id.clone());
        tables.refunds.change(&key)?.outcome = SettlementOutcome::Reversed;
    }
    Ok(())
}

/// Applies the refunds and reinstatements of a payment that arrived before it. Returns the outcome
/// of the payment.
pub(super) fn apply_kept(
    context: &Context<'_>,
    tables: &mut Tables,
    effects: &mut Effects,
    named: Named<'_>,
    row: &settlement::Model,
) -> Result<SettlementOutcome, Defect> {
    let mut reinstated = false;
    for kept in named.refunds(tables)? {
        // A refund of everything also covers a payment that arrives after unmatched money. The
        // unmatched money is then not refunded, as if the payment had arrived first.
        let everything = returns_all(&kept) && subject_of(&kept)? == named.subject;
        if kept.outcome != SettlementOutcome::Pending && !everything {
            continue;
        }
        let was_undone = kept.outcome == SettlementOutcome::Reinstated;
        if kept.outcome == SettlementOutcome::Refunded {
            reopen(tables, effects, named, &kept, paid(row))?;
        }
        let kept = refund::Model { unmatched: false, outcome: SettlementOutcome::Pending, counted_minor: None, ..kept };
        match count(tables, named, row, &kept) {
            Ok(counted) => {
                let key = key_of(&kept);
                *tables.refunds.change(&key)? = counted.written(kept);
                apply(context, tables, effects, named, &key.2)?;
                reinstated |= if was_undone {
                    reinstatement::undo_one(context, tables, effects, named, &key)?;
                    true
                } else {
                    reinstatement::apply_kept(context, tables, effects, named, &key.2)?
                };
            }
            // It is treated as if it had arrived after the payment.
            Err(RuleError::Refused(refusal)) => {
                tables.refunds.remove(&key_of(&kept))?;
                let undone = reinstatement::take_kept(tables, named, &kept, is_foreign(&refusal))?;
                if !undone && let Some(event) = record(context, tables, &kept, refusal.code)? {
                    effects.add_event(event);
                }
            }
            Err(RuleError::Defect(defect)) => return Err(defect),
        }
    }
    let outcome = named.registered_before(tables)?.map(|row| row.outcome);
    Ok(match outcome {
        Some(SettlementOutcome::Completed) if reinstated => SettlementOutcome::Reinstated,
        Some(outcome) => outcome,
        None => SettlementOutcome::Completed,
    })
}

fn key_of(row: &refund::Model) -> (Name, ExternalId, ExternalId) {
    (row.provider.clone(), row.settlement.clone(), row.refund.clone())
}

/// Marks the open unmatched payments that a refund returned: those with its amount or, if it has
/// none, all in one currency. Returns the row of the refund, which counts for their sum. `None` if
/// there is no such payment.
fn take_back(tables: &mut Tables, named: Named<'_>, new: &refund::Model) -> Result<Option<refund::Model>, Defect> {
    let mut kept = tables.unmatched(UnmatchedKind::Payment, named.provider, named.settlement)?;
    let is_same = named.same_purchase(tables)?;
    kept.retain(|row| is_same(row.certificate, row.container));
    kept.retain(|row| reported(new).is_none_or(|amount| money(row) == amount));
    let Some(currency) = kept.iter().map(|row| row.currency).min() else { return Ok(None) };
    let mut sum = Count::ZERO;
    for row in kept.iter().filter(|row| row.currency == currency) {
        tables.unmatched_settlements.change(&row.id)?.refunded_by = Some(new.refund.clone());
        let more = sum.checked_add(row.amount_minor);
        sum = more.ok_or_else(|| Defect::violated("unmatched payments sum to at most 2^53-1", row.id))?;
    }
    Ok(Some(returned(new.clone(), Money { amount_minor: sum, currency })))
}

/// The row of a refund that returned unmatched money.
fn returned(row: refund::Model, amount: Money) -> refund::Model {
    refund::Model {
        outcome: SettlementOutcome::Refunded,
        unmatched: true,
        counted_minor: Some(amount.amount_minor),
        currency: Some(amount.currency),
        ..row
    }
}

/// Whether a refund returned all unmatched money of its settlement, even if the refund was undone
/// since.
fn returns_all(one: &refund::Model) -> bool {
    one.unmatched && one.amount_minor.is_none()
}

/// Whether a payment that matches no purchase was refunded.
pub(super) enum OfUnmatched {
    /// No.
    None,
    /// This refund arrived first.
    Now(ExternalId),
    /// It was received and refunded before, so this is new money.
    Before,
}

/// Looks for a refund of a payment that matches no purchase and has no open record.
pub(super) fn of_unmatched(tables: &mut Tables, named: Named<'_>, amount: Money) -> Result<OfUnmatched, Defect> {
    let returned_before = tables.returned_payments(named.provider, named.settlement)?;
    if returned_before.iter().any(|row| money(row) == amount) {
        return Ok(OfUnmatched::Before);
    }
    let refunds = named.refunds(tables)?;
    let is_same = named.same_purchase(tables)?;
    let of_it = || refunds.iter().filter(|one| is_same(one.certificate, one.container));
    let is_pending = |one: &refund::Model| one.outcome == SettlementOutcome::Pending;
    let exact = of_it().find(|one| is_pending(one) && reported(one) == Some(amount));
    // A refund without an amount returns every payment, including those that arrive one after
    // another.
    let all = || of_it().find(|one| returns_all(one) && one.currency == Some(amount.currency));
    let any = || of_it().find(|one| is_pending(one) && reported(one).is_none());
    let Some(found) = exact.or_else(all).or_else(any) else { return Ok(OfUnmatched::None) };
    let mut row = if is_pending(found) {
        returned(found.clone(), amount)
    } else {
        let sum = found.counted_minor.unwrap_or(Count::ZERO).checked_add(amount.amount_minor);
        let sum = sum.ok_or_else(|| Defect::violated("unmatched payments sum to at most 2^53-1", &found.refund))?;
        refund::Model { counted_minor: Some(sum), ..found.clone() }
    };
    // If the refund was undone already, the payment is unmatched again.
    if is_pending(found) && reinstatement::take_kept(tables, named, &row, true)? {
        row.outcome = SettlementOutcome::Reinstated;
    }
    let undone = row.outcome == SettlementOutcome::Reinstated;
    let key = key_of(&row);
    *tables.refunds.change(&key)? = row;
    Ok(if undone { OfUnmatched::None } else { OfUnmatched::Now(key.2) })
}

/// Whether a refund was refused because it names another purchase. It is then no part of the
/// payment, and a reinstatement of all refunds that names the same purchase includes it, whatever
/// its amount.
fn is_foreign(refusal: &Refusal) -> bool {
    refusal.code == Code::AlreadySettled
}

/// Refuses a refund. It is recorded for the operator and announced.
fn refused(
    context: &Context<'_>,
    tables: &mut Tables,
    named: Named<'_>,
    new: &refund::Model,
    refusal: &Refusal,
) -> Result<Decision, Defect> {
    let refused = Decision::refused(refusal, "settlement.reversal").about(subject_of(new)?.id());
    // The operator has nothing to do about a refund that was undone already.
    if reinstatement::take_kept(tables, named, new, is_foreign(refusal))? {
        return Ok(refused);
    }
    Ok(refused.with_events(record(context, tables, new, refusal.code)?))
}

/// Records a refund that does not match its payment. Returns the event that announces it, if it was
/// not recorded before.
fn record(
    context: &Context<'_>,
    tables: &mut Tables,
    one: &refund::Model,
    reason: Code,
) -> Result<Option<Output>, Defect> {
    let payment = tables.settlements.get(&(one.provider.clone(), one.settlement.clone()))?.and_then(paid);
    // A refund without an amount returns everything that was paid.
    let amount = reported(one).or(payment);
    let amount = amount.ok_or_else(|| Defect::violated("a refused refund has a payment", &one.refund))?;
    let kept = tables.unmatched(UnmatchedKind::Refund, &one.provider, &one.settlement)?;
    if kept.iter().any(|row| row.refund.as_ref() == Some(&one.refund) && money(row) == amount) {
        return Ok(None);
    }
    let row = unmatched_settlement::Model {
        id: one.cause,
        kind: UnmatchedKind::Refund,
        provider: one.provider.clone(),
        settlement: one.settlement.clone(),
        refund: Some(one.refund.clone()),
        certificate: one.certificate,
        container: one.container,
        amount_minor: amount.amount_minor,
        currency: amount.currency,
        grants: None,
        reason,
        recorded_at: context.now,
        refunded_by: None,
    };
    Ok(Some(record_unmatched(tables, row)?))
}

/// Reopens the payments that a refund had returned, because the refund was undone or counts for
/// another payment. They are still unmatched, except the `matched` payment, which was reported
/// again.
pub(super) fn reopen(
    tables: &mut Tables,
    effects: &mut Effects,
    named: Named<'_>,
    one: &refund::Model,
    matched: Option<Money>,
) -> Result<(), Defect> {
    let mut returned = tables.returned_payments(named.provider, named.settlement)?;
    returned.retain(|row| row.refunded_by.as_ref() == Some(&one.refund));
    for row in returned {
        let open = tables.unmatched(UnmatchedKind::Payment, named.provider, named.settlement)?;
        let again = open.into_iter().find(|open| money(open) == money(&row));
        let paid = named.registered_before(tables)?.and_then(|row| paid(&row));
        let reason = if paid == Some(money(&row)) { Code::Reversed } else { row.reason };
        if matched == Some(money(&row)) {
            tables.unmatched_settlements.remove(&row.id)?;
        } else if let Some(again) = again {
            // The same money was reported again in the meantime. It is recorded once, as it was
            // first.
            tables.unmatched_settlements.remove(&row.id)?;
            *tables.unmatched_settlements.change(&again.id)? =
                unmatched_settlement::Model { id: again.id, refunded_by: None, reason, ..row };
        } else {
            let open = tables.unmatched_settlements.change(&row.id)?;
            (open.refunded_by, open.reason) = (None, reason);
            effects.add_event(announcement(open));
        }
    }
    Ok(())
}

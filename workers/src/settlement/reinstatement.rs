//! Rules of `settlement.reinstatement`: a refund was undone, for example because a dispute was won.

use licet_common::{
    decision::{Context, Decision, RuleError},
    rows::Defect,
};
use licet_schema::{
    Code, ExternalId, Name,
    entity::{refund, reinstatement, unmatched_settlement},
    message::{SettlementOutcome, SettlementReinstatement, UnmatchedKind},
};

use super::{
    refund::reopen,
    revocation,
    rules::{Named, Target, expect_payment, for_another_purchase, paid},
};
use crate::domain::{Tables, certificates::Subject, effects::Effects};

/// A reversal was undone.
pub(super) fn decide(
    context: &Context<'_>,
    tables: &mut Tables,
    named: Named<'_>,
    report: &SettlementReinstatement,
) -> Result<Decision, RuleError> {
    let selected = |id: &ExternalId| report.refund.as_ref().is_none_or(|refund| refund == id);
    let mut refunds = named.refunds(tables)?;
    refunds.retain(|one| selected(&one.refund));
    if let Some(row) = named.registered_before(tables)?.filter(|row| paid(row).is_some()) {
        let is_same = named.same_purchase(tables)?;
        let refused = tables.unmatched(UnmatchedKind::Refund, named.provider, named.settlement)?;
        let mut refused = refused.iter().filter(|one| one.refund.as_ref().is_some_and(selected));
        let is_named = refunds.iter().any(|one| is_same(one.certificate, one.container))
            || refused.any(|one| is_same(one.certificate, one.container));
        if !is_named && Target::of(tables, &row, named.subject)? == Target::Other {
            return Err(for_another_purchase().into());
        }
    }
    let mut effects = Effects::default();
    let standing: Vec<_> = refunds.iter().filter(|one| is_standing(one)).cloned().collect();
    let kept = tables.reinstatements_of(named.provider, named.settlement)?;
    let is_kept = kept.iter().any(|one| one.refund == report.refund);
    // A reinstatement of all refunds includes one of another purchase only if it names that purchase.
    let subject = (named.subject.certificate(), named.subject.container());
    let was_refused = forget_refused(tables, named, &|row| {
        let is_included = report.refund.is_some() || row.reason != Code::AlreadySettled;
        row.refund.as_ref().is_some_and(selected) && (is_included || (row.certificate, row.container) == subject)
    })?;
    let (outcome, repeated) = if !standing.is_empty() || was_refused {
        undo(context, tables, &mut effects, named, &standing)?;
        (SettlementOutcome::Reinstated, false)
    } else if !refunds.is_empty() && refunds.iter().all(|one| one.outcome == SettlementOutcome::Reinstated) {
        (SettlementOutcome::Reinstated, true)
    } else {
        (SettlementOutcome::Pending, is_kept)
    };
    // The reinstatement of all refunds also includes those that have not arrived yet.
    if !is_kept && (outcome == SettlementOutcome::Pending || report.refund.is_none()) {
        expect_payment(context, tables, named)?;
        tables.reinstatements.insert(reinstatement::Model {
            id: context.message_id,
            provider: named.provider.clone(),
            settlement: named.settlement.clone(),
            refund: report.refund.clone(),
            certificate: named.subject.certificate(),
            container: named.subject.container(),
            registered_at: context.now,
        })?;
    }
    let decision = named.registered(tables, outcome, repeated)?;
    Ok(effects.into(context, tables, decision)?)
}

/// Whether a refund took effect and was not undone.
fn is_standing(one: &refund::Model) -> bool {
    matches!(one.outcome, SettlementOutcome::Refunded | SettlementOutcome::Reversed)
}

/// Undoes a refund that has just taken effect, if its reinstatement arrived before it. Returns
/// whether it did.
pub(super) fn apply_kept(
    context: &Context<'_>,
    tables: &mut Tables,
    effects: &mut Effects,
    named: Named<'_>,
    id: &ExternalId,
) -> Result<bool, Defect> {
    let refunds = named.refunds(tables)?;
    let Some(one) = refunds.iter().find(|one| one.refund == *id && is_standing(one)) else { return Ok(false) };
    let row = named.registered_before(tables)?;
    let is_included = match &row {
        Some(row) if !one.unmatched => revocation::was_undone(row, &refunds, id)?,
        _ => true,
    };
    let undone = take_kept(tables, named, one, is_included)?;
    if undone {
        undo(context, tables, effects, named, std::slice::from_ref(one))?;
    }
    Ok(undone)
}

/// Whether a reinstatement that undoes this refund arrived before the refund: one that names it or,
/// if it `is_included`, one of all refunds. A reinstatement that names the refund is removed.
pub(super) fn take_kept(
    tables: &mut Tables,
    named: Named<'_>,
    refund: &refund::Model,
    is_included: bool,
) -> Result<bool, Defect> {
    // Before the payment arrives, a message may name any purchase. The purchase of a failed
    // settlement might not be loaded.
    let row = named.registered_before(tables)?.filter(|row| paid(row).is_some());
    let is_foreign = match &row {
        Some(row) => {
            let subject = Subject::of_columns(refund.certificate, refund.container, &refund.refund)?;
            Target::of(tables, row, subject)? == Target::Other
        }
        None => false,
    };
    let mut kept = Vec::new();
    for one in tables.reinstatements_of(named.provider, named.settlement)? {
        // A reinstatement that names neither the purchase of the payment nor that of the refund
        // would have been refused after the payment.
        let is_named = (one.certificate, one.container) == (refund.certificate, refund.container);
        let subject = Subject::of_columns(one.certificate, one.container, &one.id)?;
        let is_other = match &row {
            Some(_) if !is_named && is_foreign && one.refund.is_none() => true,
            Some(row) if !is_named => Target::of(tables, row, subject)? == Target::Other,
            _ => false,
        };
        if !is_other {
            kept.push(one);
        }
    }
    if let Some(own) = kept.iter().find(|one| one.refund.as_ref() == Some(&refund.refund)) {
        tables.reinstatements.remove(&own.id)?;
        return Ok(true);
    }
    Ok(is_included && kept.iter().any(|one| one.refund.is_none()))
}

/// Undoes a refund.
pub(super) fn undo_one(
    context: &Context<'_>,
    tables: &mut Tables,
    effects: &mut Effects,
    named: Named<'_>,
    key: &(Name, ExternalId, ExternalId),
) -> Result<(), Defect> {
    let one = tables.refunds.require(key)?.clone();
    undo(context, tables, effects, named, &[one])
}

/// Undoes refunds. Unmatched money that was refunded is open again. A payment that was recorded
/// again after its reversal is the same money, so it is no longer unmatched.
fn undo(
    context: &Context<'_>,
    tables: &mut Tables,
    effects: &mut Effects,
    named: Named<'_>,
    refunds: &[refund::Model],
) -> Result<(), Defect> {
    for one in refunds {
        let key = (one.provider.clone(), one.settlement.clone(), one.refund.clone());
        tables.refunds.change(&key)?.outcome = SettlementOutcome::Reinstated;
    }
    let paid = named.registered_before(tables)?.and_then(|row| paid(&row).map(|paid| (row, paid)));
    let mut explained = None;
    if let Some((row, paid)) = paid {
        revocation::update(context, tables, effects, &row, None)?;
        let row = named.registered_before(tables)?;
        explained = row.filter(|row| row.outcome == SettlementOutcome::Completed).map(|_| paid);
    }
    for one in refunds.iter().filter(|one| one.unmatched) {
        reopen(tables, effects, named, one, explained)?;
    }
    if let Some(paid) = explained {
        for kept in tables.unmatched(UnmatchedKind::Payment, named.provider, named.settlement)? {
            let is_repeated = kept.reason == Code::Reversed
                && (kept.amount_minor, kept.currency) == (paid.amount_minor, paid.currency);
            if is_repeated {
                tables.unmatched_settlements.remove(&kept.id)?;
            }
        }
    }
    Ok(())
}

/// Forgets refunds that were refused because they did not match their payment. Returns whether
/// there were any.
pub(super) fn forget_refused(
    tables: &mut Tables,
    named: Named<'_>,
    selected: &impl Fn(&unmatched_settlement::Model) -> bool,
) -> Result<bool, Defect> {
    let mut refused = tables.unmatched(UnmatchedKind::Refund, named.provider, named.settlement)?;
    refused.retain(|row| selected(row));
    for row in &refused {
        tables.unmatched_settlements.remove(&row.id)?;
    }
    Ok(!refused.is_empty())
}

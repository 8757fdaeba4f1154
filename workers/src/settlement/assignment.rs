//! Rules of `settlement.assignment`: an operator decides that an unmatched payment pays for a
//! purchase.

use licet_common::{
    decision::{Context, Decision, RuleError},
    rows::Defect,
};
use licet_schema::{
    Code, Money,
    entity::{certificate, refund, settlement, unmatched_settlement},
    message::{Ending, SettlementAssignment, SettlementOutcome, UnmatchedKind},
};

use super::{
    completion::{Deadline, Payment, payable, register, revive},
    rules::{Named, Purchase, money, paid},
};
use crate::domain::{Tables, certificates::Subject, effects::Effects, refusals::refuse};

/// Lets an unmatched payment pay for the purchase that the operator chose.
pub(super) fn decide(
    context: &Context<'_>,
    tables: &mut Tables,
    named: Named<'_>,
    report: &SettlementAssignment,
) -> Result<Decision, RuleError> {
    let purchase = Purchase::of(tables, named.subject)?;
    let mut ended = purchase.ended.iter();
    if purchase.live.is_empty() && ended.all(|row| row.ended == Some(Ending::Reversed) && !row.reinstated) {
        return refuse(Code::Reversed, "the payment for this purchase was refunded: the purchase cannot be paid again");
    }
    let payments = tables.unmatched(UnmatchedKind::Payment, named.provider, named.settlement)?;
    let row = named.registered_before(tables)?;
    if let Some(row) = row.filter(|row| paid(row).is_some()) {
        return assigned_before(tables, named, report, &row, &payments);
    }
    let payment = selected(tables, named, report, payments)?;
    let (amount, grants) = (money(&payment), payment.grants);
    let payable = payable(context, tables, named.subject, amount, Deadline::None)?;
    let is_late = payable.is_late;
    tables.unmatched_settlements.remove(&payment.id)?;
    let mut effects = Effects::default();
    let mut certificates = revive(context, tables, &mut effects, payable)?;
    if is_late {
        extend(context, tables, &mut certificates)?;
    }
    let reported = Subject::of_columns(payment.certificate, payment.container, &payment.id)?;
    let reported = Some(reported).filter(|reported| *reported != named.subject);
    if let Some(reported) = reported {
        effects.mention(reported.id());
    }
    let payment = Payment { amount, grants, reported };
    Ok(register(context, tables, effects, named, payment, &certificates)?)
}

/// Answers an assignment of a settlement that already paid for a purchase. The same assignment is a
/// repetition, and any other is refused.
fn assigned_before(
    tables: &Tables,
    named: Named<'_>,
    report: &SettlementAssignment,
    row: &settlement::Model,
    payments: &[unmatched_settlement::Model],
) -> Result<Decision, RuleError> {
    let is_same = (row.certificate, row.container) == (named.subject.certificate(), named.subject.container());
    let is_amount = |amount: Money| report.amount.is_none_or(|reported| reported == amount);
    let is_still_unmatched = payments.iter().any(|row| is_amount(money(row)));
    if is_same && paid(row).is_some_and(is_amount) && !is_still_unmatched {
        return Ok(named.registered(tables, SettlementOutcome::Completed, true)?);
    }
    refuse(
        Code::AlreadySettled,
        "this settlement already paid for a purchase: refund other money under its id, record this with `licet \
         unmatched refund`, and charge for the purchase with a new settlement",
    )
}

/// The payment that the operator means.
///
/// # Errors
/// No unmatched payment fits, or several do.
fn selected(
    tables: &Tables,
    named: Named<'_>,
    report: &SettlementAssignment,
    payments: Vec<unmatched_settlement::Model>,
) -> Result<unmatched_settlement::Model, RuleError> {
    let amounts: Vec<_> = payments.iter().map(|row| money(row).to_string()).collect();
    let mut selected = payments.into_iter().filter(|row| report.amount.is_none_or(|amount| money(row) == amount));
    match (selected.next(), selected.next()) {
        (Some(payment), None) => return Ok(payment),
        (Some(_), Some(_)) => {
            let detail = format!("several payments are unmatched under this id: name one of {}", amounts.join(", "));
            return refuse(Code::AmountMismatch, detail);
        }
        (None, _) if !amounts.is_empty() => {
            let detail = format!("no unmatched payment has this id and amount: name one of {}", amounts.join(", "));
            return refuse(Code::AmountMismatch, detail);
        }
        (None, _) => {}
    }
    let is_refund = |one: &refund::Model| one.unmatched && one.outcome == SettlementOutcome::Refunded;
    if named.refunds(tables)?.iter().any(is_refund) {
        return refuse(Code::Reversed, "this payment was refunded, so it cannot pay for a purchase");
    }
    refuse(
        Code::NotSettled,
        "no unmatched payment has this provider and settlement: see `licet unmatched list` for the payments to assign",
    )
}

/// Extends certificates whose purchase had ended: they stay valid for at least the lifetime in
/// their terms, counted from now. A token states the old expiry until its certificate is reissued.
fn extend(context: &Context<'_>, tables: &mut Tables, certificates: &mut [certificate::Model]) -> Result<(), Defect> {
    for row in certificates {
        let terms = tables.contents.require(&(row.content.clone(), row.version, row.revision))?;
        row.expires_at = row.expires_at.max(context.now.plus(terms.certificate_ttl_s));
        tables.certificates.change(&row.id)?.expires_at = row.expires_at;
    }
    Ok(())
}

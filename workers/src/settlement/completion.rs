//! Rules of `settlement.completion`, including payments that match no purchase.

use licet_common::{
    decision::{Context, Decision, RuleError},
    rows::Defect,
};
use licet_schema::{
    Code, Output, Refusal,
    entity::{certificate, settlement, unmatched_settlement},
    message::{Ending, SettlementCompletion, SettlementOutcome, SettlementUnmatched},
};
use uuid::Uuid;

use super::rules::{Purchase, already_settled, is_for, registered, registered_before};
use crate::domain::{
    Tables,
    certificates::{Subject, due, over, settle},
    effects::Effects,
    refusals::refusal_of,
};

/// A provider reports a completed payment.
pub(super) fn decide(
    context: &Context<'_>,
    tables: &mut Tables,
    subject: Subject,
    report: &SettlementCompletion,
) -> Result<Decision, Defect> {
    if let Some(known) = registered_before(tables, &report.provider, &report.settlement)? {
        return reported_again(context, tables, subject, report, known);
    }
    match payable(context, tables, subject, report) {
        Ok(certificates) => register(context, tables, subject, report, &certificates),
        Err(RuleError::Refused(refusal)) => unmatched(context, tables, subject, report, &refusal),
        Err(RuleError::Defect(defect)) => Err(defect),
    }
}

/// A settlement with this id was registered before.
fn reported_again(
    context: &Context<'_>,
    tables: &mut Tables,
    subject: Subject,
    report: &SettlementCompletion,
    known: settlement::Model,
) -> Result<Decision, Defect> {
    match known.outcome {
        SettlementOutcome::Failed => {
            let refusal = Refusal::new(Code::Declined, "this settlement was reported as failed");
            unmatched(context, tables, subject, report, &refusal)
        }
        SettlementOutcome::Reversed if known.amount_minor.is_none() => {
            overtaken(context, tables, subject, report, known)
        }
        // The payment was completed and then reversed. The purchase that the report names does not
        // matter.
        SettlementOutcome::Reversed if same_amount(&known, report) => registered(tables, subject, &known, true),
        SettlementOutcome::Completed if same_amount(&known, report) && is_for(&known, subject) => {
            if report.grants.is_none() || known.grants == report.grants {
                return registered(tables, subject, &known, true);
            }
            // It is the same payment, so no unmatched payment is recorded.
            let detail = "this settlement was reported before with a different number of grants";
            let refusal = Refusal::new(Code::AlreadySettled, detail);
            Ok(Decision::refused(&refusal, "settlement.completion").about(subject.id()))
        }
        SettlementOutcome::Completed | SettlementOutcome::Reversed => {
            let detail = "this settlement was reported before for another purchase or amount";
            unmatched(context, tables, subject, report, &Refusal::new(Code::AlreadySettled, detail))
        }
    }
}

fn same_amount(known: &settlement::Model, report: &SettlementCompletion) -> bool {
    known.amount_minor == Some(report.amount.amount_minor) && known.currency == Some(report.amount.currency)
}

/// The certificates that the settlement pays for.
///
/// # Errors
/// The settlement pays for no certificate.
fn payable(
    context: &Context<'_>,
    tables: &Tables,
    subject: Subject,
    report: &SettlementCompletion,
) -> Result<Vec<certificate::Model>, RuleError> {
    let purchase = Purchase::of(tables, subject)?;
    if purchase.is_settled() {
        return Err(already_settled("by another settlement").into());
    }
    if let Some(ending) = over(&purchase.live, &purchase.ended, context.now)? {
        return Err(match ending {
            Ending::Exhausted => already_settled("and all its grants are used"),
            Ending::Lapsed | Ending::Expired | Ending::Declined | Ending::Reversed => refusal_of(ending),
        }
        .into());
    }
    let due = due(context, &purchase.live)?;
    if due != report.amount {
        let detail = format!("{} was paid, but {due} is due", report.amount);
        return Err(Refusal::new(Code::AmountMismatch, detail).into());
    }
    Ok(purchase.live)
}

fn register(
    context: &Context<'_>,
    tables: &mut Tables,
    subject: Subject,
    report: &SettlementCompletion,
    certificates: &[certificate::Model],
) -> Result<Decision, Defect> {
    let grants = report.grants.map(Into::into);
    settle(context, tables, certificates, &report.provider, &report.settlement, grants)?;
    let row = row(context, subject, report, SettlementOutcome::Completed);
    tables.settlements.insert(row.clone())?;
    // The settlement is matched now. If it stayed in the table of unmatched payments, it could also
    // be refunded.
    for kept in tables.unmatched(&report.provider, &report.settlement)? {
        tables.unmatched_settlements.remove(&kept.id)?;
    }
    registered(tables, subject, &row, false)
}

fn row(
    context: &Context<'_>,
    subject: Subject,
    report: &SettlementCompletion,
    outcome: SettlementOutcome,
) -> settlement::Model {
    settlement::Model {
        provider: report.provider.clone(),
        provider_reference: report.settlement.clone(),
        certificate: subject.certificate(),
        container: subject.container(),
        outcome,
        amount_minor: Some(report.amount.amount_minor),
        currency: Some(report.amount.currency),
        grants: report.grants,
        registered_at: context.now,
        cause: context.message_id,
    }
}

/// Registers a payment whose reversal arrived first. The purchase ends as if both reports had
/// arrived in order.
fn overtaken(
    context: &Context<'_>,
    tables: &mut Tables,
    subject: Subject,
    report: &SettlementCompletion,
    known: settlement::Model,
) -> Result<Decision, Defect> {
    let mut effects = Effects::default();
    if is_for(&known, subject) {
        match payable(context, tables, subject, report) {
            Ok(certificates) => {
                let ids: Vec<Uuid> = certificates.iter().map(|row| row.id).collect();
                effects.end(context, tables, subject, &ids, Ending::Reversed)?;
            }
            Err(RuleError::Defect(defect)) => return Err(defect),
            // The settlement would not have paid for the purchase, so there is nothing to end.
            Err(RuleError::Refused(_)) => {}
        }
    }
    let row = settlement::Model {
        certificate: known.certificate,
        container: known.container,
        registered_at: known.registered_at,
        cause: known.cause,
        ..row(context, subject, report, SettlementOutcome::Reversed)
    };
    *tables.settlements.change(&(row.provider.clone(), row.provider_reference.clone()))? = row.clone();
    for kept in tables.unmatched(&report.provider, &report.settlement)? {
        if is_same_money(&kept, report) {
            tables.unmatched_settlements.remove(&kept.id)?;
        }
    }
    let decision = registered(tables, subject, &row, false)?;
    effects.into(context, tables, decision)
}

fn is_same_money(kept: &unmatched_settlement::Model, report: &SettlementCompletion) -> bool {
    (kept.amount_minor, kept.currency) == (report.amount.amount_minor, report.amount.currency)
}

/// Refuses a payment that matches no purchase, records it for the operator, and announces it. It is
/// recorded only once, even if it is reported several times or for several purchases.
fn unmatched(
    context: &Context<'_>,
    tables: &mut Tables,
    subject: Subject,
    report: &SettlementCompletion,
    refusal: &Refusal,
) -> Result<Decision, Defect> {
    let refused = Decision::refused(refusal, "settlement.completion").about(subject.id());
    let kept = tables.unmatched(&report.provider, &report.settlement)?;
    if kept.iter().any(|row| is_same_money(row, report)) {
        return Ok(refused);
    }
    tables.unmatched_settlements.insert(unmatched_settlement::Model {
        id: context.message_id,
        provider: report.provider.clone(),
        settlement: report.settlement.clone(),
        certificate: subject.certificate(),
        container: subject.container(),
        amount_minor: report.amount.amount_minor,
        currency: report.amount.currency,
        reason: refusal.code,
        told_at: context.now,
    })?;
    Ok(refused.with_event(Output::SettlementUnmatched(SettlementUnmatched {
        settlement: report.settlement.clone(),
        provider: report.provider.clone(),
        certificate: subject.certificate(),
        container: subject.container(),
        amount: Some(report.amount),
        reason: refusal.code,
    })))
}

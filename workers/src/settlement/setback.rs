//! Rules of `settlement.failure` and `settlement.reversal`.

use std::collections::BTreeSet;

use licet_common::{
    decision::{Context, Decision, RuleError},
    rows::Defect,
};
use licet_schema::{
    Code, Count, Name, Refusal,
    entity::{LicenseState, ReturnState, settlement, unmatched_settlement},
    message::{Ending, Revocation, SettlementOutcome, SettlementSetback},
};
use uuid::Uuid;

use super::rules::{Purchase, already_settled, is_for, registered, registered_before};
use crate::domain::{
    Tables,
    certificates::{Subject, ended_members, members, over},
    count,
    effects::Effects,
    points,
    refusals::{refusal_of, refuse},
};

/// A payment failed. Its purchase is declined.
pub(super) fn failure(
    context: &Context<'_>,
    tables: &mut Tables,
    subject: Subject,
    report: &SettlementSetback,
) -> Result<Decision, RuleError> {
    if let Some(known) = registered_before(tables, &report.provider, &report.settlement)? {
        if !is_for(&known, subject) {
            return Err(for_another_purchase().into());
        }
        // A failure after the completion changes nothing. The reply states the registered outcome.
        return Ok(registered(tables, subject, &known, true)?);
    }
    let purchase = Purchase::of(tables, subject)?;
    if purchase.is_settled() {
        return Err(already_settled("by another settlement").into());
    }
    if let Some(ending) = over(&purchase.live, &purchase.ended, context.now)? {
        return Err(refusal_of(ending).into());
    }
    let ids: Vec<_> = purchase.live.iter().map(|row| row.id).collect();
    let mut effects = Effects::default();
    effects.end(context, tables, subject, &ids, Ending::Declined)?;
    let row = row(context, subject, report, SettlementOutcome::Failed);
    tables.settlements.insert(row.clone())?;
    let decision = registered(tables, subject, &row, false)?;
    Ok(effects.into(context, tables, decision)?)
}

/// A payment was reversed. Everything that it paid for is revoked.
pub(super) fn reversal(
    context: &Context<'_>,
    tables: &mut Tables,
    subject: Subject,
    report: &SettlementSetback,
) -> Result<Decision, RuleError> {
    let Some(known) = registered_before(tables, &report.provider, &report.settlement)? else {
        return of_unknown(context, tables, subject, report);
    };
    let is_for_it = is_for(&known, subject);
    if !is_for_it || is_other_amount(&known, report) {
        // The report does not match the registered settlement, but it may match an unmatched
        // payment with the same id.
        if let Some(kept) = give_up_kept(tables, report)? {
            return Ok(registered(tables, subject, &reversed(known, subject, &kept), false)?);
        }
        return Err(if is_for_it {
            Refusal::new(Code::AmountMismatch, "the settlement was reported before with another amount").into()
        } else {
            for_another_purchase().into()
        });
    }
    Ok(match known.outcome {
        SettlementOutcome::Completed => undo(context, tables, subject, known)?,
        SettlementOutcome::Failed => match give_up_kept(tables, report)? {
            Some(kept) => {
                let row = reversed(known, subject, &kept);
                write(tables, &row)?;
                registered(tables, subject, &row, false)?
            }
            None => registered(tables, subject, &known, true)?,
        },
        // An unmatched payment with the same id may have been recorded since. It is removed too.
        SettlementOutcome::Reversed => {
            let kept = give_up_kept(tables, report)?;
            registered(tables, subject, &known, kept.is_none())?
        }
    })
}

fn for_another_purchase() -> Refusal {
    Refusal::new(Code::AlreadySettled, "this settlement was reported before for another purchase")
}

fn undo(
    context: &Context<'_>,
    tables: &mut Tables,
    subject: Subject,
    known: settlement::Model,
) -> Result<Decision, Defect> {
    let row = settlement::Model { outcome: SettlementOutcome::Reversed, ..known };
    write(tables, &row)?;
    let mut undoing = Undoing::default();
    undoing.left.push(subject);
    while let Some(purchase) = undoing.left.pop() {
        undoing.purchase(context, tables, purchase)?;
    }
    let Undoing { mut effects, credits, .. } = undoing;
    for (user, spent) in credits {
        points::credit(context, tables, effects.points(), points::SPENT, &user, spent)?;
    }
    let decision = registered(tables, subject, &row, false)?;
    effects.into(context, tables, decision)
}

/// Registers a settlement that is not registered yet as reversed, so that its completion pays for
/// nothing when it arrives. The settlement may be recorded as unmatched.
fn of_unknown(
    context: &Context<'_>,
    tables: &mut Tables,
    subject: Subject,
    report: &SettlementSetback,
) -> Result<Decision, RuleError> {
    let mut row = row(context, subject, report, SettlementOutcome::Reversed);
    match give_up_kept(tables, report)? {
        Some(kept) => row = reversed(row, subject, &kept),
        // An amount selects one of several reported payments.
        None if report.amount.is_some() => {
            let detail = "this settlement was not reported with this amount: report its reversal without an amount";
            return refuse(Code::AmountMismatch, detail);
        }
        None => {}
    }
    tables.settlements.insert(row.clone())?;
    Ok(registered(tables, subject, &row, false)?)
}

/// Removes the unmatched payments that this reversal takes back. Returns the row that was reported
/// last.
fn give_up_kept(
    tables: &mut Tables,
    report: &SettlementSetback,
) -> Result<Option<unmatched_settlement::Model>, Defect> {
    let mut kept = tables.unmatched(&report.provider, &report.settlement)?;
    kept.retain(|row| {
        report.amount.is_none_or(|amount| (row.amount_minor, row.currency) == (amount.amount_minor, amount.currency))
    });
    for row in &kept {
        tables.unmatched_settlements.remove(&row.id)?;
    }
    Ok(kept.into_iter().max_by_key(|row| (row.told_at, row.id)))
}

fn reversed(known: settlement::Model, subject: Subject, kept: &unmatched_settlement::Model) -> settlement::Model {
    settlement::Model {
        certificate: subject.certificate(),
        container: subject.container(),
        outcome: SettlementOutcome::Reversed,
        amount_minor: Some(kept.amount_minor),
        currency: Some(kept.currency),
        ..known
    }
}

fn write(tables: &mut Tables, row: &settlement::Model) -> Result<(), Defect> {
    *tables.settlements.change(&(row.provider.clone(), row.provider_reference.clone()))? = row.clone();
    Ok(())
}

fn is_other_amount(known: &settlement::Model, report: &SettlementSetback) -> bool {
    let registered = known.amount_minor.zip(known.currency);
    let reported = report.amount.map(|amount| (amount.amount_minor, amount.currency));
    reported.is_some_and(|reported| registered.is_some_and(|registered| registered != reported))
}

fn row(
    context: &Context<'_>,
    subject: Subject,
    report: &SettlementSetback,
    outcome: SettlementOutcome,
) -> settlement::Model {
    settlement::Model {
        provider: report.provider.clone(),
        provider_reference: report.settlement.clone(),
        certificate: subject.certificate(),
        container: subject.container(),
        outcome,
        amount_minor: None,
        currency: None,
        grants: None,
        registered_at: context.now,
        cause: context.message_id,
    }
}

/// Reverses a payment and everything that followed from it.
#[derive(Default)]
struct Undoing {
    effects: Effects,
    /// Points that the purchases had spent. They are credited last, when all debts are known.
    credits: Vec<(Name, i64)>,
    /// Purchases that are still to be reversed. Reversing a purchase can add the certificates of
    /// its upgrades.
    left: Vec<Subject>,
    done: BTreeSet<Uuid>,
}

impl Undoing {
    fn purchase(&mut self, context: &Context<'_>, tables: &mut Tables, subject: Subject) -> Result<(), Defect> {
        let live: Vec<_> = members(tables, subject)?.iter().map(|row| row.id).collect();
        let ended: Vec<_> = ended_members(tables, subject)?.iter().map(|row| row.id).collect();
        for id in live.iter().chain(&ended) {
            if self.done.insert(*id) {
                self.licenses(context, tables, *id)?;
                self.returns(context, tables, *id)?;
            }
        }
        for id in &live {
            let granted = returned(context, tables, *id)?;
            let row = tables.certificates.change(id)?;
            row.outstanding = Count::ZERO;
            row.granted = granted;
        }
        self.effects.end(context, tables, subject, &live, Ending::Reversed)?;
        for id in &ended {
            let granted = returned(context, tables, *id)?;
            let record = tables.records.change(id)?;
            record.granted = granted;
            record.ended = Some(Ending::Reversed);
        }
        for id in live.iter().chain(&ended) {
            let record = tables.records.require(id)?;
            if record.points.get() > 0 {
                self.credits.push((record.user.clone(), record.points.get()));
            }
        }
        Ok(())
    }

    fn licenses(&mut self, context: &Context<'_>, tables: &mut Tables, certificate: Uuid) -> Result<(), Defect> {
        let licenses: Vec<_> = tables.licenses_of(certificate)?.into_iter().cloned().collect();
        for license in licenses.iter().filter(|row| row.state != LicenseState::Revoked) {
            self.effects.revoke(context, tables, license, Revocation::Reversed)?;
        }
        Ok(())
    }

    /// Takes back the privileges of returned licenses. A buy-back that was instructed is not
    /// cancelled.
    fn returns(&mut self, context: &Context<'_>, tables: &mut Tables, certificate: Uuid) -> Result<(), Defect> {
        let returns: Vec<_> = tables.returns_of_certificate(certificate)?.iter().map(|row| row.id).collect();
        for id in returns {
            let Some(privilege) = tables.privileges.get(&id)?.cloned() else { continue };
            if let Some(earned) = privilege.points.filter(|points| points.get() > 0) {
                points::debit(context, tables, self.effects.points(), &privilege.user, earned.get())?;
            }
            if let Some(upgrade) = privilege.certificate {
                self.left.push(Subject::Certificate(upgrade));
            }
        }
        Ok(())
    }
}

/// The number of a certificate's licenses that were returned.
fn returned(context: &Context<'_>, tables: &Tables, certificate: Uuid) -> Result<Count, Defect> {
    let returns = tables.returns_of_certificate(certificate)?;
    let completed = returns.iter().filter(|row| row.state == ReturnState::Completed).count();
    count(i64::try_from(completed).unwrap_or(i64::MAX), "a count is at most 2^53-1", context)
}

//! Rules of `payout.completion` and `payout.failure`.
//!
//! A payout has one row, from the first report about it. Its state follows from all reports about
//! it, in whatever order they arrive: a failure is final, and of several reported amounts the one
//! that is owed takes precedence, then the largest. A return is paid out while one of its payouts
//! is completed. If several are, the one that was registered first counts.

use licet_common::{
    decision::{Context, Decision, RuleError},
    rows::Defect,
};
use licet_schema::{
    Code, Count, ExternalId, Money, Name, Output, Refusal,
    entity::{PayoutState, payout},
    message::{PayoutCompletion, PayoutFailure, PayoutOutcome, PayoutRegistered, Privilege},
};
use uuid::Uuid;

use crate::domain::{Tables, certificates::subject_of, refusals::refuse};

/// A provider has paid out the amount of a buy-back.
///
/// A payout with a wrong amount, or of a return that is already paid out, is refused. It is
/// recorded nevertheless, because the money has left the provider.
pub(super) fn completion(
    context: &Context<'_>,
    tables: &mut Tables,
    report: &PayoutCompletion,
) -> Result<Decision, RuleError> {
    let owed = owed(tables, report.license_return)?;
    let key = (report.provider.clone(), report.payout.clone());
    let before = reported_before(tables, &key, report.license_return)?;
    let row = record(context, tables, report, owed, before.as_ref())?;
    let was = before.map(|row| row.state);
    if row.state == PayoutState::Failed {
        let repeated = was == Some(PayoutState::Failed);
        return Ok(registered(tables, &row, PayoutOutcome::Failed, repeated)?);
    }
    if report.amount != owed {
        let refusal = if row.state == PayoutState::Completed {
            Refusal::new(Code::AlreadySettled, "this payout was reported before with another amount")
        } else {
            let paid = report.amount;
            let detail = format!("{paid} was paid out, but {owed} is owed: the payout is recorded, but does not count");
            Refusal::new(Code::AmountMismatch, detail)
        };
        return Ok(refused(tables, &row, &refusal)?);
    }
    let new = was != Some(PayoutState::Completed);
    if counting(tables, report.license_return)?.is_some_and(|first| first != key) {
        let detail = "this return is already paid out by another payout: this one is recorded, and counts if that one \
                      fails";
        let decision = refused(tables, &row, &Refusal::new(Code::AlreadySettled, detail))?;
        // The event says that money was paid out a second time.
        return Ok(if new { decision.with_event(output(&row, PayoutOutcome::Completed, false)) } else { decision });
    }
    Ok(registered(tables, &row, PayoutOutcome::Completed, !new)?)
}

/// A payout failed. If it was the only completed payout of its return, the amount is owed again.
pub(super) fn failure(
    context: &Context<'_>,
    tables: &mut Tables,
    report: &PayoutFailure,
) -> Result<Decision, RuleError> {
    owed(tables, report.license_return)?;
    let key = (report.provider.clone(), report.payout.clone());
    let before = reported_before(tables, &key, report.license_return)?;
    let (row, repeated) = match before {
        Some(row) if matches!(row.state, PayoutState::Failed | PayoutState::Pending) => (row, true),
        Some(_) => {
            let row = tables.payouts.change(&key)?;
            row.state = PayoutState::Failed;
            row.reason = Some(report.reason.clone());
            (row.clone(), false)
        }
        None => {
            let row = payout::Model {
                provider: key.0,
                payout: key.1,
                license_return: report.license_return,
                state: PayoutState::Pending,
                amount_minor: None,
                currency: None,
                sequence: next_sequence(tables, report.license_return)?,
                reason: Some(report.reason.clone()),
                registered_at: context.now,
                cause: context.message_id,
            };
            tables.payouts.insert(row.clone())?;
            (row, false)
        }
    };
    let outcome = if row.state == PayoutState::Pending { PayoutOutcome::Pending } else { PayoutOutcome::Failed };
    Ok(registered(tables, &row, outcome, repeated)?)
}

/// The amount of the buy-back.
///
/// # Errors
/// The return does not exist, is not completed, or granted another privilege.
fn owed(tables: &Tables, license_return: Uuid) -> Result<Money, RuleError> {
    let bought_back = tables.privileges.get(&license_return)?.filter(|row| row.kind == Privilege::Buyback);
    let Some(bought_back) = bought_back else {
        return refuse(Code::UnknownReturn, "no completed return with this id has a buy-back to pay out");
    };
    match (bought_back.amount_minor, bought_back.currency) {
        (Some(amount_minor), Some(currency)) => Ok(Money { amount_minor, currency }),
        _ => Err(Defect::violated("a buy-back has an amount", license_return).into()),
    }
}

/// The row of the payout, if it was reported before.
///
/// # Errors
/// It was reported for another return. One transfer pays only one return, so nothing is recorded.
fn reported_before(
    tables: &Tables,
    key: &(Name, ExternalId),
    license_return: Uuid,
) -> Result<Option<payout::Model>, RuleError> {
    let known = tables.payouts.get(key)?.cloned();
    if known.as_ref().is_some_and(|row| row.license_return != license_return) {
        return refuse(Code::AlreadySettled, "this payout was reported before for another return");
    }
    Ok(known)
}

/// Records a completed payout, or its amount if that takes precedence over the recorded one.
fn record(
    context: &Context<'_>,
    tables: &mut Tables,
    report: &PayoutCompletion,
    owed: Money,
    before: Option<&payout::Model>,
) -> Result<payout::Model, Defect> {
    let recorded = before.and_then(|row| row.amount_minor.zip(row.currency));
    let rank =
        |(minor, currency): (Count, _)| ((minor, currency) == (owed.amount_minor, owed.currency), minor, currency);
    let reported = (report.amount.amount_minor, report.amount.currency);
    if let Some(row) = before.filter(|_| recorded.is_some_and(|recorded| rank(reported) <= rank(recorded))) {
        return Ok(row.clone());
    }
    let row = payout::Model {
        provider: report.provider.clone(),
        payout: report.payout.clone(),
        license_return: report.license_return,
        state: match before.map(|row| row.state) {
            Some(PayoutState::Failed | PayoutState::Pending) => PayoutState::Failed,
            Some(PayoutState::Completed | PayoutState::Mismatched) | None if report.amount == owed => {
                PayoutState::Completed
            }
            Some(PayoutState::Completed | PayoutState::Mismatched) | None => PayoutState::Mismatched,
        },
        amount_minor: Some(report.amount.amount_minor),
        currency: Some(report.amount.currency),
        sequence: next_sequence(tables, report.license_return)?,
        reason: before.and_then(|row| row.reason.clone()),
        registered_at: context.now,
        cause: context.message_id,
    };
    if before.is_some() {
        *tables.payouts.change(&(row.provider.clone(), row.payout.clone()))? = row.clone();
    } else {
        tables.payouts.insert(row.clone())?;
    }
    Ok(row)
}

/// The payouts of a return.
fn of_return(tables: &Tables, license_return: Uuid) -> Result<Vec<&payout::Model>, Defect> {
    let columns = [payout::Column::LicenseReturn];
    let of_it = move |row: &payout::Model| row.license_return == license_return;
    Ok(tables.payouts.all(&columns, vec![license_return.into()], of_it)?.collect())
}

/// The payout that pays out a return, if there is one.
fn counting(tables: &Tables, license_return: Uuid) -> Result<Option<(Name, ExternalId)>, Defect> {
    let completed = of_return(tables, license_return)?.into_iter().filter(|row| row.state == PayoutState::Completed);
    Ok(completed.min_by_key(|row| row.sequence).map(|row| (row.provider.clone(), row.payout.clone())))
}

fn next_sequence(tables: &Tables, license_return: Uuid) -> Result<Count, Defect> {
    let last = of_return(tables, license_return)?.iter().map(|row| row.sequence).max().unwrap_or(Count::ZERO);
    last.checked_add(Count::ONE).ok_or_else(|| Defect::violated("a count is at most 2^53-1", license_return))
}

/// The purchase that the return belongs to.
fn subject(tables: &Tables, license_return: Uuid) -> Result<Uuid, Defect> {
    let certificate = tables.returns.require(&license_return)?.certificate;
    let record = tables.records.require(&certificate)?;
    Ok(subject_of(record.id, record.container))
}

fn refused(tables: &Tables, row: &payout::Model, refusal: &Refusal) -> Result<Decision, Defect> {
    Ok(Decision::refused(refusal, "payout.completion").about(subject(tables, row.license_return)?))
}

fn registered(
    tables: &Tables,
    row: &payout::Model,
    outcome: PayoutOutcome,
    repeated: bool,
) -> Result<Decision, Defect> {
    Ok(Decision::new(output(row, outcome, repeated)).about(subject(tables, row.license_return)?))
}

fn output(row: &payout::Model, outcome: PayoutOutcome, repeated: bool) -> Output {
    let (license_return, payout) = (row.license_return, row.payout.clone());
    Output::PayoutRegistered(PayoutRegistered { license_return, payout, outcome, repeated })
}

//! Rules of `payout.completion`.

use licet_common::{
    decision::{Context, Decision, RuleError},
    rows::Defect,
};
use licet_schema::{
    Code, Money, Output,
    entity::payout,
    message::{PayoutCompletion, PayoutRegistered, Privilege},
};

use crate::domain::{Tables, certificates::subject_of, refusals::refuse};

/// A provider has paid out the amount of a buy-back.
pub(super) fn decide(
    context: &Context<'_>,
    tables: &mut Tables,
    report: &PayoutCompletion,
) -> Result<Decision, RuleError> {
    let bought_back = tables.privileges.get(&report.license_return)?.filter(|row| row.kind == Privilege::Buyback);
    let Some(bought_back) = bought_back else {
        return refuse(Code::UnknownReturn, "no completed return with this id has a buy-back to pay out");
    };
    let (Some(amount_minor), Some(currency)) = (bought_back.amount_minor, bought_back.currency) else {
        return Err(Defect::violated("a buy-back has an amount", report.license_return).into());
    };
    let owed = Money { amount_minor, currency };
    let key = (report.provider.clone(), report.payout.clone());
    if let Some(known) = tables.payouts.get(&key)? {
        let same = known.license_return == report.license_return
            && (known.amount_minor, known.currency) == (report.amount.amount_minor, report.amount.currency);
        if same {
            return Ok(registered(tables, report, true)?);
        }
        let detail = "this payout was reported before for another return or amount";
        return refuse(Code::AlreadySettled, detail);
    }
    let columns = [payout::Column::LicenseReturn];
    let of_return = |row: &payout::Model| row.license_return == report.license_return;
    if tables.payouts.all(&columns, vec![report.license_return.into()], of_return)?.next().is_some() {
        return refuse(Code::AlreadySettled, "this return has already been paid out by another payout");
    }
    if owed != report.amount {
        return refuse(Code::AmountMismatch, format!("{} was paid out, but {owed} is owed", report.amount));
    }
    tables.payouts.insert(payout::Model {
        provider: key.0,
        payout: key.1,
        license_return: report.license_return,
        amount_minor,
        currency,
        registered_at: context.now,
        cause: context.message_id,
    })?;
    Ok(registered(tables, report, false)?)
}

fn registered(tables: &Tables, report: &PayoutCompletion, repeated: bool) -> Result<Decision, Defect> {
    let certificate = tables.returns.require(&report.license_return)?.certificate;
    let record = tables.records.require(&certificate)?;
    let registered =
        PayoutRegistered { license_return: report.license_return, payout: report.payout.clone(), repeated };
    Ok(Decision::new(Output::PayoutRegistered(registered)).about(subject_of(record.id, record.container)))
}

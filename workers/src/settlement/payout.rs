//! What was paid out for a buy-back.

use licet_common::decision::{Context, Decision, Tables};
use licet_schema::{
    Code, Output, Refusal,
    entity::{PrivilegeKind, payout},
    message::{PayoutCompletion, PayoutRegistered},
};

use crate::{held::subject_of, values::money};

/// A provider paid out.
pub(super) fn decide(context: &Context<'_>, tables: &mut Tables, told: &PayoutCompletion) -> Result<Decision, Refusal> {
    let bought_back = tables.privileges.get(&told.license_return).filter(|row| row.kind == PrivilegeKind::Buyback);
    let Some((minor, currency)) = bought_back.and_then(|row| row.amount_minor.zip(row.currency.clone())) else {
        return Err(Refusal::new(Code::UnknownReturn, "there is no such return that is to be paid out"));
    };
    let key = (told.provider.to_string(), told.payout.to_string());
    if let Some(known) = tables.payouts.get(&key) {
        let same = known.license_return == told.license_return
            && known.amount_minor == told.amount.amount_minor.get()
            && known.currency == told.amount.currency.as_str();
        if same {
            return Ok(registered(tables, told, true));
        }
        return Err(Refusal::new(Code::AlreadySettled, "this payout was told before, for another return or amount"));
    }
    if tables.payouts.iter().any(|row| row.license_return == told.license_return) {
        return Err(Refusal::new(Code::AlreadySettled, "this return was paid out already, by another payout"));
    }
    let owed = money(minor, &currency);
    if owed != told.amount {
        let detail = format!("{} were paid out, and {owed} are owed", told.amount);
        return Err(Refusal::new(Code::AmountMismatch, detail));
    }
    tables.payouts.add(payout::Model {
        provider: key.0,
        payout: key.1,
        license_return: told.license_return,
        amount_minor: minor,
        currency,
        registered_at: context.now.as_millis(),
        cause: context.message_id,
    });
    Ok(registered(tables, told, false))
}

fn registered(tables: &Tables, told: &PayoutCompletion, repeated: bool) -> Decision {
    let decision = Decision::new(Output::PayoutRegistered(PayoutRegistered {
        license_return: told.license_return,
        payout: told.payout.clone(),
        repeated,
    }));
    let certificate = tables.returns.get(&told.license_return).map(|row| row.certificate);
    let bought = certificate.and_then(|id| tables.purchases.get(&id));
    match bought {
        Some(row) => decision.about(subject_of(row.id, row.container)),
        None => decision,
    }
}

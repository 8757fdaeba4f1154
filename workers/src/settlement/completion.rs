//! What a payment changes, and what happens to money that matches nothing.

use licet_common::decision::{Context, Decision, Tables};
use licet_schema::{
    Code, Output, Refusal,
    entity::{Ending, Outcome, certificate, settlement, unmatched_settlement},
    message::{SettlementCompletion, SettlementUnmatched},
};
use uuid::Uuid;

use super::rules::{Purchase, already_settled, known, registered, subject};
use crate::{
    effects::Effects,
    held::{due, over, refusal_of, settle},
};

/// A provider was paid.
pub(super) fn decide(context: &Context<'_>, tables: &mut Tables, told: &SettlementCompletion) -> Decision {
    if let Some(known) = known(tables, &told.provider, &told.settlement).cloned() {
        return told_before(context, tables, told, known);
    }
    match payable(context, tables, told) {
        Ok(certificates) => register(context, tables, told, &certificates),
        Err(refusal) => unmatched(context, tables, told, &refusal),
    }
}

/// Something was told of this settlement before.
fn told_before(
    context: &Context<'_>,
    tables: &mut Tables,
    told: &SettlementCompletion,
    known: settlement::Model,
) -> Decision {
    match known.outcome {
        Outcome::Failed => {
            let refusal = Refusal::new(Code::Declined, "this settlement was told to have failed");
            unmatched(context, tables, told, &refusal)
        }
        Outcome::Reversed if known.amount_minor.is_none() => overtaken(context, tables, told, known),
        // It came and went, whatever it was for.
        Outcome::Reversed if same_amount(&known, told) => registered(tables, &named_by(told, known), true),
        Outcome::Completed if same_amount(&known, told) && same_purchase(&known, told) => {
            let same_grants = told.grants.is_none() || known.grants == told.grants.map(|grants| grants.get());
            if same_grants {
                return registered(tables, &known, true);
            }
            // The same money: there is nothing to keep.
            let refusal = Refusal::new(Code::AlreadySettled, "this settlement was told before, with other grants");
            Decision::refused(&refusal, "settlement.completion").about(subject(told.certificate, told.container).id())
        }
        Outcome::Completed | Outcome::Reversed => {
            let refusal =
                Refusal::new(Code::AlreadySettled, "this settlement was told before, for another purchase or amount");
            unmatched(context, tables, told, &refusal)
        }
    }
}

fn same_purchase(known: &settlement::Model, told: &SettlementCompletion) -> bool {
    (known.certificate, known.container) == (told.certificate, told.container)
}

fn same_amount(known: &settlement::Model, told: &SettlementCompletion) -> bool {
    known.amount_minor == Some(told.amount.amount_minor.get())
        && known.currency.as_deref() == Some(told.amount.currency.as_str())
}

/// The settlement, as the answer to this message names it.
fn named_by(told: &SettlementCompletion, known: settlement::Model) -> settlement::Model {
    settlement::Model { certificate: told.certificate, container: told.container, ..known }
}

/// The certificates that this settlement pays for, if it does.
fn payable(
    context: &Context<'_>,
    tables: &Tables,
    told: &SettlementCompletion,
) -> Result<Vec<certificate::Model>, Refusal> {
    let purchase = Purchase::of(tables, subject(told.certificate, told.container))?;
    if purchase.is_settled() {
        return Err(already_settled("by another settlement"));
    }
    if let Some(ending) = over(&purchase.live, &purchase.ended, context.now) {
        return Err(match ending {
            Ending::Granted => already_settled("and used up"),
            Ending::Lapsed | Ending::Expired | Ending::Declined | Ending::Reversed => refusal_of(ending),
        });
    }
    let due = due(&purchase.live);
    if due != told.amount {
        let detail = format!("{} were paid, and {due} are due", told.amount);
        return Err(Refusal::new(Code::AmountMismatch, detail));
    }
    Ok(purchase.live)
}

fn register(
    context: &Context<'_>,
    tables: &mut Tables,
    told: &SettlementCompletion,
    certificates: &[certificate::Model],
) -> Decision {
    let grants = told.grants.map(|grants| grants.get());
    settle(context, tables, certificates, told.provider.as_str(), told.settlement.as_str(), grants);
    let row = row(context, told, Outcome::Completed);
    tables.settlements.add(row.clone());
    // It was unmatched before, and now has its match: it must not be refunded as well.
    let matched: Vec<_> = unmatched_before(tables, told.provider.as_str(), told.settlement.as_str());
    for row in matched {
        tables.unmatched_settlements.remove(&row.id);
    }
    registered(tables, &row, false)
}

fn row(context: &Context<'_>, told: &SettlementCompletion, outcome: Outcome) -> settlement::Model {
    settlement::Model {
        provider: told.provider.to_string(),
        settlement: told.settlement.to_string(),
        certificate: told.certificate,
        container: told.container,
        outcome,
        amount_minor: Some(told.amount.amount_minor.get()),
        currency: Some(told.amount.currency.to_string()),
        grants: told.grants.map(|grants| grants.get()),
        registered_at: context.now.as_millis(),
        cause: context.message_id,
    }
}

/// Its reversal came first: the money came and went. What it would have paid for ends as if both
/// had come in their order.
fn overtaken(
    context: &Context<'_>,
    tables: &mut Tables,
    told: &SettlementCompletion,
    known: settlement::Model,
) -> Decision {
    let mut effects = Effects::default();
    if same_purchase(&known, told)
        && let Ok(certificates) = payable(context, tables, told)
    {
        let ids: Vec<Uuid> = certificates.iter().map(|row| row.id).collect();
        effects.end(context, tables, subject(told.certificate, told.container), &ids, Ending::Reversed);
    }
    let row = settlement::Model {
        certificate: known.certificate,
        container: known.container,
        registered_at: known.registered_at,
        cause: known.cause,
        ..row(context, told, Outcome::Reversed)
    };
    if let Some(standing) = tables.settlements.change(&(row.provider.clone(), row.settlement.clone())) {
        *standing = row.clone();
    }
    for kept in unmatched_before(tables, told.provider.as_str(), told.settlement.as_str()) {
        if kept.amount_minor == told.amount.amount_minor.get() && kept.currency == told.amount.currency.as_str() {
            tables.unmatched_settlements.remove(&kept.id);
        }
    }
    let decision = registered(tables, &named_by(told, row), false);
    effects.into(context, tables, decision)
}

/// The same settlement, told before and kept without a match.
pub(super) fn unmatched_before(tables: &Tables, provider: &str, id: &str) -> Vec<unmatched_settlement::Model> {
    let same = |row: &&unmatched_settlement::Model| row.provider == provider && row.settlement == id;
    tables.unmatched_settlements.iter().filter(same).cloned().collect()
}

/// Money without a match: refused to the provider, kept for the operator, announced to all; once,
/// however often and for whatever purchase it is told.
fn unmatched(context: &Context<'_>, tables: &mut Tables, told: &SettlementCompletion, refusal: &Refusal) -> Decision {
    let named = subject(told.certificate, told.container);
    let refused = Decision::refused(refusal, "settlement.completion").about(named.id());
    let known = unmatched_before(tables, told.provider.as_str(), told.settlement.as_str());
    if known
        .iter()
        .any(|row| row.amount_minor == told.amount.amount_minor.get() && row.currency == told.amount.currency.as_str())
    {
        return refused;
    }
    tables.unmatched_settlements.add(unmatched_settlement::Model {
        id: context.message_id,
        provider: told.provider.to_string(),
        settlement: told.settlement.to_string(),
        certificate: told.certificate,
        container: told.container,
        amount_minor: told.amount.amount_minor.get(),
        currency: told.amount.currency.to_string(),
        reason: refusal.code.to_string(),
        told_at: context.now.as_millis(),
    });
    refused.with(Output::SettlementUnmatched(SettlementUnmatched {
        settlement: told.settlement.clone(),
        provider: told.provider.clone(),
        certificate: told.certificate,
        container: told.container,
        amount: Some(told.amount),
        reason: refusal.code,
    }))
}

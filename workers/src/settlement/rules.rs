//! What a settlement changes, and what happens to money that matches nothing.

use licet_common::decision::{Context, Decision, Tables};
use licet_schema::{
    Code, Output, Refusal,
    entity::{Ending, Outcome, certificate, settlement, unmatched_settlement},
    message::{SettlementCompletion, SettlementOutcome, SettlementRegistered, SettlementUnmatched},
    vocabulary::Grants,
};

use crate::held::{OWN_PROVIDER, Subject, due, ended_members, external, members, over, refusal_of, settle};

/// Refuses whoever pretends to be Licet.
pub(super) fn check(completion: SettlementCompletion) -> Result<SettlementCompletion, Refusal> {
    if completion.provider.as_str() == OWN_PROVIDER {
        return Err(Refusal::new(Code::Forbidden, format!("the provider name {OWN_PROVIDER:?} is reserved")));
    }
    Ok(completion)
}

/// A provider was paid.
pub(super) fn completion(context: &Context<'_>, tables: &mut Tables, told: &SettlementCompletion) -> Decision {
    let subject = subject(told);
    if let Some(known) = tables.settlements.get(&(told.provider.to_string(), told.settlement.to_string())) {
        if same(known, told) {
            return registered(told, known.grants, reference(tables, subject), true).about(subject.id());
        }
        let refusal =
            Refusal::new(Code::AlreadySettled, "this settlement was told before, for another purchase or amount");
        return unmatched(context, tables, told, &refusal);
    }
    match payable(context, tables, told, subject) {
        Ok(certificates) => register(context, tables, told, subject, &certificates),
        Err(refusal) => unmatched(context, tables, told, &refusal),
    }
}

fn subject(told: &SettlementCompletion) -> Subject {
    match (told.container, told.certificate) {
        (Some(container), _) => Subject::Container(container),
        (None, certificate) => Subject::Certificate(certificate.unwrap_or_default()),
    }
}

fn reference(tables: &Tables, subject: Subject) -> Option<String> {
    let live = members(tables, subject).first().map(|row| row.reference.clone());
    live.unwrap_or_else(|| ended_members(tables, subject).first().and_then(|row| row.reference.clone()))
}

fn same(known: &settlement::Model, told: &SettlementCompletion) -> bool {
    known.certificate == told.certificate
        && known.container == told.container
        && known.amount_minor == told.amount.amount_minor.get()
        && known.currency == told.amount.currency.as_str()
        && (told.grants.is_none() || known.grants == told.grants.map(|grants| grants.get()))
}

/// The certificates that this settlement pays for, if it does.
fn payable(
    context: &Context<'_>,
    tables: &Tables,
    told: &SettlementCompletion,
    subject: Subject,
) -> Result<Vec<certificate::Model>, Refusal> {
    let live = members(tables, subject);
    let ended = ended_members(tables, subject);
    if live.is_empty() && ended.is_empty() {
        return Err(Refusal::new(Code::UnknownCertificate, "there is no such certificate or container, and never was"));
    }
    let container = live.first().map_or_else(|| ended.first().and_then(|row| row.container), |row| row.container);
    if container.is_some() && told.container.is_none() {
        let detail = format!(
            "the certificate was bought in a container: settle the container {}",
            container.unwrap_or_default()
        );
        return Err(Refusal::new(Code::UnknownCertificate, detail));
    }
    let settled = live.iter().any(|row| row.settled_at.is_some()) || ended.iter().any(|row| row.settlement.is_some());
    if settled {
        return Err(Refusal::new(Code::AlreadySettled, "it is paid for already, by another settlement"));
    }
    if let Some(ending) = over(&live, &ended, context.now) {
        return Err(match ending {
            Ending::Granted => Refusal::new(Code::AlreadySettled, "it is paid for already"),
            Ending::Lapsed | Ending::Expired | Ending::Declined | Ending::Reversed => refusal_of(ending),
        });
    }
    let due = due(&live);
    if due != told.amount {
        let detail = format!("{} were paid, and {due} are due", told.amount);
        return Err(Refusal::new(Code::AmountMismatch, detail));
    }
    Ok(live)
}

fn register(
    context: &Context<'_>,
    tables: &mut Tables,
    told: &SettlementCompletion,
    subject: Subject,
    certificates: &[certificate::Model],
) -> Decision {
    let grants = told.grants.map(|grants| grants.get());
    settle(context, tables, certificates, told.provider.as_str(), told.settlement.as_str(), grants);
    tables.settlements.add(settlement::Model {
        provider: told.provider.to_string(),
        settlement: told.settlement.to_string(),
        certificate: told.certificate,
        container: told.container,
        outcome: Outcome::Completed,
        amount_minor: told.amount.amount_minor.get(),
        currency: told.amount.currency.to_string(),
        grants,
        registered_at: context.now.as_millis(),
        cause: context.message_id,
    });
    // It was unmatched before, and now has its match: it must not be refunded as well.
    let matched: Vec<_> = unmatched_before(tables, told).map(|row| row.id).collect();
    for id in matched {
        tables.unmatched_settlements.remove(&id);
    }
    let reference = certificates.first().and_then(|row| row.reference.clone());
    registered(told, grants, reference, false).about(subject.id())
}

fn registered(told: &SettlementCompletion, grants: Option<i64>, reference: Option<String>, repeated: bool) -> Decision {
    Decision::new(Output::SettlementRegistered(SettlementRegistered {
        certificate: told.certificate,
        container: told.container,
        settlement: told.settlement.clone(),
        outcome: SettlementOutcome::Completed,
        grants: grants.and_then(|grants| Grants::try_from(grants).ok()),
        repeated,
        reference: reference.as_deref().map(external),
    }))
}

/// The same settlement, told before and kept without a match.
fn unmatched_before<'a>(
    tables: &'a Tables,
    told: &'a SettlementCompletion,
) -> impl Iterator<Item = &'a unmatched_settlement::Model> {
    let same = |row: &&unmatched_settlement::Model| {
        row.provider == told.provider.as_str() && row.settlement == told.settlement.as_str()
    };
    tables.unmatched_settlements.iter().filter(same)
}

/// Money without a match: refused to the provider, kept for the operator, announced to all; once,
/// however often it is told.
fn unmatched(context: &Context<'_>, tables: &mut Tables, told: &SettlementCompletion, refusal: &Refusal) -> Decision {
    let known = unmatched_before(tables, told).any(|row| {
        (row.certificate, row.container) == (told.certificate, told.container)
            && row.amount_minor == told.amount.amount_minor.get()
            && row.currency == told.amount.currency.as_str()
    });
    if known {
        return Decision::refused(refusal, "settlement.completion");
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
    let announced = Output::SettlementUnmatched(SettlementUnmatched {
        settlement: told.settlement.clone(),
        provider: told.provider.clone(),
        certificate: told.certificate,
        container: told.container,
        amount: Some(told.amount),
        reason: refusal.code,
    });
    Decision::refused(refusal, "settlement.completion").with(announced)
}

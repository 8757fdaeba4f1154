//! What a settlement changes, and what happens to money that matches nothing.

use licet_common::decision::{Context, Decision, Tables};
use licet_schema::{
    Code, Output, Refusal,
    entity::{Ending, Outcome, certificate, settlement, unmatched_settlement},
    message::{SettlementCompletion, SettlementOutcome, SettlementRegistered, SettlementUnmatched},
    vocabulary::Grants,
};
use uuid::Uuid;

use crate::held::{OWN_PROVIDER, due, ended_members, external, members, overdue, refusal_of, settle, subject_of};

/// Refuses what cannot name one purchase, or pretends to be Licet.
pub(super) fn check(completion: SettlementCompletion) -> Result<SettlementCompletion, Refusal> {
    if completion.certificate.is_some() == completion.container.is_some() {
        return Err(Refusal::new(Code::Malformed, "name exactly one of certificate and container"));
    }
    if completion.provider.as_str() == OWN_PROVIDER {
        return Err(Refusal::new(Code::Forbidden, format!("the provider name {OWN_PROVIDER:?} is reserved")));
    }
    Ok(completion)
}

/// A provider was paid.
pub(super) fn completion(context: &Context<'_>, tables: &mut Tables, told: &SettlementCompletion) -> Decision {
    let subject = told.container.or(told.certificate).unwrap_or_default();
    if let Some(known) = tables.settlements.get(&(told.provider.to_string(), told.settlement.to_string())) {
        if same(known, told) {
            let reference = members(tables, subject).first().and_then(|row| row.reference.clone());
            return registered(told, known.grants, reference, true).about(subject);
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
    subject: Uuid,
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
            subject_of(subject, container)
        );
        return Err(Refusal::new(Code::UnknownCertificate, detail));
    }
    let settled = live.iter().any(|row| row.settled_at.is_some()) || ended.iter().any(|row| row.settlement.is_some());
    if settled {
        return Err(Refusal::new(Code::AlreadySettled, "it is paid for already, by another settlement"));
    }
    if let Some(ending) = ended.first().and_then(|row| row.ended).or_else(|| overdue(&live, context.now)) {
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
    subject: Uuid,
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
    let reference = certificates.first().and_then(|row| row.reference.clone());
    registered(told, grants, reference, false).about(subject)
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

/// Money without a match: refused to the provider, kept for the operator, announced to all.
fn unmatched(context: &Context<'_>, tables: &mut Tables, told: &SettlementCompletion, refusal: &Refusal) -> Decision {
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

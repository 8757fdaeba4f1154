//! What a reception notice changes.

use licet_common::{
    decision::{Context, Decision, Tables},
    signing::{LicenseClaims, Presented, digest},
};
use licet_schema::{
    Code, Output, Refusal,
    entity::{Ending, LicenseState, Outcome, ReturnState, certificate, purchase, settlement},
    message::{
        CertificateAccepted, Instruction, LicenseGranted, SettlementInstructed, SettlementOutcome, SettlementRegistered,
    },
};
use uuid::Uuid;

use crate::{
    held::{
        OWN_PROVIDER, due, ended_members, members, over, overdue, refusal_of, remaining, retire, settle, subject_of,
    },
    presented::PresentedCertificate,
    values::{count, external, money, name},
};

/// A certificate or container arrived at its terminal.
pub(super) fn certificate(
    context: &Context<'_>,
    tables: &mut Tables,
    presented: &PresentedCertificate,
) -> Result<Decision, Refusal> {
    let subject = presented.unverified_subject();
    presented.verify(context.keyring, sent_digest(tables, presented))?;
    let live = members(tables, subject);
    let ended = ended_members(tables, subject);
    if live.is_empty() && ended.is_empty() {
        return Err(Refusal::new(Code::UnknownCertificate, "there is no such certificate, and never was"));
    }
    still_the_one(presented, &live, &ended)?;
    // All of a purchase wait together, unless one of them was reissued before it was received; and
    // what is paid for ends one by one, swept or not.
    let (received, unreceived): (Vec<_>, Vec<_>) = live.iter().cloned().partition(|row| row.received_at.is_some());
    let over_by_itself = |row: &certificate::Model| {
        row.settled_at.is_some() && overdue(std::slice::from_ref(row), context.now).is_some()
    };
    let waiting: Vec<_> = unreceived.iter().filter(|row| !over_by_itself(row)).cloned().collect();
    let told_before = !received.is_empty() || ended.iter().any(|row| row.received_at.is_some());
    if told_before && waiting.is_empty() {
        return Ok(repeated(subject.id(), &live, &ended));
    }
    if let Some(ending) = over(&unreceived, &ended, context.now) {
        return Err(refusal_of(ending));
    }
    let decision = accept(context, tables, subject.id(), &waiting);
    if waiting.len() == unreceived.len() {
        tables.pending_receptions.remove(&subject.id());
    }
    Ok(decision)
}

/// The digest of the token that was sent: what is presented is nearly always that.
fn sent_digest<'a>(tables: &'a Tables, presented: &PresentedCertificate) -> Option<&'a [u8]> {
    match presented {
        PresentedCertificate::Certificate(one) => {
            tables.certificates.get(&one.unverified_id()).map(|row| row.token_digest.as_slice())
        }
        PresentedCertificate::Container(one) => {
            tables.pending_receptions.get(&one.unverified_id()).map(|row| row.token_digest.as_slice())
        }
    }
}

fn still_the_one(
    presented: &PresentedCertificate,
    live: &[certificate::Model],
    ended: &[&purchase::Model],
) -> Result<(), Refusal> {
    let PresentedCertificate::Certificate(one) = presented else { return Ok(()) };
    let id = one.unverified_id();
    let generation = live.iter().find(|row| row.id == id).map(|row| row.generation);
    let generation = generation.or_else(|| ended.iter().find(|row| row.id == id).map(|row| row.generation));
    match generation {
        None => Err(Refusal::new(Code::UnknownCertificate, "there is no such certificate, and never was")),
        Some(generation) if generation != one.unverified().generation => {
            Err(Refusal::new(Code::Superseded, "the certificate was reissued: use the latest one"))
        }
        Some(_) => Ok(()),
    }
}

fn accept(context: &Context<'_>, tables: &mut Tables, subject: Uuid, live: &[certificate::Model]) -> Decision {
    for member in live {
        if let Some(row) = tables.certificates.change(&member.id) {
            row.received_at = Some(context.now.as_millis());
        }
    }
    let amount = due(live);
    let settled = live.iter().any(|row| row.settled_at.is_some());
    let charged = !settled && amount.amount_minor.get() > 0;
    let container = live.first().and_then(|row| row.container);
    let reference = live.first().and_then(|row| row.reference.as_deref()).map(external);
    let decision = Decision::new(Output::CertificateAccepted(CertificateAccepted {
        certificates: live.iter().map(|row| row.id).collect(),
        container,
        amount,
        settlement: if charged { Instruction::Instructed } else { Instruction::NotNeeded },
        repeated: false,
        reference: reference.clone(),
    }))
    .about(subject);
    if charged {
        let user = live.first().map(|row| name(&row.user));
        let instructed = user.map(|user| SettlementInstructed {
            certificate: container.is_none().then_some(subject),
            container,
            user,
            amount,
            reference,
        });
        return instructed.into_iter().map(Output::SettlementInstructed).fold(decision, Decision::with);
    }
    if settled { decision } else { decision.with(settle_without_money(context, tables, subject, live)) }
}

/// Nothing is left to pay: points paid for all of it, or it costs nothing. It is settled here.
fn settle_without_money(
    context: &Context<'_>,
    tables: &mut Tables,
    subject: Uuid,
    live: &[certificate::Model],
) -> Output {
    let id = subject.to_string();
    let container = live.first().and_then(|row| row.container);
    let certificate = container.is_none().then_some(subject);
    settle(context, tables, live, OWN_PROVIDER, &id, None);
    tables.settlements.add(settlement::Model {
        provider: OWN_PROVIDER.to_owned(),
        settlement: id.clone(),
        certificate,
        container,
        outcome: Outcome::Completed,
        amount_minor: Some(0),
        currency: live.first().map(|row| row.currency.clone()),
        grants: None,
        registered_at: context.now.as_millis(),
        cause: context.message_id,
    });
    Output::SettlementRegistered(SettlementRegistered {
        certificate,
        container,
        settlement: external(&id),
        outcome: SettlementOutcome::Completed,
        grants: None,
        repeated: false,
        reference: live.first().and_then(|row| row.reference.as_deref()).map(external),
    })
}

/// The notice was taken before: whatever happened since, its effect stands.
fn repeated(subject: Uuid, live: &[certificate::Model], ended: &[&purchase::Model]) -> Decision {
    let certificates = live.iter().map(|row| row.id).chain(ended.iter().map(|row| row.id)).collect();
    let charged = live.iter().map(|row| row.amount_minor - row.points);
    let charged = charged.chain(ended.iter().map(|row| row.amount_minor - row.points)).sum();
    let currency = live.first().map(|row| &row.currency).or(ended.first().map(|row| &row.currency));
    let container = live.first().map_or_else(|| ended.first().and_then(|row| row.container), |row| row.container);
    let waits = live.iter().any(|row| row.settled_at.is_none());
    let reference = live
        .first()
        .map_or_else(|| ended.first().and_then(|row| row.reference.as_deref()), |row| row.reference.as_deref());
    Decision::new(Output::CertificateAccepted(CertificateAccepted {
        certificates,
        container,
        amount: money(charged, currency.map_or("", String::as_str)),
        settlement: if waits { Instruction::Instructed } else { Instruction::NotNeeded },
        repeated: true,
        reference: reference.map(external),
    }))
    .about(subject)
}

/// A license arrived at its terminal.
pub(super) fn license(
    context: &Context<'_>,
    tables: &mut Tables,
    presented: &Presented<LicenseClaims>,
) -> Result<Decision, Refusal> {
    let id = presented.unverified_id();
    let row = tables.licenses.get(&id).cloned();
    let stored = row.as_ref().map(|row| digest(&row.token));
    let claims = presented.verify(context.keyring, stored.as_ref().map(<[u8; 32]>::as_slice))?;
    let Some(row) = row else {
        let returned = tables.returns.iter().any(|one| one.license == id && one.state == ReturnState::Completed);
        return if returned {
            Ok(granted(context, tables, id, claims.certificate, true))
        } else {
            Err(Refusal::new(Code::UnknownLicense, "there is no such license, and never was"))
        };
    };
    match row.state {
        LicenseState::Revoked => Err(Refusal::new(
            Code::Superseded,
            "the license was revoked: request a new one with the latest certificate",
        )),
        LicenseState::Granted | LicenseState::Returning => Ok(granted(context, tables, id, row.certificate, true)),
        LicenseState::Outstanding => Ok(grant(context, tables, id, row.certificate)),
    }
}

fn grant(context: &Context<'_>, tables: &mut Tables, id: Uuid, certificate: Uuid) -> Decision {
    if let Some(row) = tables.licenses.change(&id) {
        row.state = LicenseState::Granted;
        row.granted_at = Some(context.now.as_millis());
    }
    let mut used_up = false;
    if let Some(row) = tables.certificates.change(&certificate) {
        row.outstanding -= 1;
        row.granted += 1;
        used_up = row.granted >= row.grants;
    } else if let Some(row) = tables.purchases.change(&certificate) {
        // The certificate ended while the license was under way: it is granted all the same.
        row.granted += 1;
    }
    let decision = granted(context, tables, id, certificate, false);
    let retired = used_up.then(|| retire(tables, certificate, Ending::Granted, context.now)).flatten();
    retired.into_iter().fold(decision, Decision::with)
}

fn granted(context: &Context<'_>, tables: &Tables, license: Uuid, certificate: Uuid, repeated: bool) -> Decision {
    let live = tables.certificates.get(&certificate);
    let ended = tables.purchases.get(&certificate);
    // Overdue, it permits no more, swept or not.
    let going_on = live.filter(|row| overdue(std::slice::from_ref(row), context.now).is_none());
    let granted = live.map(|row| row.granted).or(ended.map(|row| row.granted)).unwrap_or_default();
    let container = live.map_or_else(|| ended.and_then(|row| row.container), |row| row.container);
    Decision::new(Output::LicenseGranted(LicenseGranted {
        license,
        certificate,
        granted: count(granted),
        remaining: count(going_on.map_or(0, remaining)),
        repeated,
    }))
    .about(subject_of(certificate, container))
}

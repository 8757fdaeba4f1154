//! Rules of `certificate.receipt` and `license.receipt`.

use licet_common::{
    decision::{Context, Decision, RuleError},
    rows::Defect,
    signing::{LicenseClaims, Presented, digest},
};
use licet_schema::{
    Code, Count, ExternalId, Money, Output,
    entity::{Digest, LicenseState, ReturnState, certificate, certificate_record, settlement},
    message::{
        CertificateAccepted, Ending, Instruction, LicenseGranted, SettlementInstructed, SettlementOutcome,
        SettlementRegistered,
    },
    money::Currency,
};
use uuid::Uuid;

use crate::domain::{
    Tables,
    certificates::{
        check_generation, due, ended_members, first, members, over, overdue, own_provider, own_settlement, remaining,
        retire, settle, subject_of, sum_due,
    },
    refusals::{refusal_of, refuse, reinstated, unknown_certificate},
    token_check::PurchaseToken,
};

/// A certificate or container arrived at its terminal.
pub(super) fn certificate(
    context: &Context<'_>,
    tables: &mut Tables,
    token: &PurchaseToken,
) -> Result<Decision, RuleError> {
    let subject = token.unverified_subject();
    let live = members(tables, subject)?;
    token.verify(context.keyring, sent_digest(tables, token, &live)?.as_ref().map(AsRef::as_ref))?;
    let ended = ended_members(tables, subject)?;
    if live.is_empty() && ended.is_empty() {
        return Err(unknown_certificate().into());
    }
    check_current(token, &live, &ended)?;
    // Usually all certificates of a purchase wait for the same receipt. A certificate that was
    // reissued before it was received waits alone. Paid certificates expire one by one, even if no
    // sweep has recorded it yet.
    let (received, unreceived): (Vec<_>, Vec<_>) = live.iter().cloned().partition(|row| row.received_at.is_some());
    let is_over_alone = |row: &certificate::Model| {
        row.settled_at.is_some() && overdue(std::slice::from_ref(row), context.now).is_some()
    };
    let waiting: Vec<_> = unreceived.iter().filter(|row| !is_over_alone(row)).cloned().collect();
    let received_before = !received.is_empty() || ended.iter().any(|row| row.received_at.is_some());
    if received_before && waiting.is_empty() {
        return Ok(repeated(context, subject.id(), &live, &ended)?);
    }
    if unreceived.is_empty() && ended.first().is_some_and(|record| record.reinstated) {
        return Err(reinstated().into());
    }
    if let Some(ending) = over(&unreceived, &ended, context.now)? {
        return Err(refusal_of(ending).into());
    }
    let decision = accept(context, tables, subject.id(), &waiting)?;
    if waiting.len() == unreceived.len() && tables.pending_receptions.get(&subject.id())?.is_some() {
        tables.pending_receptions.remove(&subject.id())?;
    }
    Ok(decision)
}

/// The digest of the token that Licet sent. The presented token is nearly always the same.
fn sent_digest(tables: &Tables, token: &PurchaseToken, live: &[certificate::Model]) -> Result<Option<Digest>, Defect> {
    Ok(match token {
        // An altered token may name a container to which the certificate does not belong.
        PurchaseToken::Certificate(one) => {
            live.iter().find(|row| row.id == one.unverified_id()).map(|row| row.token_digest)
        }
        PurchaseToken::Container(one) => {
            tables.pending_receptions.get(&one.unverified_id())?.and_then(|row| row.token_digest)
        }
    })
}

/// Checks that a certificate token has the current generation.
fn check_current(
    token: &PurchaseToken,
    live: &[certificate::Model],
    ended: &[&certificate_record::Model],
) -> Result<(), RuleError> {
    let PurchaseToken::Certificate(one) = token else { return Ok(()) };
    let id = one.unverified_id();
    let current = live.iter().find(|row| row.id == id).map(|row| row.generation);
    let current = current.or_else(|| ended.iter().find(|row| row.id == id).map(|row| row.generation));
    check_generation(current, one.unverified().generation)
}

fn accept(
    context: &Context<'_>,
    tables: &mut Tables,
    subject: Uuid,
    waiting: &[certificate::Model],
) -> Result<Decision, Defect> {
    for member in waiting {
        tables.certificates.change(&member.id)?.received_at = Some(context.now);
    }
    let amount = due(context, waiting)?;
    let any = first(waiting, subject)?;
    let settled = waiting.iter().any(|row| row.settled_at.is_some());
    let charged = !settled && amount.amount_minor.get() > 0;
    let (container, reference) = (any.container, any.reference.clone());
    let decision = Decision::new(Output::CertificateAccepted(CertificateAccepted {
        certificates: waiting.iter().map(|row| row.id).collect(),
        container,
        amount,
        settlement: if charged { Instruction::Instructed } else { Instruction::NotNeeded },
        repeated: false,
        reference: reference.clone(),
    }))
    .about(subject);
    if charged {
        return Ok(decision.with_event(Output::SettlementInstructed(SettlementInstructed {
            certificate: container.is_none().then_some(subject),
            container,
            user: any.user.clone(),
            amount,
            reference,
        })));
    }
    if settled {
        return Ok(decision);
    }
    Ok(decision.with_event(settle_without_money(context, tables, subject, waiting, amount.currency)?))
}

/// Settles a purchase that needs no payment because points pay for all of it or because it is free.
fn settle_without_money(
    context: &Context<'_>,
    tables: &mut Tables,
    subject: Uuid,
    certificates: &[certificate::Model],
    currency: Currency,
) -> Result<Output, Defect> {
    let (provider, id) = (own_provider()?, own_settlement(subject)?);
    let any = first(certificates, subject)?;
    let certificate = any.container.is_none().then_some(subject);
    settle(context, tables, certificates, &provider, &id, None)?;
    tables.settlements.insert(settlement::Model {
        provider,
        provider_reference: id.clone(),
        certificate,
        container: any.container,
        reported_certificate: None,
        reported_container: None,
        outcome: SettlementOutcome::Completed,
        amount_minor: Some(Count::ZERO),
        currency: Some(currency),
        grants: None,
        refunded_minor: Count::ZERO,
        registered_at: context.now,
        cause: context.message_id,
    })?;
    Ok(Output::SettlementRegistered(SettlementRegistered {
        certificate,
        container: any.container,
        settlement: id,
        outcome: SettlementOutcome::Completed,
        grants: None,
        refunded: None,
        repeated: false,
        reference: any.reference.clone(),
    }))
}

/// Values that all rows of a purchase share.
struct Common {
    container: Option<Uuid>,
    currency: Currency,
    reference: Option<ExternalId>,
}

/// The reply to a receipt that was registered before. The receipt stays in effect, even if the
/// state has changed since.
fn repeated(
    context: &Context<'_>,
    subject: Uuid,
    live: &[certificate::Model],
    ended: &[&certificate_record::Model],
) -> Result<Decision, Defect> {
    let common = match (live.first(), ended.first()) {
        (Some(row), _) => Common { container: row.container, currency: row.currency, reference: row.reference.clone() },
        (None, Some(row)) => {
            Common { container: row.container, currency: row.currency, reference: row.reference.clone() }
        }
        (None, None) => return Err(Defect::violated("a purchase has at least one certificate", subject)),
    };
    let amounts = live.iter().map(|row| (row.amount_minor, row.points));
    let amounts = amounts.chain(ended.iter().map(|row| (row.amount_minor, row.points)));
    // The provider was also instructed for a purchase that then ended unpaid.
    let waits = live.iter().any(|row| row.settled_at.is_none()) || ended.iter().any(|row| row.settlement.is_none());
    Ok(Decision::new(Output::CertificateAccepted(CertificateAccepted {
        certificates: live.iter().map(|row| row.id).chain(ended.iter().map(|row| row.id)).collect(),
        container: common.container,
        amount: Money { amount_minor: sum_due(context, amounts)?, currency: common.currency },
        settlement: if waits { Instruction::Instructed } else { Instruction::NotNeeded },
        repeated: true,
        reference: common.reference,
    }))
    .about(subject))
}

/// A license arrived at its terminal.
pub(super) fn license(
    context: &Context<'_>,
    tables: &mut Tables,
    token: &Presented<LicenseClaims>,
) -> Result<Decision, RuleError> {
    let id = token.unverified_id();
    let row = tables.licenses.get(&id)?.cloned();
    let stored = row.as_ref().map(|row| digest(&row.token));
    let claims = token.verify(context.keyring, stored.as_ref().map(<[u8; 32]>::as_slice))?;
    let Some(row) = row else {
        if tables.returns_of_license(id)?.iter().any(|one| one.state == ReturnState::Completed) {
            return Ok(granted(context, tables, id, claims.certificate, true)?);
        }
        return refuse(Code::UnknownLicense, "no license with this id was ever issued");
    };
    match row.state {
        LicenseState::Revoked => {
            let detail = "the license was revoked: request a new one with the latest certificate";
            refuse(Code::Superseded, detail)
        }
        LicenseState::Granted | LicenseState::Returning => Ok(granted(context, tables, id, row.certificate, true)?),
        LicenseState::Outstanding => Ok(grant(context, tables, id, row.certificate)?),
    }
}

fn grant(context: &Context<'_>, tables: &mut Tables, id: Uuid, certificate: Uuid) -> Result<Decision, Defect> {
    let license = tables.licenses.change(&id)?;
    license.state = LicenseState::Granted;
    license.granted_at = Some(context.now);
    let violated = || Defect::violated("the counts of a certificate are those of its licenses", certificate);
    let mut used_up = false;
    if tables.certificates.get(&certificate)?.is_some() {
        let row = tables.certificates.change(&certificate)?;
        row.outstanding = row.outstanding.checked_sub(Count::ONE).ok_or_else(violated)?;
        row.granted = row.granted.checked_add(Count::ONE).ok_or_else(violated)?;
        used_up = row.granted >= row.grants;
    } else {
        // The certificate ended before the license was acknowledged. The license is granted
        // nevertheless.
        let record = tables.records.change(&certificate)?;
        record.granted = record.granted.checked_add(Count::ONE).ok_or_else(violated)?;
    }
    let decision = granted(context, tables, id, certificate, false)?;
    if !used_up {
        return Ok(decision);
    }
    Ok(decision.with_event(retire(tables, certificate, Ending::Exhausted, context.now)?))
}

fn granted(
    context: &Context<'_>,
    tables: &Tables,
    license: Uuid,
    certificate: Uuid,
    repeated: bool,
) -> Result<Decision, Defect> {
    let (granted, remaining, container) = match tables.certificates.get(&certificate)? {
        Some(row) => {
            // An overdue certificate permits no more licenses, even if no sweep has ended it yet.
            let is_over = overdue(std::slice::from_ref(row), context.now).is_some();
            (row.granted, if is_over { Count::ZERO } else { remaining(row)? }, row.container)
        }
        None => {
            let record = tables.records.require(&certificate)?;
            (record.granted, Count::ZERO, record.container)
        }
    };
    let granted = LicenseGranted { license, certificate, granted, remaining, repeated };
    Ok(Decision::new(Output::LicenseGranted(granted)).about(subject_of(certificate, container)))
}

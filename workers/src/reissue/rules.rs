//! What a reissue restores, and what it revokes.

use licet_common::{
    decision::{Context, Decision, Tables},
    signing::Draft,
};
use licet_schema::{
    Code, Output, Refusal,
    entity::{Ending, LicenseState, ReturnState, certificate, license, pending_reception, purchase},
    message::{CertificateReissue, CertificateReissued, Revocation},
};
use uuid::Uuid;

use crate::{
    effects::Effects,
    held::{Subject, members, overdue, refusal_of, remaining, subject_of},
    purchase::claims,
    values::{count, external},
};

/// Regenerates a certificate.
pub(super) fn reissue(
    context: &Context<'_>,
    tables: &mut Tables,
    asked: &CertificateReissue,
) -> Result<Decision, Refusal> {
    let id = asked.certificate;
    let bought = tables.purchases.get(&id).cloned();
    let bought =
        bought.ok_or_else(|| Refusal::new(Code::UnknownCertificate, "there is no such certificate, and never was"))?;
    let subject = Subject::of(id, bought.container);
    let standing = restorable(context, tables, &bought, subject)?;
    let terms = tables.contents.get(&(bought.content.clone(), bought.version, bought.revision));
    let ttl_s = terms.map(|terms| terms.certificate_ttl_s);
    let ttl_s = ttl_s.ok_or_else(|| Refusal::new(Code::UnknownContent, "the certificate's terms are not on record"))?;

    let mut effects = Effects::default();
    let granted = recount(context, tables, &mut effects, asked, standing.granted);
    let mut row = certificate::Model {
        generation: standing.generation + 1,
        issued_at: context.now.as_millis(),
        expires_at: context.now.as_millis() + ttl_s * 1000,
        granted,
        outstanding: 0,
        ..standing
    };
    let signed = context.sign(Draft::certificate(&claims(context, &row)));
    row.token_digest = signed.digest.to_vec();
    write(tables, &row, subject);
    let decision = Decision::new(Output::CertificateReissued(CertificateReissued {
        certificate: id,
        certificate_token: Some(signed.token),
        generation: count(row.generation),
        granted: count(granted),
        remaining: count(remaining(&row)),
        reference: row.reference.as_deref().map(external),
    }))
    .about(subject.id());
    Ok(effects.into(context, tables, decision))
}

/// The certificate as it stands, or stood when it ended, if it may live again.
fn restorable(
    context: &Context<'_>,
    tables: &Tables,
    bought: &purchase::Model,
    subject: Subject,
) -> Result<certificate::Model, Refusal> {
    if let Some(live) = tables.certificates.get(&bought.id) {
        // Before settlement a purchase ends whole. What is paid for may be overdue: that is mended.
        let ended = if live.settled_at.is_some() { None } else { overdue(&members(tables, subject), context.now) };
        return ended.map_or_else(|| Ok(live.clone()), |ending| Err(refusal_of(ending)));
    }
    match bought.ended {
        Some(ending @ (Ending::Lapsed | Ending::Declined | Ending::Reversed)) => Err(refusal_of(ending)),
        Some(Ending::Expired) if bought.settlement.is_none() => {
            Err(Refusal::new(Code::Expired, "the certificate's time is over, and it was never paid for: buy it anew"))
        }
        Some(Ending::Granted | Ending::Expired) | None => Ok(revived(bought)),
    }
}

/// The live row of an ended purchase, from what was written down when it ended.
fn revived(bought: &purchase::Model) -> certificate::Model {
    certificate::Model {
        id: bought.id,
        container: bought.container,
        user: bought.user.clone(),
        content: bought.content.clone(),
        version: bought.version,
        revision: bought.revision,
        amount_minor: bought.amount_minor,
        currency: bought.currency.clone(),
        points: bought.points,
        reference: bought.reference.clone(),
        generation: bought.generation,
        token_digest: Vec::new(),
        issued_at: bought.purchased_at,
        receipt_due_at: bought.purchased_at,
        expires_at: bought.purchased_at,
        received_at: bought.received_at,
        settlement: bought.settlement.clone(),
        provider: bought.provider.clone(),
        settled_at: bought.settled_at,
        grants: bought.grants.unwrap_or_default(),
        granted: bought.granted,
        outstanding: 0,
    }
}

/// Revokes outstanding licenses, and the newest granted ones if fewer shall count. Never fewer than
/// came back: what they brought stays.
fn recount(
    context: &Context<'_>,
    tables: &mut Tables,
    effects: &mut Effects,
    asked: &CertificateReissue,
    current: i64,
) -> i64 {
    let of_it = |row: &&license::Model| row.certificate == asked.certificate;
    let mut licenses: Vec<_> = tables.licenses.iter().filter(of_it).cloned().collect();
    licenses.sort_by_key(|row| std::cmp::Reverse((row.granted_at, row.id)));
    let returned = tables
        .returns
        .iter()
        .filter(|one| one.certificate == asked.certificate && one.state == ReturnState::Completed)
        .count();
    let least = i64::try_from(returned).unwrap_or(i64::MAX).min(current);
    let granted = asked.granted.map_or(current, |wanted| wanted.get().clamp(least, current));
    let mut fewer = current - granted;
    for license in licenses {
        match license.state {
            LicenseState::Outstanding => effects.revoke(context, tables, &license, Revocation::Reissued),
            LicenseState::Granted | LicenseState::Returning if fewer > 0 => {
                fewer -= 1;
                effects.revoke(context, tables, &license, Revocation::Reissued);
            }
            LicenseState::Granted | LicenseState::Returning | LicenseState::Revoked => {}
        }
    }
    granted
}

/// Writes the certificate over what stands, or makes it live again.
fn write(tables: &mut Tables, row: &certificate::Model, subject: Subject) {
    match tables.certificates.change(&row.id) {
        Some(standing) => *standing = row.clone(),
        None => tables.certificates.add(row.clone()),
    }
    if let Some(bought) = tables.purchases.change(&row.id) {
        bought.generation = row.generation;
        bought.received_at = None;
        bought.settlement = None;
        bought.provider = None;
        bought.settled_at = None;
        bought.grants = None;
        bought.granted = 0;
        bought.ended = None;
        bought.ended_at = None;
    }
    if row.received_at.is_none() {
        wait_for_reception(tables, row, subject.id());
    }
}

/// What is not received yet is pending, under the token that was sent last.
fn wait_for_reception(tables: &mut Tables, row: &certificate::Model, subject: Uuid) {
    let alone = row.container.is_none();
    match tables.pending_receptions.change(&subject) {
        Some(pending) if alone => pending.token_digest = row.token_digest.clone(),
        Some(_) => {}
        None => tables.pending_receptions.add(pending_reception::Model {
            id: subject_of(row.id, row.container),
            container: !alone,
            user: row.user.clone(),
            // A container's own token is as good as before; its signature tells.
            token_digest: if alone { row.token_digest.clone() } else { Vec::new() },
            due_at: row.settled_at.is_none().then_some(row.receipt_due_at),
        }),
    }
}

//! Rules of `certificate.reissue`.

use licet_common::{
    decision::{Context, Decision, RuleError},
    rows::Defect,
};
use licet_schema::{
    Code, Count, Output,
    entity::{Digest, LicenseState, ReturnState, certificate, certificate_record},
    message::{CertificateReissue, CertificateReissued, Ending, Revocation},
};

use crate::domain::{
    Tables,
    certificates::{Subject, claims, ending_of, make_live, members, overdue, remaining, revived, wait_for_reception},
    count,
    effects::Effects,
    refusals::{refusal_of, refuse, unknown_certificate},
};

/// Issues the next generation of a certificate.
pub(super) fn reissue(
    context: &Context<'_>,
    tables: &mut Tables,
    request: &CertificateReissue,
) -> Result<Decision, RuleError> {
    let id = request.certificate;
    let Some(record) = tables.records.get(&id)?.cloned() else { return Err(unknown_certificate().into()) };
    let subject = Subject::of(id, record.container);
    let live = restorable(context, tables, &record, subject)?;
    let (current, granted) = match &live {
        Some(row) => (row.generation, row.granted),
        None => (record.generation, record.granted),
    };
    let generation = current.checked_add(Count::ONE);
    let generation = generation.ok_or_else(|| Defect::violated("a count is at most 2^53-1", id))?;
    let terms = tables.contents.require(&(record.content.clone(), record.version, record.revision))?;
    let expires_at = context.now.plus(terms.certificate_ttl_s);

    let mut effects = Effects::default();
    let granted = recount(context, tables, &mut effects, request, granted)?;
    let signed = context.sign(&claims(context, &record, generation, expires_at))?;
    let token_digest = Digest(signed.digest);
    let standing = match live {
        Some(row) => row,
        None => revived(&record, token_digest)?,
    };
    let row = certificate::Model {
        generation,
        token_digest,
        issued_at: context.now,
        expires_at,
        granted,
        outstanding: Count::ZERO,
        ..standing
    };
    write(tables, &row)?;
    let decision = Decision::new(Output::CertificateReissued(CertificateReissued {
        certificate: id,
        certificate_token: Some(signed.token),
        generation: row.generation,
        granted,
        remaining: remaining(&row)?,
        reference: row.reference.clone(),
    }))
    .about(subject.id());
    Ok(effects.into(context, tables, decision)?)
}

/// Checks that a certificate may be reissued. Returns its row if the certificate is live.
fn restorable(
    context: &Context<'_>,
    tables: &Tables,
    record: &certificate_record::Model,
    subject: Subject,
) -> Result<Option<certificate::Model>, RuleError> {
    if let Some(live) = tables.certificates.get(&record.id)? {
        // An unpaid purchase ends as a whole. A paid certificate can be reissued even if it is
        // overdue.
        let ended = if live.settled_at.is_some() { None } else { overdue(&members(tables, subject)?, context.now) };
        return ended.map_or_else(|| Ok(Some(live.clone())), |ending| Err(refusal_of(ending).into()));
    }
    match ending_of(record)? {
        Ending::Reversed if record.reinstated => Ok(None),
        ending @ (Ending::Lapsed | Ending::Declined | Ending::Reversed) => Err(refusal_of(ending).into()),
        // There is no payment to restore, and the held points were credited back. The user loses
        // nothing by buying again.
        Ending::Expired if record.settlement.is_none() => {
            let detail = "the certificate expired before it was paid for: send a new purchase.request";
            refuse(Code::Expired, detail)
        }
        Ending::Exhausted | Ending::Expired => Ok(None),
    }
}

/// Revokes outstanding licenses and, if the request lowers the count, the newest granted licenses.
/// Returns the new count.
fn recount(
    context: &Context<'_>,
    tables: &mut Tables,
    effects: &mut Effects,
    request: &CertificateReissue,
    current: Count,
) -> Result<Count, Defect> {
    let mut licenses: Vec<_> = tables.licenses_of(request.certificate)?.into_iter().cloned().collect();
    licenses.sort_by_key(|row| std::cmp::Reverse((row.granted_at, row.id)));
    let returns = tables.returns_of_certificate(request.certificate)?;
    let returned = returns.iter().filter(|one| one.state == ReturnState::Completed).count();
    let returned = count(i64::try_from(returned).unwrap_or(i64::MAX), "a count is at most 2^53-1", context)?;
    // The count is at least the number of returned licenses, whose privileges remain, and at most
    // the current count. No refusal code fits a value out of range, so it is limited and the reply
    // states the result.
    let least = returned.min(current);
    let granted = request.granted.map_or(current, |wanted| wanted.clamp(least, current));
    let mut fewer = current.get() - granted.get();
    for license in licenses {
        match license.state {
            LicenseState::Outstanding => effects.revoke(context, tables, &license, Revocation::Reissued)?,
            LicenseState::Granted | LicenseState::Returning if fewer > 0 => {
                fewer -= 1;
                effects.revoke(context, tables, &license, Revocation::Reissued)?;
            }
            LicenseState::Granted | LicenseState::Returning | LicenseState::Revoked => {}
        }
    }
    Ok(granted)
}

/// Replaces the row of a live certificate, or makes an ended certificate live again.
fn write(tables: &mut Tables, row: &certificate::Model) -> Result<(), Defect> {
    if tables.certificates.get(&row.id)?.is_some() {
        *tables.certificates.change(&row.id)? = row.clone();
    } else {
        tables.certificates.insert(row.clone())?;
    }
    make_live(tables.records.change(&row.id)?, row.generation);
    if row.received_at.is_none() {
        wait_for_reception(tables, row)?;
    }
    Ok(())
}

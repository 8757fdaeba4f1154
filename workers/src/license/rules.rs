//! Rules of `license.request`.

use licet_common::{
    decision::{Context, Decision, RuleError},
    rows::Defect,
};
use licet_schema::{
    Code, Count, Output,
    entity::{LicenseState, certificate, license},
    message::LicenseIssued,
    token::LicenseClaims,
};

use super::Input;
use crate::domain::{
    Tables,
    certificates::{Subject, check_generation, ending_of, members, overdue, remaining, subject_of},
    refusals::{refusal_of, refuse, reinstated, unknown_certificate},
};

/// A terminal requests a license.
pub(super) fn request(context: &Context<'_>, tables: &mut Tables, input: &Input) -> Result<Decision, RuleError> {
    let id = input.certificate.unverified_id();
    let live = tables.certificates.get(&id)?.cloned();
    let stored = live.as_ref().map(|row| row.token_digest.as_ref());
    let claims = input.certificate.verify(context.keyring, stored)?;
    let ended = tables.ended(id)?;
    let current = live.as_ref().map(|row| row.generation).or(ended.map(|row| row.generation));
    check_generation(current, claims.generation)?;
    let row = match (live, ended) {
        (Some(row), _) => row,
        (None, Some(record)) if record.reinstated => return Err(reinstated().into()),
        (None, Some(record)) => return Err(refusal_of(ending_of(record)?).into()),
        (None, None) => return Err(unknown_certificate().into()),
    };
    // An unpaid certificate ends with its container.
    let group =
        if row.settled_at.is_some() { vec![row.clone()] } else { members(tables, Subject::of(row.id, row.container))? };
    if let Some(ending) = overdue(&group, context.now) {
        return Err(refusal_of(ending).into());
    }
    if row.received_at.is_none() {
        let detail = "acknowledge the certificate's reception first, with certificate.receipt";
        return refuse(Code::NotReceived, detail);
    }
    if row.settled_at.is_none() {
        return refuse(Code::NotSettled, "the certificate is not paid for yet: try again after settlement.registered");
    }
    if let Some(same) = outstanding_for(tables, &row, input)? {
        return Ok(issued(&same, &row)?.unannounced());
    }
    if remaining(&row)? == Count::ZERO {
        return refuse(Code::Exhausted, "all licenses that this certificate grants have been issued");
    }
    Ok(issue(context, tables, row, input)?)
}

/// The license that this terminal has not acknowledged yet.
fn outstanding_for(
    tables: &Tables,
    certificate: &certificate::Model,
    input: &Input,
) -> Result<Option<license::Model>, Defect> {
    let state = sea_orm::ActiveEnum::to_value(&LicenseState::Outstanding);
    let columns = [license::Column::Certificate, license::Column::State];
    let same = |row: &license::Model| {
        row.certificate == certificate.id && row.state == LicenseState::Outstanding && row.terminal == input.terminal
    };
    Ok(tables.licenses.all(&columns, vec![certificate.id.into(), state.into()], same)?.next().cloned())
}

fn issue(
    context: &Context<'_>,
    tables: &mut Tables,
    mut certificate: certificate::Model,
    input: &Input,
) -> Result<Decision, Defect> {
    let claims = LicenseClaims {
        iss: context.terms.issuer.clone(),
        jti: context.id("license", 0),
        sub: certificate.user.clone(),
        certificate: certificate.id,
        content: certificate.content.clone(),
        version: certificate.version,
        terminal: input.terminal.clone(),
        iat: context.now.as_seconds(),
    };
    let row = license::Model {
        id: claims.jti,
        certificate: certificate.id,
        user: certificate.user.clone(),
        content: certificate.content.clone(),
        version: certificate.version,
        terminal: input.terminal.clone(),
        token: context.sign(&claims)?.token,
        state: LicenseState::Outstanding,
        revocation: None,
        issued_at: context.now,
        granted_at: None,
    };
    let more = certificate.outstanding.checked_add(Count::ONE);
    let more = more.ok_or_else(|| Defect::violated("a count is at most 2^53-1", certificate.id))?;
    certificate.outstanding = more;
    tables.certificates.change(&certificate.id)?.outstanding = more;
    tables.licenses.insert(row.clone())?;
    issued(&row, &certificate)
}

fn issued(license: &license::Model, certificate: &certificate::Model) -> Result<Decision, Defect> {
    let issued = LicenseIssued {
        license: license.id,
        license_token: Some(license.token.clone()),
        remaining: remaining(certificate)?,
    };
    Ok(Decision::new(Output::LicenseIssued(issued)).about(subject_of(certificate.id, certificate.container)))
}

//! When a license is issued.

use licet_common::{
    decision::{Context, Decision, Tables},
    signing::{Draft, LicenseClaims},
};
use licet_schema::{
    Code, Output, Refusal,
    entity::{Ending, LicenseState, certificate, license},
    message::LicenseIssued,
};

use super::Input;
use crate::{
    held::{Subject, members, overdue, refusal_of, remaining, subject_of},
    values::{count, name, version},
};

/// A terminal asks for a license.
pub(super) fn request(context: &Context<'_>, tables: &mut Tables, input: &Input) -> Result<Decision, Refusal> {
    let id = input.certificate.unverified_id();
    let live = tables.certificates.get(&id).cloned();
    let claims = input.certificate.verify(context.keyring, live.as_ref().map(|row| row.token_digest.as_slice()))?;
    let ended = tables.purchases.get(&id);
    let generation = live.as_ref().map(|row| row.generation).or(ended.map(|row| row.generation));
    match generation {
        None => return Err(Refusal::new(Code::UnknownCertificate, "there is no such certificate, and never was")),
        Some(generation) if generation != claims.generation => {
            return Err(Refusal::new(Code::Superseded, "the certificate was reissued: use the latest one"));
        }
        Some(_) => {}
    }
    let Some(row) = live else {
        return Err(refusal_of(ended.and_then(|row| row.ended).unwrap_or(Ending::Granted)));
    };
    // What is not paid for ends with its container.
    let subject = Subject::of(row.id, row.container);
    let with_it = if row.settled_at.is_some() { vec![row.clone()] } else { members(tables, subject) };
    if let Some(ending) = overdue(&with_it, context.now) {
        return Err(refusal_of(ending));
    }
    if row.received_at.is_none() {
        return Err(Refusal::new(
            Code::NotReceived,
            "acknowledge the certificate's reception first, with certificate.receipt",
        ));
    }
    if row.settled_at.is_none() {
        return Err(Refusal::new(
            Code::NotSettled,
            "the certificate is not paid for yet: ask again after settlement.registered",
        ));
    }
    if let Some(same) = outstanding_for(tables, &row, input) {
        return Ok(issued(&same, &row).quietly());
    }
    if remaining(&row) <= 0 {
        return Err(Refusal::new(Code::Exhausted, "every license that this certificate grants is issued"));
    }
    Ok(issue(context, tables, row, input))
}

/// The license that this terminal has not confirmed yet.
fn outstanding_for(tables: &Tables, certificate: &certificate::Model, input: &Input) -> Option<license::Model> {
    let terminal = input.terminal.as_ref().map(|name| name.as_str());
    let same = |row: &&license::Model| {
        row.certificate == certificate.id
            && row.state == LicenseState::Outstanding
            && row.terminal.as_deref() == terminal
    };
    tables.licenses.iter().find(same).cloned()
}

fn issue(context: &Context<'_>, tables: &mut Tables, mut certificate: certificate::Model, input: &Input) -> Decision {
    let claims = LicenseClaims {
        iss: context.terms.issuer.clone(),
        jti: context.id("license", 0),
        sub: name(&certificate.user),
        certificate: certificate.id,
        content: name(&certificate.content),
        version: version(certificate.version),
        terminal: input.terminal.clone(),
        iat: context.now.as_seconds(),
    };
    let row = license::Model {
        id: claims.jti,
        certificate: certificate.id,
        user: certificate.user.clone(),
        content: certificate.content.clone(),
        version: certificate.version,
        terminal: input.terminal.as_ref().map(ToString::to_string),
        token: context.sign(Draft::license(&claims)).token,
        state: LicenseState::Outstanding,
        issued_at: context.now.as_millis(),
        granted_at: None,
    };
    if let Some(row) = tables.certificates.change(&certificate.id) {
        row.outstanding += 1;
        certificate.outstanding = row.outstanding;
    }
    tables.licenses.add(row.clone());
    issued(&row, &certificate)
}

fn issued(license: &license::Model, certificate: &certificate::Model) -> Decision {
    Decision::new(Output::LicenseIssued(LicenseIssued {
        license: license.id,
        license_token: Some(license.token.clone()),
        remaining: count(remaining(certificate)),
    }))
    .about(subject_of(certificate.id, certificate.container))
}

//! Rules of `license.return` and `license.deletion`.

use licet_common::{
    decision::{Context, Decision, RuleError},
    rows::Defect,
    signing::{LicenseClaims, Presented, digest},
};
use licet_schema::{
    Code, Name, Output, Refusal,
    entity::{LicenseState, ReturnState, license_return},
    message::Privilege,
};
use uuid::Uuid;

use super::{
    completion::{complete, open, returned},
    privilege::check_offer,
};
use crate::domain::{
    Tables,
    certificates::subject_of,
    refusals::refuse,
    returns::{Counted, ReturnCase},
};

/// A user returns a license.
pub(super) fn give_back(
    context: &Context<'_>,
    tables: &mut Tables,
    token: &Presented<LicenseClaims>,
    user: &Name,
    wanted: Privilege,
    deleted: bool,
) -> Result<Decision, RuleError> {
    let id = token.unverified_id();
    let row = tables.licenses.get(&id)?.cloned();
    let stored = row.as_ref().map(|row| digest(&row.token));
    let claims = token.verify(context.keyring, stored.as_ref().map(<[u8; 32]>::as_slice))?;
    let Some(license) = row else { return Err(gone(tables, id)?.into()) };
    let returns = tables.returns_of_license(id)?;
    let open_return = returns.into_iter().find(|one| one.state == ReturnState::Opened).cloned();
    match license.state {
        LicenseState::Revoked => return Err(revoked().into()),
        LicenseState::Returning if open_return.as_ref().is_some_and(|open| context.now <= open.delete_by) => {
            let detail = "a return is open: delete the copy and send license.deletion";
            return refuse(Code::AlreadyReturned, detail);
        }
        LicenseState::Returning | LicenseState::Granted | LicenseState::Outstanding => {}
    }
    if claims.sub != *user {
        return refuse(Code::NotHolder, "the license belongs to another user");
    }
    if license.state == LicenseState::Outstanding {
        let detail = "acknowledge the license's reception first, with license.receipt";
        return refuse(Code::NotReceived, detail);
    }
    let case = ReturnCase::of(tables, license)?;
    check_offer(tables, &case, wanted, Counted::WithOpen(context.now))?;

    let lapsed = match &open_return {
        Some(open) => Some(case.lapse(context, tables, open)?),
        None => None,
    };
    let row = license_return::Model {
        id: context.id("return", 0),
        license: case.license.id,
        certificate: case.license.certificate,
        user: user.clone(),
        privilege: wanted,
        state: ReturnState::Opened,
        opened_at: context.now,
        delete_by: context.now.plus(context.terms.return_ttl),
        closed_at: None,
    };
    tables.returns.insert(row.clone())?;
    let decision = if deleted { complete(context, tables, &case, row)? } else { open(tables, &case, &row)? };
    Ok(decision.with_events(lapsed).about(case.subject()))
}

/// The terminal has deleted its copy.
pub(super) fn deletion(context: &Context<'_>, tables: &mut Tables, id: Uuid) -> Result<Decision, RuleError> {
    let Some(row) = tables.returns.get(&id)?.cloned() else {
        return refuse(Code::UnknownReturn, "no return with this id was ever opened");
    };
    if row.state == ReturnState::Completed {
        return Ok(completed_before(tables, &row)?);
    }
    let Some(license) = tables.licenses.get(&row.license)?.cloned() else {
        return Err(gone(tables, row.license)?.into());
    };
    if license.state == LicenseState::Revoked {
        return Err(revoked().into());
    }
    if row.state == ReturnState::Lapsed || context.now > row.delete_by {
        let detail = "the return's deadline has passed, so the license is live again: send a new license.return";
        return refuse(Code::Lapsed, detail);
    }
    let case = ReturnCase::of(tables, license)?;
    check_offer(tables, &case, row.privilege, Counted::Completed)?;
    let subject = case.subject();
    Ok(complete(context, tables, &case, row)?.about(subject))
}

fn revoked() -> Refusal {
    Refusal::new(Code::Superseded, "the license was revoked and cannot be returned")
}

/// The refusal of a request about a license that does not exist or no longer exists.
fn gone(tables: &Tables, license: Uuid) -> Result<Refusal, Defect> {
    let returns = tables.returns_of_license(license)?;
    Ok(if returns.iter().any(|one| one.state == ReturnState::Completed) {
        Refusal::new(Code::AlreadyReturned, "the license has already been returned")
    } else {
        Refusal::new(Code::UnknownLicense, "no license with this id was ever issued")
    })
}

/// The reply to a deletion that was reported before: the same reply, built from the recorded rows.
///
/// Only the first reply contains the token of an upgrade. The return's id is public in events, so
/// anyone could repeat the deletion to obtain the token. `certificate.reissue` replaces a lost
/// token.
fn completed_before(tables: &Tables, row: &license_return::Model) -> Result<Decision, Defect> {
    let collected = tables.collections.require(&row.id)?;
    let granted = tables.privileges.require(&row.id)?;
    let record = tables.records.require(&row.certificate)?;
    let terms = tables.contents.require(&(record.content.clone(), record.version, record.revision))?;
    let returned = returned(collected, granted, None, &terms.title, true)?;
    Ok(Decision::new(Output::LicenseReturned(returned)).about(subject_of(record.id, record.container)))
}

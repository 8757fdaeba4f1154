//! What giving a license back changes.

use licet_common::{
    decision::{Context, Decision, Tables},
    signing::{LicenseClaims, Presented, digest},
};
use licet_schema::{
    Code, Name, Output, Refusal,
    entity::{LicenseState, ReturnState, license_return},
    message::{ContentStatus, Privilege},
};
use uuid::Uuid;

use super::case::{Case, returned};
use crate::held::subject_of;

/// A user gives a license back.
pub(super) fn give_back(
    context: &Context<'_>,
    tables: &mut Tables,
    presented: &Presented<LicenseClaims>,
    user: &Name,
    wish: Privilege,
    deleted: bool,
) -> Result<Decision, Refusal> {
    let id = presented.unverified_id();
    let row = tables.licenses.get(&id).cloned();
    let stored = row.as_ref().map(|row| digest(&row.token));
    let claims = presented.verify(context.keyring, stored.as_ref().map(<[u8; 32]>::as_slice))?;
    let Some(license) = row else { return Err(gone(tables, id)) };
    let open = tables.returns.iter().find(|one| one.license == id && one.state == ReturnState::Opened).cloned();
    match license.state {
        LicenseState::Revoked => return Err(revoked()),
        LicenseState::Returning if open.as_ref().is_some_and(|open| context.now.as_millis() <= open.delete_by) => {
            return Err(Refusal::new(
                Code::AlreadyReturned,
                "a return is open: delete the copy and send license.deletion",
            ));
        }
        LicenseState::Returning | LicenseState::Granted | LicenseState::Outstanding => {}
    }
    if claims.sub != *user {
        return Err(Refusal::new(Code::NotHolder, "the license belongs to another user"));
    }
    if license.state == LicenseState::Outstanding {
        return Err(Refusal::new(Code::NotReceived, "acknowledge the license's reception first, with license.receipt"));
    }
    let case = Case::of(tables, license)?;
    case.check(tables, wish)?;

    let lapsed = open.map(|open| lapse(context, tables, &case, &open));
    let row = case.open(context, user, wish);
    let decision = if deleted { case.complete(context, tables, row) } else { case.begin(tables, row) };
    Ok(decision.with_all(lapsed).about(case.subject()))
}

/// The terminal has deleted its copy.
pub(super) fn deletion(context: &Context<'_>, tables: &mut Tables, id: Uuid) -> Result<Decision, Refusal> {
    let row = tables.returns.get(&id).cloned();
    let row = row.ok_or_else(|| Refusal::new(Code::UnknownReturn, "there is no such return, and never was"))?;
    if row.state == ReturnState::Completed {
        return told_before(tables, &row);
    }
    let license = tables.licenses.get(&row.license).cloned().ok_or_else(|| gone(tables, row.license))?;
    if license.state == LicenseState::Revoked {
        return Err(revoked());
    }
    if row.state == ReturnState::Lapsed || context.now.as_millis() > row.delete_by {
        return Err(Refusal::new(
            Code::Lapsed,
            "the return's deadline passed, and the license is live again: return it anew",
        ));
    }
    let case = Case::of(tables, license)?;
    case.check(tables, super::wish(row.privilege))?;
    let subject = case.subject();
    Ok(case.complete(context, tables, row).about(subject))
}

fn revoked() -> Refusal {
    Refusal::new(Code::Superseded, "the license was revoked: it brings nothing back")
}

fn gone(tables: &Tables, license: Uuid) -> Refusal {
    if tables.returns.iter().any(|one| one.license == license && one.state == ReturnState::Completed) {
        Refusal::new(Code::AlreadyReturned, "the license was returned already")
    } else {
        Refusal::new(Code::UnknownLicense, "there is no such license, and never was")
    }
}

/// A return whose deadline passed, met before any sweep came: the license is live again.
fn lapse(context: &Context<'_>, tables: &mut Tables, case: &Case, open: &license_return::Model) -> Output {
    if let Some(row) = tables.returns.change(&open.id) {
        row.state = ReturnState::Lapsed;
        row.closed_at = Some(context.now.as_millis());
    }
    Output::ReturnLapsed(case.told(open, "granted", ContentStatus::Live))
}

/// The deletion was told before: the same answer, from what is on record. An upgrade's token went
/// to whoever told it first, and goes to nobody else.
fn told_before(tables: &Tables, row: &license_return::Model) -> Result<Decision, Refusal> {
    let lost = || Refusal::new(Code::UnknownReturn, "the return's record is incomplete: run `licet audit`");
    let collected = tables.collections.get(&row.id).ok_or_else(lost)?;
    let granted = tables.privileges.get(&row.id).ok_or_else(lost)?;
    let purchase = tables.purchases.get(&row.certificate).ok_or_else(lost)?;
    let terms =
        tables.contents.get(&(purchase.content.clone(), purchase.version, purchase.revision)).ok_or_else(lost)?;
    let returned = returned(collected, granted, None, &terms.title, true);
    Ok(Decision::new(Output::LicenseReturned(returned)).about(subject_of(purchase.id, purchase.container)))
}

//! Opening and completing a return.

use licet_common::{
    decision::{Context, Decision},
    rows::Defect,
};
use licet_schema::{
    Money, Output, Text,
    entity::{LicenseState, ReturnState, collection, license_return, privilege},
    message::{ContentDeleted, ContentStatus, LicenseAttributes, LicenseReturned, PrivilegeGranted},
};

use super::privilege::grant;
use crate::domain::{
    Tables,
    effects::Effects,
    returns::{ReturnCase, state_text},
};

/// Opens a return. It completes when the terminal reports that it has deleted its copy.
pub(super) fn open(tables: &mut Tables, case: &ReturnCase, row: &license_return::Model) -> Result<Decision, Defect> {
    tables.licenses.change(&case.license.id)?.state = LicenseState::Returning;
    let opened = case.describe(row, "returning", ContentStatus::Returning)?;
    Ok(Decision::new(Output::ReturnOpened(opened)))
}

/// Completes a return: deletes the license and grants the privilege.
pub(super) fn complete(
    context: &Context<'_>,
    tables: &mut Tables,
    case: &ReturnCase,
    mut row: license_return::Model,
) -> Result<Decision, Defect> {
    row.state = ReturnState::Completed;
    row.closed_at = Some(context.now);
    tables.licenses.remove(&case.license.id)?;
    *tables.returns.change(&row.id)? = row.clone();
    let mut effects = Effects::default();
    effects.add_event(Output::ContentDeleted(ContentDeleted {
        license_return: row.id,
        license: case.license.id,
        user: row.user.clone(),
        content: case.license.content.clone(),
        version: case.license.version,
    }));
    let (granted, token) = grant(context, tables, &mut effects, case, &row)?;
    let collected = collection(context, case, &row)?;
    let returned = returned(&collected, &granted, token, &case.terms.title, false)?;
    tables.collections.insert(collected)?;
    tables.privileges.insert(granted)?;
    effects.into(context, tables, Decision::new(Output::LicenseReturned(returned)))
}

fn collection(
    context: &Context<'_>,
    case: &ReturnCase,
    row: &license_return::Model,
) -> Result<collection::Model, Defect> {
    let granted_at = case.license.granted_at;
    let granted_at = granted_at.ok_or_else(|| Defect::violated("a returned license was granted", case.license.id))?;
    Ok(collection::Model {
        id: row.id,
        license: case.license.id,
        user: row.user.clone(),
        content: case.license.content.clone(),
        version: case.license.version,
        certificate: case.license.certificate,
        settlement: case.settlement.clone(),
        provider: case.provider.clone(),
        amount_minor: case.record.amount_minor,
        currency: case.record.currency,
        kind: row.privilege,
        purchased_at: case.record.purchased_at,
        granted_at,
        returned_at: context.now,
    })
}

/// The reply about a completed return.
pub(super) fn returned(
    collected: &collection::Model,
    granted: &privilege::Model,
    certificate_token: Option<String>,
    title: &Text,
    repeated: bool,
) -> Result<LicenseReturned, Defect> {
    let amount = granted.amount_minor.zip(granted.currency);
    Ok(LicenseReturned {
        license_return: collected.id,
        license: collected.license,
        user: collected.user.clone(),
        content: collected.content.clone(),
        version: collected.version,
        attributes: LicenseAttributes {
            title: title.clone(),
            purchased_at: collected.purchased_at,
            amount: Money { amount_minor: collected.amount_minor, currency: collected.currency },
            granted_at: Some(collected.granted_at),
            state: state_text("returned")?,
        },
        privilege: PrivilegeGranted {
            kind: granted.kind,
            points: granted.points,
            certificate: granted.certificate,
            certificate_token,
            amount: amount.map(|(amount_minor, currency)| Money { amount_minor, currency }),
        },
        content_status: ContentStatus::Deleted,
        repeated,
    })
}

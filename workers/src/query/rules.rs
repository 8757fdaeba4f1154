//! What a query finds.

use licet_common::decision::{Context, Decision, Tables};
use licet_schema::{
    Code, Output, Refusal,
    entity::{Ending, LicenseState, ReturnState, license, purchase, settlement},
    message::{
        CertificateState, CertificateStatus, Holding, HoldingsListed, HoldingsQuery, PAGE_MAX, Privilege, StatusListed,
        StatusQuery,
    },
};
use uuid::Uuid;

use super::page;
use crate::{
    held::{Subject, members, overdue, remaining},
    points,
    returns::{attributes, offers},
    values::{count, external, name, shown, version},
};

/// A page of what a user holds.
pub(super) fn holdings(context: &Context<'_>, tables: &Tables, query: &HoldingsQuery) -> Decision {
    let user = query.user.as_str();
    let after = query.after.unwrap_or_default();
    let held = |row: &&license::Model| row.user == user && row.id > after && row.state != LicenseState::Revoked;
    let mut licenses: Vec<_> = tables
        .licenses
        .iter()
        .filter(held)
        .filter_map(|row| holding(context, tables, row))
        .take(page(query) + 1)
        .collect();
    let more = licenses.len() > page(query);
    licenses.truncate(page(query));
    Decision::new(Output::HoldingsListed(HoldingsListed {
        user: query.user.clone(),
        points: shown(points::balance(tables, user)),
        debt: shown(points::debt(tables, user)),
        next: licenses.last().filter(|_| more).map(|last| last.license),
        licenses,
    }))
}

fn holding(context: &Context<'_>, tables: &Tables, row: &license::Model) -> Option<Holding> {
    let bought = tables.purchases.get(&row.certificate)?;
    let terms = tables.contents.get(&(bought.content.clone(), bought.version, bought.revision))?;
    let (state, returnable) = match row.state {
        LicenseState::Outstanding => ("outstanding", false),
        LicenseState::Granted => ("granted", true),
        LicenseState::Returning => ("returning", return_is_late(context, tables, row.id)),
        LicenseState::Revoked => return None,
    };
    let returnable: Vec<Privilege> = if returnable { offers(tables, terms, &row.user) } else { Vec::new() };
    Some(Holding {
        license: row.id,
        content: name(&row.content),
        version: version(row.version),
        attributes: attributes(row, bought, terms, state),
        returnable,
    })
}

/// Whether a license's open return has missed its deadline: then it can be returned anew.
fn return_is_late(context: &Context<'_>, tables: &Tables, license: Uuid) -> bool {
    let open = tables.returns.iter().find(|one| one.license == license && one.state == ReturnState::Opened);
    open.is_some_and(|open| context.now.as_millis() > open.delete_by)
}

/// Where purchases stand.
pub(super) fn status(context: &Context<'_>, tables: &Tables, query: &StatusQuery) -> Result<Decision, Refusal> {
    let found: Vec<_> = match &query.reference {
        Some(reference) => {
            let named = |row: &&purchase::Model| row.reference.as_deref() == Some(reference.as_str());
            // The newest, where one reference names more than a reply can hold.
            let mut found: Vec<_> = tables.purchases.iter().filter(named).collect();
            let newest = found.len().saturating_sub(usize::try_from(PAGE_MAX).unwrap_or(usize::MAX));
            found.split_off(newest)
        }
        None => {
            let subjects = asked(tables, query)?;
            let meant = |row: &&purchase::Model| subjects.iter().any(|one| one.includes(row.id, row.container));
            tables.purchases.iter().filter(meant).collect()
        }
    };
    if found.is_empty() && (query.certificate.is_some() || query.container.is_some()) {
        return Err(Refusal::new(Code::UnknownCertificate, "there is no such certificate or container, and never was"));
    }
    let certificates = found.into_iter().map(|row| standing(context, tables, row)).collect();
    Ok(Decision::new(Output::StatusListed(StatusListed { certificates })))
}

/// The purchases that an id leads to.
fn asked(tables: &Tables, query: &StatusQuery) -> Result<Vec<Subject>, Refusal> {
    if let Some(settlement) = &query.settlement {
        let told = tables.settlements.iter().filter(|row| row.settlement == settlement.as_str());
        let paid = |row: &settlement::Model| {
            row.container.map(Subject::Container).or(row.certificate.map(Subject::Certificate))
        };
        return Ok(told.filter_map(paid).collect());
    }
    if let Some(id) = query.license {
        let standing = tables.licenses.get(&id).map(|row| row.certificate);
        let returned = || tables.returns.iter().find(|row| row.license == id).map(|row| row.certificate);
        let unknown = || Refusal::new(Code::UnknownLicense, "there is no such license, and never was");
        return Ok(vec![Subject::Certificate(standing.or_else(returned).ok_or_else(unknown)?)]);
    }
    if let Some(id) = query.license_return {
        let unknown = || Refusal::new(Code::UnknownReturn, "there is no such return, and never was");
        return Ok(vec![Subject::Certificate(tables.returns.get(&id).ok_or_else(unknown)?.certificate)]);
    }
    let named = query.container.map(Subject::Container).or(query.certificate.map(Subject::Certificate));
    Ok(named.into_iter().collect())
}

fn standing(context: &Context<'_>, tables: &Tables, bought: &purchase::Model) -> CertificateStatus {
    let live = tables.certificates.get(&bought.id);
    let late = live.and_then(|row| {
        let settled = row.settled_at.is_some();
        let group = if settled { vec![row.clone()] } else { members(tables, Subject::of(row.id, row.container)) };
        overdue(&group, context.now)
    });
    let state = match (late.or(bought.ended), live) {
        (Some(ending), _) => ended(ending),
        (None, Some(row)) if row.settled_at.is_some() => CertificateState::Settled,
        (None, Some(row)) if row.received_at.is_some() => CertificateState::Received,
        (None, _) => CertificateState::Issued,
    };
    let settlement = live.map_or(&bought.settlement, |row| &row.settlement);
    CertificateStatus {
        certificate: bought.id,
        state,
        reference: bought.reference.as_deref().map(external),
        granted: count(live.map_or(bought.granted, |row| row.granted)),
        remaining: count(live.filter(|_| late.is_none()).map_or(0, remaining)),
        settlement: settlement.as_deref().map(external),
    }
}

fn ended(ending: Ending) -> CertificateState {
    match ending {
        Ending::Granted => CertificateState::Granted,
        Ending::Lapsed => CertificateState::Lapsed,
        Ending::Expired => CertificateState::Expired,
        Ending::Declined => CertificateState::Declined,
        Ending::Reversed => CertificateState::Reversed,
    }
}

//! Rules of `holdings.query` and `status.query`.

use licet_common::{
    decision::{Context, Decision, RuleError},
    rows::Defect,
};
use licet_schema::{
    Code, Count, Output,
    entity::{LicenseState, ReturnState, certificate_record, license, settlement},
    message::{
        self, CertificateState, CertificateStatus, Ending, Holding, HoldingsListed, HoldingsQuery, LicenseStatus,
        PAGE_MAX, Revocation, StatusListed, StatusQuery,
    },
};
use uuid::Uuid;

use super::page;
use crate::domain::{
    Tables,
    certificates::{Subject, ending_of, members, overdue, remaining},
    points,
    refusals::refuse,
    returns::{Counted, attributes, offers},
    tables::{NEWEST_OF_REFERENCE, PAGE_OF_USER},
};

/// Lists a page of a user's licenses.
pub(super) fn holdings(context: &Context<'_>, tables: &Tables, query: &HoldingsQuery) -> Result<Decision, Defect> {
    let held = |row: &license::Model| {
        row.user == query.user && query.after.is_none_or(|after| row.id > after) && row.state != LicenseState::Revoked
    };
    let rows = tables.licenses.set(PAGE_OF_USER, query.user.clone().into(), held)?.take(page(query) + 1);
    let mut licenses = rows.map(|row| holding(context, tables, row)).collect::<Result<Vec<_>, _>>()?;
    let more = licenses.len() > page(query);
    licenses.truncate(page(query));
    Ok(Decision::new(Output::HoldingsListed(HoldingsListed {
        user: query.user.clone(),
        points: points::expressible(context, points::balance(tables, &query.user)?)?,
        debt: points::expressible(context, points::debt(tables, &query.user)?)?,
        next: licenses.last().filter(|_| more).map(|last| last.license),
        licenses,
    })))
}

fn holding(context: &Context<'_>, tables: &Tables, row: &license::Model) -> Result<Holding, Defect> {
    let record = tables.records.require(&row.certificate)?;
    let terms = tables.contents.require(&(record.content.clone(), record.version, record.revision))?;
    let (state, is_returnable) = match row.state {
        LicenseState::Outstanding => ("outstanding", false),
        LicenseState::Granted => ("granted", true),
        LicenseState::Returning if return_is_late(context, tables, row.id)? => ("granted", true),
        LicenseState::Returning => ("returning", false),
        LicenseState::Revoked => return Err(Defect::violated("a page has no revoked licenses", row.id)),
    };
    Ok(Holding {
        license: row.id,
        content: row.content.clone(),
        version: row.version,
        attributes: attributes(row, record, terms, state)?,
        returnable: match is_returnable {
            true => offers(tables, row.certificate, terms, &row.user, Counted::WithOpen(context.now))?,
            false => Vec::new(),
        },
    })
}

/// Whether a license's open return has missed its deadline, so that the license can be returned
/// again.
fn return_is_late(context: &Context<'_>, tables: &Tables, license: Uuid) -> Result<bool, Defect> {
    let returns = tables.returns_of_license(license)?;
    let open = returns.iter().find(|one| one.state == ReturnState::Opened);
    Ok(open.is_some_and(|open| context.now > open.delete_by))
}

/// Lists the state of certificates.
pub(super) fn status(context: &Context<'_>, tables: &Tables, query: &StatusQuery) -> Result<Decision, RuleError> {
    let found = match &query.reference {
        Some(reference) => {
            let named = |row: &certificate_record::Model| row.reference.as_ref() == Some(reference);
            // If the reference names more certificates than fit into a reply, list the newest.
            let mut found: Vec<_> = tables.records.set(NEWEST_OF_REFERENCE, reference.clone().into(), named)?.collect();
            let newest = found.len().saturating_sub(usize::try_from(PAGE_MAX).unwrap_or(usize::MAX));
            found.split_off(newest)
        }
        None => {
            let mut found = Vec::new();
            for subject in subjects(tables, query)? {
                found.extend(records(tables, subject)?);
            }
            found.sort_by_key(|row| row.id);
            found.dedup_by_key(|row| row.id);
            found
        }
    };
    if found.is_empty() && (query.certificate.is_some() || query.container.is_some()) {
        return refuse(Code::UnknownCertificate, "no certificate or container with this id was ever issued");
    }
    let certificates =
        found.into_iter().map(|row| certificate_status(context, tables, row)).collect::<Result<_, _>>()?;
    let license = query.license.map(|id| license_status(tables, id)).transpose()?;
    Ok(Decision::new(Output::StatusListed(StatusListed { certificates, license })))
}

/// The state of a license that was issued. During a return it is granted, because the return may
/// still lapse.
fn license_status(tables: &Tables, id: Uuid) -> Result<LicenseStatus, Defect> {
    use message::LicenseState::{Granted, Outstanding, Returned, Revoked, Superseded};
    let state = match tables.licenses.get(&id)? {
        Some(row) => match (row.state, row.revocation) {
            (LicenseState::Outstanding, None) => Outstanding,
            (LicenseState::Granted | LicenseState::Returning, None) => Granted,
            (LicenseState::Revoked, Some(Revocation::Reissued)) => Superseded,
            (LicenseState::Revoked, Some(Revocation::Reversed)) => Revoked,
            _ => return Err(Defect::violated("exactly the revoked licenses have a reason", id)),
        },
        None if tables.returns_of_license(id)?.iter().any(|one| one.state == ReturnState::Completed) => Returned,
        None => return Err(Defect::violated("a license without a row was returned", id)),
    };
    Ok(LicenseStatus { license: id, state })
}

/// The purchases to which the id in the query belongs.
fn subjects(tables: &Tables, query: &StatusQuery) -> Result<Vec<Subject>, RuleError> {
    if let Some(id) = &query.settlement {
        let same = |row: &settlement::Model| row.provider_reference == *id;
        let columns = [settlement::Column::ProviderReference];
        let rows = tables.settlements.all(&columns, vec![id.clone().into()], same)?;
        let subjects = rows.map(|row| Subject::of_columns(row.certificate, row.container, &row.provider_reference));
        return Ok(subjects.collect::<Result<_, _>>()?);
    }
    if let Some(id) = query.license {
        let standing = tables.licenses.get(&id)?.map(|row| row.certificate);
        let returned = tables.returns_of_license(id)?.first().map(|row| row.certificate);
        return match standing.or(returned) {
            Some(certificate) => Ok(vec![Subject::Certificate(certificate)]),
            None => refuse(Code::UnknownLicense, "no license with this id was ever issued"),
        };
    }
    if let Some(id) = query.license_return {
        return match tables.returns.get(&id)? {
            Some(row) => Ok(vec![Subject::Certificate(row.certificate)]),
            None => refuse(Code::UnknownReturn, "no return with this id was ever opened"),
        };
    }
    Ok(Subject::of_either(query.certificate, query.container).into_iter().collect())
}

/// The records of a purchase.
fn records(tables: &Tables, subject: Subject) -> Result<Vec<&certificate_record::Model>, Defect> {
    match subject {
        Subject::Certificate(id) => Ok(tables.records.get(&id)?.into_iter().collect()),
        Subject::Container(id) => {
            let columns = [certificate_record::Column::Container];
            let is_in = move |row: &certificate_record::Model| row.container == Some(id);
            Ok(tables.records.all(&columns, vec![id.into()], is_in)?.collect())
        }
    }
}

fn certificate_status(
    context: &Context<'_>,
    tables: &Tables,
    record: &certificate_record::Model,
) -> Result<CertificateStatus, Defect> {
    let reference = record.reference.clone();
    let Some(row) = tables.certificates.get(&record.id)? else {
        return Ok(CertificateStatus {
            certificate: record.id,
            state: if record.reinstated { CertificateState::Reinstated } else { state_of(ending_of(record)?) },
            reference,
            granted: record.granted,
            remaining: Count::ZERO,
            settlement: record.settlement.clone(),
        });
    };
    let is_settled = row.settled_at.is_some();
    let group = if is_settled { vec![row.clone()] } else { members(tables, Subject::of(row.id, row.container))? };
    let late = overdue(&group, context.now);
    let state = match late {
        Some(ending) => state_of(ending),
        None if is_settled => CertificateState::Settled,
        None if row.received_at.is_some() => CertificateState::Received,
        None => CertificateState::Issued,
    };
    Ok(CertificateStatus {
        certificate: record.id,
        state,
        reference,
        granted: row.granted,
        remaining: if late.is_none() { remaining(row)? } else { Count::ZERO },
        settlement: row.settlement.clone(),
    })
}

fn state_of(ending: Ending) -> CertificateState {
    match ending {
        Ending::Exhausted => CertificateState::Exhausted,
        Ending::Lapsed => CertificateState::Lapsed,
        Ending::Expired => CertificateState::Expired,
        Ending::Declined => CertificateState::Declined,
        Ending::Reversed => CertificateState::Reversed,
    }
}

//! Reads the rows that queries need.

use std::collections::BTreeSet;

use licet_common::store::{Comparison, Lock, Page, Source, StoreError, keys, load as select_into};
use licet_schema::{
    entity::{certificate, certificate_record, license, license_return, settlement},
    message::{HoldingsQuery, PAGE_MAX, StatusQuery},
};
use sea_orm::Value;
use uuid::Uuid;

use super::page;
use crate::domain::{
    Tables,
    certificates::Subject,
    load, locks, points,
    tables::{LIVE_IN_CONTAINER, NEWEST_OF_REFERENCE, PAGE_OF_USER},
};

/// Reads a page of a user's licenses, one license more, and the rows that belong to them.
pub(super) async fn holdings<S: Source>(
    source: &S,
    query: &HoldingsQuery,
    tables: &mut Tables,
) -> Result<(), StoreError> {
    locks::read_accounts(source, &points::accounts(&query.user), tables).await?;
    let mut filter = vec![(license::Column::User, Comparison::Equal, query.user.clone().into())];
    filter.extend(query.after.map(|after| (license::Column::Id, Comparison::Greater, after.into())));
    let held = Page::<license::Entity> {
        filter,
        constant: Some((license::Column::State, Comparison::NotEqual, "revoked")),
        order: license::Column::Id,
        descending: false,
        limit: page(query) as u64 + 1,
    };
    let held = source.page(held).await?;
    tables.licenses.cover_set(PAGE_OF_USER, query.user.clone());
    let ids: Vec<_> = held.iter().map(|row| row.id).collect();
    let certificates: BTreeSet<_> = held.iter().map(|row| row.certificate).collect();
    tables.licenses.take(held);
    let origins = load::origins(source, &certificates, tables).await?;
    let certificates = keys(certificates.union(&origins).copied());
    records(source, certificate_record::Column::Id, certificates, tables).await?;
    load::licenses(source, &ids, tables).await?;
    let sharing = load::refunded(source, origins, Lock::None, tables).await?;
    load::worth(source, sharing, tables).await?;
    load::terms(source, tables).await
}

/// Reads the certificates that a query leads to.
pub(super) async fn status<S: Source>(source: &S, query: &StatusQuery, tables: &mut Tables) -> Result<(), StoreError> {
    let mut subjects: BTreeSet<Subject> = query.certificate.map(Subject::Certificate).into_iter().collect();
    subjects.extend(query.container.map(Subject::Container));
    if let Some(id) = query.license {
        load::licenses(source, &[id], tables).await?;
        let licenses = tables.licenses.iter().filter(|row| row.id == id).map(|row| row.certificate);
        let returns = tables.returns.iter().filter(|row| row.license == id).map(|row| row.certificate);
        subjects.extend(licenses.chain(returns).map(Subject::Certificate));
    }
    if let Some(id) = query.license_return {
        select_into(source, &mut tables.returns, &[license_return::Column::Id], keys([id]), Lock::None).await?;
        let returns = tables.returns.iter().filter(|row| row.id == id);
        subjects.extend(returns.map(|row| Subject::Certificate(row.certificate)));
    }
    if let Some(id) = &query.settlement {
        let columns = [settlement::Column::ProviderReference];
        select_into(source, &mut tables.settlements, &columns, keys([id.clone()]), Lock::None).await?;
        let settlements = tables.settlements.iter().filter(|row| row.provider_reference == *id);
        subjects.extend(settlements.filter_map(|row| Subject::of_either(row.certificate, row.container)));
    }
    if let Some(reference) = &query.reference {
        let newest = Page::<certificate_record::Entity> {
            filter: vec![(certificate_record::Column::Reference, Comparison::Equal, reference.clone().into())],
            constant: None,
            order: certificate_record::Column::Id,
            descending: true,
            limit: PAGE_MAX.unsigned_abs(),
        };
        let ids = keys(source.page(newest).await?.iter().map(|row| row.id));
        tables.records.cover_set(NEWEST_OF_REFERENCE, reference.clone());
        records(source, certificate_record::Column::Id, ids, tables).await?;
    }
    for subject in subjects {
        let column = match subject {
            Subject::Certificate(_) => certificate_record::Column::Id,
            Subject::Container(_) => certificate_record::Column::Container,
        };
        records(source, column, keys([subject.id()]), tables).await?;
    }
    // Unpaid members of a container end together, so all members determine whether one is overdue.
    let containers: BTreeSet<Uuid> = tables.records.iter().filter_map(|row| row.container).collect();
    records(source, certificate_record::Column::Container, keys(containers.iter().copied()), tables).await?;
    for container in containers {
        tables.certificates.cover_set(LIVE_IN_CONTAINER, container);
    }
    Ok(())
}

/// Reads records, and the rows of those certificates that are live.
async fn records<S: Source>(
    source: &S,
    column: certificate_record::Column,
    values: Vec<Vec<Value>>,
    tables: &mut Tables,
) -> Result<(), StoreError> {
    let rows = source.select::<certificate_record::Entity>(&[column], values.clone(), Lock::None).await?;
    let ids = keys(rows.iter().map(|row| row.id));
    tables.records.cover(&[column], &values);
    tables.records.take(rows);
    select_into(source, &mut tables.certificates, &[certificate::Column::Id], ids, Lock::None).await
}

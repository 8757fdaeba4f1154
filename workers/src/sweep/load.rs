//! Locks and reads the rows that a sweep needs. Candidates are read without locks. Of the overdue
//! certificates, only those that no other transaction has locked are locked. The certificates of
//! late returns are locked in the usual order.

use std::collections::{BTreeMap, BTreeSet};

use licet_common::store::{Comparison, Lock, Page, Source, StoreError, keys, load as select_into};
use licet_schema::{
    Timestamp,
    entity::{certificate, certificate_record, license_return, pending_reception},
    message::{SweepDue, SweepKind},
};
use uuid::Uuid;

use super::ROWS_MAX;
use crate::domain::{
    Tables,
    certificates::{Subject, subject_of},
    load, locks, points,
    tables::LIVE_IN_CONTAINER,
};

/// Reads the rows of one sweep for each input. The rules check again whether a row is overdue.
pub(super) async fn load<S: Source>(source: &S, inputs: &[&SweepDue]) -> Result<Tables, StoreError> {
    let mut tables = Tables::default();
    // The locks of returns wait for certificates, so they come before the locks of accounts.
    let mut inputs = inputs.to_vec();
    inputs.sort_by_key(|due| due.kind != SweepKind::Return);
    for due in inputs {
        match due.kind {
            SweepKind::Reception => {
                let page = earliest::<pending_reception::Entity>(pending_reception::Column::DueAt, due.before);
                let late = source.page(page).await?;
                tables.more |= late.len() as u64 == ROWS_MAX;
                let subjects = late.iter().map(|row| match row.container {
                    true => Subject::Container(row.id),
                    false => Subject::Certificate(row.id),
                });
                purchases(source, subjects.collect(), &mut tables).await?;
            }
            SweepKind::Certificate => {
                let page = earliest::<certificate::Entity>(certificate::Column::ExpiresAt, due.before);
                let late = source.page(page).await?;
                tables.more |= late.len() as u64 == ROWS_MAX;
                let subjects = late.iter().map(|row| Subject::of(row.id, row.container));
                purchases(source, subjects.collect(), &mut tables).await?;
            }
            SweepKind::Return => returns(source, due.before, &mut tables).await?,
        }
    }
    Ok(tables)
}

/// The first rows whose deadline is before `before`.
fn earliest<E: sea_orm::EntityTrait>(deadline: E::Column, before: Timestamp) -> Page<E> {
    Page {
        filter: vec![(deadline, Comparison::Less, before.into())],
        constant: None,
        order: deadline,
        descending: false,
        limit: ROWS_MAX,
    }
}

/// Locks the certificates of these purchases that no other transaction has locked. A purchase is
/// swept as a whole or not at all.
async fn purchases<S: Source>(source: &S, subjects: Vec<Subject>, tables: &mut Tables) -> Result<(), StoreError> {
    let mut wanted = locks::Wanted::default();
    for subject in subjects {
        wanted.add(subject);
    }
    let locks::Wanted { certificates: mut ids, containers } = wanted;
    let containers: Vec<_> = containers.into_iter().collect();
    ids.extend(load::members(source, &containers).await?.iter().map(|row| row.id));
    let locked = locks::free_certificates(source, &ids).await?;

    let columns = [certificate_record::Column::Id];
    let records = keys(ids.iter().copied());
    select_into(source, &mut tables.records, &columns, records, Lock::None).await?;
    let mut live: BTreeMap<Uuid, usize> = BTreeMap::new();
    for row in tables.records.iter().filter(|row| row.ended.is_none() && ids.contains(&row.id)) {
        *live.entry(subject_of(row.id, row.container)).or_insert(0) += 1;
    }
    let mut groups: BTreeMap<Uuid, Vec<certificate::Model>> = BTreeMap::new();
    for row in locked {
        groups.entry(subject_of(row.id, row.container)).or_default().push(row);
    }
    groups.retain(|subject, group| live.get(subject) == Some(&group.len()));
    let users: BTreeSet<_> = groups.values().flatten().flat_map(holders).collect();
    locks::accounts(source, &users, tables).await?;
    load::pending_receptions(source, groups.keys().copied().collect(), tables).await?;
    for (subject, group) in groups {
        tables.certificates.cover_set(LIVE_IN_CONTAINER, subject);
        tables.certificates.cover(&[certificate::Column::Id], &keys(group.iter().map(|row| row.id)));
        tables.certificates.take(group);
    }
    Ok(())
}

/// The accounts of the user, if held points return to the user when the certificate ends.
fn holders(row: &certificate::Model) -> Vec<String> {
    let held = row.points.get() > 0 && row.settled_at.is_none();
    if held { points::accounts(&row.user).into() } else { Vec::new() }
}

/// Locks the certificates of late returns, and reads the returns again under the locks.
async fn returns<S: Source>(source: &S, before: Timestamp, tables: &mut Tables) -> Result<(), StoreError> {
    let page = Page::<license_return::Entity> {
        constant: Some((license_return::Column::State, Comparison::Equal, "opened")),
        ..earliest(license_return::Column::DeleteBy, before)
    };
    let late = source.page(page).await?;
    tables.more |= late.len() as u64 == ROWS_MAX;
    let wanted = locks::Wanted { certificates: late.iter().map(|row| row.certificate).collect(), ..Default::default() };
    locks::certificates(source, &wanted, tables).await?;
    locks::records(source, tables).await?;
    let licenses: Vec<_> = late.iter().map(|row| row.license).collect();
    load::licenses(source, &licenses, tables).await?;
    load::terms(source, tables).await
}

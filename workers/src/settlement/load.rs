//! Locks and reads the rows that a batch of settlements needs.

use std::collections::BTreeSet;

use licet_common::store::{Lock, Source, StoreError, keys, load as select_into};
use licet_schema::entity::{certificate_record, license, refund, reinstatement, settlement, unmatched_settlement};
use sea_orm::Value;
use uuid::Uuid;

use super::{Input, payout_load};
use crate::domain::{
    Tables,
    certificates::{Subject, subject_of},
    load, locks, points,
};

/// Takes the locks and reads the rows.
pub(super) async fn load<S: Source>(source: &S, inputs: &[&Input]) -> Result<Tables, StoreError> {
    let mut tables = Tables::default();
    let mut wanted = locks::Wanted::default();
    let named: BTreeSet<Subject> = inputs.iter().filter_map(|input| input.named()).map(|named| named.subject).collect();
    let refunded = refunded(source, inputs).await?;
    named.iter().chain(&refunded).for_each(|subject| wanted.add(*subject));
    let paid_out = payout_load::certificates(source, inputs).await?;
    wanted.certificates.extend(&paid_out);
    let members = members(source, &refunded).await?;
    let upgraded = upgraded_from(source, &members).await?;
    wanted.certificates.extend(&upgraded);
    locks::certificates(source, &wanted, &mut tables).await?;
    if upgraded_from(source, &members).await? != upgraded {
        return Err(StoreError::contended("a license of a refunded purchase was upgraded in the meantime"));
    }
    payout_load::rows(source, inputs, &mut tables).await?;
    if tables.returns.iter().any(|row| !paid_out.contains(&row.certificate)) {
        return Err(StoreError::contended("the return of a payout was opened in the meantime"));
    }
    settlements(source, inputs, &mut tables).await?;
    if is_about_another(inputs, &tables, &wanted) {
        return Err(StoreError::contended("a settlement of the batch was registered in the meantime"));
    }
    let mut ending: BTreeSet<_> = members.union(&upgraded).copied().collect();
    if tables.refunds.iter().next().is_some() {
        // A completion applies the refunds that arrived before it. Nothing of its purchase was
        // returned or upgraded yet.
        ending.extend(tables.certificates.iter().map(|row| row.id));
        ending.extend(tables.records.iter().map(|row| row.id));
    }
    endings(source, inputs, &ending, &mut tables).await?;
    if inputs.iter().any(|input| matches!(input, Input::Assignment(..))) {
        load::terms(source, &mut tables).await?;
    }
    let live = tables.certificates.iter().map(|row| subject_of(row.id, row.container));
    let pending = named.iter().chain(&refunded).map(|subject| subject.id()).chain(live).chain(upgraded).collect();
    load::pending_receptions(source, pending, &mut tables).await?;
    Ok(tables)
}

/// The purchases that reversals, reinstatements and assignments may change: those that they name,
/// those of the members that they name, and those that their settlements paid for.
async fn refunded<S: Source>(source: &S, inputs: &[&Input]) -> Result<BTreeSet<Subject>, StoreError> {
    let changing: Vec<_> = inputs.iter().copied().filter(|input| input.changes_paid_certificates()).collect();
    let mut purchases: BTreeSet<Subject> =
        changing.iter().filter_map(|input| input.named()).map(|named| named.subject).collect();
    // The container of a certificate never changes.
    let ids = keys(purchases.iter().filter_map(|subject| subject.certificate()));
    let columns = [certificate_record::Column::Id];
    let records = source.select::<certificate_record::Entity>(&columns, ids, Lock::None).await?;
    purchases.extend(records.iter().map(|row| Subject::of(row.id, row.container)));
    let columns = [settlement::Column::Provider, settlement::Column::ProviderReference];
    let settlements = source.select::<settlement::Entity>(&columns, settlement_keys(&changing), Lock::None).await?;
    purchases.extend(settlements.iter().filter_map(|row| Subject::of_either(row.certificate, row.container)));
    Ok(purchases)
}

/// Whether a reversal, reinstatement or assignment is about a settlement whose purchase is not
/// locked.
fn is_about_another(inputs: &[&Input], tables: &Tables, wanted: &locks::Wanted) -> bool {
    let changing = inputs.iter().filter(|input| input.changes_paid_certificates()).filter_map(|input| input.named());
    let changing: BTreeSet<_> = changing.map(|named| (named.provider, named.settlement)).collect();
    let is_locked = |row: &settlement::Model| match Subject::of_either(row.certificate, row.container) {
        Some(Subject::Certificate(id)) => wanted.certificates.contains(&id),
        Some(Subject::Container(id)) => wanted.containers.contains(&id),
        None => true,
    };
    let changed = tables.settlements.iter().filter(|row| changing.contains(&(&row.provider, &row.provider_reference)));
    changed.into_iter().any(|row| !is_locked(row))
}

/// The providers and ids of the reported settlements.
fn settlement_keys(inputs: &[&Input]) -> Vec<Vec<Value>> {
    let named: BTreeSet<_> =
        inputs.iter().filter_map(|input| input.named()).map(|named| (named.provider, named.settlement)).collect();
    named.into_iter().map(|(provider, id)| vec![provider.clone().into(), id.clone().into()]).collect()
}

/// The certificates of these purchases.
async fn members<S: Source>(source: &S, purchases: &BTreeSet<Subject>) -> Result<BTreeSet<Uuid>, StoreError> {
    let mut ids: BTreeSet<_> = purchases.iter().filter_map(|subject| subject.certificate()).collect();
    let containers: Vec<_> = purchases.iter().filter_map(|subject| subject.container()).collect();
    ids.extend(load::members(source, &containers).await?.iter().map(|row| row.id));
    Ok(ids)
}

/// The certificates that upgrades of these certificates' licenses created, and recursively the
/// certificates that upgrades of their licenses created.
async fn upgraded_from<S: Source>(source: &S, certificates: &BTreeSet<Uuid>) -> Result<BTreeSet<Uuid>, StoreError> {
    let mut found = BTreeSet::new();
    let mut next = certificates.clone();
    while !next.is_empty() {
        let mut tables = Tables::default();
        load::returns_of(source, &next, &mut tables).await?;
        let ids = keys(tables.returns.iter().map(|row| row.id));
        load::privileges(source, ids, &mut tables).await?;
        next = tables.privileges.iter().filter_map(|row| row.certificate).filter(|id| found.insert(*id)).collect();
    }
    Ok(found)
}

/// Locks and reads the registered settlements, refunds, reinstatements and unmatched money with the
/// reported ids.
async fn settlements<S: Source>(source: &S, inputs: &[&Input], tables: &mut Tables) -> Result<(), StoreError> {
    let keys = || settlement_keys(inputs);
    let columns = [settlement::Column::Provider, settlement::Column::ProviderReference];
    select_into(source, &mut tables.settlements, &columns, keys(), Lock::ForUpdate).await?;
    refunds(source, inputs, tables).await?;
    let columns = [unmatched_settlement::Column::Provider, unmatched_settlement::Column::Settlement];
    select_into(source, &mut tables.unmatched_settlements, &columns, keys(), Lock::ForUpdate).await
}

/// Locks and reads the refunds and reinstatements of the loaded settlements. A settlement that has
/// one of them also has a row.
async fn refunds<S: Source>(source: &S, inputs: &[&Input], tables: &mut Tables) -> Result<(), StoreError> {
    let keys = settlement_keys(inputs);
    let known =
        tables.settlements.iter().map(|row| vec![row.provider.clone().into(), row.provider_reference.clone().into()]);
    let known: Vec<Vec<Value>> = known.collect();
    let columns = [refund::Column::Provider, refund::Column::Settlement];
    select_into(source, &mut tables.refunds, &columns, known.clone(), Lock::ForUpdate).await?;
    tables.refunds.cover(&columns, &keys);
    let single = inputs.iter().filter_map(|input| match input {
        Input::Reversal(_, body) => Some((body, body.refund.as_ref().unwrap_or(&body.settlement))),
        _ => None,
    });
    let single: Vec<Vec<Value>> = single
        .map(|(body, id)| vec![body.provider.clone().into(), body.settlement.clone().into(), id.clone().into()])
        .collect();
    let columns = [refund::Column::Provider, refund::Column::Settlement, refund::Column::Refund];
    tables.refunds.cover(&columns, &single);
    let columns = [reinstatement::Column::Provider, reinstatement::Column::Settlement];
    select_into(source, &mut tables.reinstatements, &columns, known, Lock::ForUpdate).await?;
    tables.reinstatements.cover(&columns, &keys);
    Ok(())
}

/// Locks and reads the rows that endings and restorations change besides certificates: records,
/// points accounts, and the licenses, returns and privileges of the `refunded` certificates.
async fn endings<S: Source>(
    source: &S,
    inputs: &[&Input],
    refunded: &BTreeSet<Uuid>,
    tables: &mut Tables,
) -> Result<(), StoreError> {
    // A completion of a live purchase changes neither records nor accounts of users.
    let is_simple = refunded.is_empty() && inputs.iter().all(|input| matches!(input, Input::Completion(..)));
    if !is_simple {
        locks::records(source, tables).await?;
    }
    let users = tables.records.iter().filter(|row| !is_simple || (row.points.get() > 0 && row.settlement.is_none()));
    let users: BTreeSet<_> = users.flat_map(|row| points::accounts(&row.user)).collect();
    locks::accounts(source, &users, tables).await?;
    let ids = keys(refunded.iter().copied());
    select_into(source, &mut tables.licenses, &[license::Column::Certificate], ids, Lock::None).await?;
    load::returns_of(source, refunded, tables).await?;
    let returns = keys(tables.returns.iter().map(|row| row.id));
    load::privileges(source, returns, tables).await
}

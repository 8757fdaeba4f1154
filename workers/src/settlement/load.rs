//! Locks and reads the rows that a batch of settlements needs.

use std::collections::BTreeSet;

use licet_common::store::{Lock, Source, StoreError, keys, load as select_into};
use licet_schema::{
    entity::{license, license_return, payout, settlement, unmatched_settlement},
    message::PayoutCompletion,
};
use sea_orm::Value;
use uuid::Uuid;

use super::Input;
use crate::domain::{
    Tables,
    certificates::{Subject, subject_of},
    load, locks, points,
};

/// Takes the locks and reads the rows.
pub(super) async fn load<S: Source>(source: &S, inputs: &[&Input]) -> Result<Tables, StoreError> {
    let mut tables = Tables::default();
    let mut wanted = locks::Wanted::default();
    for subject in inputs.iter().filter_map(|input| input.subject()) {
        wanted.add(subject);
    }
    let paid_out = paid_out(source, inputs).await?;
    wanted.certificates.extend(&paid_out);
    let reversed = reversed(source, inputs).await?;
    let upgraded = upgraded_from(source, &reversed).await?;
    wanted.certificates.extend(&upgraded);
    locks::certificates(source, &wanted, &mut tables).await?;
    if upgraded_from(source, &reversed).await? != upgraded {
        return Err(StoreError::contended("a license of a reversed purchase was upgraded in the meantime"));
    }
    payouts(source, inputs, &mut tables).await?;
    if tables.returns.iter().any(|row| !paid_out.contains(&row.certificate)) {
        return Err(StoreError::contended("the return of a payout was opened in the meantime"));
    }
    settlements(source, inputs, &mut tables).await?;
    if ends_something(inputs, &tables) {
        endings(source, &reversed.union(&upgraded).copied().collect(), &mut tables).await?;
    }
    let named = inputs.iter().filter_map(|input| input.subject()).map(Subject::id);
    let live = tables.certificates.iter().map(|row| subject_of(row.id, row.container));
    let pending = named.chain(live).chain(upgraded).collect();
    load::pending_receptions(source, pending, &mut tables).await?;
    Ok(tables)
}

/// The payout reports of a batch.
fn payout_reports<'a>(inputs: &[&'a Input]) -> Vec<&'a PayoutCompletion> {
    let report = |input: &&'a Input| match *input {
        Input::Payout(body) => Some(body),
        Input::Completion(..) | Input::Failure(..) | Input::Reversal(..) => None,
    };
    inputs.iter().filter_map(report).collect()
}

/// The certificates of the returns that were paid out. No locks are needed, because the certificate
/// of a return never changes.
async fn paid_out<S: Source>(source: &S, inputs: &[&Input]) -> Result<Vec<Uuid>, StoreError> {
    let ids = keys(payout_reports(inputs).iter().map(|body| body.license_return));
    let returns = source.select::<license_return::Entity>(&[license_return::Column::Id], ids, Lock::None).await?;
    Ok(returns.iter().map(|row| row.certificate).collect())
}

/// Reads the reported payouts, their returns and the privileges of the returns. Two unique keys
/// ensure that a return is paid out only once and by only one payout. A second transaction that
/// violates one of them is retried.
async fn payouts<S: Source>(source: &S, inputs: &[&Input], tables: &mut Tables) -> Result<(), StoreError> {
    let reports = payout_reports(inputs);
    if reports.is_empty() {
        return Ok(());
    }
    let ids = || keys(reports.iter().map(|body| body.license_return));
    select_into(source, &mut tables.returns, &[license_return::Column::Id], ids(), Lock::None).await?;
    load::privileges(source, ids(), tables).await?;
    select_into(source, &mut tables.payouts, &[payout::Column::LicenseReturn], ids(), Lock::None).await?;
    let reported: Vec<Vec<Value>> =
        reports.iter().map(|body| vec![body.provider.clone().into(), body.payout.clone().into()]).collect();
    let columns = [payout::Column::Provider, payout::Column::Payout];
    select_into(source, &mut tables.payouts, &columns, reported, Lock::None).await
}

/// The certificates that reversals name, including the members of containers.
async fn reversed<S: Source>(source: &S, inputs: &[&Input]) -> Result<BTreeSet<Uuid>, StoreError> {
    let mut ids = BTreeSet::new();
    let mut containers = Vec::new();
    for input in inputs {
        match input {
            Input::Reversal(Subject::Certificate(id), _) => {
                ids.insert(*id);
            }
            Input::Reversal(Subject::Container(id), _) => containers.push(*id),
            Input::Completion(..) | Input::Failure(..) | Input::Payout(_) => {}
        }
    }
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

/// Locks and reads the registered settlements and unmatched payments with the reported ids.
async fn settlements<S: Source>(source: &S, inputs: &[&Input], tables: &mut Tables) -> Result<(), StoreError> {
    let named: BTreeSet<_> = inputs.iter().filter_map(|input| input.settlement()).collect();
    let keys = || named.iter().map(|(provider, id)| vec![(*provider).clone().into(), (*id).clone().into()]).collect();
    let columns = [settlement::Column::Provider, settlement::Column::ProviderReference];
    select_into(source, &mut tables.settlements, &columns, keys(), Lock::ForUpdate).await?;
    let columns = [unmatched_settlement::Column::Provider, unmatched_settlement::Column::Settlement];
    select_into(source, &mut tables.unmatched_settlements, &columns, keys(), Lock::ForUpdate).await
}

/// Whether a message of the batch may end a certificate. A completion ends one only if its reversal
/// arrived first.
fn ends_something(inputs: &[&Input], tables: &Tables) -> bool {
    inputs.iter().any(|input| !matches!(input, Input::Completion(..)))
        || tables.settlements.iter().any(|row| row.amount_minor.is_none())
}

/// Locks and reads the rows that endings change besides certificates: records, points accounts, and
/// the licenses, returns and privileges of the `reversed` certificates.
async fn endings<S: Source>(source: &S, reversed: &BTreeSet<Uuid>, tables: &mut Tables) -> Result<(), StoreError> {
    locks::records(source, tables).await?;
    let users: BTreeSet<_> = tables.records.iter().flat_map(|row| points::accounts(&row.user)).collect();
    locks::accounts(source, &users, tables).await?;
    let ids = keys(reversed.iter().copied());
    select_into(source, &mut tables.licenses, &[license::Column::Certificate], ids, Lock::None).await?;
    load::returns_of(source, reversed, tables).await?;
    let returns = keys(tables.returns.iter().map(|row| row.id));
    load::privileges(source, returns, tables).await
}

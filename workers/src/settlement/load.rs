//! Locks and reads the rows that a batch of settlements needs.

use std::collections::BTreeSet;

use licet_common::store::{Lock, Source, StoreError, keys, load as select_into};
use licet_schema::entity::{license, settlement, unmatched_settlement};
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
    for subject in inputs.iter().filter_map(|input| input.subject()) {
        wanted.add(subject);
    }
    let paid_out = payout_load::certificates(source, inputs).await?;
    wanted.certificates.extend(&paid_out);
    let reversed = reversed(source, inputs).await?;
    let upgraded = upgraded_from(source, &reversed).await?;
    wanted.certificates.extend(&upgraded);
    locks::certificates(source, &wanted, &mut tables).await?;
    if upgraded_from(source, &reversed).await? != upgraded {
        return Err(StoreError::contended("a license of a reversed purchase was upgraded in the meantime"));
    }
    payout_load::rows(source, inputs, &mut tables).await?;
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

//! Which rows a batch of settlements needs.

use std::collections::BTreeSet;

use licet_common::{
    decision::Tables,
    store::{
        StoreError, Transaction, locks,
        rows::{Lock, select},
    },
};
use licet_schema::entity::{license, license_return, payout, pending_reception, settlement, unmatched_settlement};
use sea_orm::Value;
use uuid::Uuid;

use super::Input;
use crate::{
    held::{Subject, subject_of},
    load, points,
};

/// Takes the locks and reads the rows.
pub(super) async fn load(connection: &Transaction, inputs: &[&Input]) -> Result<Tables, StoreError> {
    let mut tables = Tables::default();
    let mut wanted = wanted(inputs);
    let returns = payouts(connection, inputs, &mut tables).await?;
    wanted.certificates.extend(returns);
    let reversed = reversed(connection, inputs).await?;
    let upgraded = upgraded_from(connection, &reversed).await?;
    wanted.certificates.extend(&upgraded);
    locks::certificates(connection, &wanted, &mut tables).await?;
    if upgraded_from(connection, &reversed).await? != upgraded {
        return Err(StoreError::Contended("a license of what is reversed was upgraded meanwhile".into()));
    }
    settlements(connection, inputs, &mut tables).await?;
    if ends_something(inputs, &tables) {
        endings(connection, &reversed.union(&upgraded).copied().collect(), &mut tables).await?;
    }
    receptions(connection, &mut tables).await?;
    Ok(tables)
}

fn wanted(inputs: &[&Input]) -> locks::Wanted {
    let mut wanted = locks::Wanted::default();
    for subject in inputs.iter().filter_map(|input| input.subject()) {
        match subject {
            Subject::Certificate(id) => wanted.certificates.insert(id),
            Subject::Container(id) => wanted.containers.insert(id),
        };
    }
    wanted
}

/// What was told of these payouts and their returns: the certificates that they go back to.
async fn payouts(connection: &Transaction, inputs: &[&Input], tables: &mut Tables) -> Result<Vec<Uuid>, StoreError> {
    let told = || {
        inputs.iter().filter_map(|input| match input {
            Input::Payout(told) => Some(told),
            Input::Completion(_) | Input::Failure(_) | Input::Reversal(_) => None,
        })
    };
    let ids = || told().map(|told| vec![told.license_return.into()]).collect::<Vec<Vec<Value>>>();
    if ids().is_empty() {
        return Ok(Vec::new());
    }
    // Resolved without locks: a completed return never changes. That one is paid out once, and by
    // one payout, two keys see to; whoever comes second begins again.
    let columns = [license_return::Column::Id];
    tables.returns.load_all(select::<license_return::Entity>(connection, &columns, ids(), Lock::None).await?);
    load::privileges(connection, ids(), tables).await?;
    let columns = [payout::Column::LicenseReturn];
    tables.payouts.load_all(select::<payout::Entity>(connection, &columns, ids(), Lock::None).await?);
    let keys = told().map(|told| vec![told.provider.as_str().into(), told.payout.as_str().into()]).collect();
    let columns = [payout::Column::Provider, payout::Column::Payout];
    tables.payouts.load_all(select::<payout::Entity>(connection, &columns, keys, Lock::None).await?);
    Ok(tables.returns.iter().map(|row| row.certificate).collect())
}

/// The certificates that reversals name, members of containers among them.
async fn reversed(connection: &Transaction, inputs: &[&Input]) -> Result<BTreeSet<Uuid>, StoreError> {
    let mut ids = BTreeSet::new();
    let mut containers = Vec::new();
    for input in inputs {
        match (input, input.subject()) {
            (Input::Reversal(_), Some(Subject::Certificate(id))) => {
                ids.insert(id);
            }
            (Input::Reversal(_), Some(Subject::Container(id))) => containers.push(id),
            _ => {}
        }
    }
    ids.extend(load::members(connection, &containers).await?.iter().map(|row| row.id));
    Ok(ids)
}

/// The certificates that upgrades made of the licenses of these, and of those, and so on.
async fn upgraded_from(connection: &Transaction, certificates: &BTreeSet<Uuid>) -> Result<BTreeSet<Uuid>, StoreError> {
    let mut found = BTreeSet::new();
    let mut next = certificates.clone();
    while !next.is_empty() {
        let mut tables = Tables::default();
        load::returns_of(connection, &next, &mut tables).await?;
        let ids = tables.returns.iter().map(|row| vec![row.id.into()]).collect();
        load::privileges(connection, ids, &mut tables).await?;
        next = tables.privileges.iter().filter_map(|row| row.certificate).filter(|id| found.insert(*id)).collect();
    }
    Ok(found)
}

/// What was told of these settlements before.
async fn settlements(connection: &Transaction, inputs: &[&Input], tables: &mut Tables) -> Result<(), StoreError> {
    let keys = || {
        let named = inputs.iter().filter_map(|input| input.settlement());
        named.map(|(provider, id)| vec![provider.as_str().into(), id.as_str().into()]).collect()
    };
    let columns = [settlement::Column::Provider, settlement::Column::Settlement];
    let known = select::<settlement::Entity>(connection, &columns, keys(), Lock::ForUpdate).await?;
    tables.settlements.load_all(known);
    let columns = [unmatched_settlement::Column::Provider, unmatched_settlement::Column::Settlement];
    let unmatched = select::<unmatched_settlement::Entity>(connection, &columns, keys(), Lock::ForUpdate).await?;
    tables.unmatched_settlements.load_all(unmatched);
    Ok(())
}

/// Whether anything of this batch is more than a plain completion, which ends no certificate: one
/// whose reversal came first does.
fn ends_something(inputs: &[&Input], tables: &Tables) -> bool {
    inputs.iter().any(|input| !matches!(input, Input::Completion(_)))
        || tables.settlements.iter().any(|row| row.amount_minor.is_none())
}

/// What endings change besides certificates: purchases, points, and what `reversed` ones granted.
async fn endings(connection: &Transaction, reversed: &BTreeSet<Uuid>, tables: &mut Tables) -> Result<(), StoreError> {
    locks::purchases(connection, tables).await?;
    let users: BTreeSet<_> = tables.purchases.iter().flat_map(|row| points::accounts(&row.user)).collect();
    locks::accounts(connection, &users, tables).await?;
    let keys = reversed.iter().map(|id| vec![(*id).into()]).collect();
    let columns = [license::Column::Certificate];
    tables.licenses.load_all(select::<license::Entity>(connection, &columns, keys, Lock::None).await?);
    load::returns_of(connection, reversed, tables).await?;
    let ids = tables.returns.iter().map(|row| vec![row.id.into()]).collect();
    load::privileges(connection, ids, tables).await
}

/// What still waits for its reception.
async fn receptions(connection: &Transaction, tables: &mut Tables) -> Result<(), StoreError> {
    let waiting = tables.certificates.iter().filter(|row| row.received_at.is_none());
    let subjects: BTreeSet<_> = waiting.map(|row| subject_of(row.id, row.container)).collect();
    let keys = subjects.into_iter().map(|id| vec![id.into()]).collect();
    let columns = [pending_reception::Column::Id];
    let pending = select::<pending_reception::Entity>(connection, &columns, keys, Lock::None).await?;
    tables.pending_receptions.load_all(pending);
    Ok(())
}

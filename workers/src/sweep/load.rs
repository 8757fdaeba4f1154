//! Which rows a sweep needs: candidates are read unlocked; of the certificates, those that nobody
//! else is at are locked; what late returns go back to is locked in its turn.

use std::collections::{BTreeMap, BTreeSet};

use licet_common::{
    decision::Tables,
    store::{
        StoreError, Transaction, locks,
        rows::{Lock, below, select},
    },
};
use licet_schema::{
    entity::{certificate, license_return, pending_reception, purchase},
    message::{SweepDue, SweepKind},
};
use uuid::Uuid;

use super::PORTION;
use crate::{
    held::{Subject, subject_of},
    load, points,
};

/// Reads one portion for each input. What is not overdue by the time of the decision stays.
pub(super) async fn load(connection: &Transaction, inputs: &[&SweepDue]) -> Result<Tables, StoreError> {
    let mut tables = Tables::default();
    for due in inputs {
        let before = due.before.as_millis();
        match due.kind {
            SweepKind::Reception => {
                let column = pending_reception::Column::DueAt;
                let late = below::<pending_reception::Entity>(connection, column, "", before, PORTION).await?;
                tables.more |= late.len() as u64 == PORTION;
                let subjects = late.iter().map(|row| match row.container {
                    true => Subject::Container(row.id),
                    false => Subject::Certificate(row.id),
                });
                purchases(connection, subjects.collect(), &mut tables).await?;
            }
            SweepKind::Certificate => {
                let column = certificate::Column::ExpiresAt;
                let late = below::<certificate::Entity>(connection, column, "", before, PORTION).await?;
                tables.more |= late.len() as u64 == PORTION;
                let subjects = late.iter().map(|row| Subject::of(row.id, row.container));
                purchases(connection, subjects.collect(), &mut tables).await?;
            }
            SweepKind::Return => returns(connection, before, &mut tables).await?,
        }
    }
    Ok(tables)
}

/// Locks the certificates of these purchases, as far as they are free. What is ended whole is taken
/// whole or left.
async fn purchases(connection: &Transaction, subjects: Vec<Subject>, tables: &mut Tables) -> Result<(), StoreError> {
    let (mut ids, mut containers) = (BTreeSet::new(), BTreeSet::new());
    for subject in subjects {
        match subject {
            Subject::Certificate(id) => ids.insert(id),
            Subject::Container(id) => containers.insert(id),
        };
    }
    let containers: Vec<_> = containers.into_iter().collect();
    ids.extend(load::members(connection, &containers).await?.iter().map(|row| row.id));
    let locked = locks::free_certificates(connection, &ids).await?;

    let keys = ids.iter().map(|id| vec![(*id).into()]).collect();
    let bought = select::<purchase::Entity>(connection, &[purchase::Column::Id], keys, Lock::None).await?;
    let mut live: BTreeMap<Uuid, usize> = BTreeMap::new();
    for row in bought.iter().filter(|row| row.ended.is_none()) {
        *live.entry(subject_of(row.id, row.container)).or_default() += 1;
    }
    tables.purchases.load_all(bought);
    let mut groups: BTreeMap<Uuid, Vec<certificate::Model>> = BTreeMap::new();
    for row in locked {
        groups.entry(subject_of(row.id, row.container)).or_default().push(row);
    }
    groups.retain(|subject, group| live.get(subject) == Some(&group.len()));
    let users: BTreeSet<_> = groups.values().flatten().flat_map(holders).collect();
    locks::accounts(connection, &users, tables).await?;
    let keys = groups.keys().map(|id| vec![(*id).into()]).collect();
    let columns = [pending_reception::Column::Id];
    let pending = select::<pending_reception::Entity>(connection, &columns, keys, Lock::None).await?;
    tables.pending_receptions.load_all(pending);
    tables.certificates.load_all(groups.into_values().flatten());
    Ok(())
}

/// The accounts of whoever gets points back if the certificate ends.
fn holders(row: &certificate::Model) -> Vec<String> {
    let held = row.points > 0 && row.settled_at.is_none();
    if held { points::accounts(&row.user).into() } else { Vec::new() }
}

/// Locks what late returns go back to, and reads them again.
async fn returns(connection: &Transaction, before: i64, tables: &mut Tables) -> Result<(), StoreError> {
    let column = license_return::Column::DeleteBy;
    let late = below::<license_return::Entity>(connection, column, "state = 'opened'", before, PORTION).await?;
    tables.more |= late.len() as u64 == PORTION;
    let wanted = locks::Wanted { certificates: late.iter().map(|row| row.certificate).collect(), ..Default::default() };
    locks::certificates(connection, &wanted, tables).await?;
    locks::purchases(connection, tables).await?;
    let licenses: Vec<_> = late.iter().map(|row| row.license).collect();
    load::licenses(connection, &licenses, tables).await?;
    load::terms(connection, tables).await
}

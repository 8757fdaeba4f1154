//! Which rows a query needs.

use std::collections::BTreeSet;

use licet_common::{
    decision::Tables,
    store::{
        StoreError, Transaction, locks,
        rows::{Lock, select},
    },
};
use licet_schema::{
    entity::{LicenseState, certificate, license, license_return, purchase, settlement},
    message::{HoldingsQuery, PAGE_MAX, StatusQuery},
};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Value};
use uuid::Uuid;

use super::page;
use crate::{held::Subject, load, points};

/// Reads a page of a user's licenses, and one more, with what belongs to them.
pub(super) async fn holdings(
    connection: &Transaction,
    query: &HoldingsQuery,
    tables: &mut Tables,
) -> Result<(), StoreError> {
    let user = query.user.as_str();
    locks::look_at_accounts(connection, &points::accounts(user), tables).await?;
    let held = license::Entity::find()
        .filter(license::Column::User.eq(user))
        .filter(license::Column::State.ne(LicenseState::Revoked))
        .filter(license::Column::Id.gt(query.after.unwrap_or_default()))
        .order_by_asc(license::Column::Id)
        .limit(page(query) as u64 + 1);
    let held = held.all(connection).await?;
    let ids: Vec<_> = held.iter().map(|row| row.id).collect();
    let keys = held.iter().map(|row| vec![row.certificate.into()]).collect();
    tables.licenses.load_all(held);
    bought(connection, purchase::Column::Id, keys, tables).await?;
    load::licenses(connection, &ids, tables).await?;
    load::terms(connection, tables).await
}

/// Reads the certificates that a query leads to.
pub(super) async fn status(
    connection: &Transaction,
    query: &StatusQuery,
    tables: &mut Tables,
) -> Result<(), StoreError> {
    let mut subjects: BTreeSet<Subject> = query.certificate.map(Subject::Certificate).into_iter().collect();
    subjects.extend(query.container.map(Subject::Container));
    if let Some(id) = query.license {
        load::licenses(connection, &[id], tables).await?;
        let standing = tables.licenses.get(&id).map(|row| row.certificate);
        let returned = || tables.returns.iter().find(|row| row.license == id).map(|row| row.certificate);
        subjects.extend(standing.or_else(returned).map(Subject::Certificate));
    }
    if let Some(id) = query.license_return {
        let columns = [license_return::Column::Id];
        let rows = select::<license_return::Entity>(connection, &columns, vec![vec![id.into()]], Lock::None).await?;
        subjects.extend(rows.iter().map(|row| Subject::Certificate(row.certificate)));
        tables.returns.load_all(rows);
    }
    if let Some(id) = &query.settlement {
        let columns = [settlement::Column::Settlement];
        let keys = vec![vec![id.as_str().into()]];
        let rows = select::<settlement::Entity>(connection, &columns, keys, Lock::None).await?;
        subjects.extend(rows.iter().filter_map(|row| row.container.map(Subject::Container)));
        subjects.extend(rows.iter().filter_map(|row| row.certificate.map(Subject::Certificate)));
        tables.settlements.load_all(rows);
    }
    if let Some(reference) = &query.reference {
        let named = purchase::Entity::find()
            .filter(purchase::Column::Reference.eq(reference.as_str()))
            .order_by_desc(purchase::Column::Id)
            .limit(PAGE_MAX.unsigned_abs());
        let keys = named.all(connection).await?.iter().map(|row| vec![row.id.into()]).collect();
        bought(connection, purchase::Column::Id, keys, tables).await?;
    }
    for subject in subjects {
        // Unpaid certificates end with their container: all of it tells whether they are overdue.
        let column = match subject {
            Subject::Certificate(_) => purchase::Column::Id,
            Subject::Container(_) => purchase::Column::Container,
        };
        bought(connection, column, vec![vec![subject.id().into()]], tables).await?;
    }
    let containers: Vec<Uuid> = tables.purchases.iter().filter_map(|row| row.container).collect();
    let containers = containers.into_iter().map(|id| vec![id.into()]).collect();
    bought(connection, purchase::Column::Container, containers, tables).await
}

/// Reads purchases, and their certificates where they live.
async fn bought(
    connection: &Transaction,
    column: purchase::Column,
    keys: Vec<Vec<Value>>,
    tables: &mut Tables,
) -> Result<(), StoreError> {
    let rows = select::<purchase::Entity>(connection, &[column], keys, Lock::None).await?;
    let keys = rows.iter().map(|row| vec![row.id.into()]).collect();
    tables.purchases.load_all(rows);
    let columns = [certificate::Column::Id];
    tables.certificates.load_all(select::<certificate::Entity>(connection, &columns, keys, Lock::None).await?);
    Ok(())
}

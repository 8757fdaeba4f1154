//! Rows that several workers read alike, one query for each table. What is locked, and in which
//! order, is the store's (`licet_common::store::locks`).

use std::collections::BTreeSet;

use licet_common::{
    decision::Tables,
    store::{
        StoreError, Transaction,
        rows::{Lock, select},
    },
};
use licet_schema::entity::{content, license, license_return, privilege, purchase};
use sea_orm::Value;
use uuid::Uuid;

/// Reads what is sold now of the contents of these names, in every version.
pub(crate) async fn contents_sold(
    connection: &Transaction,
    names: BTreeSet<&str>,
    tables: &mut Tables,
) -> Result<(), StoreError> {
    let keys = names.into_iter().map(|name| vec![name.into(), true.into()]).collect();
    let columns = [content::Column::Content, content::Column::Current];
    tables.contents.load_all(select::<content::Entity>(connection, &columns, keys, Lock::None).await?);
    Ok(())
}

/// Reads the terms under which the purchases at hand were made, and what is sold now of their
/// successors.
pub(crate) async fn terms(connection: &Transaction, tables: &mut Tables) -> Result<(), StoreError> {
    let keys: BTreeSet<_> =
        tables.purchases.iter().map(|row| (row.content.clone(), row.version, row.revision)).collect();
    let keys = keys.into_iter().map(|(name, version, revision)| vec![name.into(), version.into(), revision.into()]);
    let columns = [content::Column::Content, content::Column::Version, content::Column::Revision];
    let terms = select::<content::Entity>(connection, &columns, keys.collect(), Lock::None).await?;
    let successors = terms.iter().filter(|row| row.return_upgrade).filter_map(|row| row.successor_content.as_deref());
    contents_sold(connection, successors.collect(), tables).await?;
    tables.contents.load_all(terms);
    Ok(())
}

/// Reads licenses and their returns.
pub(crate) async fn licenses(connection: &Transaction, ids: &[Uuid], tables: &mut Tables) -> Result<(), StoreError> {
    let keys = || ids.iter().map(|id| vec![(*id).into()]).collect();
    tables.licenses.load_all(select::<license::Entity>(connection, &[license::Column::Id], keys(), Lock::None).await?);
    let columns = [license_return::Column::License];
    tables.returns.load_all(select::<license_return::Entity>(connection, &columns, keys(), Lock::None).await?);
    Ok(())
}

/// Reads licenses and, for those that are no longer there, what became of them.
pub(crate) async fn licenses_or_returns(
    connection: &Transaction,
    ids: &[Uuid],
    tables: &mut Tables,
) -> Result<(), StoreError> {
    let keys = ids.iter().map(|id| vec![(*id).into()]).collect();
    tables.licenses.load_all(select::<license::Entity>(connection, &[license::Column::Id], keys, Lock::None).await?);
    let gone = ids.iter().filter(|id| tables.licenses.get(id).is_none());
    let keys = gone.map(|id| vec![(*id).into()]).collect();
    let columns = [license_return::Column::License];
    tables.returns.load_all(select::<license_return::Entity>(connection, &columns, keys, Lock::None).await?);
    Ok(())
}

/// Reads the returns of these certificates' licenses.
pub(crate) async fn returns_of(
    connection: &Transaction,
    certificates: &BTreeSet<Uuid>,
    tables: &mut Tables,
) -> Result<(), StoreError> {
    let keys = certificates.iter().map(|id| vec![(*id).into()]).collect();
    let columns = [license_return::Column::Certificate];
    tables.returns.load_all(select::<license_return::Entity>(connection, &columns, keys, Lock::None).await?);
    Ok(())
}

/// Reads what these returns brought.
pub(crate) async fn privileges(
    connection: &Transaction,
    returns: Vec<Vec<Value>>,
    tables: &mut Tables,
) -> Result<(), StoreError> {
    let columns = [privilege::Column::Id];
    tables.privileges.load_all(select::<privilege::Entity>(connection, &columns, returns, Lock::None).await?);
    Ok(())
}

/// Every certificate ever issued in these containers.
pub(crate) async fn members(connection: &Transaction, containers: &[Uuid]) -> Result<Vec<purchase::Model>, StoreError> {
    let keys = containers.iter().map(|id| vec![(*id).into()]).collect();
    select::<purchase::Entity>(connection, &[purchase::Column::Container], keys, Lock::None).await
}

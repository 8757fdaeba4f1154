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
use licet_schema::entity::{content, license, license_return};
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

/// Reads licenses and, for those that are no longer there, what became of them.
pub(crate) async fn licenses(connection: &Transaction, ids: &[Uuid], tables: &mut Tables) -> Result<(), StoreError> {
    let keys = || ids.iter().map(|id| vec![(*id).into()]).collect();
    tables.licenses.load_all(select::<license::Entity>(connection, &[license::Column::Id], keys(), Lock::None).await?);
    let columns = [license_return::Column::License];
    tables.returns.load_all(select::<license_return::Entity>(connection, &columns, keys(), Lock::None).await?);
    Ok(())
}

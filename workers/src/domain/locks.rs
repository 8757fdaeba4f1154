//! The order of locks, the same for every worker, so that two can never wait for each other:
//! certificates by id; for ids without a live certificate, their purchases; then accounts by name.
//! Contents are never locked.

use std::collections::BTreeSet;

use licet_schema::entity::{account, certificate, purchase};
use sea_orm::ConnectionTrait;
use uuid::Uuid;

use super::{
    StoreError,
    rows::{Lock, select},
};
use crate::decision::Tables;

/// Certificates to lock: by their own id, or all members of a container.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Certificates.
    pub certificates: BTreeSet<Uuid>,
    /// Containers.
    pub containers: BTreeSet<Uuid>,
}

/// Locks the certificates in key order. Those that have ended are read as purchases instead.
///
/// # Errors
/// The database's; [`StoreError::Contended`] if a certificate came back to life meanwhile.
pub async fn certificates(
    connection: &impl ConnectionTrait,
    wanted: &Wanted,
    tables: &mut Tables,
) -> Result<(), StoreError> {
    // Resolved without locks: a container's members never change.
    let containers = wanted.containers.iter().map(|id| vec![(*id).into()]).collect();
    let members =
        select::<purchase::Entity>(connection, &[purchase::Column::Container], containers, Lock::None).await?;
    let mut ids = wanted.certificates.clone();
    ids.extend(members.iter().map(|member| member.id));

    let keys = ids.iter().map(|id| vec![(*id).into()]).collect();
    let live = select::<certificate::Entity>(connection, &[certificate::Column::Id], keys, Lock::ForUpdate).await?;
    for row in live {
        ids.remove(&row.id);
        tables.certificates.load(row);
    }

    // Whoever ended a certificate while this waited for it has committed by now: a new statement
    // sees what they left. The lock keeps a reissue from bringing it back before this is done.
    let keys = ids.iter().map(|id| vec![(*id).into()]).collect();
    let ended = select::<purchase::Entity>(connection, &[purchase::Column::Id], keys, Lock::ForUpdate).await?;
    if let Some(alive) = ended.iter().find(|row| row.ended.is_none()) {
        return Err(StoreError::Contended(format!("certificate {} came back to life meanwhile", alive.id)));
    }
    tables.purchases.load_all(ended);
    Ok(())
}

/// Locks those of these certificates that nobody else has locked, and waits for none.
///
/// # Errors
/// The database's.
pub async fn free_certificates(
    connection: &impl ConnectionTrait,
    ids: &BTreeSet<Uuid>,
) -> Result<Vec<certificate::Model>, StoreError> {
    let keys = ids.iter().map(|id| vec![(*id).into()]).collect();
    select::<certificate::Entity>(connection, &[certificate::Column::Id], keys, Lock::Free).await
}

/// The purchases of the live certificates that are locked: what is written when they end.
///
/// # Errors
/// The database's.
pub async fn purchases(connection: &impl ConnectionTrait, tables: &mut Tables) -> Result<(), StoreError> {
    let keys = tables.certificates.iter().map(|row| vec![row.id.into()]).collect();
    tables.purchases.load_all(select::<purchase::Entity>(connection, &[purchase::Column::Id], keys, Lock::None).await?);
    Ok(())
}

/// Reads accounts as they are, for who only looks.
///
/// # Errors
/// The database's.
pub async fn look_at_accounts(
    connection: &impl ConnectionTrait,
    names: &[String],
    tables: &mut Tables,
) -> Result<(), StoreError> {
    let keys = names.iter().map(|name| vec![name.clone().into()]).collect();
    tables.accounts.load_all(select::<account::Entity>(connection, &[account::Column::Name], keys, Lock::None).await?);
    Ok(())
}

/// Locks accounts in name order. One that is not there is opened by whoever first books on it: two
/// who do so at once meet at its key, and the later begins again. What was opened while this waited
/// for another account is seen by a new statement only, and must not be missed: a debt is repaid
/// from whatever is credited.
///
/// # Errors
/// The database's.
pub async fn accounts(
    connection: &impl ConnectionTrait,
    names: &BTreeSet<String>,
    tables: &mut Tables,
) -> Result<(), StoreError> {
    let mut names = names.clone();
    for _ in 0..2 {
        let keys = names.iter().map(|name| vec![name.clone().into()]).collect();
        let locked = select::<account::Entity>(connection, &[account::Column::Name], keys, Lock::ForUpdate).await?;
        for row in locked {
            names.remove(&row.name);
            tables.accounts.load(row);
        }
    }
    Ok(())
}

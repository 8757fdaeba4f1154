//! The order in which every worker locks rows, so that no two transactions wait for each other:
//! first references by key (only in the purchase worker), then certificates by id, then the records
//! of certificates that have ended, then settlements by key (only in the settlement worker and, for
//! refunded payments, in the return worker), then accounts by name. Rows of `content` are never
//! locked.

use std::collections::BTreeSet;

use licet_common::store::{Lock, Source, StoreError, keys, load};
use licet_schema::{
    ExternalId,
    entity::{account, certificate, certificate_record, reference},
};
use uuid::Uuid;

use super::{
    certificates::Subject,
    tables::{ENDED, ENDED_IN_CONTAINER, LIVE_IN_CONTAINER, Tables},
};

/// Certificates to lock: by their own id, or all members of a container.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// Certificates.
    pub(crate) certificates: BTreeSet<Uuid>,
    /// Containers.
    pub(crate) containers: BTreeSet<Uuid>,
}

impl Wanted {
    /// Adds a purchase.
    pub(crate) fn add(&mut self, subject: Subject) {
        match subject {
            Subject::Certificate(id) => self.certificates.insert(id),
            Subject::Container(id) => self.containers.insert(id),
        };
    }
}

/// Locks the rows of these references, and then the certificates of all purchases that used them.
/// If two transactions use a reference at the same time, both add a row with the same number of
/// earlier purchases. The later transaction violates the key and is retried.
///
/// # Errors
/// The same as for [`certificates`].
pub(crate) async fn references<S: Source>(
    source: &S,
    references: &BTreeSet<ExternalId>,
    tables: &mut Tables,
) -> Result<(), StoreError> {
    if references.is_empty() {
        return Ok(());
    }
    let keys = keys(references.iter().cloned());
    load(source, &mut tables.references, &[reference::Column::Reference], keys, Lock::ForUpdate).await?;
    let mut wanted = Wanted::default();
    for row in tables.references.iter() {
        wanted.add(Subject::of_row(row));
    }
    certificates(source, &wanted, tables).await
}

/// Locks certificates in key order. For certificates that have ended, locks their records instead.
///
/// # Errors
/// The database reports an error, or a certificate was reissued in the meantime
/// ([`StoreError::Contended`]).
pub(crate) async fn certificates<S: Source>(
    source: &S,
    wanted: &Wanted,
    tables: &mut Tables,
) -> Result<(), StoreError> {
    // No locks are needed to resolve containers, because their members never change.
    let containers = keys(wanted.containers.iter().copied());
    let members = source
        .select::<certificate_record::Entity>(&[certificate_record::Column::Container], containers, Lock::None)
        .await?;
    let mut ids = wanted.certificates.clone();
    ids.extend(members.iter().map(|member| member.id));

    let all = keys(ids.iter().copied());
    load(source, &mut tables.certificates, &[certificate::Column::Id], all, Lock::ForUpdate).await?;
    for id in &ids {
        tables.records.cover_set(ENDED, *id);
    }
    for id in &wanted.containers {
        tables.certificates.cover_set(LIVE_IN_CONTAINER, *id);
        tables.records.cover_set(ENDED_IN_CONTAINER, *id);
    }

    // If another transaction ended a certificate while this one waited for its lock, that
    // transaction has committed by now, so a new statement sees the record. The lock on the record
    // prevents a reissue from reviving the certificate.
    let live: BTreeSet<Uuid> = tables.certificates.iter().map(|row| row.id).collect();
    let ended = keys(ids.difference(&live).copied());
    let columns = [certificate_record::Column::Id];
    load(source, &mut tables.records, &columns, ended, Lock::ForUpdate).await?;
    if let Some(alive) =
        tables.records.iter().find(|row| row.ended.is_none() && ids.contains(&row.id) && !live.contains(&row.id))
    {
        return Err(StoreError::contended(format!("certificate {} was reissued in the meantime", alive.id)));
    }
    Ok(())
}

/// Locks the certificates that no other transaction has locked. Skips the others without waiting.
///
/// # Errors
/// The database reports an error.
pub(crate) async fn free_certificates<S: Source>(
    source: &S,
    ids: &BTreeSet<Uuid>,
) -> Result<Vec<certificate::Model>, StoreError> {
    let ids = keys(ids.iter().copied());
    source.select::<certificate::Entity>(&[certificate::Column::Id], ids, Lock::SkipLocked).await
}

/// Reads the records of the locked live certificates. A record changes when its certificate ends.
///
/// # Errors
/// The database reports an error.
pub(crate) async fn records<S: Source>(source: &S, tables: &mut Tables) -> Result<(), StoreError> {
    let ids = keys(tables.certificates.iter().map(|row| row.id));
    load(source, &mut tables.records, &[certificate_record::Column::Id], ids, Lock::None).await
}

/// Reads accounts without locking them.
///
/// # Errors
/// The database reports an error.
pub(crate) async fn read_accounts<S: Source>(
    source: &S,
    names: &[String],
    tables: &mut Tables,
) -> Result<(), StoreError> {
    let names = keys(names.iter().cloned());
    load(source, &mut tables.accounts, &[account::Column::Name], names, Lock::None).await
}

/// Locks accounts in the order of their names. The first transaction that books points on an
/// account creates its row. If two transactions create it at the same time, the later one violates
/// the key and is retried.
///
/// If another transaction created one of the accounts while this one waited for a lock, only a new
/// statement sees it. A second statement therefore looks for missing accounts: a debt must not be
/// overlooked, because credited points repay it first.
///
/// # Errors
/// The database reports an error.
pub(crate) async fn accounts<S: Source>(
    source: &S,
    names: &BTreeSet<String>,
    tables: &mut Tables,
) -> Result<(), StoreError> {
    let mut missing = names.clone();
    for _ in 0..2 {
        let names = keys(missing.iter().cloned());
        load(source, &mut tables.accounts, &[account::Column::Name], names, Lock::ForUpdate).await?;
        for row in tables.accounts.iter() {
            missing.remove(&row.name);
        }
    }
    Ok(())
}

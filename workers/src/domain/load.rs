//! Queries that several workers use, one for each table. The module [`super::locks`] defines which
//! rows are locked and in which order.

use std::collections::{BTreeMap, BTreeSet};

use licet_common::store::{Lock, Source, StoreError, keys, load};
use licet_schema::{
    ExternalId, Name,
    entity::{
        ReturnState, certificate_record, content, license, license_return, pending_reception, privilege, refund,
        settlement,
    },
};
use sea_orm::Value;
use uuid::Uuid;

use super::tables::Tables;

/// Reads the current revision of every version of these content items.
pub(crate) async fn contents_sold<S: Source>(
    source: &S,
    names: BTreeSet<Name>,
    tables: &mut Tables,
) -> Result<(), StoreError> {
    let keys = names.into_iter().map(|name| vec![name.into(), true.into()]).collect();
    let columns = [content::Column::Content, content::Column::Current];
    load(source, &mut tables.contents, &columns, keys, Lock::None).await
}

/// Reads the terms under which the loaded certificates were bought, and the current revisions of
/// their successors.
pub(crate) async fn terms<S: Source>(source: &S, tables: &mut Tables) -> Result<(), StoreError> {
    let keys: BTreeSet<_> = tables.records.iter().map(|row| (row.content.clone(), row.version, row.revision)).collect();
    let keys = keys.into_iter().map(|(name, version, revision)| vec![name.into(), version.into(), revision.into()]);
    let columns = [content::Column::Content, content::Column::Version, content::Column::Revision];
    load(source, &mut tables.contents, &columns, keys.collect(), Lock::None).await?;
    let upgradable = tables.contents.iter().filter(|row| row.return_upgrade);
    let successors = upgradable.filter_map(|row| row.successor_content.clone()).collect();
    contents_sold(source, successors, tables).await
}

/// Reads licenses and their returns.
pub(crate) async fn licenses<S: Source>(source: &S, ids: &[Uuid], tables: &mut Tables) -> Result<(), StoreError> {
    let ids = keys(ids.iter().copied());
    load(source, &mut tables.licenses, &[license::Column::Id], ids.clone(), Lock::None).await?;
    load(source, &mut tables.returns, &[license_return::Column::License], ids, Lock::None).await
}

/// Reads licenses. For licenses that no longer exist, reads their returns instead.
pub(crate) async fn licenses_or_returns<S: Source>(
    source: &S,
    ids: &[Uuid],
    tables: &mut Tables,
) -> Result<(), StoreError> {
    let all = keys(ids.iter().copied());
    load(source, &mut tables.licenses, &[license::Column::Id], all, Lock::None).await?;
    let standing: BTreeSet<Uuid> = tables.licenses.iter().map(|row| row.id).collect();
    let gone = keys(ids.iter().copied().filter(|id| !standing.contains(id)));
    load(source, &mut tables.returns, &[license_return::Column::License], gone, Lock::None).await
}

/// Reads the returns of all licenses of these certificates.
pub(crate) async fn returns_of<S: Source>(
    source: &S,
    certificates: &BTreeSet<Uuid>,
    tables: &mut Tables,
) -> Result<(), StoreError> {
    let keys = keys(certificates.iter().copied());
    load(source, &mut tables.returns, &[license_return::Column::Certificate], keys, Lock::None).await
}

/// The origins of these certificates: the certificates that were paid for. The origin of an upgrade
/// is that of the certificate whose license was returned for it. Any other certificate is its own
/// origin. Reads the returns and privileges that connect them. No locks are needed, because these
/// rows never change.
pub(crate) async fn origins<S: Source>(
    source: &S,
    certificates: &BTreeSet<Uuid>,
    tables: &mut Tables,
) -> Result<BTreeSet<Uuid>, StoreError> {
    let (mut origins, mut next) = (BTreeSet::new(), certificates.clone());
    while !next.is_empty() {
        let created = keys(next.iter().copied());
        load(source, &mut tables.privileges, &[privilege::Column::Certificate], created, Lock::None).await?;
        let upgrades = tables.privileges.iter().filter(|row| row.certificate.is_some_and(|id| next.contains(&id)));
        let upgrades: BTreeMap<Uuid, Uuid> = upgrades.filter_map(|row| Some((row.id, row.certificate?))).collect();
        let ids = keys(upgrades.keys().copied());
        load(source, &mut tables.returns, &[license_return::Column::Id], ids, Lock::None).await?;
        origins.extend(next.into_iter().filter(|id| !upgrades.values().any(|upgrade| upgrade == id)));
        let upgraded = tables.returns.iter().filter(|row| upgrades.contains_key(&row.id));
        next = upgraded.map(|row| row.certificate).collect();
    }
    Ok(origins)
}

/// Reads the refunds of the payments for these origins, whose rows must be loaded. For each payment
/// with a refund, also reads the settlement and, if it paid for a container, the records of all
/// certificates of the container. Returns the certificates whose returns count toward the limits of
/// the origins.
///
/// A worker that completes returns locks the payments, because returns of different certificates of
/// a container may share what is left of its payment. Refunds need no lock here, because a refund
/// locks all certificates of its purchase.
pub(crate) async fn refunded<S: Source>(
    source: &S,
    mut origins: BTreeSet<Uuid>,
    lock: Lock,
    tables: &mut Tables,
) -> Result<BTreeSet<Uuid>, StoreError> {
    let live = tables.certificates.iter().map(|row| (row.id, &row.provider, &row.settlement, row.container));
    let ended = tables.records.iter().map(|row| (row.id, &row.provider, &row.settlement, row.container));
    let paid = live.chain(ended).filter(|(id, ..)| origins.contains(id));
    let paid = paid
        .filter_map(|(_, provider, settlement, container)| Some(((provider.clone()?, settlement.clone()?), container)));
    let mut paid: BTreeMap<(Name, ExternalId), Option<Uuid>> = paid.collect();
    let key = |(provider, settlement): &(Name, ExternalId)| vec![provider.clone().into(), settlement.clone().into()];
    let columns = [refund::Column::Provider, refund::Column::Settlement];
    load(source, &mut tables.refunds, &columns, paid.keys().map(key).collect(), Lock::None).await?;
    let refunded: BTreeSet<_> =
        tables.refunds.iter().map(|row| (row.provider.clone(), row.settlement.clone())).collect();
    paid.retain(|payment, _| refunded.contains(payment));
    let columns = [settlement::Column::Provider, settlement::Column::ProviderReference];
    load(source, &mut tables.settlements, &columns, paid.keys().map(key).collect(), lock).await?;
    let containers: BTreeSet<Uuid> = paid.into_values().flatten().collect();
    let columns = [certificate_record::Column::Container];
    load(source, &mut tables.records, &columns, keys(containers.iter().copied()), Lock::None).await?;
    let is_in = |row: &&certificate_record::Model| row.container.is_some_and(|id| containers.contains(&id));
    origins.extend(tables.records.iter().filter(is_in).map(|row| row.id));
    Ok(origins)
}

/// Reads what the returns of these certificates, and of all upgrades of their licenses, have
/// brought and will bring if they complete. Call [`terms`] afterwards to read the terms of open
/// returns. A worker that completes returns must have locked the origins, so that no other
/// transaction completes such a return.
pub(crate) async fn worth<S: Source>(
    source: &S,
    certificates: BTreeSet<Uuid>,
    tables: &mut Tables,
) -> Result<(), StoreError> {
    let (mut all, mut next) = (certificates.clone(), certificates);
    while !next.is_empty() {
        returns_of(source, &next, tables).await?;
        let ids = keys(tables.returns.iter().filter(|row| next.contains(&row.certificate)).map(|row| row.id));
        privileges(source, ids, tables).await?;
        next = tables.privileges.iter().filter_map(|row| row.certificate).filter(|id| all.insert(*id)).collect();
    }
    let open = tables.returns.iter().filter(|row| row.state == ReturnState::Opened).map(|row| row.certificate);
    let mut open: BTreeSet<Uuid> = open.collect();
    for row in tables.records.iter() {
        open.remove(&row.id);
    }
    load(source, &mut tables.records, &[certificate_record::Column::Id], keys(open), Lock::None).await
}

/// Reads the privileges that these returns granted.
pub(crate) async fn privileges<S: Source>(
    source: &S,
    returns: Vec<Vec<Value>>,
    tables: &mut Tables,
) -> Result<(), StoreError> {
    load(source, &mut tables.privileges, &[privilege::Column::Id], returns, Lock::None).await
}

/// Reads the pending receptions of these purchases.
pub(crate) async fn pending_receptions<S: Source>(
    source: &S,
    subjects: BTreeSet<Uuid>,
    tables: &mut Tables,
) -> Result<(), StoreError> {
    load(source, &mut tables.pending_receptions, &[pending_reception::Column::Id], keys(subjects), Lock::None).await
}

/// The records of every certificate that was ever issued in these containers.
pub(crate) async fn members<S: Source>(
    source: &S,
    containers: &[Uuid],
) -> Result<Vec<certificate_record::Model>, StoreError> {
    let containers = keys(containers.iter().copied());
    source.select::<certificate_record::Entity>(&[certificate_record::Column::Container], containers, Lock::None).await
}

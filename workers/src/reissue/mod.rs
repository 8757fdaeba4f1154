//! The reissue worker serves the license reissue device (`licet reissue`): it regenerates a
//! certificate that was lost, its settlement and its count, after they were deleted or before.
//!
//! In: `certificate.reissue`. Out: `certificate.reissued`, with the token of the next generation.
//! Promised: tokens of earlier generations are `superseded` from that moment; outstanding licenses
//! are revoked; the count never falls below the licenses that came back, so that nobody earns a
//! privilege twice. What lapsed, was declined or reversed, or was never paid for stays ended.
//!
//! Locks all certificates of the purchase; reads licenses, returns and terms after that.

mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use licet_common::{
    decision::{Context, Decision, Tables},
    runtime::Worker,
    signing::Keyring,
    store::{
        StoreError, Transaction, locks,
        rows::{Lock, select},
    },
};
use licet_schema::{
    Refusal, Request,
    entity::{license, pending_reception, purchase},
    message::CertificateReissue,
};
use uuid::Uuid;

use crate::{held::subject_of, load};

/// The reissue worker.
#[derive(Debug)]
pub struct Reissue;

impl Worker for Reissue {
    type Input = CertificateReissue;

    fn name(&self) -> &'static str {
        "reissue"
    }

    fn read(&self, _: &Keyring, request: Request) -> Result<CertificateReissue, Refusal> {
        match request {
            Request::CertificateReissue(body) => Ok(body),
            other => Err(crate::program::not_handled(self.name(), &other)),
        }
    }

    fn subject(&self, input: &CertificateReissue) -> Option<Uuid> {
        Some(input.certificate)
    }

    async fn load(&self, connection: &Transaction, inputs: &[&CertificateReissue]) -> Result<Tables, StoreError> {
        let mut tables = Tables::default();
        let named: BTreeSet<_> = inputs.iter().map(|input| input.certificate).collect();
        let keys = || named.iter().map(|id| vec![(*id).into()]).collect::<Vec<_>>();
        // Resolved without locks: a certificate's container never changes.
        let bought = select::<purchase::Entity>(connection, &[purchase::Column::Id], keys(), Lock::None).await?;
        let containers = bought.iter().filter_map(|row| row.container).collect();
        let wanted = locks::Wanted { certificates: named.clone(), containers };
        locks::certificates(connection, &wanted, &mut tables).await?;
        locks::purchases(connection, &mut tables).await?;
        load::terms(connection, &mut tables).await?;
        let columns = [license::Column::Certificate];
        tables.licenses.load_all(select::<license::Entity>(connection, &columns, keys(), Lock::None).await?);
        load::returns_of(connection, &named, &mut tables).await?;
        let subjects: BTreeSet<_> = tables.purchases.iter().map(|row| subject_of(row.id, row.container)).collect();
        let keys = subjects.into_iter().map(|id| vec![id.into()]).collect();
        let columns = [pending_reception::Column::Id];
        let pending = select::<pending_reception::Entity>(connection, &columns, keys, Lock::None).await?;
        tables.pending_receptions.load_all(pending);
        Ok(tables)
    }

    fn decide(
        &self,
        context: &Context<'_>,
        tables: &mut Tables,
        input: &CertificateReissue,
    ) -> Result<Decision, Refusal> {
        rules::reissue(context, tables, input)
    }
}

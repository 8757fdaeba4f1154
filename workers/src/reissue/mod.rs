//! The reissue worker replaces a lost certificate, whether it is live or has ended. The settlement
//! and the count of granted licenses are restored.
//!
//! In: `certificate.reissue`. Out: `certificate.reissued`, with the token of the next generation.
//! Guarantees: from then on, tokens of earlier generations are refused as `superseded`. Outstanding
//! licenses are revoked. The count never falls below the number of returned licenses, so that no
//! privilege is granted twice. An ended certificate stays ended if it lapsed, was declined or
//! reversed, or was never paid for.
//!
//! The worker locks all certificates of the purchase, and then reads licenses, returns and terms.

mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use licet_common::{
    config::{Groups, groups},
    decision::{Context, Decision, RuleError},
    runtime::Worker,
    signing::Keyring,
    store::{Lock, Source, StoreError, keys, load as select_into},
};
use licet_schema::{
    Refusal, Request,
    entity::{certificate_record, license},
    message::CertificateReissue,
};
use uuid::Uuid;

use crate::domain::{Tables, certificates::subject_of, load, locks, refusals::not_handled};

/// The reissue worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reissue;

impl Worker for Reissue {
    const NAME: &'static str = "reissue";
    const HANDLES: &'static [&'static str] = &["certificate.reissue"];
    const SETTINGS: Groups = groups::TERMS;

    type Input = CertificateReissue;
    type Rows = Tables;

    fn read(&self, _: &Keyring, request: Request) -> Result<CertificateReissue, Refusal> {
        match request {
            Request::CertificateReissue(body) => Ok(body),
            other => Err(not_handled(Self::NAME, &other)),
        }
    }

    fn subject(&self, input: &CertificateReissue) -> Option<Uuid> {
        Some(input.certificate)
    }

    async fn load<S: Source>(&self, source: &S, inputs: &[&CertificateReissue]) -> Result<Tables, StoreError> {
        let mut tables = Tables::default();
        let named: BTreeSet<_> = inputs.iter().map(|input| input.certificate).collect();
        let ids = || keys(named.iter().copied());
        // No locks are needed to find the container, because a certificate's container never
        // changes.
        let columns = [certificate_record::Column::Id];
        let records = source.select::<certificate_record::Entity>(&columns, ids(), Lock::None).await?;
        let containers = records.iter().filter_map(|row| row.container).collect();
        let wanted = locks::Wanted { certificates: named.clone(), containers };
        locks::certificates(source, &wanted, &mut tables).await?;
        locks::records(source, &mut tables).await?;
        load::terms(source, &mut tables).await?;
        select_into(source, &mut tables.licenses, &[license::Column::Certificate], ids(), Lock::None).await?;
        load::returns_of(source, &named, &mut tables).await?;
        let subjects = tables.records.iter().map(|row| subject_of(row.id, row.container)).collect();
        load::pending_receptions(source, subjects, &mut tables).await?;
        Ok(tables)
    }

    fn decide(
        &self,
        context: &Context<'_>,
        tables: &mut Tables,
        input: &CertificateReissue,
    ) -> Result<Decision, RuleError> {
        rules::reissue(context, tables, input)
    }
}

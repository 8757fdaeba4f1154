//! The license worker issues licenses.
//!
//! In: `license.request`, with a certificate token. Out: `license.issued`. Guarantees: a license is
//! issued only for a live, received and settled certificate. A certificate never yields more
//! licenses than it grants, even if many terminals request licenses at the same time. A terminal
//! that sends another request before it has acknowledged its license receives the same license.
//!
//! The worker locks the certificates and then reads their outstanding licenses. For unpaid
//! certificates it also reads the other members of their containers, because they end together.

mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use licet_common::{
    config::{Groups, groups},
    decision::{Context, Decision, RuleError},
    runtime::Worker,
    signing::{CertificateClaims, Keyring, Presented},
    store::{Lock, Source, StoreError, keys, load},
};
use licet_schema::{
    Name, Refusal, Request,
    entity::{LicenseState, certificate, license},
};
use sea_orm::Value;
use uuid::Uuid;

use crate::domain::{Tables, locks, refusals::not_handled, tables::LIVE_IN_CONTAINER};

/// The license worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct License;

/// A license request whose token was read.
#[derive(Debug)]
pub struct Input {
    /// The certificate that permits the license.
    pub certificate: Presented<CertificateClaims>,
    /// The name of the device. All requests without a name count as the same device.
    pub terminal: Option<Name>,
}

impl Worker for License {
    const NAME: &'static str = "license";
    const HANDLES: &'static [&'static str] = &["license.request"];
    const SETTINGS: Groups = groups::TERMS;

    type Input = Input;
    type Rows = Tables;

    fn read(&self, keyring: &Keyring, request: Request) -> Result<Input, Refusal> {
        match request {
            Request::LicenseRequest(body) => {
                Ok(Input { certificate: Presented::read(&body.certificate_token, keyring)?, terminal: body.terminal })
            }
            other => Err(not_handled(Self::NAME, &other)),
        }
    }

    fn subject(&self, input: &Input) -> Option<Uuid> {
        let claims = input.certificate.unverified();
        Some(claims.container.unwrap_or(claims.jti))
    }

    async fn load<S: Source>(&self, source: &S, inputs: &[&Input]) -> Result<Tables, StoreError> {
        let mut tables = Tables::default();
        let mut wanted = locks::Wanted::default();
        wanted.certificates.extend(inputs.iter().map(|input| input.certificate.unverified_id()));
        locks::certificates(source, &wanted, &mut tables).await?;
        let unpaid = tables.certificates.iter().filter(|row| row.settled_at.is_none());
        let containers: BTreeSet<_> = unpaid.filter_map(|row| row.container).collect();
        let columns = [certificate::Column::Container];
        let members = keys(containers.iter().copied());
        load(source, &mut tables.certificates, &columns, members, Lock::None).await?;
        for container in containers {
            tables.certificates.cover_set(LIVE_IN_CONTAINER, container);
        }
        let state = sea_orm::ActiveEnum::to_value(&LicenseState::Outstanding);
        let key = |id: Uuid| -> Vec<Value> { vec![id.into(), state.clone().into()] };
        let columns = [license::Column::Certificate, license::Column::State];
        // Most certificates have no outstanding license. Their count shows this without a query.
        let (some, none): (Vec<_>, Vec<_>) = tables.certificates.iter().partition(|row| row.outstanding.get() > 0);
        let none: Vec<_> = none.iter().map(|row| key(row.id)).collect();
        let some = some.iter().map(|row| key(row.id)).collect();
        tables.licenses.cover(&columns, &none);
        load(source, &mut tables.licenses, &columns, some, Lock::None).await?;
        Ok(tables)
    }

    fn decide(&self, context: &Context<'_>, tables: &mut Tables, input: &Input) -> Result<Decision, RuleError> {
        rules::request(context, tables, input)
    }
}

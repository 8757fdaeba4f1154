//! The license worker: the license generating means.
//!
//! In: `license.request`, with the certificate attached. Out: `license.issued`. Promised: a license
//! only for a live, received and settled certificate, and never more of them than it grants, however
//! many terminals ask at once. The same terminal, asking again before it has confirmed, gets the
//! same license.
//!
//! Locks the certificates; reads their outstanding licenses, and for unpaid ones the other members
//! of their containers, with which they end.

mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use licet_common::{
    decision::{Context, Decision, Tables},
    runtime::Worker,
    signing::{CertificateClaims, Keyring, Presented},
    store::{
        StoreError, Transaction, locks,
        rows::{Lock, select},
    },
};
use licet_schema::{
    Name, Refusal, Request,
    entity::{certificate, license},
};
use uuid::Uuid;

/// The license worker.
#[derive(Debug)]
pub struct License;

/// What it decides about.
#[derive(Debug)]
pub struct Input {
    /// The certificate that permits it.
    pub certificate: Presented<CertificateClaims>,
    /// The device; none named counts as one device.
    pub terminal: Option<Name>,
}

impl Worker for License {
    type Input = Input;

    fn name(&self) -> &'static str {
        "license"
    }

    fn read(&self, keyring: &Keyring, request: Request) -> Result<Input, Refusal> {
        match request {
            Request::LicenseRequest(body) => {
                Ok(Input { certificate: Presented::read(&body.certificate_token, keyring)?, terminal: body.terminal })
            }
            other => Err(crate::program::not_handled(self.name(), &other)),
        }
    }

    fn subject(&self, input: &Input) -> Option<Uuid> {
        let claims = input.certificate.unverified();
        Some(claims.container.unwrap_or(claims.jti))
    }

    async fn load(&self, connection: &Transaction, inputs: &[&Input]) -> Result<Tables, StoreError> {
        let mut tables = Tables::default();
        let mut wanted = locks::Wanted::default();
        wanted.certificates.extend(inputs.iter().map(|input| input.certificate.unverified_id()));
        locks::certificates(connection, &wanted, &mut tables).await?;
        let unpaid = tables.certificates.iter().filter(|row| row.settled_at.is_none());
        let containers: BTreeSet<_> = unpaid.filter_map(|row| row.container).collect();
        let keys = containers.into_iter().map(|id| vec![id.into()]).collect();
        let columns = [certificate::Column::Container];
        for row in select::<certificate::Entity>(connection, &columns, keys, Lock::None).await? {
            if tables.certificates.get(&row.id).is_none() {
                tables.certificates.load(row);
            }
        }
        let with_outstanding = tables.certificates.iter().filter(|row| row.outstanding > 0);
        let keys = with_outstanding.map(|row| vec![row.id.into(), "outstanding".into()]).collect();
        let columns = [license::Column::Certificate, license::Column::State];
        tables.licenses.load_all(select::<license::Entity>(connection, &columns, keys, Lock::None).await?);
        Ok(tables)
    }

    fn decide(&self, context: &Context<'_>, tables: &mut Tables, input: &Input) -> Result<Decision, Refusal> {
        rules::request(context, tables, input)
    }
}

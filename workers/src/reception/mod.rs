//! The reception worker: the purchase certificate providing means of the storefront, and the
//! license granting means of the server. Both are a terminal's word that something arrived.
//!
//! In: `certificate.receipt`. Out: `certificate.accepted`. The notice is collated with the pending
//! receptions (the purchase certificate ID database) and with the live certificates, and its token
//! checked. Promised: the payment provider is instructed exactly once, with the pending reception
//! deleted at the same time; a member's notice is its container's.
//!
//! In: `license.receipt`. Out: `license.granted`. An outstanding license becomes a grant; the last
//! one ends the certificate.
//!
//! Locks the certificates; reads pending receptions, licenses and returns after that.

mod rules;
#[cfg(test)]
mod tests;

use licet_common::{
    decision::{Context, Decision, Tables},
    runtime::Worker,
    signing::{Keyring, LicenseClaims, Presented},
    store::{
        StoreError, Transaction, locks,
        rows::{Lock, select},
    },
};
use licet_schema::{Refusal, Request, entity::pending_reception};
use uuid::Uuid;

use crate::{held::Subject, load, presented::PresentedCertificate};

/// The reception worker.
#[derive(Debug)]
pub struct Reception;

/// What it decides about.
#[derive(Debug)]
pub enum Input {
    /// A certificate, or a container, arrived.
    Certificate(PresentedCertificate),
    /// A license arrived.
    License(Presented<LicenseClaims>),
}

impl Worker for Reception {
    type Input = Input;

    fn name(&self) -> &'static str {
        "reception"
    }

    fn read(&self, keyring: &Keyring, request: Request) -> Result<Input, Refusal> {
        match request {
            Request::CertificateReceipt(body) => PresentedCertificate::read(&body, keyring).map(Input::Certificate),
            Request::LicenseReceipt(body) => Ok(Input::License(Presented::read(&body.license_token, keyring)?)),
            other => Err(crate::program::not_handled(self.name(), &other)),
        }
    }

    fn subject(&self, input: &Input) -> Option<Uuid> {
        Some(match input {
            Input::Certificate(presented) => presented.unverified_subject().id(),
            Input::License(presented) => presented.unverified().certificate,
        })
    }

    async fn load(&self, connection: &Transaction, inputs: &[&Input]) -> Result<Tables, StoreError> {
        let mut tables = Tables::default();
        let mut wanted = locks::Wanted::default();
        let mut pending: Vec<Uuid> = Vec::new();
        let mut licenses: Vec<Uuid> = Vec::new();
        for input in inputs {
            match input {
                Input::Certificate(presented) => {
                    let subject = presented.unverified_subject();
                    match subject {
                        Subject::Certificate(id) => wanted.certificates.insert(id),
                        Subject::Container(id) => wanted.containers.insert(id),
                    };
                    pending.push(subject.id());
                }
                Input::License(presented) => {
                    wanted.certificates.insert(presented.unverified().certificate);
                    licenses.push(presented.unverified_id());
                }
            }
        }
        locks::certificates(connection, &wanted, &mut tables).await?;
        if !licenses.is_empty() {
            load::licenses_or_returns(connection, &licenses, &mut tables).await?;
            locks::purchases(connection, &mut tables).await?;
        }
        let keys = pending.into_iter().map(|id| vec![id.into()]).collect();
        let column = [pending_reception::Column::Id];
        tables
            .pending_receptions
            .load_all(select::<pending_reception::Entity>(connection, &column, keys, Lock::None).await?);
        Ok(tables)
    }

    fn decide(&self, context: &Context<'_>, tables: &mut Tables, input: &Input) -> Result<Decision, Refusal> {
        match input {
            Input::Certificate(presented) => rules::certificate(context, tables, presented),
            Input::License(presented) => rules::license(context, tables, presented),
        }
    }
}

//! The reception worker registers the arrival of certificates, containers and licenses at
//! terminals.
//!
//! In: `certificate.receipt`. Out: `certificate.accepted`. The worker matches the receipt with the
//! pending reception and the live certificates, and verifies its token. Guarantees: the payment
//! provider is instructed exactly once, in the same transaction that deletes the pending reception.
//! A receipt of a member counts as the receipt of its container.
//!
//! In: `license.receipt`. Out: `license.granted`. An outstanding license becomes a granted license.
//! The last grant ends the certificate.
//!
//! The worker locks the certificates, and then reads pending receptions, licenses and returns.

mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use licet_common::{
    decision::{Context, Decision, RuleError},
    runtime::Worker,
    signing::{Keyring, LicenseClaims, Presented},
    store::{Source, StoreError},
};
use licet_schema::{Refusal, Request};
use uuid::Uuid;

use crate::domain::{Tables, load, locks, refusals::not_handled, token_check::PurchaseToken};

/// The reception worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reception;

/// A receipt whose token was read.
#[derive(Debug)]
pub enum Input {
    /// The receipt of a certificate or a container.
    Certificate(PurchaseToken),
    /// The receipt of a license.
    License(Presented<LicenseClaims>),
}

impl Worker for Reception {
    const NAME: &'static str = "reception";
    const HANDLES: &'static [&'static str] = &["certificate.receipt", "license.receipt"];

    type Input = Input;
    type Rows = Tables;

    fn read(&self, keyring: &Keyring, request: Request) -> Result<Input, Refusal> {
        match request {
            Request::CertificateReceipt(body) => PurchaseToken::read(&body, keyring).map(Input::Certificate),
            Request::LicenseReceipt(body) => Ok(Input::License(Presented::read(&body.license_token, keyring)?)),
            other => Err(not_handled(Self::NAME, &other)),
        }
    }

    fn subject(&self, input: &Input) -> Option<Uuid> {
        Some(match input {
            Input::Certificate(token) => token.unverified_subject().id(),
            Input::License(token) => token.unverified().certificate,
        })
    }

    async fn load<S: Source>(&self, source: &S, inputs: &[&Input]) -> Result<Tables, StoreError> {
        let mut tables = Tables::default();
        let mut wanted = locks::Wanted::default();
        let mut pending = BTreeSet::new();
        let mut licenses = Vec::new();
        for input in inputs {
            match input {
                Input::Certificate(token) => {
                    let subject = token.unverified_subject();
                    wanted.add(subject);
                    pending.insert(subject.id());
                }
                Input::License(token) => {
                    wanted.certificates.insert(token.unverified().certificate);
                    licenses.push(token.unverified_id());
                }
            }
        }
        locks::certificates(source, &wanted, &mut tables).await?;
        if !licenses.is_empty() {
            load::licenses_or_returns(source, &licenses, &mut tables).await?;
            locks::records(source, &mut tables).await?;
        }
        load::pending_receptions(source, pending, &mut tables).await?;
        Ok(tables)
    }

    fn decide(&self, context: &Context<'_>, tables: &mut Tables, input: &Input) -> Result<Decision, RuleError> {
        match input {
            Input::Certificate(token) => rules::certificate(context, tables, token),
            Input::License(token) => rules::license(context, tables, token),
        }
    }
}

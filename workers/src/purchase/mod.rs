//! The purchase worker: the purchase certificate generating means, and the detection of
//! alterations.
//!
//! In: `purchase.request`. Out: `certificate.issued`, with a certificate for each item and, for
//! several, a container that holds them. Promised: all or nothing; each certificate has an id of
//! its own; certificate, permanent purchase row and pending reception come to be together; points
//! to be spent are held from here on.
//!
//! In: `certificate.check`. Out: `certificate.checked`, by the signature alone.
//!
//! Reads what is sold now of the contents named; locks the points accounts of those who spend.

mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use licet_common::{
    decision::{Context, Decision, Tables},
    runtime::Worker,
    signing::Keyring,
    store::{StoreError, Transaction, locks},
};
use licet_schema::{Code, Refusal, Request, message::PurchaseRequest};

pub(crate) use rules::{claims, permanent};

use crate::{load, points, presented::PresentedCertificate};

/// The purchase worker.
#[derive(Debug)]
pub struct Purchase;

/// What it decides about.
#[derive(Debug)]
pub enum Input {
    /// Buy.
    Purchase(PurchaseRequest),
    /// Was it altered? None: beyond reading.
    Check(Option<PresentedCertificate>),
}

impl Worker for Purchase {
    type Input = Input;

    fn name(&self) -> &'static str {
        "purchase"
    }

    fn read(&self, keyring: &Keyring, request: Request) -> Result<Input, Refusal> {
        match request {
            Request::PurchaseRequest(purchase) => Ok(Input::Purchase(purchase)),
            Request::CertificateCheck(body) => match PresentedCertificate::read(&body, keyring) {
                // What is altered beyond reading is altered: that is what was asked.
                Err(refusal) if refusal.code == Code::Altered => Ok(Input::Check(None)),
                presented => presented.map(Some).map(Input::Check),
            },
            other => Err(crate::program::not_handled(self.name(), &other)),
        }
    }

    async fn load(&self, connection: &Transaction, inputs: &[&Input]) -> Result<Tables, StoreError> {
        let mut tables = Tables::default();
        let purchases = || {
            inputs.iter().filter_map(|input| match input {
                Input::Purchase(purchase) => Some(purchase),
                Input::Check(_) => None,
            })
        };
        let spenders = purchases().filter(|purchase| purchase.points.is_some_and(|points| points.get() > 0));
        let names: BTreeSet<_> = spenders.map(|purchase| points::account(purchase.user.as_str())).collect();
        locks::accounts(connection, &names, &mut tables).await?;
        let items: Vec<_> = purchases().flat_map(|purchase| &purchase.items).collect();
        let contents: BTreeSet<_> = items.into_iter().map(|item| item.content.as_str()).collect();
        load::contents_sold(connection, contents, &mut tables).await?;
        Ok(tables)
    }

    fn decide(&self, context: &Context<'_>, tables: &mut Tables, input: &Input) -> Result<Decision, Refusal> {
        match input {
            Input::Purchase(purchase) => rules::purchase(context, tables, purchase),
            Input::Check(presented) => Ok(rules::inspect(context, presented.as_ref())),
        }
    }
}

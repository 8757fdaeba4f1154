//! The purchase worker issues certificates, and checks whether presented certificates were altered.
//!
//! In: `purchase.request`. Out: `certificate.issued`, with a certificate for each item and, for
//! several items, a container. Guarantees: either all items are bought or none. Each certificate
//! has its own id. Certificate, record and pending reception are written in one transaction. Points
//! that the purchase will spend are held. With the setting `unique_reference`, a sender can use a
//! reference for only one purchase, unless all earlier ones ended unpaid.
//!
//! In: `certificate.check`. Out: `certificate.checked`. The check uses only the token's signature.
//!
//! The worker locks the references that must be unique, the certificates of the purchases that used
//! them, and the points accounts of users who spend points. It reads the current revisions of the
//! named content items.

mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use licet_common::{
    config::{Groups, Terms, groups},
    decision::{Context, Decision, RuleError},
    runtime::Worker,
    signing::Keyring,
    store::{Source, StoreError},
};
use licet_schema::{Code, Refusal, Request, message::PurchaseRequest};

use crate::domain::{Tables, load, locks, points, refusals::not_handled, token_check::PurchaseToken};

/// The purchase worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Purchase {
    /// Whether references must be unique, so that `load` reads their rows.
    unique_reference: bool,
}

/// A request whose tokens were read.
#[derive(Debug)]
pub enum Input {
    /// A purchase.
    Purchase(PurchaseRequest),
    /// A check for alterations. `None` if an alteration made the token unreadable.
    Check(Option<PurchaseToken>),
}

impl Worker for Purchase {
    const NAME: &'static str = "purchase";
    const HANDLES: &'static [&'static str] = &["purchase.request", "certificate.check"];
    const SETTINGS: Groups = groups::TERMS;

    type Input = Input;
    type Rows = Tables;

    fn with_terms(self, terms: &Terms) -> Self {
        Self { unique_reference: terms.unique_reference }
    }

    fn read(&self, keyring: &Keyring, request: Request) -> Result<Input, Refusal> {
        match request {
            Request::PurchaseRequest(purchase) => Ok(Input::Purchase(purchase)),
            Request::CertificateCheck(body) => match PurchaseToken::read(&body, keyring) {
                // An altered token is not refused, because the alteration is the result of the
                // check.
                Err(refusal) if refusal.code == Code::Altered => Ok(Input::Check(None)),
                token => token.map(Some).map(Input::Check),
            },
            other => Err(not_handled(Self::NAME, &other)),
        }
    }

    async fn load<S: Source>(&self, source: &S, inputs: &[&Input]) -> Result<Tables, StoreError> {
        let mut tables = Tables::default();
        let purchases: Vec<_> = inputs
            .iter()
            .filter_map(|input| match input {
                Input::Purchase(purchase) => Some(purchase),
                Input::Check(_) => None,
            })
            .collect();
        if self.unique_reference {
            let references = purchases.iter().filter_map(|purchase| purchase.reference.clone()).collect();
            locks::references(source, &references, &mut tables).await?;
        }
        let spenders = purchases.iter().filter(|purchase| purchase.points.is_some_and(|points| points.get() > 0));
        let accounts: BTreeSet<_> = spenders.map(|purchase| points::account(&purchase.user)).collect();
        locks::accounts(source, &accounts, &mut tables).await?;
        let items = purchases.iter().flat_map(|purchase| &purchase.items);
        load::contents_sold(source, items.map(|item| item.content.clone()).collect(), &mut tables).await?;
        Ok(tables)
    }

    fn decide(&self, context: &Context<'_>, tables: &mut Tables, input: &Input) -> Result<Decision, RuleError> {
        match input {
            Input::Purchase(purchase) => rules::purchase(context, tables, purchase),
            Input::Check(token) => Ok(rules::check(context, token.as_ref())),
        }
    }
}

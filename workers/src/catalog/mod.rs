//! The catalog worker registers content items with their prices and terms.
//!
//! In: `content.put`. Out: `content.registered`. If a version is put again, it is sold under the
//! new terms from then on. Purchases keep the terms of the revision under which they were made.
//! Putting the same terms again changes nothing. A return may offer points only if the price is in
//! the points currency.
//!
//! The worker reads the current revisions of the named content items and takes no locks. If two
//! transactions put the same version at the same time, the later one violates the key and is
//! retried.

mod rules;
#[cfg(test)]
mod tests;

use licet_common::{
    config::{Groups, groups},
    decision::{Context, Decision, RuleError},
    runtime::Worker,
    signing::Keyring,
    store::{Source, StoreError},
};
use licet_schema::{Refusal, Request, message::ContentPut};

use crate::domain::{Tables, load, refusals::not_handled};

/// The catalog worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Catalog;

impl Worker for Catalog {
    const NAME: &'static str = "catalog";
    const HANDLES: &'static [&'static str] = &["content.put"];
    const SETTINGS: Groups = groups::TERMS;

    type Input = ContentPut;
    type Rows = Tables;

    fn read(&self, _: &Keyring, request: Request) -> Result<ContentPut, Refusal> {
        match request {
            Request::ContentPut(put) => Ok(put),
            other => Err(not_handled(Self::NAME, &other)),
        }
    }

    async fn load<S: Source>(&self, source: &S, inputs: &[&ContentPut]) -> Result<Tables, StoreError> {
        let mut tables = Tables::default();
        load::contents_sold(source, inputs.iter().map(|put| put.content.clone()).collect(), &mut tables).await?;
        Ok(tables)
    }

    fn decide(&self, context: &Context<'_>, tables: &mut Tables, input: &ContentPut) -> Result<Decision, RuleError> {
        rules::put(context, tables, input)
    }
}

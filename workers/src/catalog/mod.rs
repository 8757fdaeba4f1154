//! The catalog worker registers contents: what is sold, at which price, under which terms.
//!
//! In: `content.put`. Out: `content.registered`. A version that is put again is sold under the new
//! terms from then on; what was bought keeps the terms of its own revision. Putting the same terms
//! again changes nothing.
//!
//! Reads the current revisions of the named contents. Locks nothing: two transactions that put one
//! version at the same time meet at its key, and the later one begins again.

mod rules;
#[cfg(test)]
mod tests;

use licet_common::{
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

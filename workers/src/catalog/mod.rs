//! The catalog worker registers contents: what is sold, for how much, under which terms.
//!
//! In: `content.put`. Out: `content.registered`. A version that is put again is sold under the new
//! terms from now on; what was bought keeps the terms of its own revision. Putting the same terms
//! again changes nothing.
//!
//! Reads the current revisions of the contents named. Locks nothing: two that put one version at
//! the same time meet at its key, and the later begins again.

mod rules;
#[cfg(test)]
mod tests;

use licet_common::{
    decision::{Context, Decision, Tables},
    runtime::Worker,
    signing::Keyring,
    store::{StoreError, Transaction},
};
use licet_schema::{Refusal, Request, message::ContentPut};

use crate::load;

/// The catalog worker.
#[derive(Debug)]
pub struct Catalog;

impl Worker for Catalog {
    type Input = ContentPut;

    fn name(&self) -> &'static str {
        "catalog"
    }

    fn read(&self, _: &Keyring, request: Request) -> Result<ContentPut, Refusal> {
        match request {
            Request::ContentPut(put) => Ok(put),
            other => Err(crate::program::not_handled(self.name(), &other)),
        }
    }

    async fn load(&self, connection: &Transaction, inputs: &[&ContentPut]) -> Result<Tables, StoreError> {
        let mut tables = Tables::default();
        load::contents_sold(connection, inputs.iter().map(|put| put.content.as_str()).collect(), &mut tables).await?;
        Ok(tables)
    }

    fn decide(&self, context: &Context<'_>, tables: &mut Tables, input: &ContentPut) -> Result<Decision, Refusal> {
        rules::put(context, tables, input)
    }
}

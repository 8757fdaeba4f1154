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

use std::collections::BTreeSet;

use licet_common::{
    decision::{Context, Decision, Tables},
    runtime::Worker,
    signing::Keyring,
    store::{
        StoreError, Transaction,
        rows::{Lock, select},
    },
};
use licet_schema::{Refusal, Request, entity::content, message::ContentPut};
use sea_orm::ConnectionTrait;

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
        load_current(connection, inputs.iter().map(|put| put.content.as_str()).collect(), &mut tables).await?;
        Ok(tables)
    }

    fn decide(&self, context: &Context<'_>, tables: &mut Tables, input: &ContentPut) -> Result<Decision, Refusal> {
        rules::put(context, tables, input)
    }
}

/// Reads what is sold now of the contents of these names, in every version.
pub(crate) async fn load_current(
    connection: &impl ConnectionTrait,
    names: BTreeSet<&str>,
    tables: &mut Tables,
) -> Result<(), StoreError> {
    let keys = names.into_iter().map(|name| vec![name.into(), true.into()]).collect();
    let columns = [content::Column::Content, content::Column::Current];
    tables.contents.load_all(select::<content::Entity>(connection, &columns, keys, Lock::None).await?);
    Ok(())
}

//! The query worker: the contents management processing portion, as far as it looks up what a user
//! holds, with its attributes.
//!
//! In: `holdings.query`. Out: `holdings.listed`: a page of the user's licenses, each with what
//! returning it would bring back, and the user's points and debt.
//!
//! In: `status.query`. Out: `status.listed`: where certificates stand, by any id that leads to them.
//!
//! Promised: nothing changes. No journal row, no lock, no event; a question that is asked again is
//! answered anew, and a replica of the database will do.

mod load;
mod rules;
#[cfg(test)]
mod tests;

use licet_common::{
    decision::{Context, Decision, Tables},
    runtime::Worker,
    signing::Keyring,
    store::{StoreError, Transaction},
};
use licet_schema::{
    Count, Refusal, Request,
    message::{HoldingsQuery, PAGE_DEFAULT, StatusQuery},
};

/// The query worker.
#[derive(Debug)]
pub struct Query;

/// What it is asked.
#[derive(Debug)]
pub enum Input {
    /// What does a user hold?
    Holdings(HoldingsQuery),
    /// Where does it stand?
    Status(StatusQuery),
}

impl Worker for Query {
    type Input = Input;

    fn name(&self) -> &'static str {
        "query"
    }

    fn changes(&self) -> bool {
        false
    }

    fn read(&self, _: &Keyring, request: Request) -> Result<Input, Refusal> {
        match request {
            Request::HoldingsQuery(body) => Ok(Input::Holdings(body)),
            Request::StatusQuery(body) => Ok(Input::Status(body)),
            other => Err(crate::program::not_handled(self.name(), &other)),
        }
    }

    async fn load(&self, connection: &Transaction, inputs: &[&Input]) -> Result<Tables, StoreError> {
        let mut tables = Tables::default();
        for input in inputs {
            match input {
                Input::Holdings(query) => load::holdings(connection, query, &mut tables).await?,
                Input::Status(query) => load::status(connection, query, &mut tables).await?,
            }
        }
        Ok(tables)
    }

    fn decide(&self, context: &Context<'_>, tables: &mut Tables, input: &Input) -> Result<Decision, Refusal> {
        match input {
            Input::Holdings(query) => Ok(rules::holdings(context, tables, query)),
            Input::Status(query) => rules::status(context, tables, query),
        }
    }
}

/// How many licenses a page has at most.
fn page(query: &HoldingsQuery) -> usize {
    usize::try_from(query.limit.map_or(PAGE_DEFAULT, Count::get)).unwrap_or(1)
}

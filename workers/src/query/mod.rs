//! The query worker answers questions about what a user has and what state purchases are in.
//!
//! In: `holdings.query`. Out: `holdings.listed`: a page of the user's licenses, each with what its
//! return would bring, and the user's points and debt.
//!
//! In: `status.query`. Out: `status.listed`: the state of certificates, found by any id that leads to them.
//!
//! Guarantees: nothing changes. No journal row, no lock, no event; a question that is asked again is
//! answered from the current rows, and a replica of the database is sufficient.

mod load;
mod rules;
#[cfg(test)]
mod tests;

use licet_common::{
    decision::{Context, Decision, RuleError},
    runtime::Worker,
    signing::Keyring,
    store::{Source, StoreError},
};
use licet_schema::{
    Count, Refusal, Request,
    message::{HoldingsQuery, PAGE_DEFAULT, StatusQuery},
};

use crate::domain::{Tables, refusals::not_handled};

/// The query worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query;

/// A question.
#[derive(Debug)]
pub enum Input {
    /// What does a user have?
    Holdings(HoldingsQuery),
    /// What state are certificates in?
    Status(StatusQuery),
}

impl Worker for Query {
    const NAME: &'static str = "query";
    const HANDLES: &'static [&'static str] = &["holdings.query", "status.query"];
    const CHANGES: bool = false;

    type Input = Input;
    type Rows = Tables;

    fn read(&self, _: &Keyring, request: Request) -> Result<Input, Refusal> {
        match request {
            Request::HoldingsQuery(body) => Ok(Input::Holdings(body)),
            Request::StatusQuery(body) => Ok(Input::Status(body)),
            other => Err(not_handled(Self::NAME, &other)),
        }
    }

    async fn load<S: Source>(&self, source: &S, inputs: &[&Input]) -> Result<Tables, StoreError> {
        let mut tables = Tables::default();
        for input in inputs {
            match input {
                Input::Holdings(query) => load::holdings(source, query, &mut tables).await?,
                Input::Status(query) => load::status(source, query, &mut tables).await?,
            }
        }
        Ok(tables)
    }

    fn decide(&self, context: &Context<'_>, tables: &mut Tables, input: &Input) -> Result<Decision, RuleError> {
        match input {
            Input::Holdings(query) => Ok(rules::holdings(context, tables, query)?),
            Input::Status(query) => rules::status(context, tables, query),
        }
    }
}

/// The most licenses of a page.
fn page(query: &HoldingsQuery) -> usize {
    usize::try_from(query.limit.map_or(PAGE_DEFAULT, Count::get)).unwrap_or(1)
}

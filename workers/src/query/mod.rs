//! The query worker answers questions about the licenses of a user and the state of purchases.
//!
//! In: `holdings.query`. Out: `holdings.listed`, with the user's points and debt and a page of the
//! user's licenses. Each license is listed with the privileges that its return would allow.
//!
//! In: `status.query`. Out: `status.listed`, with the state of the certificates to which the given
//! id belongs, and, if it is the id of a license, the state of the license.
//!
//! Guarantees: a query changes nothing. It writes no journal row, takes no lock and publishes no
//! event. A repeated query is answered from the current rows. A read replica of the database is
//! sufficient.

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

/// A query.
#[derive(Debug)]
pub enum Input {
    /// A query for the licenses and points of a user.
    Holdings(HoldingsQuery),
    /// A query for the state of certificates.
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

/// The maximum number of licenses on a page.
fn page(query: &HoldingsQuery) -> usize {
    usize::try_from(query.limit.map_or(PAGE_DEFAULT, Count::get)).unwrap_or(1)
}

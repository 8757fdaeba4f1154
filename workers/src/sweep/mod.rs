//! The sweep worker ends overdue certificates and returns: certificates that were not acknowledged
//! or paid for in time, certificates that have expired, and returns whose deletion was not reported
//! in time.
//!
//! In: `sweep.due`, from the clock of every sweep worker. Out: `certificate.retired`,
//! `return.lapsed` and `points.changed`, and another `sweep.due` if more rows are overdue than one
//! sweep processes.
//!
//! Guarantees: several sweep workers have the same effect as one, because their clocks publish
//! messages with the same ids, and a sweep skips certificates that another transaction has locked.
//! A sweep locks few rows for a short time, even if many are overdue. A sweep that finds nothing
//! writes nothing.
//!
//! While the clock of the worker differs from that of the database by more than 60 s, the worker
//! publishes no `sweep.due` and ends nothing. A later `sweep.due` finds everything that is overdue.
//!
//! The worker checks deadlines again under the locks. Every other worker also checks the deadlines
//! of the rows that it reads, so no reply depends on when a sweep runs.

mod clock;
mod load;
mod rules;
#[cfg(test)]
mod tests;

use licet_common::{
    config::{Groups, groups},
    decision::{Context, Decision, RuleError},
    runtime::{Resources, Worker},
    signing::Keyring,
    store::{Source, StoreError},
};
use licet_schema::{Refusal, Request, message::SweepDue};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::domain::{Tables, refusals::not_handled};

/// The maximum number of rows that one sweep processes. Sweeps of 256 rows without a pause were
/// three times as fast, but slowed concurrent license requests down too much.
const ROWS_MAX: u64 = 64;

/// The sweep worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sweep;

impl Worker for Sweep {
    const NAME: &'static str = "sweep";
    const HANDLES: &'static [&'static str] = &["sweep.due"];
    const PAUSES: bool = true;
    const ENDS_BY_CLOCK: bool = true;
    // Each sweep has its own transaction, so that a transaction locks the rows of only one sweep.
    const BATCH_MAX: Option<u16> = Some(1);
    const SETTINGS: Groups = groups::SWEEP;

    type Input = SweepDue;
    type Rows = Tables;

    fn read(&self, _: &Keyring, request: Request) -> Result<SweepDue, Refusal> {
        match request {
            Request::SweepDue(body) => Ok(body),
            other => Err(not_handled(Self::NAME, &other)),
        }
    }

    async fn load<S: Source>(&self, source: &S, inputs: &[&SweepDue]) -> Result<Tables, StoreError> {
        load::load(source, inputs).await
    }

    fn decide(&self, context: &Context<'_>, tables: &mut Tables, input: &SweepDue) -> Result<Decision, RuleError> {
        Ok(rules::sweep(context, tables, input)?)
    }

    async fn run_beside(resources: &Resources, stop: &CancellationToken) {
        let user = resources.transport.user();
        if !resources.senders.permit(user, "sweep.due") {
            warn!(user, "[senders] does not permit this worker's broker user to send sweep.due: no sweeps will run");
        }
        clock::tick(resources, stop).await;
    }
}

//! The sweep worker ends what is overdue: certificates that were not acknowledged or paid for in time
//! or have expired, and returns whose deletion was not reported in time.
//!
//! In: `sweep.due`, from the clock of every sweep worker. Out: `certificate.retired`, `return.lapsed`,
//! `points.changed`; and another `sweep.due` if more is overdue than one batch takes.
//!
//! Guarantees: any number of sweep workers have the effect of one (the clock's messages have the same
//! ids, and a certificate that another transaction has locked is left to it); a sweep locks few rows
//! for a short time, however much is overdue; one that finds nothing leaves no trace.
//!
//! Deadlines are checked again under the locks. Every other worker checks the deadlines of the rows that
//! it reads, so no reply depends on when a sweep runs.

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

/// The maximum number of rows that one sweep takes. Chunks of 256 without a rest were three times as fast,
/// but slowed concurrent license requests too much.
const ROWS_MAX: u64 = 64;

/// The sweep worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sweep;

impl Worker for Sweep {
    const NAME: &'static str = "sweep";
    const HANDLES: &'static [&'static str] = &["sweep.due"];
    const RESTS: bool = true;
    // A transaction locks the rows of one sweep.
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
            warn!(
                user,
                "[senders] does not let this worker's broker user send sweep.due: nothing is swept until it does"
            );
        }
        clock::tick(resources, stop).await;
    }
}

//! The sweep worker: the generated purchase certificate invalidating means of the server, and the
//! failed-to-grant purchase certificate deleting means of the storefront.
//!
//! In: `sweep.due`, from this worker's own clock: every [`sweep_interval_s`](licet_common::config::Limits)
//! one message for each kind of deadline. No reply. Out: `certificate.retired`, `return.lapsed`,
//! `points.changed`; and where more is overdue than one portion, another `sweep.due`.
//!
//! Promised: any number of sweepers are as good as one (the clock's messages have the same ids, and
//! a certificate that another has locked is left to it); a sweep holds few rows and for a short time, however
//! much is overdue; one that finds nothing leaves no trace.
//!
//! Deadlines are judged again under the locks, and by everybody who meets an overdue row: whether
//! or when the sweep comes changes no answer.

mod clock;
mod load;
mod rules;
#[cfg(test)]
mod tests;

use licet_common::{
    decision::{Context, Decision, Tables},
    runtime::{Machine, Worker, run},
    signing::Keyring,
    store::{StoreError, Transaction},
};
use licet_schema::{Refusal, Request, message::SweepDue};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// The most rows that one sweep takes. Few, since whoever asks for a license meanwhile waits for
/// the processor and the disk.
const PORTION: u64 = 64;

/// The sweep worker.
#[derive(Debug)]
pub struct Sweep;

/// Runs the worker and its clock until `stop`.
pub async fn start(machine: Machine, stop: CancellationToken) {
    let user = machine.transport.user();
    if !machine.senders.permit(user, "sweep.due") {
        warn!(user, "[senders] does not let this worker's broker user send sweep.due: nothing is swept until it does");
    }
    // One sweep at a time: a transaction holds one portion.
    let mut alone = machine.clone();
    alone.limits.batch_max = 1;
    tokio::join!(run(Sweep, alone, stop.clone()), clock::tick(&machine, &stop));
}

impl Worker for Sweep {
    type Input = SweepDue;

    fn name(&self) -> &'static str {
        "sweep"
    }

    fn rests(&self) -> bool {
        true
    }

    fn read(&self, _: &Keyring, request: Request) -> Result<SweepDue, Refusal> {
        match request {
            Request::SweepDue(body) => Ok(body),
            other => Err(crate::program::not_handled(self.name(), &other)),
        }
    }

    async fn load(&self, connection: &Transaction, inputs: &[&SweepDue]) -> Result<Tables, StoreError> {
        load::load(connection, inputs).await
    }

    fn decide(&self, context: &Context<'_>, tables: &mut Tables, input: &SweepDue) -> Result<Decision, Refusal> {
        Ok(rules::sweep(context, tables, input))
    }
}

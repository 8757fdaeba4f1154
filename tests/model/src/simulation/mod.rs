//! The simulation: whole workers over the in-process broker and SQLite, with fault injection.
//!
//! Several copies of every worker run the real loop, one step of one copy at a time. Before each
//! call that leaves a worker, its [fault injector](licet_common::fault_injection) waits until the
//! simulation selects this step. The simulation decides whether the call succeeds, fails, or takes
//! effect and then fails. Workers are killed and stopped at any step, connections are dropped, and
//! messages are repeated, delayed and reordered. The clock is simulated. One seed determines all
//! choices, so the same seed repeats a run.
//!
//! Every run checks these guarantees (`oracle`):
//! - each message is decided once, in the order of the commits, as the reference model predicts;
//! - only outputs of committed decisions are published, and repeated outputs are identical, byte
//!   for byte;
//! - an instruction is in its queue before a reply or an event of the same message is published;
//! - at the end of the run, every message that the broker accepted is decided, every event is
//!   published, every request is answered, and there are no dead letters;
//! - the auditor finds no violation after any commit;
//! - no rule finds a defect.
//!
//! [Mutants](Mutant) show that these checks work: the same runs with one step of the loop left out
//! must fail.
//!
//! Deliberately absent: overlapping transactions, because SQLite has one writer. They are tested on
//! PostgreSQL with several copies of every worker.

mod fault;
mod mutants;
mod oracle;
mod play;
mod random;
mod recorded;
mod rows;
mod shrink;
mod upstream;
mod workers_under_test;

use std::{collections::BTreeMap, ops::Range};

pub use mutants::Mutant;
pub use shrink::Failure;

use play::Plan;

/// The counts of all runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// The number of runs.
    pub runs: u64,
    /// The number of worker steps.
    pub steps: u64,
    /// Messages that were sent, each counted once.
    pub messages: u64,
    /// Messages that were sent again.
    pub resent: u64,
    /// Messages that were decided.
    pub decided: u64,
    /// Deliveries of replies and events that were compared with decisions.
    pub compared: u64,
    /// The number of audits.
    pub audits: u64,
    /// Injected faults by name, such as `commit: takes effect, then fails`.
    pub faults: BTreeMap<String, u64>,
}

impl Metrics {
    /// Adds the metrics of other runs.
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.steps += other.steps;
        self.messages += other.messages;
        self.resent += other.resent;
        self.decided += other.decided;
        self.compared += other.compared;
        self.audits += other.audits;
        for (fault, count) in &other.faults {
            *self.faults.entry(fault.clone()).or_default() += count;
        }
    }
}

/// Plays these seeds.
///
/// # Errors
/// The first seed that violates a guarantee.
pub fn play(seeds: Range<u64>, mutant: Option<Mutant>) -> Result<Metrics, Failure> {
    play_plans(seeds.map(|seed| Plan::of(seed, mutant, true)))
}

/// Plays these seeds with the faults that expose a mutant, but without the mutant. If these runs
/// pass, the mutant is the cause of a failure with the mutant.
///
/// # Errors
/// The first seed that violates a guarantee.
pub fn play_without_mutant(seeds: Range<u64>, mutant: Mutant) -> Result<Metrics, Failure> {
    play_plans(seeds.map(|seed| Plan::of(seed, Some(mutant), false)))
}

fn play_plans(plans: impl Iterator<Item = Plan>) -> Result<Metrics, Failure> {
    let mut all = Metrics::default();
    for plan in plans {
        match plan.play() {
            Ok(run) => all.add(&run.metrics),
            Err(violation) => return Err(Failure::new(plan, violation)),
        }
    }
    Ok(all)
}

/// The messages, faults and decisions in the run of a seed, line by line.
///
/// # Errors
/// The seed violates a guarantee.
pub fn trace(seed: u64) -> Result<Vec<String>, Failure> {
    let plan = Plan::of(seed, None, true);
    plan.play().map(|run| run.trace).map_err(|violation| Failure::new(plan, violation))
}

/// The names of all faults that can be injected, as in [`Metrics::faults`].
pub fn faults() -> Vec<String> {
    fault::faults()
}

//! The simulation: whole workers over the in-process broker and SQLite, where everything that can
//! fail does.
//!
//! Several copies of every worker run the real loop, one step of one of them at a time: each call
//! that leaves a worker waits at its [gate](licet_common::gate) until the play picks it, and
//! says whether it happens, fails, or fails although it happened. Workers are killed and stopped at
//! any step, connections are cut, messages come twice, late, and in any order; the clock is a value.
//! All choices come from one seed, so that a seed is a run.
//!
//! Promised of every run, and judged (`judge`) as it goes:
//! - each message meets the rules once, in the order of the commits, and is decided as the
//!   reference model says;
//! - nothing is told that was not committed, and what is told twice is the same, byte for byte;
//! - in the end every message that the broker took is decided, every event was told, every request
//!   is answered, and no good message is a dead letter;
//! - the auditor finds nothing wrong, after every commit.
//!
//! What these promises rest on is shown by [lies](Lie): the same runs with one step of the loop only
//! pretended must fail.
//!
//! Absent: SQLite has one writer, so that no two transactions ever overlap here. What overlapping
//! ones do is PostgreSQL's, and tried on PostgreSQL.

mod cast;
mod dice;
mod fault;
mod judge;
mod lies;
mod play;
mod shortest;
mod upstream;
mod watched;

use std::{collections::BTreeMap, ops::Range};

pub use lies::Lie;
pub use shortest::Failure;

use play::Plan;

/// What came up in all runs together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Runs.
    pub runs: u64,
    /// Steps of workers.
    pub steps: u64,
    /// Messages that were sent, each counted once.
    pub messages: u64,
    /// How often one was sent again.
    pub resent: u64,
    /// Messages decided.
    pub decided: u64,
    /// Deliveries of replies and events that were held against what was decided.
    pub compared: u64,
    /// Audits.
    pub audits: u64,
    /// How often each fault was injected: "commit: fails after it happened".
    pub faults: BTreeMap<String, u64>,
}

impl Tally {
    /// Adds what came up in other runs.
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.steps += other.steps;
        self.messages += other.messages;
        self.resent += other.resent;
        self.decided += other.decided;
        self.compared += other.compared;
        self.audits += other.audits;
        for (fault, times) in &other.faults {
            *self.faults.entry(fault.clone()).or_default() += times;
        }
    }
}

/// Plays these seeds.
///
/// # Errors
/// The first seed that breaks a promise.
pub fn play(seeds: Range<u64>, lie: Option<Lie>) -> Result<Tally, Failure> {
    play_plans(seeds.map(|seed| Plan::of(seed, lie, true)))
}

/// Plays these seeds with the faults that would show a lie, and does not tell it: what is seen of the
/// lie is to be its own doing.
///
/// # Errors
/// The first seed that breaks a promise.
pub fn play_honestly(seeds: Range<u64>, lie: Lie) -> Result<Tally, Failure> {
    play_plans(seeds.map(|seed| Plan::of(seed, Some(lie), false)))
}

fn play_plans(plans: impl Iterator<Item = Plan>) -> Result<Tally, Failure> {
    let mut all = Tally::default();
    for plan in plans {
        match plan.play() {
            Ok(played) => all.add(&played.tally),
            Err(broken) => return Err(Failure::new(plan, broken)),
        }
    }
    Ok(all)
}

/// All that was chosen and decided in the run of a seed, line by line.
///
/// # Errors
/// The seed breaks a promise.
pub fn trace(seed: u64) -> Result<Vec<String>, Failure> {
    let plan = Plan::of(seed, None, true);
    plan.play().map(|played| played.story).map_err(|broken| Failure::new(plan, broken))
}

/// Every fault that can be injected, as [`Tally::faults`] names them.
pub fn faults() -> Vec<String> {
    fault::faults()
}

//! Mutants: deliberate defects in the worker loop, each of which the simulation must detect.
//!
//! A mutant is not a switch in the code. It makes a step report success without taking effect. Rows
//! and queues then look as if the worker did not have that step.

use licet_common::fault_injection::Outcome;
use licet_schema::topology;
use uuid::Uuid;

use super::{fault::Fault, workers_under_test::PendingStep};

/// A step of the loop that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Deliveries are acknowledged before the transaction is committed.
    AckBeforeCommit,
    /// Deliveries are acknowledged before the outputs are published.
    AckBeforePublish,
    /// A message that was decided before is decided again.
    JournalNotConsulted,
    /// The outputs of a message that was decided before are computed again from the current rows.
    OutputsRecomputed,
    /// Rows are read and written without a transaction, so that no lock protects them in between.
    LockLeftOut,
    /// An output that the broker refused counts as published.
    ConfirmIgnored,
    /// An instruction counts as stored in its queue without being published there.
    InstructionNotStored,
}

impl Mutant {
    /// All mutants.
    pub const ALL: [Self; 7] = [
        Self::AckBeforeCommit,
        Self::AckBeforePublish,
        Self::JournalNotConsulted,
        Self::OutputsRecomputed,
        Self::LockLeftOut,
        Self::ConfirmIgnored,
        Self::InstructionNotStored,
    ];

    /// The outcome of a step that the mutant changes. `decided_before` says whether a message was
    /// decided before. `recomputing` says whether the transaction contains only such messages.
    pub(super) fn outcome(
        self,
        step: &PendingStep,
        decided_before: impl Fn(&Uuid) -> bool,
        recomputing: &mut bool,
    ) -> Option<Outcome> {
        match (self, step) {
            (Self::AckBeforeCommit | Self::AckBeforePublish, PendingStep::Receive) => Some(Outcome::Pretend),
            (Self::InstructionNotStored, PendingStep::Publish(key)) if key == topology::INSTRUCTED => {
                Some(Outcome::Pretend)
            }
            (Self::LockLeftOut, PendingStep::Begin) => Some(Outcome::Pretend),
            (Self::JournalNotConsulted, PendingStep::Statement(text, _)) => without_journal(text),
            (Self::OutputsRecomputed, PendingStep::Begin) => {
                // A batch whose ids are not looked up contains no message that was decided before.
                *recomputing = false;
                None
            }
            (Self::OutputsRecomputed, PendingStep::Statement(text, ids)) => {
                if is_lookup(text) {
                    *recomputing = ids.iter().all(decided_before);
                }
                without_journal(text).filter(|_| *recomputing)
            }
            (Self::OutputsRecomputed, PendingStep::Commit) => recomputing.then_some(Outcome::Pretend),
            _ => None,
        }
    }

    /// Whether this fault is injected together with the mutant. Only faults that expose the mutant
    /// are injected, so that each mutant is detected by its own effect.
    pub(super) fn is_exposed_by(self, step: &PendingStep, fault: Fault) -> bool {
        match self {
            Self::AckBeforeCommit => {
                fault == Fault::KillBefore && matches!(step, PendingStep::Statement(..) | PendingStep::Commit)
            }
            Self::AckBeforePublish => fault == Fault::KillBefore && matches!(step, PendingStep::Publish(_)),
            Self::JournalNotConsulted | Self::OutputsRecomputed => {
                matches!(fault, Fault::KillBefore | Fault::FailAfterEffect)
                    && matches!(step, PendingStep::Publish(_) | PendingStep::Ack)
            }
            Self::LockLeftOut | Self::InstructionNotStored => false,
            Self::ConfirmIgnored => fault == Fault::Refuse && matches!(step, PendingStep::Publish(_)),
        }
    }

    /// The outcome of a fault when the mutant is active.
    pub(super) fn mutated(self, outcome: Outcome) -> Outcome {
        if self == Self::ConfirmIgnored { Outcome::Pretend } else { outcome }
    }
}

fn is_lookup(text: &str) -> bool {
    text.starts_with("SELECT") && text.contains("FROM \"journal\"")
}

/// Replaces a statement on the journal, so that lookups find nothing and rows can be inserted
/// again.
fn without_journal(text: &str) -> Option<Outcome> {
    if is_lookup(text) {
        return Some(Outcome::Replace(text.replacen("WHERE (", "WHERE 1 = 0 AND (", 1)));
    }
    let inserts = ["INSERT INTO \"journal\"", "INSERT INTO \"mention\""];
    let is_insert = inserts.iter().any(|head| text.starts_with(head));
    is_insert.then(|| Outcome::Replace(text.replacen("INSERT", "INSERT OR REPLACE", 1)))
}

//! Lies: the loop runs, and one of the things that it relies on is only pretended. What a worker
//! with that defect would do to the world is what then happens; a judge must see it.

use licet_common::gate::Verdict;
use uuid::Uuid;

use super::{cast::Waits, fault::Fault};

/// A step of the loop that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Deliveries are acknowledged before the transaction is committed.
    AckBeforeCommit,
    /// Deliveries are acknowledged before the outputs are published.
    AckBeforePublish,
    /// A message that was decided is decided again.
    JournalNotConsulted,
    /// The outputs of a message that was decided are made anew from what the rows say now.
    OutputsRecomputed,
    /// What is read is not held until it is written.
    LockLeftOut,
    /// What the broker did not take counts as sent.
    ConfirmIgnored,
}

impl Lie {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::AckBeforeCommit,
        Self::AckBeforePublish,
        Self::JournalNotConsulted,
        Self::OutputsRecomputed,
        Self::LockLeftOut,
        Self::ConfirmIgnored,
    ];

    /// What is pretended of this step. `known` says whether a message was decided before;
    /// `recomputing`, whether this transaction is about such messages alone.
    pub(super) fn verdict(
        self,
        waits: &Waits,
        known: impl Fn(&Uuid) -> bool,
        recomputing: &mut bool,
    ) -> Option<Verdict> {
        match (self, waits) {
            (Self::AckBeforeCommit | Self::AckBeforePublish, Waits::Receive) => Some(Verdict::Pretended),
            (Self::LockLeftOut, Waits::Begin) => Some(Verdict::Pretended),
            (Self::JournalNotConsulted, Waits::Statement(text, _)) => blind(text),
            (Self::OutputsRecomputed, Waits::Begin) => {
                // A batch whose ids are not looked up is not about such messages.
                *recomputing = false;
                None
            }
            (Self::OutputsRecomputed, Waits::Statement(text, ids)) => {
                if is_look_up(text) {
                    *recomputing = ids.iter().all(known);
                }
                blind(text).filter(|_| *recomputing)
            }
            (Self::OutputsRecomputed, Waits::Commit) => recomputing.then_some(Verdict::Pretended),
            _ => None,
        }
    }

    /// Whether this fault may come beside the lie: those that show it, so that each is seen by what
    /// it alone breaks.
    pub(super) fn goes_with(self, waits: &Waits, fault: Fault) -> bool {
        match self {
            Self::AckBeforeCommit => fault == Fault::Killed && matches!(waits, Waits::Statement(..) | Waits::Commit),
            Self::AckBeforePublish => fault == Fault::Killed && matches!(waits, Waits::Publish(_)),
            Self::JournalNotConsulted | Self::OutputsRecomputed => {
                matches!(fault, Fault::Killed | Fault::FailsAfter) && matches!(waits, Waits::Publish(_) | Waits::Ack)
            }
            Self::LockLeftOut => false,
            Self::ConfirmIgnored => fault == Fault::Refused && matches!(waits, Waits::Publish(_)),
        }
    }

    /// What is told instead of this fault.
    pub(super) fn told(self, verdict: Verdict) -> Verdict {
        if self == Self::ConfirmIgnored { Verdict::Pretended } else { verdict }
    }
}

fn is_look_up(text: &str) -> bool {
    text.starts_with("SELECT") && text.contains("FROM \"journal\"")
}

/// A journal that knows nothing, and takes what it has again.
fn blind(text: &str) -> Option<Verdict> {
    if is_look_up(text) {
        return Some(Verdict::Instead(text.replacen("WHERE (", "WHERE 1 = 0 AND (", 1)));
    }
    let written = ["INSERT INTO \"journal\"", "INSERT INTO \"mention\""];
    let written = written.iter().any(|head| text.starts_with(head));
    written.then(|| Verdict::Instead(text.replacen("INSERT", "INSERT OR REPLACE", 1)))
}

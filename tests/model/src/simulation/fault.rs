//! The faults that can be injected into each step of a worker, and their probabilities.

use licet_common::fault_injection::Outcome;

use super::workers_under_test::PendingStep;

/// A fault that is injected into a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Fail,
    FailAfterEffect,
    Refuse,
    Contend,
    NoAnswer,
    NoEffectNoAnswer,
    /// The worker is killed before the step.
    KillBefore,
    /// The worker is killed after the step.
    KillAfter,
}

impl Fault {
    pub(super) const ALL: [Self; 8] = [
        Self::Fail,
        Self::FailAfterEffect,
        Self::Refuse,
        Self::Contend,
        Self::NoAnswer,
        Self::NoEffectNoAnswer,
        Self::KillBefore,
        Self::KillAfter,
    ];

    pub(super) fn applies_to(self, step: &str) -> bool {
        match self {
            Self::KillBefore => true,
            Self::Fail => step != "sleep",
            // A connection or a transaction whose beginning was not confirmed leaves no trace.
            Self::FailAfterEffect => matches!(step, "receive" | "publish" | "acknowledge" | "statement" | "commit"),
            Self::KillAfter => matches!(step, "publish" | "acknowledge" | "statement" | "commit" | "receive"),
            Self::Refuse => matches!(step, "publish" | "statement" | "commit"),
            Self::Contend => step == "commit",
            Self::NoAnswer | Self::NoEffectNoAnswer => step == "publish",
        }
    }

    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Fail | Self::KillBefore => Outcome::Fail,
            Self::FailAfterEffect => Outcome::FailAfterEffect,
            Self::Refuse => Outcome::Refuse,
            Self::Contend => Outcome::Contend,
            Self::NoAnswer => Outcome::NoAnswer,
            Self::NoEffectNoAnswer => Outcome::NoEffectNoAnswer,
            Self::KillAfter => Outcome::Proceed,
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::Fail => "fails",
            Self::FailAfterEffect => "takes effect, then fails",
            Self::Refuse => "is refused",
            Self::Contend => "conflicts with another transaction",
            Self::NoAnswer => "takes effect without an answer",
            Self::NoEffectNoAnswer => "has no effect and no answer",
            Self::KillBefore => "worker killed before",
            Self::KillAfter => "worker killed after",
        }
    }
}

/// The broker drops all connections at once.
pub(super) const CONNECTIONS_DROPPED: &str = "the broker drops all connections";
/// A worker receives the signal to stop.
pub(super) const WORKER_STOPPED: &str = "a worker is stopped";
/// The first message of a queue is moved behind the others.
pub(super) const MESSAGE_REORDERED: &str = "a message is moved behind others";

const STEPS: [&str; 10] =
    ["connect", "consume", "receive", "publish", "acknowledge", "ping", "begin", "statement", "commit", "sleep"];

/// The probability of a fault in this step, in thousandths. It is higher for the most important
/// steps.
pub(super) fn permille(step: &PendingStep) -> usize {
    match step {
        PendingStep::Commit => 120,
        PendingStep::Ping => 100,
        PendingStep::Ack => 80,
        PendingStep::Receive | PendingStep::Publish(_) | PendingStep::Begin => 40,
        PendingStep::Statement(..) => 12,
        PendingStep::Connect | PendingStep::Consume => 8,
        PendingStep::Sleep => 4,
    }
}

/// The names of all faults that can be injected.
pub(super) fn faults() -> Vec<String> {
    let all = STEPS.iter().flat_map(|step| Fault::ALL.iter().map(move |fault| (step, fault)));
    let all = all.filter(|(step, fault)| fault.applies_to(step));
    let others = [CONNECTIONS_DROPPED, WORKER_STOPPED, MESSAGE_REORDERED];
    all.map(|(step, fault)| name(step, *fault)).chain(others.map(str::to_owned)).collect()
}

/// The name of a fault in a step, such as `commit: takes effect, then fails`.
pub(super) fn name(step: &str, fault: Fault) -> String {
    format!("{step}: {}", fault.description())
}

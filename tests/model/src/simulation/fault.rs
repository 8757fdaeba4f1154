//! What can go wrong with each step of a worker, and how often it does.

use licet_common::gate::Verdict;

use super::cast::Waits;

/// What goes wrong with a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Fails,
    FailsAfter,
    Refused,
    Contended,
    Unanswered,
    Unheard,
    /// The worker is killed before it.
    Killed,
    /// The worker is killed after it.
    KilledAfter,
}

impl Fault {
    pub(super) const ALL: [Self; 8] = [
        Self::Fails,
        Self::FailsAfter,
        Self::Refused,
        Self::Contended,
        Self::Unanswered,
        Self::Unheard,
        Self::Killed,
        Self::KilledAfter,
    ];

    pub(super) fn can_befall(self, step: &str) -> bool {
        match self {
            Self::Killed => true,
            Self::Fails => step != "sleep",
            // That a connection is made, or a transaction begun, leaves no trace if nobody hears of it.
            Self::FailsAfter => matches!(step, "receive" | "publish" | "acknowledge" | "statement" | "commit"),
            Self::KilledAfter => matches!(step, "publish" | "acknowledge" | "statement" | "commit" | "receive"),
            Self::Refused => matches!(step, "publish" | "statement" | "commit"),
            Self::Contended => step == "commit",
            Self::Unanswered | Self::Unheard => step == "publish",
        }
    }

    pub(super) fn verdict(self) -> Verdict {
        match self {
            Self::Fails | Self::Killed => Verdict::Fails,
            Self::FailsAfter => Verdict::FailsAfter,
            Self::Refused => Verdict::Refused,
            Self::Contended => Verdict::Contended,
            Self::Unanswered => Verdict::Unanswered,
            Self::Unheard => Verdict::Unheard,
            Self::KilledAfter => Verdict::Happens,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fails => "fails",
            Self::FailsAfter => "happens, and fails",
            Self::Refused => "is refused",
            Self::Contended => "is contended",
            Self::Unanswered => "happens, unanswered",
            Self::Unheard => "does not happen, unanswered",
            Self::Killed => "its worker is killed before",
            Self::KilledAfter => "its worker is killed after",
        }
    }
}

const STEPS: [&str; 10] =
    ["connect", "consume", "receive", "publish", "acknowledge", "ping", "begin", "statement", "commit", "sleep"];

/// How often something goes wrong with a step, in a thousand: more often with those that matter most.
pub(super) fn often(waits: &Waits) -> usize {
    match waits {
        Waits::Commit => 120,
        Waits::Ping => 100,
        Waits::Ack => 80,
        Waits::Receive | Waits::Publish(_) | Waits::Begin => 40,
        Waits::Statement(..) => 12,
        Waits::Connect | Waits::Consume => 8,
        Waits::Sleep => 4,
    }
}

/// Every fault that can be injected.
pub(super) fn faults() -> Vec<String> {
    let all = STEPS.iter().flat_map(|step| Fault::ALL.iter().map(move |fault| (step, fault)));
    let all = all.filter(|(step, fault)| fault.can_befall(step));
    let others = ["the broker drops every connection", "a worker is told to stop", "a message is overtaken"];
    all.map(|(step, fault)| named(step, *fault)).chain(others.map(str::to_owned)).collect()
}

pub(super) fn named(step: &str, fault: Fault) -> String {
    format!("{step}: {}", fault.name())
}

//! The refusals that several rules use: code and text. A refusal that one rule alone uses is in that rule.

use licet_common::decision::RuleError;
use licet_schema::{Code, Refusal, Request, message::Ending};

/// A refusal, as a rule returns it.
pub(crate) fn refuse<T>(code: Code, detail: impl Into<String>) -> Result<T, RuleError> {
    Err(Refusal::new(code, detail).into())
}

/// The refusal of a type that reached the wrong worker's queue, through a binding made by hand.
pub(crate) fn not_handled(worker: &str, request: &Request) -> Refusal {
    Refusal::new(
        Code::Malformed,
        format!("the {worker} worker does not handle {}: check the queue's bindings", request.kind()),
    )
}

/// The refusal of a request about a certificate that does not exist.
pub(crate) fn unknown_certificate() -> Refusal {
    Refusal::new(Code::UnknownCertificate, "there is no such certificate, and never was")
}

/// The refusal of a token that a reissue has replaced.
pub(crate) fn superseded() -> Refusal {
    Refusal::new(Code::Superseded, "the certificate was reissued: use the latest one")
}

/// The refusal that an ending leads to.
pub(crate) fn refusal_of(ending: Ending) -> Refusal {
    match ending {
        Ending::Exhausted => Refusal::new(Code::Exhausted, "every grant of this certificate is used up"),
        Ending::Lapsed => Refusal::new(Code::Lapsed, "the certificate's reception was not acknowledged in time"),
        Ending::Expired => Refusal::new(Code::Expired, "the certificate has expired"),
        Ending::Declined => Refusal::new(Code::Declined, "the payment for this certificate was declined"),
        Ending::Reversed => Refusal::new(Code::Reversed, "the payment for this certificate was reversed"),
    }
}

//! The codes and texts of refusals that several rules use. A refusal that only one rule uses is
//! defined in that rule.

use licet_common::decision::RuleError;
use licet_schema::{Code, Refusal, Request, message::Ending};

/// A refusal, as the error of a rule.
pub(crate) fn refuse<T>(code: Code, detail: impl Into<String>) -> Result<T, RuleError> {
    Err(Refusal::new(code, detail).into())
}

/// The refusal of a message that reached the queue of the wrong worker, for example through a
/// binding that was added by hand.
pub(crate) fn not_handled(worker: &str, request: &Request) -> Refusal {
    Refusal::new(
        Code::Malformed,
        format!("the {worker} worker does not handle {}: check the queue's bindings", request.kind()),
    )
}

/// The refusal of a request about a certificate that does not exist.
pub(crate) fn unknown_certificate() -> Refusal {
    Refusal::new(Code::UnknownCertificate, "no certificate with this id was ever issued")
}

/// The refusal of a token that a reissue has replaced.
pub(crate) fn superseded() -> Refusal {
    Refusal::new(Code::Superseded, "the certificate was reissued: use the latest token")
}

/// The refusal of a request about a certificate whose reversal was undone.
pub(crate) fn reinstated() -> Refusal {
    let detail =
        "the payment for this certificate was reversed, and the reversal was undone: request certificate.reissue";
    Refusal::new(Code::Reversed, detail)
}

/// The refusal of a request about a certificate that has ended.
pub(crate) fn refusal_of(ending: Ending) -> Refusal {
    match ending {
        Ending::Exhausted => Refusal::new(Code::Exhausted, "every grant of this certificate is used up"),
        Ending::Lapsed => Refusal::new(Code::Lapsed, "the receipt of the certificate was not acknowledged in time"),
        Ending::Expired => Refusal::new(Code::Expired, "the certificate has expired"),
        Ending::Declined => Refusal::new(Code::Declined, "the payment for this certificate was declined"),
        Ending::Reversed => Refusal::new(Code::Reversed, "the payment for this certificate was reversed"),
    }
}

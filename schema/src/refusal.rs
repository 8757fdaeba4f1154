//! Refusals, which state why a request was not carried out.
//!
//! A refusal is a normal answer, not a failure. Licet replies with `request.refused`, acknowledges
//! the request and does not retry it.

use crate::body::words;

words! {
    /// The reason a request was refused. The codes are in the order of the checks, cheapest first.
    pub enum Code {
        /// The message or a token in it cannot be read.
        Malformed = "malformed",
        /// The schema version is not supported. Reserved: JSON bodies have no schema version, so no
        /// request is refused with this code today.
        UnsupportedVersion = "unsupported_version",
        /// The sender may not send this message type.
        Forbidden = "forbidden",
        /// The message id was already used for a different message.
        Conflict = "conflict",
        /// The token was signed with a key that is not trusted.
        UntrustedKey = "untrusted_key",
        /// The token differs from the token that was signed.
        Altered = "altered",
        /// The content, or this version of it, does not exist.
        UnknownContent = "unknown_content",
        /// The certificate or container does not exist.
        UnknownCertificate = "unknown_certificate",
        /// The license does not exist.
        UnknownLicense = "unknown_license",
        /// The return does not exist.
        UnknownReturn = "unknown_return",
        /// The certificate was reissued; only its newest generation is valid.
        Superseded = "superseded",
        /// All grants of the certificate are used.
        Exhausted = "exhausted",
        /// Receipt of the certificate was not acknowledged in time.
        Lapsed = "lapsed",
        /// The certificate has expired.
        Expired = "expired",
        /// The payment for the certificate was declined.
        Declined = "declined",
        /// The payment for the certificate was refunded or charged back.
        Reversed = "reversed",
        /// The license was returned, or a return of it is open.
        AlreadyReturned = "already_returned",
        /// The object belongs to another user.
        NotHolder = "not_holder",
        /// Receipt of the certificate has not been acknowledged yet.
        NotReceived = "not_received",
        /// The certificate has not been paid for yet.
        NotSettled = "not_settled",
        /// The content's return policy does not offer this privilege, or the returns would bring
        /// more than was paid.
        NotReturnable = "not_returnable",
        /// The sender already bought something under this reference.
        ReferenceUsed = "reference_used",
        /// The user has too few points, or points cannot be used for this purchase.
        InsufficientPoints = "insufficient_points",
        /// The purchase was already paid for by another settlement.
        AlreadySettled = "already_settled",
        /// The amount differs from the amount due.
        AmountMismatch = "amount_mismatch",
    }
}

impl Code {
    /// Whether the request was refused before the sender proved that the object it names exists and
    /// belongs to them.
    ///
    /// Such a refusal is not recorded in the history of the object that the request names.
    /// Otherwise, anyone could add entries to the history of another user's purchase.
    pub const fn is_unproven(self) -> bool {
        matches!(
            self,
            Self::Altered | Self::UntrustedKey | Self::Malformed | Self::UnknownCertificate | Self::UnknownLicense
        )
    }

    /// Whether a worker records a refusal with this code, so that it is final for its `message_id`.
    ///
    /// `untrusted_key` depends on the keys folder of the worker that refuses, and not on the rows.
    /// After the key was added to the folder, the same message can succeed. `conflict` is not
    /// recorded because the id belongs to another message.
    pub const fn is_recorded(self) -> bool {
        !matches!(self, Self::UntrustedKey | Self::Conflict)
    }
}

/// A refusal: a code for programs and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    /// The code.
    pub code: Code,
    /// What was wrong and what to do about it. At most [`SENTENCE_BYTES_MAX`] bytes, plus an
    /// ellipsis if the sentence was shortened.
    pub detail: String,
}

impl Refusal {
    /// Creates a refusal. A `detail` above [`SENTENCE_BYTES_MAX`] bytes is shortened.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: shortened(detail.into()) }
    }
}

/// The maximum length of an explanatory sentence in a header or body that Licet sends, in bytes of
/// UTF-8. The ellipsis at the end of a shortened sentence is not included.
///
/// The limit exists because a sentence can quote input and is copied into an AMQP header. If the
/// headers do not fit in one frame, the broker closes the connection.
pub const SENTENCE_BYTES_MAX: usize = 500;

/// Shortens a longer sentence to [`SENTENCE_BYTES_MAX`] bytes and appends an ellipsis.
pub fn shortened(mut sentence: String) -> String {
    if sentence.len() > SENTENCE_BYTES_MAX {
        sentence.truncate(sentence.floor_char_boundary(SENTENCE_BYTES_MAX));
        sentence.push('…');
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_cut_at_a_character() {
        let long = Refusal::new(Code::Malformed, "ä".repeat(100_000)).detail;
        assert!(long.len() <= SENTENCE_BYTES_MAX + 3 && long.ends_with('…'));
        assert_eq!(Refusal::new(Code::Malformed, "short").detail, "short");
    }

    #[test]
    fn every_code_is_written_the_same_by_serde_and_by_as_str() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).expect("a string"), code.as_str());
        }
    }

    #[test]
    fn a_refusal_is_unproven_if_the_token_or_the_id_was_not_accepted() {
        let unproven: Vec<_> = Code::ALL.into_iter().filter(|code| code.is_unproven()).map(Code::as_str).collect();
        assert_eq!(unproven, ["malformed", "untrusted_key", "altered", "unknown_certificate", "unknown_license"]);
    }

    #[test]
    fn a_refusal_is_recorded_unless_it_depends_on_the_keys_folder_or_belongs_to_another_message() {
        let unrecorded: Vec<_> = Code::ALL.into_iter().filter(|code| !code.is_recorded()).map(Code::as_str).collect();
        assert_eq!(unrecorded, ["conflict", "untrusted_key"]);
    }
}

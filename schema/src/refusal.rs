//! Refusals: the answers that say no, and why. A refusal is an answer and not a failure; the
//! message that earned it is done with.

use std::fmt;

use crate::wire::words;

macro_rules! codes {
    ($($(#[$meta:meta])* $variant:ident = $code:literal,)*) => {
        words! {
            /// Why a request was refused. In the order in which the checks are made, cheapest first.
            pub enum Code { $($(#[$meta])* $variant,)* }
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The code on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $code,)* }
            }
        }
    };
}

codes! {
    /// It cannot be read as what it says it is.
    Malformed = "malformed",
    /// A schema version that this release does not know.
    UnsupportedVersion = "unsupported_version",
    /// This sender may not send this type.
    Forbidden = "forbidden",
    /// The message id was used before, for another message.
    Conflict = "conflict",
    /// The token was signed with a key that is not trusted here.
    UntrustedKey = "untrusted_key",
    /// The token is not what was signed.
    Altered = "altered",
    /// No such content, or no such version of it.
    UnknownContent = "unknown_content",
    /// No such certificate or container.
    UnknownCertificate = "unknown_certificate",
    /// No such license.
    UnknownLicense = "unknown_license",
    /// No such return.
    UnknownReturn = "unknown_return",
    /// A newer generation took its place.
    Superseded = "superseded",
    /// All its grants are used up.
    Exhausted = "exhausted",
    /// Its reception was not acknowledged in time.
    Lapsed = "lapsed",
    /// Its time is over.
    Expired = "expired",
    /// Its payment was declined.
    Declined = "declined",
    /// Its payment was taken back.
    Reversed = "reversed",
    /// The license was returned, or is being returned.
    AlreadyReturned = "already_returned",
    /// It belongs to another user.
    NotHolder = "not_holder",
    /// Its reception was not acknowledged yet.
    NotReceived = "not_received",
    /// It is not paid for yet.
    NotSettled = "not_settled",
    /// The content's policy does not offer this.
    NotReturnable = "not_returnable",
    /// The user's points do not suffice, or do not pay here.
    InsufficientPoints = "insufficient_points",
    /// It is paid for already, by another settlement.
    AlreadySettled = "already_settled",
    /// The amount is not the one that is due.
    AmountMismatch = "amount_mismatch",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal: its code for programs, and a sentence for people that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    /// The code.
    pub code: Code,
    /// The sentence.
    pub detail: String,
}

impl Refusal {
    /// A refusal with its sentence, which is cut if it quotes too much of what was sent.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: shortened(detail.into()) }
    }
}

/// The most bytes of a sentence that stands in a header or a body of ours.
pub const SENTENCE_BYTES_MAX: usize = 500;

/// A sentence of bounded length: what quotes a sender's input is otherwise as long as they like,
/// and a header that fits in no frame takes the connection down.
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
}

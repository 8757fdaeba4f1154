//! The reply to a refused request.

use crate::{body::bodies, refusal::Code};

bodies! {
    /// `request.refused`: reply. The request was not carried out.
    pub struct RequestRefused {
        /// The machine-readable reason.
        pub code: Code,
        /// The human-readable reason: what was wrong and what to do about it.
        pub detail: String,
        /// The type of the refused message.
        pub message_type: String,
    }
}

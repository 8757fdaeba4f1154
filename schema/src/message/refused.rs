//! The reply to a request that was refused.

use crate::{body::bodies, refusal::Code};

bodies! {
    /// `request.refused`: reply. The request was not carried out.
    pub struct RequestRefused {
        /// The reason, for programs.
        pub code: Code,
        /// The reason, for people: what was wrong and what to do.
        pub detail: String,
        /// The type of the message that was refused.
        pub message_type: String,
    }
}

//! The sweep, which ends certificates and returns whose deadlines have passed.

use crate::{
    body::{bodies, words},
    timestamp::Timestamp,
};

bodies! {
    /// `sweep.due`: ends certificates or returns whose deadlines have passed. The clock of the
    /// sweep worker sends this message.
    pub struct SweepDue {
        /// The kind of deadline.
        pub kind: SweepKind,
        /// The sweep covers deadlines before this time. If the time is in the future, the time at
        /// which the message is handled is used instead.
        pub before: Timestamp,
    }
}

words! {
    /// The deadlines that the sweep worker checks.
    pub enum SweepKind {
        /// The deadline for acknowledging receipt of a certificate.
        Reception = "reception",
        /// The expiry of a certificate.
        Certificate = "certificate",
        /// The deadline for reporting that the copy of a returned license was deleted.
        Return = "return",
    }
}

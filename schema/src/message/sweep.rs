//! The sweep: ends what is past its deadline.

use crate::{
    body::{bodies, words},
    timestamp::Timestamp,
};

bodies! {
    /// `sweep.due`: ends what is past its deadline. Sent by the clock of the sweep worker.
    pub struct SweepDue {
        /// The kind of deadline.
        pub kind: SweepKind,
        /// The sweep ends what had a deadline before this time. A time in the future counts as the
        /// time at which the message is handled.
        pub before: Timestamp,
    }
}

words! {
    /// The deadlines that the sweep worker checks.
    pub enum SweepKind {
        /// The acknowledgement of a certificate's reception.
        Reception = "reception",
        /// The expiry of a certificate.
        Certificate = "certificate",
        /// The confirmation that a returned license's content was deleted.
        Return = "return",
    }
}

//! Issued certificates: check, receipt, reissue and end.

use uuid::Uuid;

use crate::{
    body::{bodies, words},
    money::Money,
    vocabulary::{Count, ExternalId, InvalidValue, Text},
};

bodies! {
    /// `certificate.check` and `certificate.receipt`. Exactly one of the two tokens is present.
    pub struct CertificatePresented {
        /// The token of a certificate.
        pub certificate_token: Option<String>,
        /// The token of a container.
        pub container_token: Option<String>,
    }

    /// `certificate.checked`: reply to `certificate.check`. States whether the token was altered.
    pub struct CertificateChecked {
        /// Whether the token differs from the token that Licet signed.
        pub altered: bool,
        /// The ids of the certificates that the token names.
        pub certificates: Vec<Uuid>,
        /// The id of the container that the token represents, or to which its certificate belongs.
        pub container: Option<Uuid>,
    }

    /// `certificate.accepted`: reply and event. Receipt of a purchase was acknowledged.
    pub struct CertificateAccepted {
        /// The certificates of the purchase.
        pub certificates: Vec<Uuid>,
        /// The container of the certificates. Absent if the purchase has no container.
        pub container: Option<Uuid>,
        /// The amount to pay for the purchase, after points were deducted.
        pub amount: Money,
        /// Whether the payment provider was instructed to charge the amount.
        pub settlement: Instruction,
        /// Whether receipt had already been acknowledged.
        pub repeated: bool,
        /// The order number of the upstream system.
        pub reference: Option<ExternalId>,
    }

    /// `certificate.reissue`: replaces a certificate with its next generation, which keeps the
    /// settlement and, by default, the number of granted licenses.
    pub struct CertificateReissue {
        /// The certificate.
        pub certificate: Uuid,
        /// A human-readable reason.
        pub reason: Text,
        /// The number of licenses that count as granted after the reissue. Licet limits it to the
        /// range from the number of returned licenses to the number that counted as granted before.
        /// If absent, the number does not change.
        pub granted: Option<Count>,
    }

    /// `certificate.reissued`: reply and event. Only the new generation is valid. The event
    /// contains no token.
    pub struct CertificateReissued {
        /// The certificate.
        pub certificate: Uuid,
        /// The new signed token. Absent in the event.
        pub certificate_token: Option<String>,
        /// The new generation. Tokens of earlier generations are refused as `superseded`.
        pub generation: Count,
        /// The number of licenses that count as granted.
        pub granted: Count,
        /// The number of licenses that the certificate can still grant.
        pub remaining: Count,
        /// The order number of the upstream system.
        pub reference: Option<ExternalId>,
    }

    /// `certificate.retired`: event. A certificate ended.
    pub struct CertificateRetired {
        /// The certificate.
        pub certificate: Uuid,
        /// How it ended.
        pub reason: Ending,
    }

    /// `certificate.restored`: event. A certificate that ended is live again in the same
    /// generation. Its tokens are valid again.
    pub struct CertificateRestored {
        /// The certificate.
        pub certificate: Uuid,
        /// Why it is live again.
        pub reason: Restoration,
    }
}

words! {
    /// Whether the payment provider was instructed when receipt was acknowledged.
    pub enum Instruction {
        /// The payment provider was instructed to charge the amount.
        Instructed = "instructed",
        /// The purchase is already paid for, or the amount is zero.
        NotNeeded = "not_needed",
    }

    /// Why an ended certificate is live again.
    pub enum Restoration {
        /// It was paid for after it had been declined or had lapsed.
        Paid = "paid",
    }

    /// How a certificate ended.
    pub enum Ending {
        /// All of its grants were used. The word on the wire is `granted`.
        Exhausted = "granted",
        /// Its receipt was not acknowledged in time.
        Lapsed = "lapsed",
        /// It expired.
        Expired = "expired",
        /// Its payment was declined.
        Declined = "declined",
        /// Its payment was refunded or charged back.
        Reversed = "reversed",
    }
}

impl CertificatePresented {
    /// Checks that the body contains exactly one token.
    ///
    /// # Errors
    /// The body contains both tokens or neither.
    pub fn check(&self) -> Result<(), InvalidValue> {
        if self.certificate_token.is_some() == self.container_token.is_some() {
            return Err(InvalidValue("provide exactly one of certificate_token and container_token".into()));
        }
        Ok(())
    }
}

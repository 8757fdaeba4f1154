//! Certificates after they were issued: check, reception, reissue and end.

use uuid::Uuid;

use crate::{
    body::{bodies, words},
    money::Money,
    vocabulary::{Count, ExternalId, InvalidValue, Text},
};

bodies! {
    /// `certificate.check` and `certificate.receipt`: exactly one of two tokens.
    pub struct CertificatePresented {
        /// The token of a certificate that was bought alone.
        pub certificate_token: Option<String>,
        /// The token of a container.
        pub container_token: Option<String>,
    }

    /// `certificate.checked`: reply to `certificate.check`. Whether a token was altered.
    pub struct CertificateChecked {
        /// Whether the token differs from the one that Licet signed.
        pub altered: bool,
        /// The ids of the certificates that the token names.
        pub certificates: Vec<Uuid>,
        /// The id of the container, if the token is one of a container.
        pub container: Option<Uuid>,
    }

    /// `certificate.accepted`: reply and event. The reception of a purchase was acknowledged.
    pub struct CertificateAccepted {
        /// All certificates of the purchase.
        pub certificates: Vec<Uuid>,
        /// The container of the certificates. Absent if there is only one.
        pub container: Option<Uuid>,
        /// The amount to pay for the purchase, after points were deducted.
        pub amount: Money,
        /// Whether the payment provider was instructed to charge the amount.
        pub settlement: Instruction,
        /// Whether the reception had already been acknowledged.
        pub repeated: bool,
        /// The order number of the upstream system.
        pub reference: Option<ExternalId>,
    }

    /// `certificate.reissue`: restores a certificate with its settlement and its count of grants.
    pub struct CertificateReissue {
        /// The certificate.
        pub certificate: Uuid,
        /// The reason, for people.
        pub reason: Text,
        /// The number of licenses that count as granted after the reissue. It is limited to the range
        /// from the number of returned licenses to the number granted before. If absent, the number
        /// granted before.
        pub granted: Option<Count>,
    }

    /// `certificate.reissued`: reply and event. Only the new generation is valid. The event contains
    /// no token.
    pub struct CertificateReissued {
        /// The certificate.
        pub certificate: Uuid,
        /// The new signed token. Absent in the event.
        pub certificate_token: Option<String>,
        /// The new generation. Tokens of earlier generations are refused as `superseded`.
        pub generation: Count,
        /// The number of licenses that count as granted.
        pub granted: Count,
        /// The number of licenses that the certificate still grants.
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
}

words! {
    /// Whether the acknowledgement of a reception led to an instruction to the payment provider.
    pub enum Instruction {
        /// The payment provider was instructed to charge the amount.
        Instructed = "instructed",
        /// The purchase is already paid for, or the amount is zero.
        NotNeeded = "not_needed",
    }

    /// How a certificate ended.
    pub enum Ending {
        /// All its grants were used. The word on the wire is `granted`.
        Exhausted = "granted",
        /// Its reception was not acknowledged in time.
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
    /// It contains both tokens or none.
    pub fn check(&self) -> Result<(), InvalidValue> {
        if self.certificate_token.is_some() == self.container_token.is_some() {
            return Err(InvalidValue("give exactly one of certificate_token and container_token".into()));
        }
        Ok(())
    }
}

//! The message types: what may arrive ([`Request`]) and what Licet sends ([`Output`]).
//!
//! The routing key of a message is its type, the text beside each variant below. A bare noun
//! (`certificate`, `license`) is always an id; a token stands in a field that ends in `_token`.
//!
//! Architecture invariant: bodies only. What a message means is decided by the workers' rules.

mod input;
mod output;
mod public;

pub use input::*;
pub use output::*;

use crate::format::{self, DecodeError, Format};

macro_rules! messages {
    ($(#[$meta:meta])* pub enum $name:ident { $( $variant:ident($body:ty) = $kind:literal, )* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name { $( #[doc = concat!("`", $kind, "`")] $variant($body), )* }

        impl $name {
            /// Every type of this direction.
            pub const KINDS: &'static [&'static str] = &[$($kind,)*];

            /// The message's type, which is its routing key.
            pub fn kind(&self) -> &'static str {
                match self { $( Self::$variant(_) => $kind, )* }
            }

            /// The body's bytes.
            ///
            /// # Errors
            /// A time that RFC 3339 cannot write (a year after 9999).
            pub fn encode(&self, format: Format) -> Result<Vec<u8>, format::EncodeError> {
                match self { $( Self::$variant(body) => format::encode(format, body), )* }
            }

            /// Reads a body of the type `kind`.
            ///
            /// # Errors
            /// The type is not one of this direction, or the body is not one of that type.
            pub fn decode(kind: &str, format: Format, body: &[u8]) -> Result<Self, DecodeError> {
                match kind {
                    $( $kind => format::decode(format, body).map(Self::$variant), )*
                    _ => Err(DecodeError::UnknownType { kind: kind.to_owned() }),
                }
            }
        }
    };
}

messages! {
    /// A message to Licet.
    pub enum Request {
        ContentPut(ContentPut) = "content.put",
        PurchaseRequest(PurchaseRequest) = "purchase.request",
        CertificateCheck(CertificatePresented) = "certificate.check",
        CertificateReceipt(CertificatePresented) = "certificate.receipt",
        SettlementCompletion(SettlementCompletion) = "settlement.completion",
        SettlementFailure(SettlementSetback) = "settlement.failure",
        SettlementReversal(SettlementSetback) = "settlement.reversal",
        PayoutCompletion(PayoutCompletion) = "payout.completion",
        LicenseRequest(LicenseRequest) = "license.request",
        LicenseReceipt(LicenseReceipt) = "license.receipt",
        LicenseReturn(LicenseReturn) = "license.return",
        LicenseDeletion(LicenseDeletion) = "license.deletion",
        CertificateReissue(CertificateReissue) = "certificate.reissue",
        HoldingsQuery(HoldingsQuery) = "holdings.query",
        StatusQuery(StatusQuery) = "status.query",
        SweepDue(SweepDue) = "sweep.due",
    }
}

messages! {
    /// A message from Licet: a reply, an event, or both.
    pub enum Output {
        ContentRegistered(ContentRegistered) = "content.registered",
        CertificateIssued(CertificateIssued) = "certificate.issued",
        CertificateChecked(CertificateChecked) = "certificate.checked",
        CertificateAccepted(CertificateAccepted) = "certificate.accepted",
        SettlementRegistered(SettlementRegistered) = "settlement.registered",
        LicenseIssued(LicenseIssued) = "license.issued",
        LicenseGranted(LicenseGranted) = "license.granted",
        ReturnOpened(ReturnOpened) = "return.opened",
        LicenseReturned(LicenseReturned) = "license.returned",
        CertificateReissued(CertificateReissued) = "certificate.reissued",
        PayoutRegistered(PayoutRegistered) = "payout.registered",
        HoldingsListed(HoldingsListed) = "holdings.listed",
        StatusListed(StatusListed) = "status.listed",
        RequestRefused(RequestRefused) = "request.refused",
        SettlementInstructed(SettlementInstructed) = "settlement.instructed",
        CertificateRetired(CertificateRetired) = "certificate.retired",
        PointsChanged(PointsChanged) = "points.changed",
        ContentDeleted(ContentDeleted) = "content.deleted",
        SettlementUnmatched(SettlementUnmatched) = "settlement.unmatched",
        ReturnLapsed(ReturnOpened) = "return.lapsed",
        LicenseRevoked(LicenseRevoked) = "license.revoked",
        PayoutInstructed(PayoutInstructed) = "payout.instructed",
        SweepDue(SweepDue) = "sweep.due",
    }
}

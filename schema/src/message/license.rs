//! Licenses: request, delivery and revocation.

use uuid::Uuid;

use crate::{
    body::{bodies, words},
    money::Money,
    timestamp::Timestamp,
    vocabulary::{Count, Name, Text},
};

bodies! {
    /// `license.request`: requests a license for a terminal.
    pub struct LicenseRequest {
        /// The token of the certificate that grants the license.
        pub certificate_token: String,
        /// The name of the terminal.
        pub terminal: Option<Name>,
    }

    /// `license.receipt`: acknowledges that a license arrived at the terminal.
    pub struct LicenseReceipt {
        /// The token of the license.
        pub license_token: String,
    }

    /// `license.issued`: reply and event. A license was issued. The event contains no token.
    pub struct LicenseIssued {
        /// The id of the license.
        pub license: Uuid,
        /// The signed token of the license. Absent in the event.
        pub license_token: Option<String>,
        /// The number of licenses that the certificate can still grant.
        pub remaining: Count,
    }

    /// `license.granted`: reply and event. Receipt of a license was acknowledged.
    pub struct LicenseGranted {
        /// The id of the license.
        pub license: Uuid,
        /// The certificate of the license.
        pub certificate: Uuid,
        /// The number of licenses of this certificate whose receipt was acknowledged.
        pub granted: Count,
        /// The number of licenses that the certificate can still grant.
        pub remaining: Count,
        /// Whether receipt had already been acknowledged.
        pub repeated: bool,
    }

    /// `license.revoked`: event. A license is no longer valid.
    pub struct LicenseRevoked {
        /// The id of the license.
        pub license: Uuid,
        /// The certificate of the license.
        pub certificate: Uuid,
        /// The reason it was revoked.
        pub reason: Revocation,
    }

    /// Details about the purchase and state of a license, used in messages about returns and
    /// holdings.
    pub struct LicenseAttributes {
        /// The title of the content.
        pub title: Text,
        /// When the certificate was bought.
        pub purchased_at: Timestamp,
        /// The price of the certificate.
        pub amount: Money,
        /// When receipt of the license was acknowledged.
        pub granted_at: Option<Timestamp>,
        /// The state of the license: `outstanding`, `granted`, `returning` or `returned`.
        pub state: Text,
    }
}

words! {
    /// The reason a license was revoked.
    pub enum Revocation {
        /// Its certificate was reissued.
        Reissued = "reissued",
        /// The payment for its certificate was refunded or charged back.
        Reversed = "reversed",
    }
}

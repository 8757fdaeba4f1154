//! Purchases: the request for certificates and the issued certificates.

use uuid::Uuid;

use crate::{
    body::bodies,
    money::Money,
    timestamp::Timestamp,
    vocabulary::{Count, ExternalId, InvalidValue, Name, Version},
};

/// The maximum number of items in one purchase request.
pub const ITEMS_MAX: usize = 100;

bodies! {
    /// `purchase.request`: buys one certificate for each item. Either all certificates are issued
    /// or none.
    pub struct PurchaseRequest {
        /// The buyer.
        pub user: Name,
        /// 1 to [`ITEMS_MAX`] items, all priced in the same currency.
        pub items: Vec<Item>,
        /// The number of points to spend on the purchase.
        pub points: Option<Count>,
        /// The order number of the upstream system. Licet includes it in messages about the
        /// purchase.
        pub reference: Option<ExternalId>,
    }

    /// One item of a purchase.
    #[derive(Hash)]
    pub struct Item {
        /// The name of the content.
        pub content: Name,
        /// The version. If absent, the highest registered version is used.
        pub version: Option<Version>,
    }

    /// `certificate.issued`: reply and event. Certificates were bought. The event contains no
    /// tokens.
    pub struct CertificateIssued {
        /// One certificate for each item, in the order of the request.
        pub certificates: Vec<IssuedCertificate>,
        /// The container of the certificates. Absent if there is only one certificate.
        pub container: Option<Uuid>,
        /// The signed token of the container. Absent in the event.
        pub container_token: Option<String>,
        /// The price of all certificates, before points are deducted.
        pub amount: Money,
        /// The number of points reserved for the purchase.
        pub points_held: Count,
        /// The deadline for acknowledging receipt.
        pub receipt_due_at: Timestamp,
        /// The time until which licenses can be requested. If there are several certificates, this
        /// is the earliest of their times.
        pub expires_at: Timestamp,
        /// The order number of the upstream system.
        pub reference: Option<ExternalId>,
    }

    /// One certificate of a purchase.
    pub struct IssuedCertificate {
        /// The id of the certificate.
        pub certificate: Uuid,
        /// The signed token of the certificate. Absent in the event.
        pub certificate_token: Option<String>,
    }
}

impl PurchaseRequest {
    /// Checks the number of items.
    ///
    /// # Errors
    /// The request has no items or more than [`ITEMS_MAX`] items.
    pub fn check(&self) -> Result<(), InvalidValue> {
        match self.items.len() {
            1..=ITEMS_MAX => Ok(()),
            count => {
                Err(InvalidValue(format!("a purchase must have 1 to {ITEMS_MAX} items, but this one has {count}")))
            }
        }
    }
}

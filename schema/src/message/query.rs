//! Queries: the licenses of a user and the status of purchases.

use uuid::Uuid;

use super::{license::LicenseAttributes, returns::Privilege};
use crate::{
    body::{bodies, words},
    vocabulary::{Count, ExternalId, InvalidValue, Name, Version},
};

/// The maximum number of licenses on a page of holdings, and of certificates in a status reply.
/// Even with the longest titles, such a reply fits in a message of 1 MiB.
pub const PAGE_MAX: i64 = 250;
/// The number of licenses on a page if the query sets no limit.
pub const PAGE_DEFAULT: i64 = 100;

bodies! {
    /// `holdings.query`: asks for the licenses and points of a user.
    pub struct HoldingsQuery {
        /// The user.
        pub user: Name,
        /// The value of `next` from the previous page. The reply contains only licenses with
        /// greater ids.
        pub after: Option<Uuid>,
        /// The maximum number of licenses on the page, 1 to [`PAGE_MAX`]. If absent,
        /// [`PAGE_DEFAULT`].
        pub limit: Option<Count>,
    }

    /// `status.query`: asks for the status of purchases. The body has exactly one field.
    pub struct StatusQuery {
        /// A certificate.
        pub certificate: Option<Uuid>,
        /// A container.
        pub container: Option<Uuid>,
        /// A license.
        pub license: Option<Uuid>,
        /// A return.
        pub license_return: Option<Uuid>,
        /// An order number of the upstream system.
        pub reference: Option<ExternalId>,
        /// A payment provider's id of a settlement.
        pub settlement: Option<ExternalId>,
    }

    /// `holdings.listed`: reply to `holdings.query`. One page of a user's licenses.
    pub struct HoldingsListed {
        /// The user.
        pub user: Name,
        /// The balance, in points.
        pub points: Count,
        /// The debt, in points. Points that the user receives later repay the debt first.
        pub debt: Count,
        /// The licenses, in ascending order of their ids.
        pub licenses: Vec<Holding>,
        /// The value of `after` for the next page. Absent on the last page.
        pub next: Option<Uuid>,
    }

    /// A license that a user holds.
    pub struct Holding {
        /// The id of the license.
        pub license: Uuid,
        /// The name of the content.
        pub content: Name,
        /// The version of the content.
        pub version: Version,
        /// The purchase and state of the license.
        pub attributes: LicenseAttributes,
        /// The privileges that the user can choose when returning the license. Empty if the license
        /// cannot be returned now.
        pub returnable: Vec<Privilege>,
    }

    /// `status.listed`: reply to `status.query`.
    pub struct StatusListed {
        /// The certificates that the query names, at most [`PAGE_MAX`].
        pub certificates: Vec<CertificateStatus>,
        /// The license that the query names. Absent if the query names something else.
        pub license: Option<LicenseStatus>,
    }

    /// The status of a license.
    pub struct LicenseStatus {
        /// The license.
        pub license: Uuid,
        /// The state of the license.
        pub state: LicenseState,
    }

    /// The status of a certificate.
    pub struct CertificateStatus {
        /// The certificate.
        pub certificate: Uuid,
        /// The state of the certificate.
        pub state: CertificateState,
        /// The order number of the upstream system.
        pub reference: Option<ExternalId>,
        /// The number of licenses whose receipt was acknowledged.
        pub granted: Count,
        /// The number of licenses that the certificate can still grant.
        pub remaining: Count,
        /// The payment provider's id of the settlement that paid for the certificate.
        pub settlement: Option<ExternalId>,
    }
}

words! {
    /// The state of a certificate.
    pub enum CertificateState {
        /// The certificate was issued, but its receipt has not been acknowledged.
        Issued = "issued",
        /// Its receipt was acknowledged.
        Received = "received",
        /// The certificate is paid for. It grants licenses once its receipt is acknowledged too.
        Settled = "settled",
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
        /// The reversal of its payment was undone. `certificate.reissue` brings it back.
        Reinstated = "reinstated",
    }

    /// The state of a license.
    pub enum LicenseState {
        /// The license was issued, but its receipt has not been acknowledged.
        Outstanding = "outstanding",
        /// Its receipt was acknowledged. The license stays in this state while a return is open.
        Granted = "granted",
        /// A return was completed.
        Returned = "returned",
        /// It was revoked, because its payment was refunded or charged back.
        Revoked = "revoked",
        /// It was revoked, because its certificate was reissued.
        Superseded = "superseded",
    }
}

impl HoldingsQuery {
    /// Checks the limit.
    ///
    /// # Errors
    /// The limit is 0 or above [`PAGE_MAX`].
    pub fn check(&self) -> Result<(), InvalidValue> {
        match self.limit.map(Count::get) {
            None | Some(1..=PAGE_MAX) => Ok(()),
            Some(_) => Err(InvalidValue(format!("limit must be a number from 1 to {PAGE_MAX}"))),
        }
    }
}

impl StatusQuery {
    /// Checks that the query names exactly one object.
    ///
    /// # Errors
    /// The query names no object or several objects.
    pub fn check(&self) -> Result<(), InvalidValue> {
        let Self { certificate, container, license, license_return, reference, settlement } = self;
        let ids = [certificate, container, license, license_return].into_iter().flatten().count();
        let texts = [reference, settlement].into_iter().flatten().count();
        if ids + texts == 1 {
            return Ok(());
        }
        let fields = "certificate, container, license, license_return, reference, settlement";
        Err(InvalidValue(format!("name exactly one of {fields}")))
    }
}

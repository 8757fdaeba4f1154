//! Returns: a user returns a license and receives a privilege.

use uuid::Uuid;

use super::license::LicenseAttributes;
use crate::{
    body::{bodies, words},
    money::Money,
    timestamp::Timestamp,
    vocabulary::{Count, Name, Version},
};

bodies! {
    /// `license.return`: returns a license. The reply is `license.returned` if the terminal has
    /// already deleted its copy, and `return.opened` otherwise.
    pub struct LicenseReturn {
        /// The token of the license.
        pub license_token: String,
        /// The user who holds the license.
        pub user: Name,
        /// The privilege that the user chooses.
        pub privilege: Privilege,
        /// Whether the terminal has already deleted its copy of the content.
        pub deleted: bool,
    }

    /// `license.deletion`: the terminal deleted its copy of the content.
    pub struct LicenseDeletion {
        /// The return that was opened.
        pub license_return: Uuid,
    }

    /// `return.opened`: reply and event. The terminal must delete its copy before `delete_by`.
    /// `return.lapsed`: event. The copy was not deleted in time, and the license is valid again.
    pub struct ReturnOpened {
        /// The id of the return.
        pub license_return: Uuid,
        /// The license.
        pub license: Uuid,
        /// The name of the content.
        pub content: Name,
        /// The version of the content.
        pub version: Version,
        /// The purchase and state of the license.
        pub attributes: LicenseAttributes,
        /// The privilege that the user chose.
        pub privilege: Privilege,
        /// The deadline for reporting the deletion.
        pub delete_by: Timestamp,
        /// `returning` in `return.opened`, `live` in `return.lapsed`.
        pub content_status: ContentStatus,
    }

    /// `license.returned`: reply and event. The license has ended and the privilege was granted.
    /// The event contains no token.
    pub struct LicenseReturned {
        /// The id of the return.
        pub license_return: Uuid,
        /// The license.
        pub license: Uuid,
        /// The user who returned the license.
        pub user: Name,
        /// The name of the content.
        pub content: Name,
        /// The version of the content.
        pub version: Version,
        /// The purchase and state of the license.
        pub attributes: LicenseAttributes,
        /// The privilege that the user received.
        pub privilege: PrivilegeGranted,
        /// Always `deleted`.
        pub content_status: ContentStatus,
        /// Whether the deletion had already been reported.
        pub repeated: bool,
    }

    /// A privilege that was granted. Only the fields of its kind are present.
    pub struct PrivilegeGranted {
        /// The kind of privilege.
        pub kind: Privilege,
        /// For `points`: the number of points.
        pub points: Option<Count>,
        /// For `upgrade`: the id of the certificate for the successor.
        pub certificate: Option<Uuid>,
        /// For `upgrade`: the signed token of that certificate. Absent in the event.
        pub certificate_token: Option<String>,
        /// For `buyback`: the amount that is paid out.
        pub amount: Option<Money>,
    }

    /// `content.deleted`: event. A returned license was deleted. Content systems must delete the
    /// user's copy of the content.
    pub struct ContentDeleted {
        /// The id of the return.
        pub license_return: Uuid,
        /// The license that was returned.
        pub license: Uuid,
        /// The user.
        pub user: Name,
        /// The name of the content.
        pub content: Name,
        /// The version of the content.
        pub version: Version,
    }
}

words! {
    /// A privilege that a user can receive for a returned license.
    pub enum Privilege {
        /// Points for later purchases.
        Points = "points",
        /// A certificate for the successor of the content.
        Upgrade = "upgrade",
        /// Money.
        Buyback = "buyback",
        /// Only a record of the return.
        Collection = "collection",
    }

    /// The status of the user's copy of a content item.
    pub enum ContentStatus {
        /// In use.
        Live = "live",
        /// To be deleted.
        Returning = "returning",
        /// Deleted.
        Deleted = "deleted",
    }
}

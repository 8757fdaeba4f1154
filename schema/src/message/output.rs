//! The bodies of what Licet sends.

use uuid::Uuid;

use super::Privilege;
use crate::{
    money::Money,
    refusal::Code,
    timestamp::Timestamp,
    vocabulary::{Count, ExternalId, Grants, Name, Text, Version},
    wire::{wire, words},
};

wire! {
    /// `content.registered`.
    pub struct ContentRegistered {
        /// The content's name.
        pub content: Name,
        /// Its version.
        pub version: Version,
    }

    /// `certificate.issued`: the answer to a purchase. As an event it has no tokens.
    pub struct CertificateIssued {
        /// One for each item, in the order of the request.
        pub certificates: Vec<IssuedCertificate>,
        /// The container that holds them, if there are several.
        pub container: Option<Uuid>,
        /// The container's token.
        pub container_token: Option<String>,
        /// The price of all.
        pub amount: Money,
        /// Points held for it.
        pub points_held: Count,
        /// Until when reception must be acknowledged.
        pub receipt_due_at: Timestamp,
        /// Until when licenses can be requested (the earliest, of several).
        pub expires_at: Timestamp,
        /// The upstream's order number.
        pub reference: Option<ExternalId>,
    }

    /// One certificate of a purchase.
    pub struct IssuedCertificate {
        /// Its id.
        pub certificate: Uuid,
        /// Its token; none in an event.
        pub certificate_token: Option<String>,
    }

    /// `certificate.checked`: whether a certificate or container was altered.
    pub struct CertificateChecked {
        /// True if it is not what Licet signed.
        pub altered: bool,
        /// The certificates that it speaks of.
        pub certificates: Vec<Uuid>,
        /// The container, if it is one.
        pub container: Option<Uuid>,
    }

    /// `certificate.accepted`: reception is on record.
    pub struct CertificateAccepted {
        /// All certificates of the purchase.
        pub certificates: Vec<Uuid>,
        /// Their container, if there are several.
        pub container: Option<Uuid>,
        /// What is charged for them.
        pub amount: Money,
        /// Whether the provider was to charge it.
        pub settlement: Instruction,
        /// True if the notice had been taken before.
        pub repeated: bool,
        /// The upstream's order number.
        pub reference: Option<ExternalId>,
    }
}

words! {
    /// Whether a reception notice made the payment provider charge the user.
    pub enum Instruction {
        /// The provider was instructed.
        Instructed,
        /// It is paid for already, or nothing is left to pay.
        NotNeeded,
    }
}

words! {
    /// What a settlement event told.
    pub enum SettlementOutcome {
        /// Paid.
        Completed,
        /// The payment failed.
        Failed,
        /// The payment was taken back.
        Reversed,
    }
}

wire! {
    /// `settlement.registered`.
    pub struct SettlementRegistered {
        /// The certificate, if it was bought alone.
        pub certificate: Option<Uuid>,
        /// The container, if there were several.
        pub container: Option<Uuid>,
        /// The provider's id of the settlement.
        pub settlement: ExternalId,
        /// What it told.
        pub outcome: SettlementOutcome,
        /// Grants of each certificate.
        pub grants: Option<Grants>,
        /// True if it was registered before.
        pub repeated: bool,
        /// The upstream's order number.
        pub reference: Option<ExternalId>,
    }

    /// `license.issued`. As an event it has no token.
    pub struct LicenseIssued {
        /// The license's id.
        pub license: Uuid,
        /// Its token; none in an event.
        pub license_token: Option<String>,
        /// How many more licenses the certificate permits.
        pub remaining: Count,
    }

    /// `license.granted`: the delivery of a license is confirmed.
    pub struct LicenseGranted {
        /// The license's id.
        pub license: Uuid,
        /// Its certificate.
        pub certificate: Uuid,
        /// Confirmed deliveries of this certificate.
        pub granted: Count,
        /// How many more licenses the certificate permits.
        pub remaining: Count,
        /// True if it was confirmed before.
        pub repeated: bool,
    }

    /// What is told of a license that is given back.
    pub struct LicenseAttributes {
        /// The content's title.
        pub title: Text,
        /// When it was bought.
        pub purchased_at: Timestamp,
        /// What it cost.
        pub amount: Money,
        /// When the license's delivery was confirmed.
        pub granted_at: Option<Timestamp>,
        /// Its state: `granted`, `returning` or `returned`.
        pub state: Text,
    }

    /// `return.opened`: the license is to be deleted on the terminal by the deadline.
    pub struct ReturnOpened {
        /// The return's id.
        pub license_return: Uuid,
        /// The license.
        pub license: Uuid,
        /// Its content.
        pub content: Name,
        /// The content's version.
        pub version: Version,
        /// What was bought.
        pub attributes: LicenseAttributes,
        /// What it will bring back.
        pub privilege: Privilege,
        /// Until when the deletion must be told.
        pub delete_by: Timestamp,
        /// `returning`; in `return.lapsed`, `live`.
        pub content_status: ContentStatus,
    }

    /// `license.returned`: the license is gone and the privilege given.
    pub struct LicenseReturned {
        /// The return's id.
        pub license_return: Uuid,
        /// The license.
        pub license: Uuid,
        /// Who gave it back.
        pub user: Name,
        /// Its content.
        pub content: Name,
        /// The content's version.
        pub version: Version,
        /// What was bought.
        pub attributes: LicenseAttributes,
        /// What it brought back.
        pub privilege: PrivilegeGranted,
        /// Always `deleted`.
        pub content_status: ContentStatus,
        /// True if the deletion was told before.
        pub repeated: bool,
    }

    /// A privilege, with what it consists of.
    pub struct PrivilegeGranted {
        /// Which of the four.
        pub kind: Privilege,
        /// Points, for `points`.
        pub points: Option<Count>,
        /// The successor's certificate, for `upgrade`.
        pub certificate: Option<Uuid>,
        /// Its token; none in an event.
        pub certificate_token: Option<String>,
        /// Money, for `buyback`.
        pub amount: Option<Money>,
    }
}

words! {
    /// Where a content's copy stands at the user's.
    pub enum ContentStatus {
        /// In use.
        Live,
        /// To be deleted.
        Returning,
        /// Deleted.
        Deleted,
    }
}

wire! {
    /// `certificate.reissued`. As an event it has no token.
    pub struct CertificateReissued {
        /// The certificate.
        pub certificate: Uuid,
        /// Its new token; none in an event.
        pub certificate_token: Option<String>,
        /// The generation that counts from now on.
        pub generation: Count,
        /// Licenses that count as granted.
        pub granted: Count,
        /// How many more licenses it permits.
        pub remaining: Count,
        /// The upstream's order number.
        pub reference: Option<ExternalId>,
    }

    /// `payout.registered`: a buy-back was paid out.
    pub struct PayoutRegistered {
        /// The return.
        pub license_return: Uuid,
        /// The provider's id of the payout.
        pub payout: ExternalId,
        /// True if it was registered before.
        pub repeated: bool,
    }

    /// `holdings.listed`: a page of what a user holds.
    pub struct HoldingsListed {
        /// The user.
        pub user: Name,
        /// Points that can be spent.
        pub points: Count,
        /// Points owed: repaid first from later points.
        pub debt: Count,
        /// Licenses, in the order of their ids.
        pub licenses: Vec<Holding>,
        /// Give this as `after` for the next page; none if this is the last.
        pub next: Option<Uuid>,
    }

    /// A license in a user's hands.
    pub struct Holding {
        /// The license.
        pub license: Uuid,
        /// Its content.
        pub content: Name,
        /// The content's version.
        pub version: Version,
        /// What was bought.
        pub attributes: LicenseAttributes,
        /// What returning it would bring back; nothing, if it cannot be returned now.
        pub returnable: Vec<Privilege>,
    }

    /// `status.listed`: where purchases stand.
    pub struct StatusListed {
        /// The certificates that were asked for.
        pub certificates: Vec<CertificateStatus>,
    }

    /// Where a certificate stands.
    pub struct CertificateStatus {
        /// The certificate.
        pub certificate: Uuid,
        /// `issued`, `received`, `settled`, or how it ended.
        pub state: CertificateState,
        /// The upstream's order number.
        pub reference: Option<ExternalId>,
        /// Confirmed deliveries of its licenses.
        pub granted: Count,
        /// How many more licenses it permits.
        pub remaining: Count,
        /// The settlement that paid for it.
        pub settlement: Option<ExternalId>,
    }
}

words! {
    /// Where a certificate stands.
    pub enum CertificateState {
        /// Sent, its reception not acknowledged.
        Issued,
        /// Its reception was acknowledged.
        Received,
        /// Paid for. It grants licenses once it is received too.
        Settled,
        /// All its grants were used.
        Granted,
        /// Its reception was not acknowledged in time.
        Lapsed,
        /// Its time was over.
        Expired,
        /// Its payment was declined.
        Declined,
        /// Its payment was taken back.
        Reversed,
    }
}

words! {
    /// Why a license was revoked.
    pub enum Revocation {
        /// Its certificate was reissued.
        Reissued,
        /// What paid for it was taken back.
        Reversed,
    }
}

wire! {
    /// `license.revoked`: a license counts no more.
    pub struct LicenseRevoked {
        /// The license.
        pub license: Uuid,
        /// Its certificate.
        pub certificate: Uuid,
        /// Why.
        pub reason: Revocation,
    }

    /// `payout.instructed`: what the payment provider is to pay out.
    pub struct PayoutInstructed {
        /// The return that it is for.
        pub license_return: Uuid,
        /// Whom to pay.
        pub user: Name,
        /// How much.
        pub amount: Money,
    }

    /// `request.refused`.
    pub struct RequestRefused {
        /// Why, for programs.
        pub code: Code,
        /// Why, for people.
        pub detail: String,
        /// The type of the message that was refused.
        pub message_type: String,
    }

    /// `settlement.instructed`: what the payment provider is to charge.
    pub struct SettlementInstructed {
        /// The certificate, if it was bought alone.
        pub certificate: Option<Uuid>,
        /// The container, if there are several.
        pub container: Option<Uuid>,
        /// Whom to charge.
        pub user: Name,
        /// How much.
        pub amount: Money,
        /// The upstream's order number.
        pub reference: Option<ExternalId>,
    }

    /// `certificate.retired`: a certificate has ended.
    pub struct CertificateRetired {
        /// The certificate.
        pub certificate: Uuid,
        /// How.
        pub reason: Ending,
    }

    /// `points.changed`: one net change for each user and input.
    pub struct PointsChanged {
        /// Whose points.
        pub user: Name,
        /// By how much.
        pub delta: i64,
        /// What there is now.
        pub balance: Count,
        /// The message that caused it.
        pub cause: Uuid,
    }

    /// `content.deleted`: content systems delete that user's copy.
    pub struct ContentDeleted {
        /// The return.
        pub license_return: Uuid,
        /// The license that was given back.
        pub license: Uuid,
        /// Whose copy.
        pub user: Name,
        /// Of which content.
        pub content: Name,
        /// In which version.
        pub version: Version,
    }

    /// `settlement.unmatched`: money that matches nothing; it is kept.
    pub struct SettlementUnmatched {
        /// The provider's id of the settlement.
        pub settlement: ExternalId,
        /// The provider.
        pub provider: Name,
        /// The certificate it named.
        pub certificate: Option<Uuid>,
        /// The container it named.
        pub container: Option<Uuid>,
        /// What was paid.
        pub amount: Option<Money>,
        /// Why it matches nothing.
        pub reason: Code,
    }
}

words! {
    /// How a certificate ended.
    pub enum Ending {
        /// All its grants were used.
        Granted,
        /// Its reception was not acknowledged in time.
        Lapsed,
        /// Its time was over.
        Expired,
        /// Its payment was declined.
        Declined,
        /// Its payment was taken back.
        Reversed,
    }
}

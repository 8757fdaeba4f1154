//! The message types: what may arrive ([`Request`]) and what Licet sends ([`Output`]).
//!
//! The routing key of a message is its type, the text beside each variant below. A bare noun
//! (`certificate`, `license`) is always an id; a token stands in a field that ends in `_token`.
//!
//! Architecture invariant: bodies only. What a message means is decided by the workers' rules.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    format::{self, DecodeError, Format},
    money::Money,
    refusal::Code,
    timestamp::Timestamp,
    vocabulary::{Count, ExternalId, Grants, Name, Seconds, Text, Unfit, Version},
    wire::wire,
};

/// The most items that one purchase request may hold.
pub const ITEMS_MAX: usize = 100;

wire! {
    /// `content.put`: register a content, or change what is sold of it from now on.
    pub struct ContentPut {
        /// The content's name.
        pub content: Name,
        /// Its version.
        pub version: Version,
        /// Its title, for people.
        pub title: Text,
        /// What one certificate costs.
        pub price: Money,
        /// How many licenses one certificate grants, unless its settlement says otherwise.
        pub grants: Grants,
        /// How long a certificate lives, in seconds.
        pub certificate_ttl_s: Seconds,
        /// How long a reception notice may take, in seconds; else the configured time.
        pub receipt_ttl_s: Option<Seconds>,
        /// What an upgrade of this version gives.
        pub successor: Option<ContentVersion>,
        /// What a returned license brings back.
        pub return_policy: ReturnPolicy,
        /// Where the work itself is to be had.
        pub media: Option<Media>,
    }

    /// One version of a content.
    pub struct ContentVersion {
        /// The content's name.
        pub content: Name,
        /// Its version.
        pub version: Version,
    }

    /// What a content's returned license brings back: any of four privileges, or none.
    pub struct ReturnPolicy {
        /// So many points.
        pub points: Option<Count>,
        /// The successor's certificate.
        pub upgrade: Option<bool>,
        /// So much money.
        pub buyback: Option<Money>,
        /// A collection record alone.
        pub collection: Option<bool>,
    }

    /// Where a content is fetched, and how its copy is checked.
    pub struct Media {
        /// A URL.
        pub uri: Text,
        /// SHA-256 of the bytes, in hexadecimal.
        pub sha256: Text,
        /// Their number.
        pub bytes: Count,
    }

    /// `purchase.request`: buy certificates, all or nothing.
    pub struct PurchaseRequest {
        /// Who buys.
        pub user: Name,
        /// What: 1 to [`ITEMS_MAX`] items in one currency.
        pub items: Vec<Item>,
        /// How many points to spend on it.
        pub points: Option<Count>,
        /// The upstream's order number, echoed wherever the purchase is named.
        pub reference: Option<ExternalId>,
    }

    /// One thing to buy.
    pub struct Item {
        /// The content's name.
        pub content: Name,
        /// Its version; the highest, if absent.
        pub version: Option<Version>,
    }

    /// `certificate.check` and `certificate.receipt`: exactly one of two tokens.
    pub struct CertificatePresented {
        /// A certificate that came alone.
        pub certificate_token: Option<String>,
        /// A container of several.
        pub container_token: Option<String>,
    }

    /// `settlement.completion`: the payment provider was paid.
    pub struct SettlementCompletion {
        /// The certificate paid for, if it was bought alone.
        pub certificate: Option<Uuid>,
        /// The container paid for, if there were several.
        pub container: Option<Uuid>,
        /// The provider's id of the settlement.
        pub settlement: ExternalId,
        /// The provider.
        pub provider: Name,
        /// What was paid.
        pub amount: Money,
        /// Grants of each certificate; else the content's.
        pub grants: Option<Grants>,
    }

    /// `license.request`: a terminal asks for a license.
    pub struct LicenseRequest {
        /// The certificate that permits it.
        pub certificate_token: String,
        /// The device's name.
        pub terminal: Option<Name>,
    }

    /// `license.receipt`: the terminal holds the license.
    pub struct LicenseReceipt {
        /// The license that arrived.
        pub license_token: String,
    }

    /// `license.return`: the user gives a license back.
    pub struct LicenseReturn {
        /// The license.
        pub license_token: String,
        /// Its user.
        pub user: Name,
        /// What it shall bring back.
        pub privilege: Privilege,
        /// Whether the terminal has deleted its copy already.
        pub deleted: bool,
    }

    /// `license.deletion`: the terminal has deleted its copy.
    pub struct LicenseDeletion {
        /// The return that was opened.
        pub license_return: Uuid,
    }
}

/// What a returned license brings back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Privilege {
    /// Points for later purchases.
    Points,
    /// A certificate for the successor.
    Upgrade,
    /// Money.
    Buyback,
    /// A record alone.
    Collection,
}

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

/// Whether a reception notice made the payment provider charge the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Instruction {
    /// The provider was instructed.
    Instructed,
    /// It is paid for already, or nothing is left to pay.
    NotNeeded,
}

/// What a settlement event told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SettlementOutcome {
    /// Paid.
    Completed,
    /// The payment failed.
    Failed,
    /// The payment was taken back.
    Reversed,
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

/// Where a content's copy stands at the user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContentStatus {
    /// In use.
    Live,
    /// To be deleted.
    Returning,
    /// Deleted.
    Deleted,
}

wire! {
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

/// How a certificate ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
        LicenseRequest(LicenseRequest) = "license.request",
        LicenseReceipt(LicenseReceipt) = "license.receipt",
        LicenseReturn(LicenseReturn) = "license.return",
        LicenseDeletion(LicenseDeletion) = "license.deletion",
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
        RequestRefused(RequestRefused) = "request.refused",
        SettlementInstructed(SettlementInstructed) = "settlement.instructed",
        CertificateRetired(CertificateRetired) = "certificate.retired",
        PointsChanged(PointsChanged) = "points.changed",
        ContentDeleted(ContentDeleted) = "content.deleted",
        SettlementUnmatched(SettlementUnmatched) = "settlement.unmatched",
        ReturnLapsed(ReturnOpened) = "return.lapsed",
    }
}

impl Request {
    /// Reads a body of the type `kind`, and checks what no single field can tell.
    ///
    /// # Errors
    /// It cannot be read, or contradicts itself.
    pub fn read(kind: &str, format: Format, body: &[u8]) -> Result<Self, DecodeError> {
        let request = Self::decode(kind, format, body)?;
        request.check().map_err(|what| DecodeError::Unsound { what })?;
        Ok(request)
    }

    /// Checks what no single field can tell.
    ///
    /// # Errors
    /// Fields contradict each other, or a list is too short or too long.
    pub fn check(&self) -> Result<(), Unfit> {
        match self {
            Self::ContentPut(body) => body.check(),
            Self::PurchaseRequest(body) => match body.items.len() {
                1..=ITEMS_MAX => Ok(()),
                count => unfit(format!("a purchase has 1 to {ITEMS_MAX} items, this one has {count}")),
            },
            Self::CertificateCheck(body) | Self::CertificateReceipt(body) => {
                let one = body.certificate_token.is_some() != body.container_token.is_some();
                if one { Ok(()) } else { unfit("give exactly one of certificate_token and container_token") }
            }
            Self::SettlementCompletion(body) => {
                let one = body.certificate.is_some() != body.container.is_some();
                if one { Ok(()) } else { unfit("name exactly one of certificate and container") }
            }
            Self::LicenseRequest(_) | Self::LicenseReceipt(_) | Self::LicenseReturn(_) | Self::LicenseDeletion(_) => {
                Ok(())
            }
        }
    }
}

impl ContentPut {
    fn check(&self) -> Result<(), Unfit> {
        if self.return_policy.upgrade == Some(true) && self.successor.is_none() {
            return unfit("return_policy.upgrade needs a successor: name the content that an upgrade gives");
        }
        if self.successor.as_ref().is_some_and(|next| (&next.content, next.version) == (&self.content, self.version)) {
            return unfit("a content is not its own successor");
        }
        let hexadecimal = |digest: &str| digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        if self.media.as_ref().is_some_and(|media| !hexadecimal(media.sha256.as_str())) {
            return unfit("media.sha256 has 64 hexadecimal digits");
        }
        Ok(())
    }
}

fn unfit(what: impl Into<String>) -> Result<(), Unfit> {
    Err(Unfit(what.into()))
}

impl Output {
    /// The subject's id, which tells two events of one type and one cause apart.
    pub fn subject(&self) -> String {
        match self {
            Self::ContentRegistered(body) => format!("{}@{}", body.content, body.version),
            Self::CertificateIssued(body) => first(body.container, body.certificates.iter().map(|one| one.certificate)),
            Self::CertificateChecked(body) => first(body.container, body.certificates.iter().copied()),
            Self::CertificateAccepted(body) => first(body.container, body.certificates.iter().copied()),
            Self::SettlementRegistered(body) => first(body.container, body.certificate),
            Self::LicenseIssued(body) => body.license.to_string(),
            Self::LicenseGranted(body) => body.license.to_string(),
            Self::ReturnOpened(body) | Self::ReturnLapsed(body) => body.license_return.to_string(),
            Self::LicenseReturned(body) => body.license_return.to_string(),
            Self::RequestRefused(body) => body.code.to_string(),
            Self::SettlementInstructed(body) => first(body.container, body.certificate),
            Self::CertificateRetired(body) => body.certificate.to_string(),
            Self::PointsChanged(body) => body.user.to_string(),
            Self::ContentDeleted(body) => body.license.to_string(),
            Self::SettlementUnmatched(body) => format!("{}:{}", body.provider, body.settlement),
        }
    }

    /// What everybody may hear of a reply: the reply without its tokens, since a bearer's proof
    /// goes only to its bearer. None for what is no event: queries, refusals and repeats.
    pub fn public(&self) -> Option<Self> {
        match self {
            Self::CertificateChecked(_) | Self::RequestRefused(_) => None,
            Self::CertificateAccepted(body) if body.repeated => None,
            Self::SettlementRegistered(body) if body.repeated => None,
            Self::LicenseGranted(body) if body.repeated => None,
            Self::LicenseReturned(body) if body.repeated => None,
            Self::CertificateIssued(body) => {
                let mut body = body.clone();
                body.container_token = None;
                body.certificates.iter_mut().for_each(|one| one.certificate_token = None);
                Some(Self::CertificateIssued(body))
            }
            Self::LicenseIssued(body) => {
                Some(Self::LicenseIssued(LicenseIssued { license_token: None, ..body.clone() }))
            }
            Self::LicenseReturned(body) => {
                let mut body = body.clone();
                body.privilege.certificate_token = None;
                Some(Self::LicenseReturned(body))
            }
            Self::ContentRegistered(_)
            | Self::CertificateAccepted(_)
            | Self::SettlementRegistered(_)
            | Self::LicenseGranted(_)
            | Self::ReturnOpened(_)
            | Self::ReturnLapsed(_)
            | Self::SettlementInstructed(_)
            | Self::CertificateRetired(_)
            | Self::PointsChanged(_)
            | Self::ContentDeleted(_)
            | Self::SettlementUnmatched(_) => Some(self.clone()),
        }
    }
}

fn first(container: Option<Uuid>, certificates: impl IntoIterator<Item = Uuid>) -> String {
    container.or_else(|| certificates.into_iter().next()).unwrap_or_default().to_string()
}

//! The bodies of what may arrive, and what no single field of them can tell.

use uuid::Uuid;

use super::Request;
use crate::{
    format::{DecodeError, Format},
    money::Money,
    timestamp::Timestamp,
    vocabulary::{Count, ExternalId, Grants, Name, Seconds, Text, Unfit, Version},
    wire::{wire, words},
};

/// The most items that one purchase request may hold.
pub const ITEMS_MAX: usize = 100;
/// The most licenses of one page of holdings, and the most certificates that a status lists: with
/// the longest titles it still fits in a message of 1 MiB.
pub const PAGE_MAX: i64 = 250;
/// Licenses of a page where the query does not say.
pub const PAGE_DEFAULT: i64 = 100;

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

    /// `settlement.failure` and `settlement.reversal`: the payment failed, or was taken back.
    pub struct SettlementSetback {
        /// The certificate it was for, if that was bought alone.
        pub certificate: Option<Uuid>,
        /// The container it was for, if there were several.
        pub container: Option<Uuid>,
        /// The provider's id of the settlement.
        pub settlement: ExternalId,
        /// The provider.
        pub provider: Name,
        /// Why, for people.
        pub reason: Text,
        /// What was taken back, where the settlement was told with several amounts. Never of a
        /// failure: then nothing was paid.
        pub amount: Option<Money>,
    }

    /// `payout.completion`: the money for a buy-back was paid out.
    pub struct PayoutCompletion {
        /// The return that it was for.
        pub license_return: Uuid,
        /// The provider's id of the payout.
        pub payout: ExternalId,
        /// The provider.
        pub provider: Name,
        /// What was paid out.
        pub amount: Money,
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

    /// `certificate.reissue`: regenerate a certificate, its settlement and its count.
    pub struct CertificateReissue {
        /// The certificate.
        pub certificate: Uuid,
        /// Why, for people.
        pub reason: Text,
        /// How many of its licenses shall count as granted, if fewer than did.
        pub granted: Option<Count>,
    }

    /// `holdings.query`: what licenses does a user hold?
    pub struct HoldingsQuery {
        /// The user.
        pub user: Name,
        /// Only licenses after this one: `next` of the page before.
        pub after: Option<Uuid>,
        /// Most licenses of a page, 1 to [`PAGE_MAX`]; [`PAGE_DEFAULT`] if absent.
        pub limit: Option<Count>,
    }

    /// `status.query`: where does it stand? Exactly one of these.
    pub struct StatusQuery {
        /// A certificate.
        pub certificate: Option<Uuid>,
        /// A container.
        pub container: Option<Uuid>,
        /// A license.
        pub license: Option<Uuid>,
        /// A return.
        pub license_return: Option<Uuid>,
        /// The upstream's order number.
        pub reference: Option<ExternalId>,
        /// A provider's id of a settlement.
        pub settlement: Option<ExternalId>,
    }

    /// `sweep.due`: end what is overdue. From the sweeper's own clock.
    pub struct SweepDue {
        /// What is overdue.
        pub kind: SweepKind,
        /// Whose deadline was before this; the time of the decision, if that is earlier.
        pub before: Timestamp,
    }
}

words! {
    /// The deadlines that a sweep looks after.
    pub enum SweepKind {
        /// Certificates whose reception was not acknowledged.
        Reception,
        /// Certificates whose time is over.
        Certificate,
        /// Returns whose deletion was not told.
        Return,
    }
}

impl SweepKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Reception, Self::Certificate, Self::Return];

    /// The kind on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reception => "reception",
            Self::Certificate => "certificate",
            Self::Return => "return",
        }
    }
}

words! {
    /// What a returned license brings back.
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
            Self::SettlementCompletion(body) => one_purchase(body.certificate, body.container),
            Self::SettlementFailure(body) if body.amount.is_some() => {
                unfit("a failure has no amount: nothing was paid")
            }
            Self::SettlementFailure(body) | Self::SettlementReversal(body) => {
                one_purchase(body.certificate, body.container)
            }
            Self::HoldingsQuery(body) => match body.limit.map(Count::get) {
                None | Some(1..=PAGE_MAX) => Ok(()),
                Some(_) => unfit(format!("limit is a number from 1 to {PAGE_MAX}")),
            },
            Self::StatusQuery(body) => body.check(),
            Self::LicenseRequest(_)
            | Self::LicenseReceipt(_)
            | Self::LicenseReturn(_)
            | Self::LicenseDeletion(_)
            | Self::CertificateReissue(_)
            | Self::PayoutCompletion(_)
            | Self::SweepDue(_) => Ok(()),
        }
    }
}

fn one_purchase(certificate: Option<Uuid>, container: Option<Uuid>) -> Result<(), Unfit> {
    let one = certificate.is_some() != container.is_some();
    match certificate.or(container) {
        // No id of ours, and in sets of rows the stand-in for none.
        Some(id) if id.is_nil() => unfit("the nil UUID is no certificate's or container's id"),
        _ if one => Ok(()),
        _ => unfit("name exactly one of certificate and container"),
    }
}

impl StatusQuery {
    fn check(&self) -> Result<(), Unfit> {
        let ids = [self.certificate, self.container, self.license, self.license_return];
        let texts = [&self.reference, &self.settlement];
        let named = ids.iter().flatten().count() + texts.into_iter().flatten().count();
        match named {
            1 => Ok(()),
            _ => unfit("name exactly one of certificate, container, license, license_return, reference, settlement"),
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

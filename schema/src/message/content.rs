//! Content: its registration and terms of sale.

use crate::{
    body::bodies,
    money::Money,
    vocabulary::{Count, Grants, InvalidValue, Name, Seconds, Text, Version},
};

bodies! {
    /// `content.put`: registers a content version, or changes its terms for future purchases.
    /// Certificates that were already bought keep their terms.
    pub struct ContentPut {
        /// The name of the content.
        pub content: Name,
        /// The version of the content.
        pub version: Version,
        /// The display title.
        pub title: Text,
        /// The price of one certificate.
        pub price: Money,
        /// The number of licenses that one certificate grants, unless its settlement specifies
        /// another number.
        pub grants: Grants,
        /// The lifetime of a certificate, in seconds.
        pub certificate_ttl_s: Seconds,
        /// The time within which receipt must be acknowledged, in seconds. If absent, the
        /// configured default applies.
        pub receipt_ttl_s: Option<Seconds>,
        /// The content version that an upgrade of this version grants.
        pub successor: Option<ContentVersion>,
        /// The privileges that a user can choose when returning a license.
        pub return_policy: ReturnPolicy,
        /// Where the content can be downloaded.
        pub media: Option<Media>,
    }

    /// One version of a content item.
    #[derive(Hash)]
    pub struct ContentVersion {
        /// The name of the content.
        pub content: Name,
        /// The version.
        pub version: Version,
    }

    /// The privileges offered for a returned license. If none is offered, licenses cannot be
    /// returned.
    pub struct ReturnPolicy {
        /// The number of points offered. If absent, no points are offered.
        pub points: Option<Count>,
        /// Whether a certificate for the successor is offered. If absent, `false`.
        pub upgrade: Option<bool>,
        /// The amount offered for a buy-back. If absent, no buy-back is offered.
        pub buyback: Option<Money>,
        /// Whether a collection record is offered. If absent, `false`.
        pub collection: Option<bool>,
    }

    /// Where a content item can be downloaded, and how to verify the download.
    pub struct Media {
        /// The URL.
        pub uri: Text,
        /// The SHA-256 digest of the file: 64 hexadecimal digits.
        pub sha256: Text,
        /// The size of the file, in bytes.
        pub bytes: Count,
    }

    /// `content.registered`: reply and event. A content version was registered, or its terms were
    /// changed.
    pub struct ContentRegistered {
        /// The name of the content.
        pub content: Name,
        /// The version of the content.
        pub version: Version,
    }
}

impl ContentPut {
    /// Checks the privileges, the successor and the digest.
    ///
    /// # Errors
    /// A return would bring more points or money than the price, a buy-back is in another currency
    /// than the price, an upgrade is offered without a successor, the content is its own successor,
    /// or `media.sha256` is not a SHA-256 digest.
    pub fn check(&self) -> Result<(), InvalidValue> {
        let price = self.price;
        // One point is worth one minor unit. The catalog's rule checks the currency.
        if let Some(points) = self.return_policy.points.filter(|points| *points > price.amount_minor) {
            return Err(InvalidValue(format!(
                "return_policy.points must not be worth more than the price, but {points} points are offered for a \
                 price of {} minor units: offer fewer points",
                price.amount_minor
            )));
        }
        if let Some(buyback) = self.return_policy.buyback {
            if buyback.currency != price.currency {
                return Err(InvalidValue(format!(
                    "return_policy.buyback must have the currency of the price: send an amount in {}",
                    price.currency
                )));
            }
            if buyback.amount_minor > price.amount_minor {
                return Err(InvalidValue(format!(
                    "return_policy.buyback must not be above the price, but {buyback} is offered for a price of \
                     {price}: offer a lower amount"
                )));
            }
        }
        if self.return_policy.upgrade == Some(true) && self.successor.is_none() {
            return Err(InvalidValue(
                "return_policy.upgrade requires a successor: name the content that an upgrade grants".into(),
            ));
        }
        if self.successor.as_ref().is_some_and(|next| (&next.content, next.version) == (&self.content, self.version)) {
            return Err(InvalidValue(
                "a content version cannot be its own successor: name another content or version".into(),
            ));
        }
        let hexadecimal = |digest: &str| digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        if self.media.as_ref().is_some_and(|media| !hexadecimal(media.sha256.as_str())) {
            return Err(InvalidValue("media.sha256 must have 64 hexadecimal digits".into()));
        }
        Ok(())
    }
}

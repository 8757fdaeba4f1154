//! The content items that random histories buy.

use licet_schema::{
    Count, Money, Name, Seconds, Version,
    message::{ContentPut, ContentVersion, ReturnPolicy},
    money::Currency,
    vocabulary::Grants,
};
use licet_workers::fixture::{self, name};

/// The name and version of each content item, by its number. The next number refers to an item that
/// is never registered.
pub(crate) const CONTENTS: [(&str, i64); 6] =
    [("song", 1), ("film", 1), ("film", 2), ("game", 1), ("gift", 1), ("book", 1)];

const HOUR_S: i64 = 3600;
const DAY_S: i64 = 24 * HOUR_S;

/// The terms of a content item in one of its variants. Variant 0 is registered first.
pub(crate) fn content(number: usize, variant: usize) -> ContentPut {
    let mut content = match number {
        0 => put(number, usd(1000), 3, 30 * DAY_S, policy(Some(40), false, None, false)),
        1 => {
            let film = put(number, usd(700), 2, 2 * HOUR_S, policy(None, true, None, true));
            ContentPut { receipt_ttl_s: seconds(HOUR_S), successor: next(2), ..film }
        }
        2 => ContentPut {
            successor: next(3),
            ..put(number, usd(900), 2, 10 * DAY_S, policy(None, true, Some(usd(300)), false))
        },
        3 => {
            let game = put(number, eur(500), 1, DAY_S, policy(None, false, Some(eur(250)), false));
            ContentPut { receipt_ttl_s: seconds(2 * DAY_S), ..game }
        }
        4 => {
            let gift = put(number, usd(0), 2, 3 * DAY_S, policy(Some(0), false, None, true));
            ContentPut { receipt_ttl_s: seconds(3 * DAY_S), ..gift }
        }
        _ => ContentPut {
            successor: next(1),
            ..put(number, usd(60), 2, 5 * DAY_S, policy(Some(45), true, Some(usd(30)), true))
        },
    };
    match variant {
        0 => {}
        1 => {
            content.price = Money { amount_minor: count(content.price.amount_minor.get() + 5), ..content.price };
            content.grants = Grants::try_from(1_i64).expect("a number of grants");
            content.certificate_ttl_s = seconds(2 * DAY_S).expect("a time");
        }
        // Malformed for the game, because its price is not in the currency of points, and for the gift,
        // because it is free.
        _ => {
            let buyback = Money { amount_minor: count(9), ..content.price };
            content.return_policy = policy(Some(7), content.successor.is_some(), Some(buyback), true);
        }
    }
    content
}

fn put(number: usize, price: Money, grants: i64, ttl_s: i64, return_policy: ReturnPolicy) -> ContentPut {
    let (content, version) = CONTENTS[number];
    ContentPut {
        content: name(content),
        version: self::version(version),
        title: format!("The {content}, {version}").as_str().try_into().expect("a text"),
        price,
        grants: Grants::try_from(grants).expect("a number of grants"),
        certificate_ttl_s: seconds(ttl_s).expect("a time"),
        receipt_ttl_s: None,
        successor: None,
        return_policy,
        media: None,
    }
}

fn policy(points: Option<i64>, upgrade: bool, buyback: Option<Money>, collection: bool) -> ReturnPolicy {
    ReturnPolicy {
        points: points.map(count),
        upgrade: upgrade.then_some(true),
        buyback,
        collection: collection.then_some(true),
    }
}

fn next(number: usize) -> Option<ContentVersion> {
    let (content, version) = CONTENTS[number];
    Some(ContentVersion { content: name(content), version: self::version(version) })
}

/// The name and version of the content item with this number.
pub(crate) fn name_and_version(number: usize) -> (Name, Version) {
    let (content, number) = CONTENTS.get(number).copied().unwrap_or(("noise", 1));
    (name(content), version(number))
}

fn version(number: i64) -> Version {
    Version::try_from(number).expect("a version")
}

pub(crate) fn count(number: i64) -> Count {
    Count::try_from(number).expect("a count")
}

fn seconds(number: i64) -> Option<Seconds> {
    Seconds::try_from(number).ok()
}

pub(crate) fn usd(minor: i64) -> Money {
    fixture::usd(minor)
}

pub(crate) fn eur(minor: i64) -> Money {
    Money::new(minor, Currency::try_from("EUR").expect("a currency")).expect("an amount")
}

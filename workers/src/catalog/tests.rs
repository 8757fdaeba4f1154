use licet_schema::entity::content;
use licet_schema::{
    Count, Money, Output, Request, Text,
    message::{ContentPut, ContentVersion, Media, ReturnPolicy},
    money::Currency,
};

use crate::fixture::{Fixture, check, name, outcome, song, usd};

fn put(price: Money, return_policy: ReturnPolicy) -> Request {
    Request::ContentPut(ContentPut { price, return_policy, ..song() })
}

fn policy(points: Option<i64>, buyback: Option<Money>) -> ReturnPolicy {
    let points = points.map(|points| Count::try_from(points).expect("a count"));
    ReturnPolicy { points, upgrade: None, buyback, collection: None }
}

fn eur(minor: i64) -> Money {
    Money { currency: Currency::try_from("EUR").expect("a currency"), ..usd(minor) }
}

#[test]
fn outcomes_of_content_put() {
    check(&[
        (
            "a new content",
            |fixture| fixture.ask(Request::ContentPut(ContentPut { content: name("film"), ..song() })),
            "content.registered",
        ),
        ("the same terms again", |fixture| fixture.ask(Request::ContentPut(song())), "content.registered"),
        (
            "other terms",
            |fixture| fixture.ask(Request::ContentPut(ContentPut { price: usd(500), ..song() })),
            "content.registered",
        ),
        (
            "points worth exactly the price",
            |fixture| fixture.ask(put(usd(40), policy(Some(40), None))),
            "content.registered",
        ),
        ("points worth more than the price", |fixture| fixture.ask(put(usd(39), policy(Some(40), None))), "malformed"),
        ("points for a free content", |fixture| fixture.ask(put(usd(0), policy(Some(1), None))), "malformed"),
        (
            "points on a price in another currency",
            |fixture| fixture.ask(put(eur(1000), policy(Some(40), None))),
            "malformed",
        ),
        (
            "a buy-back of exactly the price, in another currency than that of points",
            |fixture| fixture.ask(put(eur(300), policy(None, Some(eur(300))))),
            "content.registered",
        ),
        ("a buy-back above the price", |fixture| fixture.ask(put(usd(299), policy(None, Some(usd(300))))), "malformed"),
        (
            "a buy-back in another currency than the price",
            |fixture| fixture.ask(put(usd(300), policy(None, Some(eur(300))))),
            "malformed",
        ),
        (
            "an upgrade without a successor",
            |fixture| {
                let return_policy = ReturnPolicy { points: None, upgrade: Some(true), buyback: None, collection: None };
                fixture.ask(Request::ContentPut(ContentPut { return_policy, ..song() }))
            },
            "malformed",
        ),
        (
            "a content that is its own successor",
            |fixture| {
                let successor = Some(ContentVersion { content: name("song"), version: song().version });
                fixture.ask(Request::ContentPut(ContentPut { successor, ..song() }))
            },
            "malformed",
        ),
        (
            "a digest that is not hexadecimal",
            |fixture| {
                let text = |text: &str| Text::try_from(text).expect("a text");
                let media = Some(Media { uri: text("file:///x"), sha256: text("zz"), bytes: usd(1).amount_minor });
                fixture.ask(Request::ContentPut(ContentPut { media, ..song() }))
            },
            "malformed",
        ),
    ]);
}

#[test]
fn a_purchase_keeps_its_terms_when_the_content_changes() {
    let mut fixture = Fixture::with_song();
    let before = fixture.buy(1);
    fixture.ask(Request::ContentPut(ContentPut { price: usd(2500), ..song() }));
    let after = fixture.buy(1);
    assert_eq!((before.amount, after.amount), (usd(1000), usd(2500)));
    assert_eq!(outcome(&fixture.settle(&before, "pay-before")), "settlement.registered");
}

#[test]
fn points_are_offered_only_for_prices_in_the_configured_currency_of_points() {
    let mut fixture = Fixture::new();
    fixture.terms.points_currency = Currency::try_from("EUR").expect("a currency");
    assert_eq!(outcome(&fixture.ask(put(eur(1000), policy(Some(40), None)))), "content.registered");
    let Output::RequestRefused(refused) = fixture.ask(put(usd(1000), policy(Some(40), None))) else {
        panic!("not refused")
    };
    assert_eq!(refused.code.as_str(), "malformed");
    assert!(refused.detail.contains("set the price in EUR, or offer no points"), "{}", refused.detail);
}

#[test]
fn the_same_terms_again_create_no_revision_and_no_event() {
    let mut fixture = Fixture::with_song();
    fixture.later(1000);
    assert!(matches!(fixture.ask(Request::ContentPut(song())), Output::ContentRegistered(_)));
    assert_eq!(fixture.store.rows::<content::Entity>().count(), 1);
    assert!(fixture.events().is_empty());
}

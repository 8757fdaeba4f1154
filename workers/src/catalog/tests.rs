use licet_schema::entity::content;
use licet_schema::{
    Output, Request, Text,
    message::{ContentPut, ContentVersion, Media, ReturnPolicy},
};

use crate::fixture::{Fixture, check, name, outcome, song, usd};

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
            |fixture| fixture.ask(Request::ContentPut(ContentPut { price: usd(5), ..song() })),
            "content.registered",
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
fn the_same_terms_again_create_no_revision_and_no_event() {
    let mut fixture = Fixture::with_song();
    fixture.later(1000);
    assert!(matches!(fixture.ask(Request::ContentPut(song())), Output::ContentRegistered(_)));
    assert_eq!(fixture.store.rows::<content::Entity>().count(), 1);
    assert!(fixture.events().is_empty());
}

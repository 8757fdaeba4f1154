use licet_schema::{
    Output, Request, Text,
    message::{ContentPut, ContentVersion, Media, ReturnPolicy},
};

use crate::testing::{Stage, check, name, song, usd, verdict};

#[test]
fn verdicts_on_content_put() {
    check(&[
        (
            "a new content is registered",
            |stage| stage.ask(Request::ContentPut(ContentPut { content: name("film"), ..song() })),
            "content.registered",
        ),
        ("the same terms again are registered", |stage| stage.ask(Request::ContentPut(song())), "content.registered"),
        (
            "other terms are registered",
            |stage| stage.ask(Request::ContentPut(ContentPut { price: usd(5), ..song() })),
            "content.registered",
        ),
        (
            "an upgrade without a successor can never be kept",
            |stage| {
                let return_policy = ReturnPolicy { points: None, upgrade: Some(true), buyback: None, collection: None };
                stage.ask(Request::ContentPut(ContentPut { return_policy, ..song() }))
            },
            "malformed",
        ),
        (
            "a content is not its own successor",
            |stage| {
                let successor = Some(ContentVersion { content: name("song"), version: song().version });
                stage.ask(Request::ContentPut(ContentPut { successor, ..song() }))
            },
            "malformed",
        ),
        (
            "a digest is hexadecimal",
            |stage| {
                let text = |text: &str| Text::try_from(text).expect("a text");
                let media = Some(Media { uri: text("file:///x"), sha256: text("zz"), bytes: usd(1).amount_minor });
                stage.ask(Request::ContentPut(ContentPut { media, ..song() }))
            },
            "malformed",
        ),
    ]);
}

#[test]
fn what_was_bought_keeps_its_terms_when_the_content_is_put_again() {
    let mut stage = Stage::with_song();
    let before = stage.buy(1);
    stage.ask(Request::ContentPut(ContentPut { price: usd(2500), ..song() }));
    let after = stage.buy(1);
    assert_eq!((before.amount, after.amount), (usd(1000), usd(2500)));
    assert_eq!(verdict(&stage.settle(&before, "pay-before")), "settlement.registered");
}

#[test]
fn putting_the_same_terms_again_makes_no_revision_and_no_event() {
    let mut stage = Stage::with_song();
    stage.later(1000);
    assert!(matches!(stage.ask(Request::ContentPut(song())), Output::ContentRegistered(_)));
    assert_eq!(stage.tables.contents.iter().count(), 1);
    assert!(stage.events().is_empty());
}

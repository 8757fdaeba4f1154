use licet_client::verify;
use licet_schema::{
    Count, Output, Request, Version,
    message::{CertificatePresented, ContentPut, Item, PurchaseRequest},
    money::Currency,
};

use crate::testing::{Stage, altered, check, name, presented, purchase, song, usd, verdict};

fn items(items: Vec<Item>) -> Request {
    Request::PurchaseRequest(PurchaseRequest { user: name("alice"), items, points: None, reference: None })
}

fn item(content: &str, version: Option<i64>) -> Item {
    Item { content: name(content), version: version.map(|version| Version::try_from(version).expect("a version")) }
}

#[test]
fn verdicts_on_purchase_request() {
    check(&[
        ("one item", |stage| stage.ask(purchase(1, 0)), "certificate.issued"),
        ("a hundred items", |stage| stage.ask(purchase(100, 0)), "certificate.issued"),
        ("no item", |stage| stage.ask(purchase(0, 0)), "malformed"),
        ("a hundred and one items", |stage| stage.ask(purchase(101, 0)), "malformed"),
        ("a content that is not sold", |stage| stage.ask(items(vec![item("noise", None)])), "unknown_content"),
        ("a version that is not sold", |stage| stage.ask(items(vec![item("song", Some(2))])), "unknown_content"),
        ("all or nothing", |stage| stage.ask(items(vec![item("song", None), item("noise", None)])), "unknown_content"),
        (
            "two currencies at once",
            |stage| {
                let euro = Currency::try_from("EUR").expect("a currency");
                let price = licet_schema::Money { currency: euro, ..usd(5) };
                stage.ask(Request::ContentPut(ContentPut { content: name("chanson"), price, ..song() }));
                stage.ask(items(vec![item("song", None), item("chanson", None)]))
            },
            "malformed",
        ),
        ("points that the user does not have", |stage| stage.ask(purchase(1, 1)), "insufficient_points"),
    ]);
}

#[test]
fn verdicts_on_certificate_check() {
    check(&[
        (
            "a certificate as it was sent",
            |stage| {
                let bought = stage.buy(1);
                stage.ask(Request::CertificateCheck(presented(&bought)))
            },
            "certificate.checked",
        ),
        (
            "neither of the two tokens",
            |stage| {
                stage.ask(Request::CertificateCheck(CertificatePresented {
                    certificate_token: None,
                    container_token: None,
                }))
            },
            "malformed",
        ),
        (
            "both of them",
            |stage| {
                let bought = stage.buy(2);
                let certificate_token = bought.tokens.first().cloned();
                stage.ask(Request::CertificateCheck(CertificatePresented { certificate_token, ..presented(&bought) }))
            },
            "malformed",
        ),
        (
            "a certificate where a container belongs",
            |stage| {
                let container_token = stage.buy(1).tokens.first().cloned();
                stage.ask(Request::CertificateCheck(CertificatePresented { certificate_token: None, container_token }))
            },
            "malformed",
        ),
    ]);
}

#[test]
fn an_alteration_is_detected_by_the_check() {
    let mut stage = Stage::with_song();
    let bought = stage.buy(1);
    for (token, expected) in [(bought.tokens[0].clone(), false), (altered(&bought.tokens[0]), true)] {
        let body = CertificatePresented { certificate_token: Some(token), container_token: None };
        match stage.ask(Request::CertificateCheck(body)) {
            Output::CertificateChecked(checked) => {
                assert_eq!((checked.altered, checked.certificates), (expected, bought.certificates.clone()));
            }
            other => panic!("{other:?}"),
        }
        assert!(stage.events().is_empty(), "a check is no event");
    }
}

#[test]
fn an_omitted_version_is_the_highest_by_number() {
    let mut stage = Stage::with_song();
    for version in [2i64, 10] {
        let version = Version::try_from(version).expect("a version");
        let price = usd(version.get() * 100);
        stage.ask(Request::ContentPut(ContentPut { version, price, ..song() }));
    }
    assert_eq!(stage.buy(1).amount, usd(1000));
    assert_eq!(stage.tables.certificates.iter().last().map(|row| row.version), Some(10));
}

#[test]
fn several_items_make_a_container_that_verifies_offline_and_one_pending_reception() {
    let mut stage = Stage::with_song();
    let bought = stage.buy(3);
    let token = bought.container_token.expect("a container");
    match verify(&token, &stage.keyring) {
        Ok(licet_client::Verified::Container(claims)) => assert_eq!(claims.certificates, bought.certificates),
        other => panic!("{other:?}"),
    }
    assert_eq!(stage.tables.pending_receptions.iter().count(), 1);
    assert_eq!(stage.tables.certificates.iter().count(), 3);
    assert_eq!(stage.tables.purchases.iter().count(), 3);
}

#[test]
fn points_are_held_at_purchase_and_never_more_than_the_price() {
    let mut stage = Stage::with_song();
    stage.tables.accounts.add(licet_schema::entity::account::Model { name: "points:alice".into(), balance: 1200 });
    match stage.ask(purchase(1, 1100)) {
        Output::CertificateIssued(issued) => assert_eq!(issued.points_held, Count::try_from(1000i64).expect("a count")),
        other => panic!("{other:?}"),
    }
    assert_eq!(stage.events(), ["certificate.issued", "points.changed"]);
    assert_eq!(stage.tables.accounts.iter().map(|row| row.balance).sum::<i64>(), 200);
    assert_eq!(stage.tables.entries.iter().map(|row| row.delta).sum::<i64>(), 0);
    assert_eq!(verdict(&stage.ask(purchase(1, 201))), "insufficient_points");
    assert_eq!(verdict(&stage.ask(purchase(1, 200))), "certificate.issued");
}

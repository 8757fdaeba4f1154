use licet_common::signing::{ContainerClaims, Presented};
use licet_schema::entity::{account, certificate, certificate_record, entry, pending_reception};
use licet_schema::{
    Count, Output, Request, Version,
    message::{CertificatePresented, ContentPut, Item, PurchaseRequest},
    money::Currency,
};

use crate::fixture::{Fixture, altered, check, name, outcome, presented, purchase, song, usd};

fn items(items: Vec<Item>) -> Request {
    Request::PurchaseRequest(PurchaseRequest { user: name("alice"), items, points: None, reference: None })
}

fn item(content: &str, version: Option<i64>) -> Item {
    Item { content: name(content), version: version.map(|version| Version::try_from(version).expect("a version")) }
}

#[test]
fn outcomes_of_purchase_request() {
    check(&[
        ("one item", |fixture| fixture.ask(purchase(1, 0)), "certificate.issued"),
        ("a hundred items", |fixture| fixture.ask(purchase(100, 0)), "certificate.issued"),
        ("no item", |fixture| fixture.ask(purchase(0, 0)), "malformed"),
        ("a hundred and one items", |fixture| fixture.ask(purchase(101, 0)), "malformed"),
        ("a content that is not sold", |fixture| fixture.ask(items(vec![item("noise", None)])), "unknown_content"),
        ("a version that is not sold", |fixture| fixture.ask(items(vec![item("song", Some(2))])), "unknown_content"),
        (
            "one item that is sold and one that is not",
            |fixture| fixture.ask(items(vec![item("song", None), item("noise", None)])),
            "unknown_content",
        ),
        (
            "items in two currencies",
            |fixture| {
                let euro = Currency::try_from("EUR").expect("a currency");
                let price = licet_schema::Money { currency: euro, ..usd(5) };
                fixture.ask(Request::ContentPut(ContentPut { content: name("chanson"), price, ..song() }));
                fixture.ask(items(vec![item("song", None), item("chanson", None)]))
            },
            "malformed",
        ),
        ("points that the user does not have", |fixture| fixture.ask(purchase(1, 1)), "insufficient_points"),
    ]);
}

#[test]
fn outcomes_of_certificate_check() {
    check(&[
        (
            "a certificate",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(Request::CertificateCheck(presented(&bought)))
            },
            "certificate.checked",
        ),
        (
            "no token",
            |fixture| {
                fixture.ask(Request::CertificateCheck(CertificatePresented {
                    certificate_token: None,
                    container_token: None,
                }))
            },
            "malformed",
        ),
        (
            "both tokens",
            |fixture| {
                let bought = fixture.buy(2);
                let certificate_token = bought.tokens.first().cloned();
                fixture.ask(Request::CertificateCheck(CertificatePresented { certificate_token, ..presented(&bought) }))
            },
            "malformed",
        ),
        (
            "a certificate token in the field of a container token",
            |fixture| {
                let container_token = fixture.buy(1).tokens.first().cloned();
                fixture
                    .ask(Request::CertificateCheck(CertificatePresented { certificate_token: None, container_token }))
            },
            "malformed",
        ),
    ]);
}

#[test]
fn a_check_detects_an_altered_token() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    for (token, expected) in [(bought.tokens[0].clone(), false), (altered(&bought.tokens[0]), true)] {
        let body = CertificatePresented { certificate_token: Some(token), container_token: None };
        match fixture.ask(Request::CertificateCheck(body)) {
            Output::CertificateChecked(checked) => {
                assert_eq!((checked.altered, checked.certificates), (expected, bought.certificates.clone()));
            }
            other => panic!("{other:?}"),
        }
        assert!(fixture.events().is_empty(), "a check has no event");
    }
}

#[test]
fn an_omitted_version_means_the_highest_version_number() {
    let mut fixture = Fixture::with_song();
    for version in [2i64, 10] {
        let version = Version::try_from(version).expect("a version");
        let price = usd(version.get() * 100);
        fixture.ask(Request::ContentPut(ContentPut { version, price, ..song() }));
    }
    assert_eq!(fixture.buy(1).amount, usd(1000));
    assert_eq!(
        fixture.store.rows::<certificate::Entity>().last().map(|row| row.version),
        Version::try_from(10i64).ok()
    );
}

#[test]
fn several_items_get_a_container_that_verifies_offline_and_one_pending_reception() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(3);
    let token = bought.container_token.expect("a container");
    let presented = Presented::<ContainerClaims>::read(&token, &fixture.keyring).expect("a token");
    let claims = presented.verify(&fixture.keyring, None).expect("a valid signature");
    assert_eq!(claims.certificates, bought.certificates);
    assert_eq!(fixture.store.rows::<pending_reception::Entity>().count(), 1);
    assert_eq!(fixture.store.rows::<certificate::Entity>().count(), 3);
    assert_eq!(fixture.store.rows::<certificate_record::Entity>().count(), 3);
}

#[test]
fn a_purchase_holds_points_up_to_the_price() {
    let mut fixture = Fixture::with_song();
    fixture.give_points("alice", 1200);
    match fixture.ask(purchase(1, 1100)) {
        Output::CertificateIssued(issued) => assert_eq!(issued.points_held, Count::try_from(1000i64).expect("a count")),
        other => panic!("{other:?}"),
    }
    assert_eq!(fixture.events(), ["certificate.issued", "points.changed"]);
    assert_eq!(fixture.store.rows::<account::Entity>().map(|row| row.balance).sum::<i64>(), 200);
    assert_eq!(fixture.store.rows::<entry::Entity>().map(|row| row.delta).sum::<i64>(), 0);
    assert_eq!(outcome(&fixture.ask(purchase(1, 201))), "insufficient_points");
    assert_eq!(outcome(&fixture.ask(purchase(1, 200))), "certificate.issued");
}

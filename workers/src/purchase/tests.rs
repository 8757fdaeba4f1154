use licet_common::signing::{ContainerClaims, Presented};
use licet_schema::entity::{account, certificate, certificate_record, entry, pending_reception, reference};
use licet_schema::{
    Count, ExternalId, Output, Request, Seconds, Text, Version,
    message::{CertificatePresented, ContentPut, Item, PurchaseRequest, ReturnPolicy, SettlementFailure},
    money::Currency,
};
use uuid::Uuid;

use crate::fixture::{
    Fixture, HOUR_MS, altered, check, completion, name, outcome, presented, purchase, receipt, reversal, song, usd,
};

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
                let return_policy = ReturnPolicy { points: None, ..song().return_policy };
                let chanson = ContentPut { content: name("chanson"), price, return_policy, ..song() };
                fixture.ask(Request::ContentPut(chanson));
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

#[test]
fn the_receipt_is_never_due_after_the_certificate_expires() {
    let mut fixture = Fixture::new();
    let seconds = |number: i64| Seconds::try_from(number).ok();
    for (certificate_ttl, receipt_ttl, expected) in [(60, None, 60), (60, seconds(61), 60), (60, seconds(59), 59)] {
        let certificate_ttl_s = seconds(certificate_ttl).expect("a time");
        fixture.ask(Request::ContentPut(ContentPut { certificate_ttl_s, receipt_ttl_s: receipt_ttl, ..song() }));
        let Output::CertificateIssued(issued) = fixture.ask(purchase(2, 0)) else { panic!("not issued") };
        let after = |time: licet_schema::Timestamp| (time.as_millis() - fixture.now_ms) / 1000;
        assert_eq!((after(issued.receipt_due_at), after(issued.expires_at)), (expected, certificate_ttl));
        let rows = fixture.store.rows::<certificate::Entity>().filter(|row| row.container == issued.container);
        let due: Vec<_> = rows.map(|row| row.receipt_due_at).collect();
        assert_eq!(due, [issued.receipt_due_at; 2]);
    }
}

#[test]
fn an_unacknowledged_purchase_whose_two_deadlines_are_equal_lapses() {
    let mut fixture = Fixture::new();
    let certificate_ttl_s = Seconds::try_from(3600i64).expect("a time");
    fixture.ask(Request::ContentPut(ContentPut { certificate_ttl_s, ..song() }));
    let bought = fixture.buy(1);
    assert_eq!(outcome(&fixture.later(HOUR_MS).clone().ask(receipt(&bought))), "certificate.accepted");
    assert_eq!(outcome(&fixture.later(1).ask(receipt(&bought))), "lapsed");
}

/// A fixture in which references must be unique.
fn strict() -> Fixture {
    let mut fixture = Fixture::with_song();
    fixture.terms.unique_reference = true;
    fixture
}

fn failure(certificate: uuid::Uuid) -> Request {
    Request::SettlementFailure(SettlementFailure {
        certificate: Some(certificate),
        container: None,
        settlement: ExternalId::try_from("pay-1").expect("an id"),
        provider: name("bank"),
        reason: Text::try_from("declined").expect("a text"),
    })
}

#[test]
fn by_default_a_reference_may_be_used_again() {
    let mut fixture = Fixture::with_song();
    for _ in 0..2 {
        assert_eq!(outcome(&fixture.ask(purchase(1, 0))), "certificate.issued");
    }
    assert_eq!(fixture.store.rows::<reference::Entity>().count(), 0);
}

#[test]
fn a_unique_reference_is_refused_with_the_id_of_the_first_purchase() {
    for (count, kind) in [(1, "certificate"), (2, "container")] {
        let mut fixture = strict();
        let first = fixture.buy(count);
        let id = first.container.unwrap_or(first.certificates[0]);
        for again in [1, 2] {
            let Output::RequestRefused(refused) = fixture.ask(purchase(again, 0)) else { panic!("not refused") };
            assert_eq!(refused.code.as_str(), "reference_used");
            assert!(refused.detail.starts_with(&format!("{kind} {id} was already bought")), "{}", refused.detail);
            assert!(refused.detail.contains("\"order-1\""), "{}", refused.detail);
            let decision = fixture.last.as_ref().expect("a decision");
            assert_eq!(decision.subject, Some(id), "the refusal belongs to the history of the first purchase");
        }
        assert_eq!(fixture.store.rows::<certificate::Entity>().count(), count);
    }
}

#[test]
fn a_unique_reference_concerns_only_purchases_of_the_same_sender_that_have_a_reference() {
    let mut fixture = strict();
    let unnamed = items(vec![item("song", None)]);
    for sender in [Some("storefront"), Some("kiosk"), None] {
        fixture.sender = sender;
        assert_eq!(outcome(&fixture.ask(purchase(1, 0))), "certificate.issued", "{sender:?}");
        assert_eq!(outcome(&fixture.ask(purchase(1, 0))), "reference_used", "{sender:?}");
        assert_eq!(outcome(&fixture.ask(unnamed.clone())), "certificate.issued", "{sender:?}");
        assert_eq!(outcome(&fixture.ask(unnamed.clone())), "certificate.issued", "{sender:?}");
    }
}

#[test]
fn a_unique_reference_can_be_used_again_only_after_its_purchase_ended_unpaid() {
    type End = fn(&mut Fixture, &crate::fixture::Bought);
    let table: [(&str, End, &str); 6] = [
        ("received", |fixture, bought| drop(fixture.receive(bought)), "reference_used"),
        ("paid", |fixture, bought| drop(fixture.settle(bought, "pay-1")), "reference_used"),
        (
            "paid and expired",
            |fixture, bought| {
                fixture.settle(bought, "pay-1");
                fixture.later(31 * 24 * HOUR_MS);
            },
            "reference_used",
        ),
        ("declined", |fixture, bought| drop(fixture.ask(failure(bought.certificates[0]))), "certificate.issued"),
        (
            "overdue, before any sweep",
            |fixture, _| {
                fixture.later(25 * HOUR_MS);
            },
            "certificate.issued",
        ),
        (
            "received and expired unpaid",
            |fixture, bought| {
                fixture.receive(bought);
                fixture.later(31 * 24 * HOUR_MS);
            },
            "certificate.issued",
        ),
    ];
    for (description, end, expected) in table {
        let mut fixture = strict();
        let bought = fixture.buy(1);
        end(&mut fixture, &bought);
        let second = fixture.ask(purchase(2, 0));
        assert_eq!(outcome(&second), expected, "{description}");
        assert_eq!(outcome(&fixture.ask(purchase(1, 0))), "reference_used", "{description}: the third purchase");
        let rows: Vec<_> = fixture.store.rows::<reference::Entity>().map(|row| row.container).collect();
        let expected: &[bool] = if expected == "certificate.issued" { &[false, true] } else { &[false] };
        assert_eq!(rows, expected, "{description}: a row for each purchase");
    }
}

#[test]
fn a_reference_is_refused_while_any_of_its_purchases_is_live() {
    let mut fixture = strict();
    let first = fixture.buy(1);
    fixture.ask(failure(first.certificates[0]));
    let second = fixture.buy(2);
    fixture.later(HOUR_MS);
    // The late payment makes the first purchase live again. Both are now live.
    assert_eq!(outcome(&fixture.settle(&first, "pay-2")), "settlement.registered");
    assert_eq!(fixture.events()[0..2], ["settlement.registered", "certificate.restored"]);
    fn refused(fixture: &mut Fixture, first: Uuid) {
        let Output::RequestRefused(refused) = fixture.ask(purchase(1, 0)) else { panic!("not refused") };
        assert_eq!(refused.code.as_str(), "reference_used");
        assert!(refused.detail.contains(&first.to_string()), "{}", refused.detail);
    }
    refused(&mut fixture, first.certificates[0]);
    let declined = Request::SettlementFailure(crate::fixture::failure(&second, "pay-3"));
    assert_eq!(outcome(&fixture.ask(declined)), "settlement.registered");
    refused(&mut fixture, first.certificates[0]);
}

#[test]
fn the_refusal_of_a_reference_names_the_earliest_purchase_that_has_not_ended_unpaid() {
    let mut fixture = strict();
    let first = fixture.buy(1);
    fixture.ask(failure(first.certificates[0]));
    let second = fixture.buy(2);
    let Output::RequestRefused(refused) = fixture.ask(purchase(1, 0)) else { panic!("not refused") };
    let second = second.container.expect("a container");
    assert!(refused.detail.contains(&second.to_string()), "{}", refused.detail);
    fixture.later(25 * HOUR_MS);
    assert_eq!(outcome(&fixture.ask(purchase(1, 0))), "certificate.issued", "all earlier purchases ended unpaid");
    let earlier: Vec<_> = fixture.store.rows::<reference::Entity>().map(|row| row.earlier.get()).collect();
    assert_eq!(earlier, [0, 1, 2]);
}

#[test]
fn a_purchase_that_is_decided_again_after_it_ended_unpaid_is_refused_and_not_a_defect() {
    let mut fixture = strict();
    let bought = fixture.buy(1);
    fixture.ask(failure(bought.certificates[0]));
    fixture.messages = 1;
    let again = fixture.try_send(purchase(1, 0)).expect("no defect").expect("a reply");
    assert_eq!(outcome(&again), "reference_used");
}

#[test]
fn a_reversed_purchase_was_paid_so_its_reference_stays_used() {
    let mut fixture = strict();
    let bought = fixture.ready(1);
    fixture.ask(Request::SettlementReversal(reversal(&bought, "pay-1")));
    assert_eq!(outcome(&fixture.ask(completion(&bought, "pay-2", usd(1000)))), "already_settled");
    assert_eq!(outcome(&fixture.ask(purchase(1, 0))), "reference_used");
}

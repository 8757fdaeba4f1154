use licet_schema::entity::{certificate, certificate_record, entry, pending_reception};
use licet_schema::{ExternalId, Timestamp};
use licet_schema::{Output, Request, message::CertificatePresented, message::Instruction};

use crate::fixture::{
    Fixture, HOUR_MS, altered, check, failure, license_receipt, license_request, license_return, outcome, purchase,
    receipt, usd,
};

fn member_receipt(token: &str) -> Request {
    Request::CertificateReceipt(CertificatePresented {
        certificate_token: Some(token.to_owned()),
        container_token: None,
    })
}

#[test]
fn outcomes_of_certificate_receipt() {
    check(&[
        (
            "a certificate",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.receive(&bought)
            },
            "certificate.accepted",
        ),
        (
            "a container",
            |fixture| {
                let bought = fixture.buy(2);
                fixture.receive(&bought)
            },
            "certificate.accepted",
        ),
        (
            "the same again",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.receive(&bought);
                fixture.receive(&bought)
            },
            "certificate.accepted*",
        ),
        (
            "the same again after every license is granted",
            |fixture| {
                let bought = fixture.ready(1);
                for terminal in ["a", "b", "c"] {
                    let token = fixture.license(&bought, terminal).expect("a license");
                    fixture.ask(license_receipt(&token));
                }
                fixture.receive(&bought)
            },
            "certificate.accepted*",
        ),
        (
            "an altered certificate",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(member_receipt(&altered(&bought.tokens[0])))
            },
            "altered",
        ),
        (
            "a certificate that does not exist",
            |fixture| {
                let bought = Fixture::with_song().later(1).buy(1);
                fixture.receive(&bought)
            },
            "unknown_certificate",
        ),
        (
            "after the deadline",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.later(25 * HOUR_MS).receive(&bought)
            },
            "lapsed",
        ),
        (
            "after the deadline, but paid for",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.settle(&bought, "pay-1");
                fixture.later(25 * HOUR_MS).receive(&bought)
            },
            "certificate.accepted",
        ),
        (
            "paid for, but expired",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.settle(&bought, "pay-1");
                fixture.later(31 * 24 * HOUR_MS).receive(&bought)
            },
            "expired",
        ),
    ]);
}

#[test]
fn a_paid_container_can_be_received_after_one_of_its_certificates_expired() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(2);
    fixture.settle(&bought, "pay-1");
    let (short, long) = (bought.certificates[0], bought.certificates[1]);
    let soon = Timestamp::from_millis(fixture.now_ms + 1);
    fixture.store.change::<certificate::Entity>(&short, |row| row.expires_at = soon);
    fixture.later(2);
    assert_eq!(outcome(&fixture.receive(&bought)), "certificate.accepted");
    let token = |id| bought.tokens[bought.certificates.iter().position(|one| *one == id).expect("a member")].clone();
    assert_eq!(outcome(&fixture.ask(license_request(&token(short), "player"))), "expired");
    assert_eq!(outcome(&fixture.ask(license_request(&token(long), "player"))), "license.issued");
}

#[test]
fn all_certificates_of_an_unpaid_container_end_at_their_earliest_deadline() {
    for (change, expected) in [(-1, "expired"), (1, "lapsed")] {
        let mut fixture = Fixture::with_song();
        let bought = fixture.buy(2);
        fixture.store.change::<certificate::Entity>(&bought.certificates[0], |row| {
            row.expires_at = Timestamp::from_millis(row.receipt_due_at.as_millis() + change);
        });
        assert_eq!(outcome(&fixture.later(48 * HOUR_MS).receive(&bought)), expected);
    }
}

#[test]
fn a_receipt_instructs_the_settlement_once_and_deletes_the_pending_reception() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    assert_eq!(fixture.store.rows::<pending_reception::Entity>().count(), 1);
    fixture.receive(&bought);
    assert_eq!(fixture.events(), ["certificate.accepted", "settlement.instructed"]);
    assert_eq!(fixture.store.rows::<pending_reception::Entity>().count(), 0);
    fixture.receive(&bought);
    assert!(fixture.events().is_empty(), "a repetition has no event");
}

#[test]
fn a_receipt_of_one_certificate_counts_for_its_whole_container() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(3);
    match fixture.ask(member_receipt(&bought.tokens[1])) {
        Output::CertificateAccepted(accepted) => {
            assert_eq!((accepted.container, accepted.certificates.len()), (bought.container, 3));
            assert_eq!(accepted.amount, usd(3000));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(outcome(&fixture.receive(&bought)), "certificate.accepted*");
}

#[test]
fn a_purchase_that_is_settled_before_its_reception_is_not_charged_again() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    fixture.settle(&bought, "pay-1");
    match fixture.receive(&bought) {
        Output::CertificateAccepted(accepted) => assert_eq!(accepted.settlement, Instruction::NotNeeded),
        other => panic!("{other:?}"),
    }
    assert_eq!(fixture.events(), ["certificate.accepted"]);
    assert!(fixture.license(&bought, "player").is_ok());
}

#[test]
fn a_purchase_paid_with_points_alone_is_settled_by_its_reception() {
    let mut fixture = Fixture::with_song();
    fixture.give_points("alice", 1000);
    let Output::CertificateIssued(issued) = fixture.ask(purchase(1, 1000)) else { panic!("the purchase was refused") };
    let token = issued.certificates[0].certificate_token.clone().expect("a token");
    assert_eq!(outcome(&fixture.ask(member_receipt(&token))), "certificate.accepted");
    assert_eq!(fixture.events(), ["certificate.accepted", "settlement.registered"]);
    assert_eq!(outcome(&fixture.ask(license_request(&token, "player"))), "license.issued");
    assert_eq!(fixture.store.rows::<entry::Entity>().map(|row| row.delta).sum::<i64>(), 0);
    assert!(fixture.store.rows::<entry::Entity>().any(|row| row.account == "licet:spent" && row.delta == 1000));
}

#[test]
fn outcomes_of_license_receipt() {
    check(&[
        (
            "a license",
            |fixture| {
                let bought = fixture.ready(1);
                let token = fixture.license(&bought, "player").expect("a license");
                fixture.ask(license_receipt(&token))
            },
            "license.granted",
        ),
        (
            "the same again",
            |fixture| {
                let token = fixture.granted("player");
                fixture.ask(license_receipt(&token))
            },
            "license.granted*",
        ),
        (
            "the same again after it was returned",
            |fixture| {
                let token = fixture.granted("player");
                fixture.ask(license_return(&token, "alice", licet_schema::message::Privilege::Points, true));
                fixture.ask(license_receipt(&token))
            },
            "license.granted*",
        ),
        (
            "an altered license",
            |fixture| {
                let bought = fixture.ready(1);
                let token = fixture.license(&bought, "player").expect("a license");
                fixture.ask(license_receipt(&altered(&token)))
            },
            "altered",
        ),
        (
            "a license that does not exist",
            |fixture| {
                let token = Fixture::with_song().later(1).granted("player");
                fixture.ask(license_receipt(&token))
            },
            "unknown_license",
        ),
        (
            "a license after its certificate expired",
            |fixture| {
                let bought = fixture.ready(1);
                let token = fixture.license(&bought, "player").expect("a license");
                fixture.later(31 * 24 * HOUR_MS).ask(license_receipt(&token))
            },
            "license.granted",
        ),
        (
            "a certificate token",
            |fixture| {
                let bought = fixture.ready(1);
                fixture.ask(license_receipt(&bought.tokens[0]))
            },
            "malformed",
        ),
        ("text that is not a token", |fixture| fixture.ask(license_receipt("hello")), "malformed"),
    ]);
}

#[test]
fn the_last_grant_ends_the_certificate_and_its_record_says_how() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.ready(1);
    for (terminal, left) in [("a", 2), ("b", 1), ("c", 0)] {
        let token = fixture.license(&bought, terminal).expect("a license");
        match fixture.ask(license_receipt(&token)) {
            Output::LicenseGranted(granted) => assert_eq!(granted.remaining.get(), left),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fixture.events(), ["license.granted", "certificate.retired"]);
    assert_eq!(fixture.store.rows::<certificate::Entity>().count(), 0);
    let record = fixture.store.get::<certificate_record::Entity>(&bought.certificates[0]).expect("the record");
    assert_eq!((record.granted.get(), record.settlement.as_ref().map(ExternalId::as_str)), (3, Some("pay-1")));
    assert_eq!(record.ended, Some(licet_schema::message::Ending::Exhausted));
    assert_eq!(outcome(&fixture.ask(receipt(&bought))), "certificate.accepted*");
}

#[test]
fn a_token_that_names_the_container_of_another_purchase_is_refused_and_is_not_a_defect() {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let mut fixture = Fixture::with_song();
    let (alone, several) = (fixture.buy(1), fixture.buy(2));
    let mut parts: Vec<_> = alone.tokens[0].split('.').map(str::to_owned).collect();
    let payload = String::from_utf8(URL_SAFE_NO_PAD.decode(&parts[1]).expect("base64url")).expect("JSON");
    let container = several.container.expect("a container");
    parts[1] = URL_SAFE_NO_PAD.encode(payload.replace('}', &format!(",\"container\":\"{container}\"}}")));
    assert_eq!(outcome(&fixture.ask(member_receipt(&parts.join(".")))), "altered");
}

#[test]
fn a_repeated_receipt_of_a_declined_purchase_does_not_say_that_it_is_paid() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    fixture.receive(&bought);
    fixture.ask(Request::SettlementFailure(failure(&bought, "pay-1")));
    let reply = fixture.receive(&bought);
    let Output::CertificateAccepted(accepted) = reply else { panic!("{reply:?}") };
    assert_eq!((accepted.settlement, accepted.repeated), (Instruction::Instructed, true));
}

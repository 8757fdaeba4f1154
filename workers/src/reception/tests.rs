use licet_schema::{Output, Request, message::CertificatePresented, message::Instruction};

use crate::testing::{
    HOUR_MS, Stage, altered, check, license_receipt, license_request, license_return, purchase, receipt, usd, verdict,
};

fn member_receipt(token: &str) -> Request {
    Request::CertificateReceipt(CertificatePresented {
        certificate_token: Some(token.to_owned()),
        container_token: None,
    })
}

#[test]
fn verdicts_on_certificate_receipt() {
    check(&[
        (
            "a certificate that arrived",
            |stage| {
                let bought = stage.buy(1);
                stage.receive(&bought)
            },
            "certificate.accepted",
        ),
        (
            "a container that arrived",
            |stage| {
                let bought = stage.buy(2);
                stage.receive(&bought)
            },
            "certificate.accepted",
        ),
        (
            "the same again",
            |stage| {
                let bought = stage.buy(1);
                stage.receive(&bought);
                stage.receive(&bought)
            },
            "certificate.accepted*",
        ),
        (
            "the same again after every grant is used up",
            |stage| {
                let bought = stage.ready(1);
                for terminal in ["a", "b", "c"] {
                    let token = stage.license(&bought, terminal).expect("a license");
                    stage.ask(license_receipt(&token));
                }
                stage.receive(&bought)
            },
            "certificate.accepted*",
        ),
        (
            "an altered certificate",
            |stage| {
                let bought = stage.buy(1);
                stage.ask(member_receipt(&altered(&bought.tokens[0])))
            },
            "altered",
        ),
        (
            "a certificate of a purchase that never was here",
            |stage| {
                let bought = Stage::with_song().later(1).buy(1);
                stage.receive(&bought)
            },
            "unknown_certificate",
        ),
        (
            "too late",
            |stage| {
                let bought = stage.buy(1);
                stage.later(25 * HOUR_MS).receive(&bought)
            },
            "lapsed",
        ),
        (
            "too late, but paid for",
            |stage| {
                let bought = stage.buy(1);
                stage.settle(&bought, "pay-1");
                stage.later(25 * HOUR_MS).receive(&bought)
            },
            "certificate.accepted",
        ),
        (
            "paid for, and its time over",
            |stage| {
                let bought = stage.buy(1);
                stage.settle(&bought, "pay-1");
                stage.later(31 * 24 * HOUR_MS).receive(&bought)
            },
            "expired",
        ),
    ]);
}

#[test]
fn a_paid_container_is_received_even_if_one_of_its_members_has_expired() {
    let mut stage = Stage::with_song();
    let bought = stage.buy(2);
    stage.settle(&bought, "pay-1");
    let (short, long) = (bought.certificates[0], bought.certificates[1]);
    stage.tables.certificates.change(&short).expect("it is live").expires_at = stage.now_ms + 1;
    stage.later(2);
    assert_eq!(verdict(&stage.receive(&bought)), "certificate.accepted");
    let token = |id| bought.tokens[bought.certificates.iter().position(|one| *one == id).expect("a member")].clone();
    assert_eq!(verdict(&stage.ask(license_request(&token(short), "player"))), "expired");
    assert_eq!(verdict(&stage.ask(license_request(&token(long), "player"))), "license.issued");
}

#[test]
fn an_unpaid_container_ends_whole_at_its_earliest_deadline() {
    for (change, expected) in [(-1, "expired"), (1, "lapsed")] {
        let mut stage = Stage::with_song();
        let bought = stage.buy(2);
        let row = stage.tables.certificates.change(&bought.certificates[0]).expect("it is live");
        row.expires_at = row.receipt_due_at + change;
        assert_eq!(verdict(&stage.later(48 * HOUR_MS).receive(&bought)), expected);
    }
}

#[test]
fn a_receipt_instructs_the_settlement_once_and_deletes_the_pending_reception() {
    let mut stage = Stage::with_song();
    let bought = stage.buy(1);
    assert_eq!(stage.tables.pending_receptions.iter().count(), 1);
    stage.receive(&bought);
    assert_eq!(stage.events(), ["certificate.accepted", "settlement.instructed"]);
    assert_eq!(stage.tables.pending_receptions.iter().count(), 0);
    stage.receive(&bought);
    assert!(stage.events().is_empty(), "a repeat causes no event");
}

#[test]
fn a_members_notice_is_its_containers() {
    let mut stage = Stage::with_song();
    let bought = stage.buy(3);
    match stage.ask(member_receipt(&bought.tokens[1])) {
        Output::CertificateAccepted(accepted) => {
            assert_eq!((accepted.container, accepted.certificates.len()), (bought.container, 3));
            assert_eq!(accepted.amount, usd(3000));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(verdict(&stage.receive(&bought)), "certificate.accepted*");
}

#[test]
fn what_is_settled_before_its_reception_is_not_charged_again() {
    let mut stage = Stage::with_song();
    let bought = stage.buy(1);
    stage.settle(&bought, "pay-1");
    match stage.receive(&bought) {
        Output::CertificateAccepted(accepted) => assert_eq!(accepted.settlement, Instruction::NotNeeded),
        other => panic!("{other:?}"),
    }
    assert_eq!(stage.events(), ["certificate.accepted"]);
    assert!(stage.license(&bought, "player").is_ok());
}

#[test]
fn what_points_pay_for_wholly_is_settled_by_its_reception() {
    let mut stage = Stage::with_song();
    stage.tables.accounts.add(licet_schema::entity::account::Model { name: "points:alice".into(), balance: 1000 });
    let Output::CertificateIssued(issued) = stage.ask(purchase(1, 1000)) else { panic!("not issued") };
    let token = issued.certificates[0].certificate_token.clone().expect("a token");
    assert_eq!(verdict(&stage.ask(member_receipt(&token))), "certificate.accepted");
    assert_eq!(stage.events(), ["certificate.accepted", "settlement.registered"]);
    assert_eq!(verdict(&stage.ask(license_request(&token, "player"))), "license.issued");
    assert_eq!(stage.tables.entries.iter().map(|row| row.delta).sum::<i64>(), 0);
    assert!(stage.tables.entries.iter().any(|row| row.account == "licet:spent" && row.delta == 1000));
}

#[test]
fn verdicts_on_license_receipt() {
    check(&[
        (
            "a license that arrived",
            |stage| {
                let bought = stage.ready(1);
                let token = stage.license(&bought, "player").expect("a license");
                stage.ask(license_receipt(&token))
            },
            "license.granted",
        ),
        (
            "the same again",
            |stage| {
                let token = stage.granted("player");
                stage.ask(license_receipt(&token))
            },
            "license.granted*",
        ),
        (
            "the same again after it was returned",
            |stage| {
                let token = stage.granted("player");
                stage.ask(license_return(&token, "alice", licet_schema::message::Privilege::Points, true));
                stage.ask(license_receipt(&token))
            },
            "license.granted*",
        ),
        (
            "an altered license",
            |stage| {
                let bought = stage.ready(1);
                let token = stage.license(&bought, "player").expect("a license");
                stage.ask(license_receipt(&altered(&token)))
            },
            "altered",
        ),
        (
            "a license that never was here",
            |stage| {
                let token = Stage::with_song().later(1).granted("player");
                stage.ask(license_receipt(&token))
            },
            "unknown_license",
        ),
        (
            "a license after its certificate's time is over",
            |stage| {
                let bought = stage.ready(1);
                let token = stage.license(&bought, "player").expect("a license");
                stage.later(31 * 24 * HOUR_MS).ask(license_receipt(&token))
            },
            "license.granted",
        ),
        (
            "a certificate where a license belongs",
            |stage| {
                let bought = stage.ready(1);
                stage.ask(license_receipt(&bought.tokens[0]))
            },
            "malformed",
        ),
        ("no token at all", |stage| stage.ask(license_receipt("hello")), "malformed"),
    ]);
}

#[test]
fn the_last_grant_ends_the_certificate_and_its_purchase_tells_how() {
    let mut stage = Stage::with_song();
    let bought = stage.ready(1);
    for (terminal, left) in [("a", 2), ("b", 1), ("c", 0)] {
        let token = stage.license(&bought, terminal).expect("a license");
        match stage.ask(license_receipt(&token)) {
            Output::LicenseGranted(granted) => assert_eq!(granted.remaining.get(), left),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(stage.events(), ["license.granted", "certificate.retired"]);
    assert_eq!(stage.tables.certificates.iter().count(), 0);
    let purchase = stage.tables.purchases.get(&bought.certificates[0]).expect("the purchase");
    assert_eq!((purchase.granted, purchase.settlement.as_deref()), (3, Some("pay-1")));
    assert_eq!(purchase.ended, Some(licet_schema::entity::Ending::Granted));
    assert_eq!(verdict(&stage.ask(receipt(&bought))), "certificate.accepted*");
}

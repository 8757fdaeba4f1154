use licet_schema::entity::{certificate, license, pending_reception};
use licet_schema::{ExternalId, Name};
use licet_schema::{
    Output,
    entity::LicenseState,
    message::{CertificateReissued, Privilege, SweepKind},
};
use uuid::Uuid;

use crate::fixture::{
    Bought, Fixture, HOUR_MS, check, failure, license_receipt, license_request, license_return, outcome, receipt,
    reissue, reversal,
};

const MONTH_MS: i64 = 31 * 24 * HOUR_MS;

fn reissued(fixture: &mut Fixture, bought: &Bought, granted: Option<i64>) -> CertificateReissued {
    match fixture.ask(reissue(bought.certificates[0], granted)) {
        Output::CertificateReissued(reissued) => reissued,
        other => panic!("{other:?}"),
    }
}

fn exhausted(fixture: &mut Fixture) -> (Bought, Vec<String>) {
    let bought = fixture.ready(1);
    let licenses = ["a", "b", "c"].map(|terminal| {
        let license = fixture.later(1).license(&bought, terminal).expect("a license");
        fixture.ask(license_receipt(&license));
        license
    });
    (bought, licenses.into())
}

#[test]
fn outcomes_of_certificate_reissue() {
    check(&[
        (
            "a live certificate",
            |fixture| {
                let bought = fixture.ready(1);
                fixture.ask(reissue(bought.certificates[0], None))
            },
            "certificate.reissued",
        ),
        (
            "a certificate that is not paid for yet",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(reissue(bought.certificates[0], None))
            },
            "certificate.reissued",
        ),
        (
            "an exhausted certificate",
            |fixture| {
                let (bought, _) = exhausted(fixture);
                fixture.ask(reissue(bought.certificates[0], None))
            },
            "certificate.reissued",
        ),
        (
            "an expired certificate, swept",
            |fixture| {
                let bought = fixture.ready(1);
                fixture.later(MONTH_MS).sweep(SweepKind::Certificate);
                fixture.ask(reissue(bought.certificates[0], None))
            },
            "certificate.reissued",
        ),
        (
            "an expired certificate, not swept yet",
            |fixture| {
                let bought = fixture.ready(1);
                fixture.later(MONTH_MS).ask(reissue(bought.certificates[0], None))
            },
            "certificate.reissued",
        ),
        (
            "an expired certificate that was not paid for",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.receive(&bought);
                fixture.later(MONTH_MS).ask(reissue(bought.certificates[0], None))
            },
            "expired",
        ),
        (
            "a lapsed certificate",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.later(25 * HOUR_MS).sweep(SweepKind::Reception);
                fixture.ask(reissue(bought.certificates[0], None))
            },
            "lapsed",
        ),
        (
            "a declined certificate",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(licet_schema::Request::SettlementFailure(failure(&bought, "pay-1")));
                fixture.ask(reissue(bought.certificates[0], None))
            },
            "declined",
        ),
        (
            "an exhausted certificate whose payment was reversed",
            |fixture| {
                let (bought, _) = exhausted(fixture);
                fixture.ask(licet_schema::Request::SettlementReversal(reversal(&bought, "pay-1")));
                fixture.ask(reissue(bought.certificates[0], None))
            },
            "reversed",
        ),
        (
            "a certificate that does not exist",
            |fixture| fixture.ask(reissue(Uuid::from_u128(5), None)),
            "unknown_certificate",
        ),
        (
            "then a request with the old token",
            |fixture| {
                let bought = fixture.ready(1);
                fixture.ask(reissue(bought.certificates[0], None));
                fixture.ask(license_request(&bought.tokens[0], "player"))
            },
            "superseded",
        ),
        (
            "then the old token's receipt",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(reissue(bought.certificates[0], None));
                fixture.ask(receipt(&bought))
            },
            "superseded",
        ),
        (
            "then the receipt of a license that was outstanding",
            |fixture| {
                let bought = fixture.ready(1);
                let license = fixture.license(&bought, "player").expect("a license");
                fixture.ask(reissue(bought.certificates[0], None));
                fixture.ask(license_receipt(&license))
            },
            "superseded",
        ),
    ]);
}

#[test]
fn a_reissue_restores_the_settlement_and_the_counts_in_the_next_generation() {
    let mut fixture = Fixture::with_song();
    let (bought, _) = exhausted(&mut fixture);
    let reissued = reissued(&mut fixture, &bought, None);
    assert_eq!((reissued.generation.get(), reissued.granted.get(), reissued.remaining.get()), (2, 3, 0));
    let row = fixture.store.get::<certificate::Entity>(&bought.certificates[0]).expect("a live certificate");
    assert_eq!(
        (row.settlement.as_ref().map(ExternalId::as_str), row.provider.as_ref().map(Name::as_str)),
        (Some("pay-1"), Some("bank"))
    );
    assert!(row.received_at.is_some() && row.settled_at.is_some());
}

#[test]
fn a_smaller_count_revokes_the_newest_licenses() {
    let mut fixture = Fixture::with_song();
    let (bought, licenses) = exhausted(&mut fixture);
    let reissued = reissued(&mut fixture, &bought, Some(1));
    assert_eq!((reissued.granted.get(), reissued.remaining.get()), (1, 2));
    assert_eq!(fixture.events(), ["certificate.reissued", "license.revoked", "license.revoked"]);
    let outcomes = licenses.iter().map(|license| outcome(&fixture.ask(license_receipt(license)))).collect::<Vec<_>>();
    assert_eq!(outcomes, ["license.granted*", "superseded", "superseded"]);
    let token = reissued.certificate_token.expect("a reply has the token");
    assert_eq!(outcome(&fixture.ask(license_request(&token, "d"))), "license.issued");
}

#[test]
fn a_reissue_never_restores_returned_licenses() {
    let mut fixture = Fixture::with_song();
    let (bought, licenses) = exhausted(&mut fixture);
    fixture.ask(license_return(&licenses[0], "alice", Privilege::Points, true));
    let reissued = reissued(&mut fixture, &bought, Some(0));
    assert_eq!(reissued.granted.get(), 1, "the returned license still counts as granted");
    assert_eq!(reissued.remaining.get(), 2);
}

#[test]
fn a_return_of_a_revoked_license_cannot_be_completed() {
    let mut fixture = Fixture::with_song();
    let (bought, licenses) = exhausted(&mut fixture);
    let Output::ReturnOpened(opened) = fixture.ask(license_return(&licenses[2], "alice", Privilege::Points, false))
    else {
        panic!("no return was opened")
    };
    reissued(&mut fixture, &bought, Some(2));
    let revoked = fixture.store.rows::<license::Entity>().filter(|row| row.state == LicenseState::Revoked).count();
    assert_eq!(revoked, 1);
    let deletion = licet_schema::message::LicenseDeletion { license_return: opened.license_return };
    assert_eq!(outcome(&fixture.ask(licet_schema::Request::LicenseDeletion(deletion))), "superseded");
    assert!(fixture.later(48 * HOUR_MS).sweep(SweepKind::Return).is_empty());
}

#[test]
fn a_paid_certificate_that_expired_before_its_reception_can_be_received_after_a_reissue() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(2);
    fixture.settle(&bought, "pay-1");
    fixture.later(MONTH_MS).sweep(SweepKind::Certificate);
    assert_eq!(fixture.store.rows::<pending_reception::Entity>().count(), 0);
    let reissued = reissued(&mut fixture, &bought, None);
    let token = reissued.certificate_token.expect("a reply has the token");
    assert_eq!(outcome(&fixture.ask(license_request(&token, "player"))), "not_received");
    assert_eq!(outcome(&fixture.receive(&bought)), "certificate.accepted");
    assert_eq!(outcome(&fixture.ask(license_request(&token, "player"))), "license.issued");
}

use licet_schema::{
    Output,
    entity::LicenseState,
    message::{CertificateReissued, Privilege, SweepKind},
};
use uuid::Uuid;

use crate::testing::{
    Bought, HOUR_MS, Stage, check, license_receipt, license_request, license_return, receipt, reissue, setback, verdict,
};

const MONTH_MS: i64 = 31 * 24 * HOUR_MS;

fn reissued(stage: &mut Stage, bought: &Bought, granted: Option<i64>) -> CertificateReissued {
    match stage.ask(reissue(bought.certificates[0], granted)) {
        Output::CertificateReissued(reissued) => reissued,
        other => panic!("{other:?}"),
    }
}

fn used_up(stage: &mut Stage) -> (Bought, Vec<String>) {
    let bought = stage.ready(1);
    let licenses = ["a", "b", "c"].map(|terminal| {
        let license = stage.later(1).license(&bought, terminal).expect("a license");
        stage.ask(license_receipt(&license));
        license
    });
    (bought, licenses.into())
}

#[test]
fn verdicts_on_certificate_reissue() {
    check(&[
        (
            "of a live one",
            |stage| {
                let bought = stage.ready(1);
                stage.ask(reissue(bought.certificates[0], None))
            },
            "certificate.reissued",
        ),
        (
            "of one that is not paid for yet",
            |stage| {
                let bought = stage.buy(1);
                stage.ask(reissue(bought.certificates[0], None))
            },
            "certificate.reissued",
        ),
        (
            "of one that is used up",
            |stage| {
                let (bought, _) = used_up(stage);
                stage.ask(reissue(bought.certificates[0], None))
            },
            "certificate.reissued",
        ),
        (
            "of one that expired, swept",
            |stage| {
                let bought = stage.ready(1);
                stage.later(MONTH_MS).sweep(SweepKind::Certificate);
                stage.ask(reissue(bought.certificates[0], None))
            },
            "certificate.reissued",
        ),
        (
            "of one that expired, not swept",
            |stage| {
                let bought = stage.ready(1);
                stage.later(MONTH_MS).ask(reissue(bought.certificates[0], None))
            },
            "certificate.reissued",
        ),
        (
            "of one that expired before it was paid for",
            |stage| {
                let bought = stage.buy(1);
                stage.receive(&bought);
                stage.later(MONTH_MS).ask(reissue(bought.certificates[0], None))
            },
            "expired",
        ),
        (
            "of one that lapsed",
            |stage| {
                let bought = stage.buy(1);
                stage.later(25 * HOUR_MS).sweep(SweepKind::Reception);
                stage.ask(reissue(bought.certificates[0], None))
            },
            "lapsed",
        ),
        (
            "of one that was declined",
            |stage| {
                let bought = stage.buy(1);
                stage.ask(licet_schema::Request::SettlementFailure(setback(&bought, "pay-1")));
                stage.ask(reissue(bought.certificates[0], None))
            },
            "declined",
        ),
        (
            "of one whose payment was taken back after it was used up",
            |stage| {
                let (bought, _) = used_up(stage);
                stage.ask(licet_schema::Request::SettlementReversal(setback(&bought, "pay-1")));
                stage.ask(reissue(bought.certificates[0], None))
            },
            "reversed",
        ),
        ("of one that never was", |stage| stage.ask(reissue(Uuid::from_u128(5), None)), "unknown_certificate"),
        (
            "then a request with the old token",
            |stage| {
                let bought = stage.ready(1);
                stage.ask(reissue(bought.certificates[0], None));
                stage.ask(license_request(&bought.tokens[0], "player"))
            },
            "superseded",
        ),
        (
            "then the old token's receipt",
            |stage| {
                let bought = stage.buy(1);
                stage.ask(reissue(bought.certificates[0], None));
                stage.ask(receipt(&bought))
            },
            "superseded",
        ),
        (
            "then the receipt of a license that was outstanding",
            |stage| {
                let bought = stage.ready(1);
                let license = stage.license(&bought, "player").expect("a license");
                stage.ask(reissue(bought.certificates[0], None));
                stage.ask(license_receipt(&license))
            },
            "superseded",
        ),
    ]);
}

#[test]
fn a_reissue_restores_the_settlement_and_the_count_in_the_next_generation() {
    let mut stage = Stage::with_song();
    let (bought, _) = used_up(&mut stage);
    let reissued = reissued(&mut stage, &bought, None);
    assert_eq!((reissued.generation.get(), reissued.granted.get(), reissued.remaining.get()), (2, 3, 0));
    let row = stage.tables.certificates.get(&bought.certificates[0]).expect("it lives again");
    assert_eq!((row.settlement.as_deref(), row.provider.as_deref()), (Some("pay-1"), Some("bank")));
    assert!(row.received_at.is_some() && row.settled_at.is_some());
}

#[test]
fn a_smaller_count_revokes_the_newest_licenses() {
    let mut stage = Stage::with_song();
    let (bought, licenses) = used_up(&mut stage);
    let reissued = reissued(&mut stage, &bought, Some(1));
    assert_eq!((reissued.granted.get(), reissued.remaining.get()), (1, 2));
    assert_eq!(stage.events(), ["certificate.reissued", "license.revoked", "license.revoked"]);
    let verdicts = licenses.iter().map(|license| verdict(&stage.ask(license_receipt(license)))).collect::<Vec<_>>();
    assert_eq!(verdicts, ["license.granted*", "superseded", "superseded"]);
    let token = reissued.certificate_token.expect("a reply has its token");
    assert_eq!(verdict(&stage.ask(license_request(&token, "d"))), "license.issued");
}

#[test]
fn nobody_earns_points_twice_through_a_reissue() {
    let mut stage = Stage::with_song();
    let (bought, licenses) = used_up(&mut stage);
    stage.ask(license_return(&licenses[0], "alice", Privilege::Points, true));
    let reissued = reissued(&mut stage, &bought, Some(0));
    assert_eq!(reissued.granted.get(), 1, "one came back and stays counted");
    assert_eq!(reissued.remaining.get(), 2);
}

#[test]
fn the_return_of_a_revoked_license_is_over() {
    let mut stage = Stage::with_song();
    let (bought, licenses) = used_up(&mut stage);
    let Output::ReturnOpened(opened) = stage.ask(license_return(&licenses[2], "alice", Privilege::Points, false))
    else {
        panic!("not opened")
    };
    reissued(&mut stage, &bought, Some(2));
    let revoked = stage.tables.licenses.iter().filter(|row| row.state == LicenseState::Revoked).count();
    assert_eq!(revoked, 1);
    let deletion = licet_schema::message::LicenseDeletion { license_return: opened.license_return };
    assert_eq!(verdict(&stage.ask(licet_schema::Request::LicenseDeletion(deletion))), "superseded");
    assert!(stage.later(48 * HOUR_MS).sweep(SweepKind::Return).is_empty());
}

#[test]
fn what_was_paid_for_and_expired_before_its_reception_can_still_be_received() {
    let mut stage = Stage::with_song();
    let bought = stage.buy(2);
    stage.settle(&bought, "pay-1");
    stage.later(MONTH_MS).sweep(SweepKind::Certificate);
    assert_eq!(stage.tables.pending_receptions.iter().count(), 0);
    let reissued = reissued(&mut stage, &bought, None);
    let token = reissued.certificate_token.expect("a reply has its token");
    assert_eq!(verdict(&stage.ask(license_request(&token, "player"))), "not_received");
    assert_eq!(verdict(&stage.receive(&bought)), "certificate.accepted");
    assert_eq!(verdict(&stage.ask(license_request(&token, "player"))), "license.issued");
}

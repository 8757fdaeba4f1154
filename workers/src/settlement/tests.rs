use licet_schema::{ExternalId, Output, Request, message::SettlementCompletion, vocabulary::Grants};
use uuid::Uuid;

use crate::testing::{Bought, HOUR_MS, Stage, check, completion, license_receipt, name, usd, verdict};

fn told(bought: &Bought, change: impl Fn(&mut SettlementCompletion)) -> Request {
    match completion(bought, "pay-1", bought.amount) {
        Request::SettlementCompletion(mut body) => {
            change(&mut body);
            Request::SettlementCompletion(body)
        }
        other => other,
    }
}

#[test]
fn verdicts_on_settlement_completion() {
    check(&[
        (
            "after the reception notice",
            |stage| {
                let bought = stage.buy(1);
                stage.receive(&bought);
                stage.settle(&bought, "pay-1")
            },
            "settlement.registered",
        ),
        (
            "before it",
            |stage| {
                let bought = stage.buy(1);
                stage.settle(&bought, "pay-1")
            },
            "settlement.registered",
        ),
        (
            "the same again",
            |stage| {
                let bought = stage.ready(1);
                stage.settle(&bought, "pay-1")
            },
            "settlement.registered*",
        ),
        (
            "the same again after the certificate ended",
            |stage| {
                let bought = stage.ready(1);
                for terminal in ["a", "b", "c"] {
                    let token = stage.license(&bought, terminal).expect("a license");
                    stage.ask(license_receipt(&token));
                }
                stage.settle(&bought, "pay-1")
            },
            "settlement.registered*",
        ),
        (
            "a second one for what is settled",
            |stage| {
                let bought = stage.ready(1);
                stage.settle(&bought, "pay-2")
            },
            "already_settled",
        ),
        (
            "the id of a settlement of another purchase",
            |stage| {
                stage.ready(1);
                let other = stage.buy(1);
                stage.settle(&other, "pay-1")
            },
            "already_settled",
        ),
        (
            "a wrong amount",
            |stage| {
                let bought = stage.buy(1);
                stage.ask(completion(&bought, "pay-1", usd(999)))
            },
            "amount_mismatch",
        ),
        (
            "a certificate that never was",
            |stage| {
                let bought = stage.buy(1);
                stage.ask(told(&bought, |body| body.certificate = Some(Uuid::from_u128(99))))
            },
            "unknown_certificate",
        ),
        (
            "a member alone",
            |stage| {
                let bought = stage.buy(2);
                stage.ask(told(&bought, |body| {
                    body.container = None;
                    body.certificate = Some(bought.certificates[0]);
                    body.amount = usd(1000);
                }))
            },
            "unknown_certificate",
        ),
        (
            "a certificate's id for a container's, while the certificate is at hand",
            |stage| {
                let bought = stage.buy(1);
                stage.ask(completion(&bought, "pay-1", usd(1)));
                stage.ask(told(&bought, |body| {
                    body.container = body.certificate.take();
                }))
            },
            "unknown_certificate",
        ),
        (
            "for what was not acknowledged in time",
            |stage| {
                let bought = stage.buy(1);
                stage.later(25 * HOUR_MS).settle(&bought, "pay-1")
            },
            "lapsed",
        ),
        (
            "for what has expired",
            |stage| {
                let bought = stage.buy(1);
                stage.receive(&bought);
                stage.later(31 * 24 * HOUR_MS).settle(&bought, "pay-1")
            },
            "expired",
        ),
        (
            "both a certificate and a container",
            |stage| {
                let bought = stage.buy(1);
                stage.ask(told(&bought, |body| body.container = Some(Uuid::from_u128(1))))
            },
            "malformed",
        ),
        (
            "under Licet's own name",
            |stage| {
                let bought = stage.buy(1);
                stage.ask(told(&bought, |body| body.provider = name("licet")))
            },
            "forbidden",
        ),
    ]);
}

#[test]
fn money_without_a_match_is_kept_and_announced() {
    let mut stage = Stage::with_song();
    let bought = stage.buy(1);
    stage.ask(completion(&bought, "pay-1", usd(1)));
    assert_eq!(stage.events(), ["settlement.unmatched"]);
    let kept: Vec<_> = stage.tables.unmatched_settlements.iter().collect();
    assert_eq!(kept.len(), 1);
    assert_eq!((kept[0].amount_minor, kept[0].reason.as_str()), (1, "amount_mismatch"));
    assert_eq!(verdict(&stage.settle(&bought, "pay-1")), "settlement.registered", "the right amount may still come");
}

#[test]
fn money_without_a_match_that_is_told_again_is_kept_once_and_goes_when_it_finds_its_match() {
    let mut stage = Stage::with_song();
    let bought = stage.buy(1);
    stage.ask(completion(&bought, "pay-1", usd(1)));
    assert_eq!(verdict(&stage.ask(completion(&bought, "pay-1", usd(1)))), "amount_mismatch");
    assert!(stage.events().is_empty(), "it was announced before");
    assert_eq!(stage.tables.unmatched_settlements.iter().count(), 1);
    stage.settle(&bought, "pay-1");
    assert_eq!(stage.tables.unmatched_settlements.iter().count(), 0);
}

#[test]
fn a_settlement_may_say_how_many_grants_it_pays_for() {
    let mut stage = Stage::with_song();
    let bought = stage.buy(2);
    stage.receive(&bought);
    let grants = Grants::try_from(7i64).ok();
    match stage.ask(told(&bought, |body| body.grants = grants)) {
        Output::SettlementRegistered(registered) => assert_eq!(registered.grants, grants),
        other => panic!("{other:?}"),
    }
    assert!(stage.tables.certificates.iter().all(|row| row.grants == 7 && row.settled_at.is_some()));
}

#[test]
fn one_settlement_id_of_two_providers_is_two_settlements() {
    let mut stage = Stage::with_song();
    let (first, second) = (stage.buy(1), stage.buy(1));
    stage.settle(&first, "pay-1");
    let other = told(&second, |body| {
        body.provider = name("other bank");
        body.settlement = ExternalId::try_from("pay-1").expect("an id");
    });
    assert_eq!(verdict(&stage.ask(other)), "settlement.registered");
}

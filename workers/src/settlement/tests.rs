use licet_schema::entity::{certificate, unmatched_settlement};
use licet_schema::{ExternalId, Output, Request, message::SettlementCompletion, vocabulary::Grants};
use uuid::Uuid;

use crate::fixture::{Bought, Fixture, HOUR_MS, check, completion, license_receipt, name, outcome, usd};

/// A `settlement.completion` of the settlement `pay-1`, with changes.
fn completion_with(bought: &Bought, change: impl Fn(&mut SettlementCompletion)) -> Request {
    match completion(bought, "pay-1", bought.amount) {
        Request::SettlementCompletion(mut body) => {
            change(&mut body);
            Request::SettlementCompletion(body)
        }
        other => other,
    }
}

#[test]
fn outcomes_of_settlement_completion() {
    check(&[
        (
            "after the reception",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.receive(&bought);
                fixture.settle(&bought, "pay-1")
            },
            "settlement.registered",
        ),
        (
            "before the reception",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.settle(&bought, "pay-1")
            },
            "settlement.registered",
        ),
        (
            "the same again",
            |fixture| {
                let bought = fixture.ready(1);
                fixture.settle(&bought, "pay-1")
            },
            "settlement.registered*",
        ),
        (
            "the same again after the certificate ended",
            |fixture| {
                let bought = fixture.ready(1);
                for terminal in ["a", "b", "c"] {
                    let token = fixture.license(&bought, terminal).expect("a license");
                    fixture.ask(license_receipt(&token));
                }
                fixture.settle(&bought, "pay-1")
            },
            "settlement.registered*",
        ),
        (
            "another settlement of a settled purchase",
            |fixture| {
                let bought = fixture.ready(1);
                fixture.settle(&bought, "pay-2")
            },
            "already_settled",
        ),
        (
            "the settlement id of another purchase",
            |fixture| {
                fixture.ready(1);
                let other = fixture.buy(1);
                fixture.settle(&other, "pay-1")
            },
            "already_settled",
        ),
        (
            "a wrong amount",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(completion(&bought, "pay-1", usd(999)))
            },
            "amount_mismatch",
        ),
        (
            "a certificate that does not exist",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(completion_with(&bought, |body| body.certificate = Some(Uuid::from_u128(99))))
            },
            "unknown_certificate",
        ),
        (
            "one certificate of a container",
            |fixture| {
                let bought = fixture.buy(2);
                fixture.ask(completion_with(&bought, |body| {
                    body.container = None;
                    body.certificate = Some(bought.certificates[0]);
                    body.amount = usd(1000);
                }))
            },
            "unknown_certificate",
        ),
        (
            "a certificate's id in the field of the container, while the certificate is loaded",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(completion(&bought, "pay-1", usd(1)));
                fixture.ask(completion_with(&bought, |body| {
                    body.container = body.certificate.take();
                }))
            },
            "unknown_certificate",
        ),
        (
            "a purchase that lapsed",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.later(25 * HOUR_MS).settle(&bought, "pay-1")
            },
            "settlement.registered",
        ),
        (
            "a purchase that expired",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.receive(&bought);
                fixture.later(31 * 24 * HOUR_MS).settle(&bought, "pay-1")
            },
            "expired",
        ),
        (
            "both a certificate and a container",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(completion_with(&bought, |body| body.container = Some(Uuid::from_u128(1))))
            },
            "malformed",
        ),
        (
            "the reserved provider licet",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(completion_with(&bought, |body| body.provider = name("licet")))
            },
            "forbidden",
        ),
    ]);
}

#[test]
fn an_unmatched_payment_is_recorded_and_announced() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    fixture.ask(completion(&bought, "pay-1", usd(1)));
    assert_eq!(fixture.events(), ["settlement.unmatched"]);
    let recorded: Vec<_> = fixture.store.rows::<unmatched_settlement::Entity>().collect();
    assert_eq!(recorded.len(), 1);
    assert_eq!((recorded[0].amount_minor.get(), recorded[0].reason.as_str()), (1, "amount_mismatch"));
    assert_eq!(
        outcome(&fixture.settle(&bought, "pay-1")),
        "settlement.registered",
        "the right amount is still accepted"
    );
}

#[test]
fn an_unmatched_payment_is_recorded_once_and_removed_when_it_is_matched() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    let elsewhere = completion_with(&bought, |body| body.certificate = Some(Uuid::from_u128(99)));
    fixture.ask(elsewhere.clone());
    assert_eq!(outcome(&fixture.ask(elsewhere)), "unknown_certificate");
    assert!(fixture.events().is_empty(), "a repetition has no event");
    assert_eq!(fixture.store.rows::<unmatched_settlement::Entity>().count(), 1);
    fixture.settle(&bought, "pay-1");
    assert_eq!(fixture.store.rows::<unmatched_settlement::Entity>().count(), 0);
}

#[test]
fn another_amount_under_the_id_of_a_payment_is_unmatched_in_both_orders() {
    for wrong_first in [true, false] {
        let mut fixture = Fixture::with_song();
        let bought = fixture.buy(1);
        let (wrong, right) = (completion(&bought, "pay-1", usd(1)), completion(&bought, "pay-1", usd(1000)));
        let messages = if wrong_first { [wrong, right] } else { [right, wrong] };
        messages.into_iter().for_each(|message| drop(fixture.ask(message)));
        let amounts: Vec<_> =
            fixture.store.rows::<unmatched_settlement::Entity>().map(|row| row.amount_minor.get()).collect();
        assert_eq!(amounts, [1], "wrong amount first: {wrong_first}");
    }
}

#[test]
fn the_same_money_for_another_purchase_is_not_unmatched_in_either_order() {
    for wrong_first in [true, false] {
        let mut fixture = Fixture::with_song();
        let bought = fixture.buy(1);
        let wrong = completion_with(&bought, |body| body.certificate = Some(Uuid::from_u128(99)));
        let right = completion(&bought, "pay-1", usd(1000));
        let messages = if wrong_first { [wrong, right] } else { [right, wrong] };
        messages.into_iter().for_each(|message| drop(fixture.ask(message)));
        assert_eq!(fixture.store.rows::<unmatched_settlement::Entity>().count(), 0, "{wrong_first}");
    }
}

#[test]
fn a_settlement_may_state_the_number_of_grants() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(2);
    fixture.receive(&bought);
    let grants = Grants::try_from(7i64).ok();
    match fixture.ask(completion_with(&bought, |body| body.grants = grants)) {
        Output::SettlementRegistered(registered) => assert_eq!(registered.grants, grants),
        other => panic!("{other:?}"),
    }
    assert!(fixture.store.rows::<certificate::Entity>().all(|row| row.grants.get() == 7 && row.settled_at.is_some()));
}

#[test]
fn the_same_settlement_id_of_two_providers_means_two_settlements() {
    let mut fixture = Fixture::with_song();
    let (first, second) = (fixture.buy(1), fixture.buy(1));
    fixture.settle(&first, "pay-1");
    let other = completion_with(&second, |body| {
        body.provider = name("wallet");
        body.settlement = ExternalId::try_from("pay-1").expect("an id");
    });
    assert_eq!(outcome(&fixture.ask(other)), "settlement.registered");
}

use licet_schema::entity::{certificate, certificate_record, entry, settlement, unmatched_settlement};
use licet_schema::{
    ExternalId, Output, Request,
    message::{Ending, PayoutCompletion, Privilege, SettlementOutcome, SettlementSetback, SweepKind},
};
use uuid::Uuid;

use crate::fixture::{
    Bought, Fixture, HOUR_MS, check, completion, generous_song, license_receipt, license_request, license_return, name,
    outcome, sequel, setback, usd,
};

fn failure(bought: &Bought, id: &str) -> Request {
    Request::SettlementFailure(setback(bought, id))
}

fn reversal(bought: &Bought, id: &str) -> Request {
    Request::SettlementReversal(setback(bought, id))
}

fn registered(output: &Output) -> (SettlementOutcome, bool) {
    match output {
        Output::SettlementRegistered(registered) => (registered.outcome, registered.repeated),
        other => panic!("{other:?}"),
    }
}

#[test]
fn outcomes_of_settlement_failure() {
    check(&[
        (
            "a purchase that is not paid for",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.receive(&bought);
                fixture.ask(failure(&bought, "pay-1"))
            },
            "settlement.registered",
        ),
        (
            "the same again",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(failure(&bought, "pay-1"));
                fixture.ask(failure(&bought, "pay-1"))
            },
            "settlement.registered*",
        ),
        (
            "a settlement that was completed",
            |fixture| {
                let bought = fixture.ready(1);
                fixture.ask(failure(&bought, "pay-1"))
            },
            "settlement.registered*",
        ),
        (
            "another settlement of a purchase that is paid for",
            |fixture| {
                let bought = fixture.ready(1);
                fixture.ask(failure(&bought, "pay-2"))
            },
            "already_settled",
        ),
        (
            "another settlement of a purchase that was declined",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(failure(&bought, "pay-1"));
                fixture.ask(failure(&bought, "pay-2"))
            },
            "declined",
        ),
        (
            "a purchase that lapsed",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.later(25 * HOUR_MS).ask(failure(&bought, "pay-1"))
            },
            "lapsed",
        ),
        (
            "the settlement id of another purchase",
            |fixture| {
                fixture.ready(1);
                let other = fixture.buy(1);
                fixture.ask(failure(&other, "pay-1"))
            },
            "already_settled",
        ),
        (
            "with an amount",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(Request::SettlementFailure(SettlementSetback {
                    amount: Some(usd(1000)),
                    ..setback(&bought, "pay-1")
                }))
            },
            "malformed",
        ),
        (
            "a certificate that does not exist",
            |fixture| {
                let bought = fixture.buy(1);
                let certificate = Some(Uuid::from_u128(9));
                fixture.ask(Request::SettlementFailure(SettlementSetback { certificate, ..setback(&bought, "pay-1") }))
            },
            "unknown_certificate",
        ),
        (
            "then its completion",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(failure(&bought, "pay-1"));
                fixture.settle(&bought, "pay-1")
            },
            "declined",
        ),
    ]);
}

#[test]
fn outcomes_of_settlement_reversal() {
    check(&[
        (
            "a purchase that is paid for",
            |fixture| {
                let bought = fixture.ready(1);
                fixture.ask(reversal(&bought, "pay-1"))
            },
            "settlement.registered",
        ),
        (
            "the same again",
            |fixture| {
                let bought = fixture.ready(1);
                fixture.ask(reversal(&bought, "pay-1"));
                fixture.ask(reversal(&bought, "pay-1"))
            },
            "settlement.registered*",
        ),
        (
            "a settlement that failed",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(failure(&bought, "pay-1"));
                fixture.ask(reversal(&bought, "pay-1"))
            },
            "settlement.registered*",
        ),
        (
            "an unknown settlement",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(reversal(&bought, "pay-1"))
            },
            "settlement.registered",
        ),
        (
            "a purchase that the settlement did not pay for",
            |fixture| {
                fixture.ready(1);
                let other = fixture.buy(1);
                fixture.ask(reversal(&other, "pay-1"))
            },
            "already_settled",
        ),
        (
            "an amount that differs from the registered one",
            |fixture| {
                let bought = fixture.ready(1);
                fixture.ask(Request::SettlementReversal(SettlementSetback {
                    amount: Some(usd(1)),
                    ..setback(&bought, "pay-1")
                }))
            },
            "amount_mismatch",
        ),
        (
            "then a license request",
            |fixture| {
                let bought = fixture.ready(1);
                fixture.ask(reversal(&bought, "pay-1"));
                fixture.ask(license_request(&bought.tokens[0], "player"))
            },
            "reversed",
        ),
        (
            "then the receipt of a license that was outstanding",
            |fixture| {
                let bought = fixture.ready(1);
                let license = fixture.license(&bought, "player").expect("a license");
                fixture.ask(reversal(&bought, "pay-1"));
                fixture.ask(license_receipt(&license))
            },
            "superseded",
        ),
        (
            "then the return of a license",
            |fixture| {
                let bought = fixture.ready(1);
                let license = fixture.license(&bought, "player").expect("a license");
                fixture.ask(license_receipt(&license));
                fixture.ask(reversal(&bought, "pay-1"));
                fixture.ask(license_return(&license, "alice", Privilege::Points, true))
            },
            "superseded",
        ),
    ]);
}

#[test]
fn a_failure_declines_a_whole_container_and_credits_held_points() {
    let mut fixture = Fixture::with_song();
    fixture.give_points("alice", 300);
    let bought = fixture.buy_with_points(2, 300);
    fixture.receive(&bought);
    let reply = fixture.ask(failure(&bought, "pay-1"));
    assert_eq!(registered(&reply), (SettlementOutcome::Failed, false));
    assert_eq!(
        fixture.events(),
        ["settlement.registered", "certificate.retired", "certificate.retired", "points.changed"]
    );
    assert!(fixture.store.rows::<certificate::Entity>().next().is_none());
    assert_eq!(fixture.points_of("alice"), 300);
}

#[test]
fn a_reversal_before_its_completion_ends_the_purchase_at_the_completion() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    fixture.receive(&bought);
    assert_eq!(registered(&fixture.ask(reversal(&bought, "pay-1"))), (SettlementOutcome::Reversed, false));
    assert_eq!(registered(&fixture.settle(&bought, "pay-1")), (SettlementOutcome::Reversed, false));
    assert_eq!(
        fixture.store.rows::<certificate_record::Entity>().next().and_then(|row| row.ended),
        Some(Ending::Reversed)
    );
    assert_eq!(registered(&fixture.settle(&bought, "pay-1")), (SettlementOutcome::Reversed, true));
    assert_eq!(fixture.store.rows::<unmatched_settlement::Entity>().count(), 0, "reversed money is not unmatched");
}

#[test]
fn a_reversal_of_an_unmatched_payment_removes_only_its_record() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.ready(1);
    fixture.ask(completion(&bought, "pay-1", usd(5)));
    assert_eq!(fixture.store.rows::<unmatched_settlement::Entity>().count(), 1);
    let refund = SettlementSetback { amount: Some(usd(5)), ..setback(&bought, "pay-1") };
    assert_eq!(registered(&fixture.ask(Request::SettlementReversal(refund))), (SettlementOutcome::Reversed, false));
    assert_eq!(fixture.store.rows::<unmatched_settlement::Entity>().count(), 0);
    assert!(fixture.license(&bought, "player").is_ok(), "the matched payment is not reversed");
}

#[test]
fn a_reversal_takes_points_back_and_later_points_repay_the_missing_ones() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.ready(1);
    let license = fixture.license(&bought, "player").expect("a license");
    fixture.ask(license_receipt(&license));
    fixture.ask(license_return(&license, "alice", Privilege::Points, true));
    let spending = fixture.buy_with_points(1, 30);
    fixture.receive(&spending);
    fixture.ask(completion(&spending, "pay-2", usd(970)));

    fixture.ask(reversal(&bought, "pay-1"));
    assert!(fixture.events().contains(&"points.changed"));
    let points_and_debt = |fixture: &Fixture| (fixture.points_of("alice"), fixture.debt_of("alice"));
    assert_eq!(points_and_debt(&fixture), (0, 30), "10 of 40 points were left");
    fixture.granted_and_returned("alice");
    assert_eq!(points_and_debt(&fixture), (10, 0), "30 of 40 more points repaid the debt");
    assert_eq!(fixture.store.rows::<entry::Entity>().map(|entry| entry.delta).sum::<i64>(), 0);
}

#[test]
fn a_reversal_credits_the_points_that_paid_part_of_the_price() {
    let mut fixture = Fixture::with_song();
    fixture.give_points("alice", 300);
    let bought = fixture.buy_with_points(1, 300);
    fixture.receive(&bought);
    fixture.ask(completion(&bought, "pay-1", usd(700)));
    assert_eq!(fixture.points_of("alice"), 0);
    fixture.ask(reversal(&bought, "pay-1"));
    assert_eq!(fixture.points_of("alice"), 300);
}

#[test]
fn a_reversal_ends_the_certificate_of_an_upgrade_too() {
    let mut fixture = Fixture::with_song();
    fixture.ask(Request::ContentPut(sequel()));
    fixture.ask(Request::ContentPut(generous_song()));
    let bought = fixture.ready(1);
    let license = fixture.license(&bought, "player").expect("a license");
    fixture.ask(license_receipt(&license));
    let Output::LicenseReturned(returned) = fixture.ask(license_return(&license, "alice", Privilege::Upgrade, true))
    else {
        panic!("the return was refused")
    };
    let upgraded = returned.privilege.certificate_token.expect("the successor's token");
    fixture.ask(license_request(&upgraded, "player"));
    fixture.ask(reversal(&bought, "pay-1"));
    let events = fixture.events();
    assert_eq!(events.iter().filter(|kind| **kind == "certificate.retired").count(), 1, "{events:?}");
    assert_eq!(events.iter().filter(|kind| **kind == "license.revoked").count(), 1, "{events:?}");
    assert_eq!(outcome(&fixture.ask(license_request(&upgraded, "player"))), "reversed");
}

#[test]
fn a_purchase_that_is_paid_for_does_not_lapse() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    fixture.settle(&bought, "pay-1");
    assert!(fixture.later(48 * HOUR_MS).sweep(SweepKind::Reception).is_empty());
    assert_eq!(outcome(&fixture.receive(&bought)), "certificate.accepted");
}

#[test]
fn a_payout_is_registered_once_and_only_in_the_right_amount() {
    let mut fixture = Fixture::with_song();
    fixture.ask(Request::ContentPut(generous_song()));
    let license = fixture.granted("player");
    let Output::LicenseReturned(returned) = fixture.ask(license_return(&license, "alice", Privilege::Buyback, true))
    else {
        panic!("the return was refused")
    };
    assert!(fixture.events().contains(&"payout.instructed"));
    let paid = |payout: &str, minor: i64| {
        Request::PayoutCompletion(PayoutCompletion {
            license_return: returned.license_return,
            payout: ExternalId::try_from(payout).expect("an id"),
            provider: name("bank"),
            amount: usd(minor),
        })
    };
    assert_eq!(outcome(&fixture.ask(paid("out-1", 299))), "amount_mismatch");
    assert_eq!(outcome(&fixture.ask(paid("out-1", 300))), "payout.registered");
    assert_eq!(outcome(&fixture.ask(paid("out-1", 300))), "payout.registered*");
    assert!(fixture.events().is_empty());
    assert_eq!(outcome(&fixture.ask(paid("out-1", 299))), "already_settled");
    assert_eq!(outcome(&fixture.ask(paid("out-2", 300))), "already_settled");
    let Request::PayoutCompletion(mut unknown) = paid("out-3", 300) else { unreachable!() };
    unknown.license_return = Uuid::from_u128(7);
    assert_eq!(outcome(&fixture.ask(Request::PayoutCompletion(unknown))), "unknown_return");
}

#[test]
fn a_failed_settlement_is_recorded_without_an_amount() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    fixture.ask(failure(&bought, "pay-1"));
    let row = fixture.store.rows::<settlement::Entity>().next().expect("the settlement is recorded");
    assert_eq!((row.outcome, row.amount_minor), (SettlementOutcome::Failed, None));
}

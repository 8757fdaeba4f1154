use licet_schema::{
    ExternalId, Output, Request,
    entity::{Ending, Outcome},
    message::{PayoutCompletion, Privilege, SettlementOutcome, SettlementSetback, SweepKind},
};
use uuid::Uuid;

use crate::testing::{
    Bought, HOUR_MS, Stage, check, completion, generous_song, license_receipt, license_request, license_return, name,
    sequel, setback, usd, verdict,
};

fn failure(bought: &Bought, id: &str) -> Request {
    Request::SettlementFailure(setback(bought, id))
}

fn reversal(bought: &Bought, id: &str) -> Request {
    Request::SettlementReversal(setback(bought, id))
}

fn outcome(output: &Output) -> (SettlementOutcome, bool) {
    match output {
        Output::SettlementRegistered(registered) => (registered.outcome, registered.repeated),
        other => panic!("{other:?}"),
    }
}

#[test]
fn verdicts_on_settlement_failure() {
    check(&[
        (
            "of what waits for payment",
            |stage| {
                let bought = stage.buy(1);
                stage.receive(&bought);
                stage.ask(failure(&bought, "pay-1"))
            },
            "settlement.registered",
        ),
        (
            "the same again",
            |stage| {
                let bought = stage.buy(1);
                stage.ask(failure(&bought, "pay-1"));
                stage.ask(failure(&bought, "pay-1"))
            },
            "settlement.registered*",
        ),
        (
            "after its completion",
            |stage| {
                let bought = stage.ready(1);
                stage.ask(failure(&bought, "pay-1"))
            },
            "settlement.registered*",
        ),
        (
            "of another settlement of what is paid for",
            |stage| {
                let bought = stage.ready(1);
                stage.ask(failure(&bought, "pay-2"))
            },
            "already_settled",
        ),
        (
            "of another settlement of what was declined",
            |stage| {
                let bought = stage.buy(1);
                stage.ask(failure(&bought, "pay-1"));
                stage.ask(failure(&bought, "pay-2"))
            },
            "declined",
        ),
        (
            "of what has lapsed",
            |stage| {
                let bought = stage.buy(1);
                stage.later(25 * HOUR_MS).ask(failure(&bought, "pay-1"))
            },
            "lapsed",
        ),
        (
            "under the id of another purchase's settlement",
            |stage| {
                stage.ready(1);
                let other = stage.buy(1);
                stage.ask(failure(&other, "pay-1"))
            },
            "already_settled",
        ),
        (
            "with an amount",
            |stage| {
                let bought = stage.buy(1);
                stage.ask(Request::SettlementFailure(SettlementSetback {
                    amount: Some(usd(1000)),
                    ..setback(&bought, "pay-1")
                }))
            },
            "malformed",
        ),
        (
            "of what never was",
            |stage| {
                let bought = stage.buy(1);
                let certificate = Some(Uuid::from_u128(9));
                stage.ask(Request::SettlementFailure(SettlementSetback { certificate, ..setback(&bought, "pay-1") }))
            },
            "unknown_certificate",
        ),
        (
            "its completion after all",
            |stage| {
                let bought = stage.buy(1);
                stage.ask(failure(&bought, "pay-1"));
                stage.settle(&bought, "pay-1")
            },
            "declined",
        ),
    ]);
}

#[test]
fn verdicts_on_settlement_reversal() {
    check(&[
        (
            "of what is paid for",
            |stage| {
                let bought = stage.ready(1);
                stage.ask(reversal(&bought, "pay-1"))
            },
            "settlement.registered",
        ),
        (
            "the same again",
            |stage| {
                let bought = stage.ready(1);
                stage.ask(reversal(&bought, "pay-1"));
                stage.ask(reversal(&bought, "pay-1"))
            },
            "settlement.registered*",
        ),
        (
            "of a settlement that failed",
            |stage| {
                let bought = stage.buy(1);
                stage.ask(failure(&bought, "pay-1"));
                stage.ask(reversal(&bought, "pay-1"))
            },
            "settlement.registered*",
        ),
        (
            "of a settlement of which nothing is known",
            |stage| {
                let bought = stage.buy(1);
                stage.ask(reversal(&bought, "pay-1"))
            },
            "settlement.registered",
        ),
        (
            "of another purchase than it paid for",
            |stage| {
                stage.ready(1);
                let other = stage.buy(1);
                stage.ask(reversal(&other, "pay-1"))
            },
            "already_settled",
        ),
        (
            "of another amount than was registered",
            |stage| {
                let bought = stage.ready(1);
                stage.ask(Request::SettlementReversal(SettlementSetback {
                    amount: Some(usd(1)),
                    ..setback(&bought, "pay-1")
                }))
            },
            "amount_mismatch",
        ),
        (
            "then a license request",
            |stage| {
                let bought = stage.ready(1);
                stage.ask(reversal(&bought, "pay-1"));
                stage.ask(license_request(&bought.tokens[0], "player"))
            },
            "reversed",
        ),
        (
            "then the receipt of a license that was under way",
            |stage| {
                let bought = stage.ready(1);
                let license = stage.license(&bought, "player").expect("a license");
                stage.ask(reversal(&bought, "pay-1"));
                stage.ask(license_receipt(&license))
            },
            "superseded",
        ),
        (
            "then the return of a license",
            |stage| {
                let bought = stage.ready(1);
                let license = stage.license(&bought, "player").expect("a license");
                stage.ask(license_receipt(&license));
                stage.ask(reversal(&bought, "pay-1"));
                stage.ask(license_return(&license, "alice", Privilege::Points, true))
            },
            "superseded",
        ),
    ]);
}

#[test]
fn a_failure_declines_a_whole_container_and_gives_held_points_back() {
    let mut stage = Stage::with_song();
    stage.rich("alice", 300);
    let bought = stage.buy_with_points(2, 300);
    stage.receive(&bought);
    let answer = stage.ask(failure(&bought, "pay-1"));
    assert_eq!(outcome(&answer), (SettlementOutcome::Failed, false));
    assert_eq!(
        stage.events(),
        ["settlement.registered", "certificate.retired", "certificate.retired", "points.changed"]
    );
    assert!(stage.tables.certificates.iter().next().is_none());
    assert_eq!(crate::points::balance(&stage.tables, "alice"), 300);
}

#[test]
fn a_reversal_that_comes_before_its_completion_makes_that_come_to_nothing() {
    let mut stage = Stage::with_song();
    let bought = stage.buy(1);
    stage.receive(&bought);
    assert_eq!(outcome(&stage.ask(reversal(&bought, "pay-1"))), (SettlementOutcome::Reversed, false));
    assert_eq!(outcome(&stage.settle(&bought, "pay-1")), (SettlementOutcome::Reversed, false));
    assert_eq!(stage.tables.purchases.iter().next().and_then(|row| row.ended), Some(Ending::Reversed));
    assert_eq!(outcome(&stage.settle(&bought, "pay-1")), (SettlementOutcome::Reversed, true));
    assert_eq!(stage.tables.unmatched_settlements.iter().count(), 0, "it came and went");
}

#[test]
fn a_reversal_takes_unmatched_money_off_the_list_and_nothing_else() {
    let mut stage = Stage::with_song();
    let bought = stage.ready(1);
    stage.ask(completion(&bought, "pay-1", usd(5)));
    assert_eq!(stage.tables.unmatched_settlements.iter().count(), 1);
    let refund = SettlementSetback { amount: Some(usd(5)), ..setback(&bought, "pay-1") };
    assert_eq!(outcome(&stage.ask(Request::SettlementReversal(refund))), (SettlementOutcome::Reversed, false));
    assert_eq!(stage.tables.unmatched_settlements.iter().count(), 0);
    assert!(stage.license(&bought, "player").is_ok(), "what was paid for stays paid for");
}

#[test]
fn a_reversal_takes_points_back_and_what_is_not_there_becomes_debt_that_later_points_repay() {
    let mut stage = Stage::with_song();
    let bought = stage.ready(1);
    let license = stage.license(&bought, "player").expect("a license");
    stage.ask(license_receipt(&license));
    stage.ask(license_return(&license, "alice", Privilege::Points, true));
    let spending = stage.buy_with_points(1, 30);
    stage.receive(&spending);
    stage.ask(completion(&spending, "pay-2", usd(970)));

    stage.ask(reversal(&bought, "pay-1"));
    assert!(stage.events().contains(&"points.changed"));
    let standing =
        |stage: &Stage| (crate::points::balance(&stage.tables, "alice"), crate::points::debt(&stage.tables, "alice"));
    assert_eq!(standing(&stage), (0, 30), "10 of 40 were left");
    stage.granted_and_returned("alice");
    assert_eq!(standing(&stage), (10, 0), "40 more, of which 30 repaid the debt");
    assert_eq!(stage.tables.entries.iter().map(|entry| entry.delta).sum::<i64>(), 0);
}

#[test]
fn a_reversal_gives_back_the_points_that_had_paid_a_part() {
    let mut stage = Stage::with_song();
    stage.rich("alice", 300);
    let bought = stage.buy_with_points(1, 300);
    stage.receive(&bought);
    stage.ask(completion(&bought, "pay-1", usd(700)));
    assert_eq!(crate::points::balance(&stage.tables, "alice"), 0);
    stage.ask(reversal(&bought, "pay-1"));
    assert_eq!(crate::points::balance(&stage.tables, "alice"), 300);
}

#[test]
fn a_reversal_reaches_what_an_upgrade_made_of_it() {
    let mut stage = Stage::with_song();
    stage.ask(Request::ContentPut(sequel()));
    stage.ask(Request::ContentPut(generous_song()));
    let bought = stage.ready(1);
    let license = stage.license(&bought, "player").expect("a license");
    stage.ask(license_receipt(&license));
    let Output::LicenseReturned(returned) = stage.ask(license_return(&license, "alice", Privilege::Upgrade, true))
    else {
        panic!("not returned")
    };
    let upgraded = returned.privilege.certificate_token.expect("the successor's token");
    stage.ask(license_request(&upgraded, "player"));
    stage.ask(reversal(&bought, "pay-1"));
    let events = stage.events();
    assert_eq!(events.iter().filter(|kind| **kind == "certificate.retired").count(), 1, "{events:?}");
    assert_eq!(events.iter().filter(|kind| **kind == "license.revoked").count(), 1, "{events:?}");
    assert_eq!(verdict(&stage.ask(license_request(&upgraded, "player"))), "reversed");
}

#[test]
fn what_was_paid_for_late_never_lapses() {
    let mut stage = Stage::with_song();
    let bought = stage.buy(1);
    stage.settle(&bought, "pay-1");
    assert!(stage.later(48 * HOUR_MS).sweep(SweepKind::Reception).is_empty());
    assert_eq!(verdict(&stage.receive(&bought)), "certificate.accepted");
}

#[test]
fn a_payout_is_registered_once_and_in_the_right_amount() {
    let mut stage = Stage::with_song();
    stage.ask(Request::ContentPut(generous_song()));
    let license = stage.granted("player");
    let Output::LicenseReturned(returned) = stage.ask(license_return(&license, "alice", Privilege::Buyback, true))
    else {
        panic!("not returned")
    };
    assert!(stage.events().contains(&"payout.instructed"));
    let paid = |payout: &str, minor: i64| {
        Request::PayoutCompletion(PayoutCompletion {
            license_return: returned.license_return,
            payout: ExternalId::try_from(payout).expect("an id"),
            provider: name("bank"),
            amount: usd(minor),
        })
    };
    assert_eq!(verdict(&stage.ask(paid("out-1", 299))), "amount_mismatch");
    assert_eq!(verdict(&stage.ask(paid("out-1", 300))), "payout.registered");
    assert_eq!(verdict(&stage.ask(paid("out-1", 300))), "payout.registered*");
    assert!(stage.events().is_empty());
    assert_eq!(verdict(&stage.ask(paid("out-1", 299))), "already_settled");
    assert_eq!(verdict(&stage.ask(paid("out-2", 300))), "already_settled");
    let Request::PayoutCompletion(mut stranger) = paid("out-3", 300) else { unreachable!() };
    stranger.license_return = Uuid::from_u128(7);
    assert_eq!(verdict(&stage.ask(Request::PayoutCompletion(stranger))), "unknown_return");
}

#[test]
fn a_failed_settlement_is_on_record_without_an_amount() {
    let mut stage = Stage::with_song();
    let bought = stage.buy(1);
    stage.ask(failure(&bought, "pay-1"));
    let row = stage.tables.settlements.iter().next().expect("it is on record");
    assert_eq!((row.outcome, row.amount_minor), (Outcome::Failed, None));
}

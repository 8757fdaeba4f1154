//! Tests of `settlement.failure`, and of payments that arrive after a failure or a deadline.

use licet_schema::{
    Request,
    entity::{certificate, settlement},
    message::{
        Ending, SettlementFailure, SettlementOutcome, SettlementReinstatement, SettlementReversal, SweepKind,
        UnmatchedKind,
    },
};
use uuid::Uuid;

use super::refund_tests::{ending_of, failure, registered, reinstatement, reversal, unmatched};
use crate::fixture::{self, Fixture, HOUR_MS, check, completion, external, outcome, usd};

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
            "a certificate that does not exist",
            |fixture| {
                let bought = fixture.buy(1);
                let certificate = Some(Uuid::from_u128(9));
                fixture.ask(Request::SettlementFailure(SettlementFailure {
                    certificate,
                    ..fixture::failure(&bought, "pay-1")
                }))
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
            "settlement.registered",
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
fn a_late_payment_brings_a_declined_purchase_back_as_it_was() {
    let mut fixture = Fixture::with_song();
    fixture.give_points("alice", 300);
    let bought = fixture.buy_with_points(2, 300);
    fixture.receive(&bought);
    fixture.ask(failure(&bought, "pay-1"));
    assert_eq!(fixture.points_of("alice"), 300);
    assert_eq!(
        registered(&fixture.ask(completion(&bought, "pay-1", usd(1700)))),
        (SettlementOutcome::Completed, false)
    );
    let events = fixture.events();
    assert_eq!(events, ["settlement.registered", "certificate.restored", "certificate.restored", "points.changed"]);
    assert_eq!(fixture.points_of("alice"), 0);
    assert!(fixture.license(&bought, "player").is_ok(), "the old tokens are valid, and the receipt still counts");
}

#[test]
fn a_late_payment_is_unmatched_if_the_points_of_the_purchase_are_spent() {
    let mut fixture = Fixture::with_song();
    fixture.give_points("alice", 300);
    let bought = fixture.buy_with_points(1, 300);
    fixture.ask(failure(&bought, "pay-1"));
    fixture.buy_with_points(1, 100);
    assert_eq!(outcome(&fixture.ask(completion(&bought, "pay-1", usd(700)))), "insufficient_points");
    assert_eq!(unmatched(&fixture), [(UnmatchedKind::Payment, 700)]);
}

#[test]
fn a_late_payment_brings_a_lapsed_purchase_back_without_a_receipt_deadline() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    fixture.later(25 * HOUR_MS).sweep(SweepKind::Reception);
    assert_eq!(ending_of(&fixture, bought.certificates[0]), Some(Ending::Lapsed));
    assert_eq!(outcome(&fixture.settle(&bought, "pay-1")), "settlement.registered");
    assert!(fixture.later(25 * HOUR_MS).sweep(SweepKind::Reception).is_empty());
    assert_eq!(outcome(&fixture.receive(&bought)), "certificate.accepted");
    assert!(fixture.license(&bought, "player").is_ok());
}

#[test]
fn a_late_payment_does_not_bring_an_expired_purchase_back() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    fixture.ask(failure(&bought, "pay-1"));
    fixture.later(31 * 24 * HOUR_MS);
    assert_eq!(outcome(&fixture.settle(&bought, "pay-1")), "expired");
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
fn a_failed_settlement_is_recorded_without_an_amount() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    fixture.ask(failure(&bought, "pay-1"));
    let row = fixture.store.rows::<settlement::Entity>().next().expect("the settlement is recorded");
    assert_eq!((row.outcome, row.amount_minor), (SettlementOutcome::Failed, None));
}

#[test]
fn a_refund_and_a_reinstatement_that_name_another_purchase_than_a_failed_settlement_are_kept() {
    let mut fixture = Fixture::with_song();
    let (bought, other) = (fixture.buy(1), fixture.buy(2));
    fixture.ask(failure(&bought, "pay-1"));
    assert_eq!(registered(&fixture.ask(reinstatement(&other, "pay-1"))), (SettlementOutcome::Pending, false));
    assert_eq!(registered(&fixture.ask(reversal(&other, "pay-1"))), (SettlementOutcome::Pending, false));
}

#[test]
fn a_kept_reinstatement_of_a_container_whose_payment_failed_does_not_stop_another_message() {
    let mut fixture = Fixture::with_song();
    let (failed, wrong) = (fixture.buy(2), fixture.buy(1));
    let member = SettlementReinstatement {
        certificate: Some(failed.certificates[0]),
        container: None,
        refund: Some(external("re-1")),
        ..fixture::reinstatement(&failed, "pay-1")
    };
    assert_eq!(registered(&fixture.ask(Request::SettlementReinstatement(member))), (SettlementOutcome::Pending, false));
    let refund = SettlementReversal { refund: Some(external("re-1")), ..fixture::reversal(&wrong, "pay-1") };
    let refund = Request::SettlementReversal(SettlementReversal { amount: Some(usd(5)), ..refund });
    assert_eq!(registered(&fixture.ask(refund)), (SettlementOutcome::Pending, false));
    fixture.ask(failure(&failed, "pay-1"));
    assert_eq!(outcome(&fixture.ask(completion(&wrong, "pay-1", usd(5)))), "already_settled");
    assert_eq!(unmatched(&fixture), [(UnmatchedKind::Payment, 5)], "its refund was undone");
}

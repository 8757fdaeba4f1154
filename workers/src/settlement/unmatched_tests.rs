//! Tests of refunds of money that matches no purchase.

use licet_schema::{
    Code, Output, Request,
    entity::unmatched_settlement,
    message::{SettlementCompletion, SettlementOutcome, SettlementReinstatement, SettlementReversal, UnmatchedKind},
};
use uuid::Uuid;

use super::refund_tests::{refund, refunded, registered, reinstatement, unmatched};
use crate::fixture::{self, Bought, Fixture, completion, external, outcome, usd};

/// A payment of this amount under the id `pay-1` for a certificate that does not exist.
fn misdirected(bought: &Bought, amount: i64) -> Request {
    match completion(bought, "pay-1", usd(amount)) {
        Request::SettlementCompletion(body) => {
            let (certificate, container) = (Some(Uuid::from_u128(99)), None);
            Request::SettlementCompletion(SettlementCompletion { certificate, container, ..body })
        }
        other => other,
    }
}

/// The refund of everything under the id `pay-1`, for the certificate that does not exist.
fn refund_of_all(bought: &Bought) -> Request {
    let (certificate, container) = (Some(Uuid::from_u128(99)), None);
    Request::SettlementReversal(SettlementReversal { certificate, container, ..fixture::reversal(bought, "pay-1") })
}

/// The reinstatement of this refund.
fn won(bought: &Bought) -> Request {
    let (certificate, container) = (Some(Uuid::from_u128(99)), None);
    Request::SettlementReinstatement(SettlementReinstatement {
        certificate,
        container,
        ..fixture::reinstatement(bought, "pay-1")
    })
}

/// Two unmatched payments under the id `pay-1` that one refund returned.
fn two_refunded() -> (Fixture, Bought) {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    fixture.ask(misdirected(&bought, 777));
    fixture.ask(misdirected(&bought, 888));
    assert_eq!(registered(&fixture.ask(refund_of_all(&bought))), (SettlementOutcome::Refunded, false));
    (fixture, bought)
}

#[test]
fn a_refund_does_not_take_the_unmatched_money_of_another_purchase() {
    let mut fixture = Fixture::with_song();
    let (bought, other) = (fixture.ready(1), fixture.buy(2));
    assert_eq!(outcome(&fixture.settle(&other, "pay-1")), "already_settled");
    assert_eq!(unmatched(&fixture), [(UnmatchedKind::Payment, 2000)]);
    assert_eq!(outcome(&fixture.ask(refund(&bought, "re-1", 2000))), "amount_mismatch");
    assert_eq!(unmatched(&fixture), [(UnmatchedKind::Payment, 2000), (UnmatchedKind::Refund, 2000)]);
}

#[test]
fn a_reversal_of_an_unmatched_payment_removes_only_its_record() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.ready(1);
    fixture.ask(completion(&bought, "pay-1", usd(5)));
    assert_eq!(unmatched(&fixture), [(UnmatchedKind::Payment, 5)]);
    let refund = SettlementReversal {
        refund: Some(external("re-1")),
        amount: Some(usd(5)),
        ..fixture::reversal(&bought, "pay-1")
    };
    assert_eq!(registered(&fixture.ask(Request::SettlementReversal(refund))), (SettlementOutcome::Refunded, false));
    assert!(unmatched(&fixture).is_empty());
    assert!(fixture.license(&bought, "player").is_ok(), "the matched payment is not reversed");
}

#[test]
fn a_reinstatement_that_undoes_the_refunds_of_several_unmatched_payments_announces_each_under_its_own_id() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    for (id, amount) in [("re-1", 5), ("re-2", 6)] {
        fixture.ask(completion(&bought, "pay-1", usd(amount)));
        fixture.ask(refund(&bought, id, amount));
    }
    assert_eq!(unmatched(&fixture), [], "both payments were refunded");
    fixture.ask(reinstatement(&bought, "pay-1"));
    assert_eq!(unmatched(&fixture).len(), 2);
    assert_eq!(fixture.events(), ["settlement.registered", "settlement.unmatched", "settlement.unmatched"]);
    let events = &fixture.last.as_ref().expect("a decision").events;
    let subjects: std::collections::BTreeSet<_> = events.iter().map(Output::subject).collect();
    assert_eq!(subjects.len(), 2, "the message id of an event is derived from its subject: {subjects:?}");
}

#[test]
fn a_refund_without_an_amount_returns_all_unmatched_payments_and_its_reinstatement_restores_each() {
    let (mut fixture, bought) = two_refunded();
    assert_eq!((refunded(&fixture), unmatched(&fixture)), (Some(1665), vec![]));
    fixture.ask(won(&bought));
    assert_eq!(unmatched(&fixture), [(UnmatchedKind::Payment, 777), (UnmatchedKind::Payment, 888)]);
    assert_eq!(fixture.events(), ["settlement.registered", "settlement.unmatched", "settlement.unmatched"]);
}

#[test]
fn a_refund_of_unmatched_money_is_part_of_the_refunded_sum_of_a_payment() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.ready(1);
    fixture.ask(completion(&bought, "pay-1", usd(700)));
    assert_eq!(registered(&fixture.ask(refund(&bought, "re-1", 700))), (SettlementOutcome::Refunded, false));
    assert_eq!((refunded(&fixture), unmatched(&fixture)), (Some(700), vec![]));
    assert!(fixture.license(&bought, "player").is_ok(), "nothing was revoked");
}

#[test]
fn a_payment_that_arrives_again_after_a_refund_of_several_is_told_to_be_refunded() {
    let (mut fixture, bought) = two_refunded();
    assert_eq!(outcome(&fixture.ask(misdirected(&bought, 777))), "reversed");
}

#[test]
fn a_refund_without_an_amount_returns_every_unmatched_payment_in_every_order() {
    type Message = fn(&Bought) -> Request;
    let (first, second): (Message, Message) = (|one| misdirected(one, 777), |one| misdirected(one, 888));
    for order in [[refund_of_all as Message, first, second], [second, refund_of_all, first]] {
        let mut fixture = Fixture::with_song();
        let bought = fixture.buy(1);
        for message in order {
            fixture.ask(message(&bought));
        }
        assert_eq!(unmatched(&fixture), []);
        fixture.ask(refund_of_all(&bought));
        assert_eq!(refunded(&fixture), Some(1665));
        fixture.ask(won(&bought));
        let mut open = unmatched(&fixture);
        open.sort_by_key(|(_, amount)| *amount);
        assert_eq!(open, [(UnmatchedKind::Payment, 777), (UnmatchedKind::Payment, 888)]);
    }
}

#[test]
fn a_payment_that_was_reported_again_after_its_refund_is_unmatched_once_when_the_refund_is_undone() {
    let (mut fixture, bought) = two_refunded();
    assert_eq!(outcome(&fixture.ask(misdirected(&bought, 777))), "reversed");
    fixture.ask(won(&bought));
    let mut open = unmatched(&fixture);
    open.sort_by_key(|(_, amount)| *amount);
    assert_eq!(open, [(UnmatchedKind::Payment, 777), (UnmatchedKind::Payment, 888)]);
    let reasons: Vec<_> = fixture.store.rows::<unmatched_settlement::Entity>().map(|row| row.reason).collect();
    assert_eq!(reasons, [Code::UnknownCertificate; 2], "as if it had been reported again before its refund");
}

#[test]
fn a_refund_that_counts_for_a_payment_that_arrives_later_no_longer_returns_other_money() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    fixture.ask(completion(&bought, "pay-1", usd(5)));
    fixture.ask(super::refund_tests::reversal(&bought, "pay-1"));
    assert_eq!(unmatched(&fixture), []);
    assert_eq!(registered(&fixture.settle(&bought, "pay-1")), (SettlementOutcome::Reversed, false));
    assert_eq!(refunded(&fixture), Some(1000));
    assert_eq!(unmatched(&fixture), [(UnmatchedKind::Payment, 5)]);
    assert!(fixture.events().contains(&"settlement.unmatched"), "it is announced again");
}

#[test]
fn a_refund_of_another_purchase_that_was_undone_before_the_payment_is_not_recorded() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    assert_eq!(registered(&fixture.ask(refund_of_all(&bought))), (SettlementOutcome::Pending, false));
    assert_eq!(registered(&fixture.ask(won(&bought))), (SettlementOutcome::Pending, false));
    assert_eq!(registered(&fixture.settle(&bought, "pay-1")), (SettlementOutcome::Completed, false));
    assert!(unmatched(&fixture).is_empty());
}

#[test]
fn a_refund_of_another_purchase_is_recorded_even_if_all_refunds_of_the_payment_were_undone_before() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    assert_eq!(registered(&fixture.settle(&bought, "pay-1")), (SettlementOutcome::Completed, false));
    fixture.ask(Request::SettlementReversal(fixture::reversal(&bought, "pay-1")));
    fixture.ask(Request::SettlementReinstatement(fixture::reinstatement(&bought, "pay-1")));
    let foreign = SettlementReversal {
        certificate: Some(Uuid::from_u128(99)),
        refund: Some(external("re-9")),
        amount: Some(usd(500)),
        ..fixture::reversal(&bought, "pay-1")
    };
    assert_eq!(outcome(&fixture.ask(Request::SettlementReversal(foreign))), "already_settled");
    assert_eq!(unmatched(&fixture), [(UnmatchedKind::Refund, 500)]);
}

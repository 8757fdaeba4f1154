use licet_schema::entity::{certificate_record, entry, unmatched_settlement};
use licet_schema::{
    Output, Request,
    message::{Ending, Privilege, SettlementOutcome, SettlementReinstatement, SettlementReversal, UnmatchedKind},
};
use uuid::Uuid;

use crate::fixture::{
    self, Bought, Fixture, check, completion, external, generous_song, license_receipt, license_request,
    license_return, outcome, reissue, sequel, usd,
};

pub(super) fn failure(bought: &Bought, id: &str) -> Request {
    Request::SettlementFailure(fixture::failure(bought, id))
}

pub(super) fn reversal(bought: &Bought, id: &str) -> Request {
    Request::SettlementReversal(fixture::reversal(bought, id))
}

pub(super) fn reinstatement(bought: &Bought, id: &str) -> Request {
    Request::SettlementReinstatement(fixture::reinstatement(bought, id))
}

/// A refund of this amount of the settlement `pay-1`.
pub(super) fn refund(bought: &Bought, id: &str, amount: i64) -> Request {
    Request::SettlementReversal(SettlementReversal {
        refund: Some(external(id)),
        amount: Some(usd(amount)),
        ..fixture::reversal(bought, "pay-1")
    })
}

/// The sum of the refunds in the last reply.
pub(super) fn refunded(fixture: &Fixture) -> Option<i64> {
    match fixture.last.as_ref().and_then(|last| last.reply.as_ref()) {
        Some(Output::SettlementRegistered(registered)) => registered.refunded.map(|sum| sum.amount_minor.get()),
        other => panic!("{other:?}"),
    }
}

pub(super) fn ending_of(fixture: &Fixture, certificate: Uuid) -> Option<Ending> {
    let record = fixture.store.rows::<certificate_record::Entity>().find(|row| row.id == certificate);
    record.expect("a record").ended
}

/// The open unmatched money, with its amounts.
pub(super) fn unmatched(fixture: &Fixture) -> Vec<(UnmatchedKind, i64)> {
    let rows = fixture.store.rows::<unmatched_settlement::Entity>().filter(|row| row.refunded_by.is_none());
    rows.map(|row| (row.kind, row.amount_minor.get())).collect()
}

pub(super) fn registered(output: &Output) -> (SettlementOutcome, bool) {
    match output {
        Output::SettlementRegistered(registered) => (registered.outcome, registered.repeated),
        other => panic!("{other:?}"),
    }
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
            "settlement.registered",
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
            "more than was paid",
            |fixture| {
                let bought = fixture.ready(1);
                fixture.ask(Request::SettlementReversal(SettlementReversal {
                    amount: Some(usd(1001)),
                    ..fixture::reversal(&bought, "pay-1")
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
fn a_reversal_before_its_completion_ends_the_purchase_at_the_completion() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    fixture.receive(&bought);
    assert_eq!(registered(&fixture.ask(reversal(&bought, "pay-1"))), (SettlementOutcome::Pending, false));
    assert_eq!(refunded(&fixture), None);
    assert_eq!(registered(&fixture.settle(&bought, "pay-1")), (SettlementOutcome::Reversed, false));
    assert_eq!(refunded(&fixture), Some(1000));
    assert_eq!(ending_of(&fixture, bought.certificates[0]), Some(Ending::Reversed));
}

#[test]
fn a_partial_refund_before_its_completion_is_counted_at_the_completion() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    fixture.receive(&bought);
    assert_eq!(registered(&fixture.ask(refund(&bought, "re-1", 300))), (SettlementOutcome::Pending, false));
    assert_eq!(registered(&fixture.settle(&bought, "pay-1")), (SettlementOutcome::Completed, false));
    assert_eq!(refunded(&fixture), Some(300));
    assert!(fixture.license(&bought, "player").is_ok(), "a partial refund revokes nothing");
}

#[test]
fn a_kept_refund_of_more_than_is_paid_is_recorded_when_the_payment_arrives() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    fixture.ask(refund(&bought, "re-1", 1001));
    assert_eq!(registered(&fixture.settle(&bought, "pay-1")), (SettlementOutcome::Completed, false));
    assert_eq!(fixture.events(), ["settlement.registered", "settlement.unmatched"]);
    assert_eq!(unmatched(&fixture), [(UnmatchedKind::Refund, 1001)]);
}

#[test]
fn a_kept_refund_that_names_another_purchase_does_not_stop_the_payment() {
    let mut fixture = Fixture::with_song();
    let (bought, other) = (fixture.buy(1), fixture.buy(2));
    for (id, certificate) in [("re-1", Uuid::from_u128(9)), ("re-2", other.certificates[0])] {
        fixture.ask(Request::SettlementReversal(SettlementReversal {
            certificate: Some(certificate),
            refund: Some(external(id)),
            amount: Some(usd(100)),
            ..fixture::reversal(&bought, "pay-1")
        }));
    }
    assert_eq!(registered(&fixture.settle(&bought, "pay-1")), (SettlementOutcome::Completed, false));
    assert_eq!(unmatched(&fixture), [(UnmatchedKind::Refund, 100); 2]);
}

#[test]
fn a_kept_refund_without_an_amount_that_names_another_purchase_is_recorded_with_the_amount_of_the_payment() {
    for refund_first in [true, false] {
        let mut fixture = Fixture::with_song();
        let (bought, other) = (fixture.buy(1), fixture.buy(2));
        if !refund_first {
            fixture.settle(&bought, "pay-1");
        }
        let refund = fixture.ask(reversal(&other, "pay-1"));
        if refund_first {
            assert_eq!(registered(&refund), (SettlementOutcome::Pending, false));
            assert_eq!(registered(&fixture.settle(&bought, "pay-1")), (SettlementOutcome::Completed, false));
        } else {
            assert_eq!(outcome(&refund), "already_settled");
        }
        assert!(fixture.events().contains(&"settlement.unmatched"), "{:?}", fixture.events());
        assert_eq!(unmatched(&fixture), [(UnmatchedKind::Refund, 1000)]);
    }
}

#[test]
fn a_second_refund_of_a_member_leaves_the_other_members_alone() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.ready(2);
    let member = |id: &str| {
        Request::SettlementReversal(SettlementReversal {
            certificate: Some(bought.certificates[0]),
            container: None,
            refund: Some(external(id)),
            ..fixture::reversal(&bought, "pay-1")
        })
    };
    fixture.ask(member("re-1"));
    let refund = Some(external("re-1"));
    fixture.ask(Request::SettlementReinstatement(SettlementReinstatement {
        refund,
        ..fixture::reinstatement(&bought, "pay-1")
    }));
    assert_eq!(registered(&fixture.ask(member("re-2"))), (SettlementOutcome::Reversed, false));
    assert_eq!(ending_of(&fixture, bought.certificates[1]), None);
}

#[test]
fn a_member_of_a_free_container_is_refunded_alone() {
    let mut fixture = Fixture::with_song();
    fixture.give_points("alice", 2000);
    let bought = fixture.buy_with_points(2, 2000);
    fixture.ask(completion(&bought, "pay-1", usd(0)));
    let member = SettlementReversal {
        certificate: Some(bought.certificates[0]),
        container: None,
        ..fixture::reversal(&bought, "pay-1")
    };
    assert_eq!(registered(&fixture.ask(Request::SettlementReversal(member))), (SettlementOutcome::Reversed, false));
    assert_eq!(ending_of(&fixture, bought.certificates[1]), None);
    assert_eq!(fixture.points_of("alice"), 1000);
}

#[test]
fn a_reinstatement_that_named_another_purchase_undoes_nothing() {
    let mut fixture = Fixture::with_song();
    let (bought, other) = (fixture.buy(1), fixture.buy(1));
    assert_eq!(registered(&fixture.ask(reinstatement(&other, "pay-1"))), (SettlementOutcome::Pending, false));
    fixture.settle(&bought, "pay-1");
    assert_eq!(registered(&fixture.ask(reversal(&bought, "pay-1"))), (SettlementOutcome::Reversed, false));
}

#[test]
fn a_completion_after_its_reversal_is_unmatched_money() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.ready(1);
    fixture.ask(reversal(&bought, "pay-1"));
    assert_eq!(outcome(&fixture.settle(&bought, "pay-1")), "reversed");
    assert_eq!(fixture.events(), ["settlement.unmatched"]);
    assert_eq!(unmatched(&fixture), [(UnmatchedKind::Payment, 1000)]);
    assert_eq!(outcome(&fixture.settle(&bought, "pay-1")), "reversed");
    assert!(fixture.events().is_empty(), "it is announced once");
    fixture.ask(reinstatement(&bought, "pay-1"));
    assert!(unmatched(&fixture).is_empty(), "a won dispute explains the payment");
}

#[test]
fn partial_refunds_add_up_and_the_last_one_reverses_what_is_left() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.ready(2);
    let license = fixture.license(&bought, "player").expect("a license");
    fixture.ask(license_receipt(&license));
    for (id, amount, sum) in [("re-1", 500, 500), ("re-2", 700, 1200)] {
        assert_eq!(registered(&fixture.ask(refund(&bought, id, amount))), (SettlementOutcome::Refunded, false));
        assert_eq!(fixture.events(), ["settlement.registered"]);
        assert_eq!(refunded(&fixture), Some(sum));
    }
    assert_eq!(registered(&fixture.ask(refund(&bought, "re-1", 500))), (SettlementOutcome::Refunded, true));
    assert_eq!(outcome(&fixture.ask(refund(&bought, "re-1", 501))), "amount_mismatch");
    assert_eq!(outcome(&fixture.ask(refund(&bought, "re-3", 801))), "amount_mismatch");
    assert_eq!(fixture.events(), ["settlement.unmatched"]);
    assert_eq!(unmatched(&fixture), [(UnmatchedKind::Refund, 801)]);
    assert_eq!(registered(&fixture.ask(refund(&bought, "re-4", 800))), (SettlementOutcome::Reversed, false));
    assert_eq!(refunded(&fixture), Some(2000));
    assert!(bought.certificates.iter().all(|id| ending_of(&fixture, *id) == Some(Ending::Reversed)));
}

#[test]
fn a_refund_without_an_amount_is_of_everything_that_is_left_and_later_amounts_count_within_it() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.ready(1);
    fixture.ask(refund(&bought, "re-1", 300));
    assert_eq!(registered(&fixture.ask(reversal(&bought, "pay-1"))), (SettlementOutcome::Reversed, false));
    assert_eq!(refunded(&fixture), Some(1000));
    assert_eq!(registered(&fixture.ask(refund(&bought, "re-2", 700))), (SettlementOutcome::Refunded, false));
    assert_eq!(refunded(&fixture), Some(1000));
    assert_eq!(outcome(&fixture.ask(refund(&bought, "re-3", 1))), "amount_mismatch");
}

#[test]
fn a_member_of_a_container_is_refunded_and_revoked_alone() {
    let mut fixture = Fixture::with_song();
    fixture.give_points("alice", 300);
    let bought = fixture.buy_with_points(3, 300);
    fixture.receive(&bought);
    fixture.ask(completion(&bought, "pay-1", usd(2700)));
    let points = fixture.store.rows::<certificate_record::Entity>().map(|row| (row.id, row.points.get()));
    let points: std::collections::BTreeMap<_, _> = points.collect();
    let first = bought.certificates[0];
    let member = Request::SettlementReversal(SettlementReversal {
        certificate: Some(first),
        container: None,
        ..fixture::reversal(&bought, "pay-1")
    });
    assert_eq!(registered(&fixture.ask(member.clone())), (SettlementOutcome::Reversed, false));
    assert_eq!(refunded(&fixture), Some(1000 - points[&first]));
    assert_eq!(fixture.points_of("alice"), points[&first]);
    assert_eq!(ending_of(&fixture, first), Some(Ending::Reversed));
    assert_eq!(ending_of(&fixture, bought.certificates[1]), None);
    assert_eq!(outcome(&fixture.ask(license_request(&bought.tokens[0], "player"))), "reversed");
    assert_eq!(outcome(&fixture.ask(license_request(&bought.tokens[1], "player"))), "license.issued");
    assert_eq!(registered(&fixture.ask(member)), (SettlementOutcome::Reversed, true));
    let rest = SettlementReversal { refund: Some(external("re-2")), ..fixture::reversal(&bought, "pay-1") };
    assert_eq!(registered(&fixture.ask(Request::SettlementReversal(rest))), (SettlementOutcome::Reversed, false));
    assert_eq!(refunded(&fixture), Some(2700));
    assert_eq!(fixture.points_of("alice"), 300);
}

#[test]
fn a_won_dispute_brings_the_certificate_back_by_a_reissue() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.ready(1);
    let license = fixture.license(&bought, "player").expect("a license");
    fixture.ask(license_receipt(&license));
    fixture.ask(license_return(&license, "alice", Privilege::Points, true));
    fixture.ask(reversal(&bought, "pay-1"));
    assert_eq!((fixture.points_of("alice"), fixture.debt_of("alice")), (0, 0));
    assert_eq!(outcome(&fixture.ask(reissue(bought.certificates[0], None))), "reversed");
    assert_eq!(registered(&fixture.ask(reinstatement(&bought, "pay-1"))), (SettlementOutcome::Reinstated, false));
    assert_eq!(refunded(&fixture), Some(0));
    assert_eq!(fixture.events(), ["settlement.registered", "points.changed"]);
    assert_eq!(fixture.points_of("alice"), 40);
    assert_eq!(registered(&fixture.ask(reinstatement(&bought, "pay-1"))), (SettlementOutcome::Reinstated, true));
    let Output::CertificateReissued(back) = fixture.ask(reissue(bought.certificates[0], None)) else {
        panic!("the certificate is not reissued")
    };
    assert_eq!((back.granted.get(), back.remaining.get()), (1, 2), "the returned license keeps its grant");
    assert_eq!(registered(&fixture.settle(&bought, "pay-1")), (SettlementOutcome::Completed, true));
    let again = SettlementReversal { refund: Some(external("re-2")), ..fixture::reversal(&bought, "pay-1") };
    assert_eq!(registered(&fixture.ask(Request::SettlementReversal(again))), (SettlementOutcome::Reversed, false));
}

#[test]
fn points_that_had_paid_are_taken_again_when_a_dispute_is_won_and_a_shortfall_is_debt() {
    let mut fixture = Fixture::with_song();
    fixture.give_points("alice", 300);
    let bought = fixture.buy_with_points(1, 300);
    fixture.receive(&bought);
    fixture.ask(completion(&bought, "pay-1", usd(700)));
    fixture.ask(reversal(&bought, "pay-1"));
    assert_eq!(fixture.points_of("alice"), 300);
    let spending = fixture.buy_with_points(1, 200);
    fixture.ask(completion(&spending, "pay-2", usd(800)));
    fixture.ask(reinstatement(&bought, "pay-1"));
    assert_eq!((fixture.points_of("alice"), fixture.debt_of("alice")), (0, 200));
    assert_eq!(fixture.store.rows::<entry::Entity>().map(|entry| entry.delta).sum::<i64>(), 0);
}

#[test]
fn a_reinstatement_before_its_reversal_is_applied_after_it() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.ready(1);
    let license = fixture.license(&bought, "player").expect("a license");
    fixture.ask(license_receipt(&license));
    assert_eq!(registered(&fixture.ask(reinstatement(&bought, "pay-1"))), (SettlementOutcome::Pending, false));
    assert_eq!(registered(&fixture.ask(reinstatement(&bought, "pay-1"))), (SettlementOutcome::Pending, true));
    assert_eq!(registered(&fixture.ask(reversal(&bought, "pay-1"))), (SettlementOutcome::Reinstated, false));
    assert!(fixture.events().contains(&"license.revoked"));
    assert_eq!(outcome(&fixture.ask(reissue(bought.certificates[0], None))), "certificate.reissued");
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
fn a_refused_refund_that_is_accepted_later_is_no_longer_unmatched() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.ready(1);
    fixture.ask(refund(&bought, "re-1", 1000));
    assert_eq!(outcome(&fixture.ask(refund(&bought, "re-2", 1000))), "amount_mismatch");
    let undone = |id: &str| {
        let refund = Some(external(id));
        Request::SettlementReinstatement(SettlementReinstatement { refund, ..fixture::reinstatement(&bought, "pay-1") })
    };
    fixture.ask(undone("re-1"));
    assert_eq!(unmatched(&fixture), [(UnmatchedKind::Refund, 1000)]);
    assert_eq!(registered(&fixture.ask(refund(&bought, "re-2", 1000))), (SettlementOutcome::Reversed, false));
    assert!(unmatched(&fixture).is_empty());
}

#[test]
fn a_reinstatement_without_a_refund_id_also_removes_the_refunds_that_were_refused() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.ready(1);
    fixture.ask(refund(&bought, "re-1", 1000));
    fixture.ask(refund(&bought, "re-2", 1000));
    assert_eq!(registered(&fixture.ask(reinstatement(&bought, "pay-1"))), (SettlementOutcome::Reinstated, false));
    assert!(unmatched(&fixture).is_empty());
}

#[test]
fn a_refused_refund_is_undone_under_the_purchase_that_it_named() {
    let mut fixture = Fixture::with_song();
    let (bought, other) = (fixture.ready(1), fixture.buy(1));
    assert_eq!(outcome(&fixture.ask(refund(&other, "re-1", 400))), "already_settled");
    assert_eq!(unmatched(&fixture), [(UnmatchedKind::Refund, 400)]);
    let undone = SettlementReinstatement { refund: Some(external("re-1")), ..fixture::reinstatement(&other, "pay-1") };
    let reply = fixture.ask(Request::SettlementReinstatement(undone));
    assert_eq!(registered(&reply), (SettlementOutcome::Reinstated, false));
    assert!(unmatched(&fixture).is_empty());
    assert!(fixture.license(&bought, "player").is_ok());
}

#[test]
fn the_refusal_for_a_reinstated_certificate_names_the_request_that_reissues_it() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.ready(1);
    fixture.ask(reversal(&bought, "pay-1"));
    fixture.ask(reinstatement(&bought, "pay-1"));
    let reply = fixture.ask(license_request(&bought.tokens[0], "player"));
    let Output::RequestRefused(refused) = reply else { panic!("{reply:?}") };
    assert!(refused.detail.contains("certificate.reissue"), "{}", refused.detail);
}

use licet_schema::entity::{certificate, pending_reception, settlement, unmatched_settlement};
use licet_schema::{
    Code, Money, Output, Request,
    message::{
        CertificateState, Ending, Privilege, SettlementAssignment, SettlementCompletion, SettlementFailure,
        SettlementOutcome, SettlementReversal, StatusQuery, SweepKind,
    },
};
use uuid::Uuid;

use crate::fixture::{
    self, Bought, Fixture, HOUR_MS, check, completion, external, license_receipt, license_return, name, outcome,
    purchase, reissue, usd,
};

/// The lifetime of the fixture's certificates.
const LIFETIME_MS: i64 = 30 * 24 * HOUR_MS;

/// A certificate that does not exist.
const UNKNOWN: Uuid = Uuid::from_u128(99);

/// An assignment of the unmatched payment `pay-1` to this purchase.
fn assignment(bought: &Bought, amount: Option<Money>) -> Request {
    Request::SettlementAssignment(SettlementAssignment {
        certificate: bought.container.is_none().then(|| bought.certificates[0]),
        container: bought.container,
        settlement: external("pay-1"),
        provider: name("bank"),
        amount,
    })
}

/// A report that `pay-1` paid this amount for a certificate that does not exist.
fn misdirected(amount: i64) -> Request {
    Request::SettlementCompletion(SettlementCompletion {
        certificate: Some(UNKNOWN),
        container: None,
        settlement: external("pay-1"),
        provider: name("bank"),
        amount: usd(amount),
        grants: None,
    })
}

/// A refund of `pay-1` that names the certificate of [`misdirected`].
fn chargeback(amount: Option<i64>) -> Request {
    Request::SettlementReversal(SettlementReversal {
        certificate: Some(UNKNOWN),
        container: None,
        settlement: external("pay-1"),
        provider: name("bank"),
        refund: None,
        amount: amount.map(usd),
        reason: "chargeback".try_into().expect("a text"),
    })
}

/// A purchase whose certificates have ended or are overdue, and the misdirected payment for it.
fn ended(count: usize, end: impl Fn(&mut Fixture, &Bought)) -> (Fixture, Bought) {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(count);
    end(&mut fixture, &bought);
    fixture.ask(misdirected(bought.amount.amount_minor.get()));
    (fixture, bought)
}

fn registered(output: &Output) -> (SettlementOutcome, bool) {
    match output {
        Output::SettlementRegistered(registered) => (registered.outcome, registered.repeated),
        other => panic!("{other:?}"),
    }
}

fn row(fixture: &Fixture, bought: &Bought) -> certificate::Model {
    let found = fixture.store.get::<certificate::Entity>(&bought.certificates[0]);
    found.expect("the certificate is live").clone()
}

fn unmatched(fixture: &Fixture) -> Vec<i64> {
    fixture.store.rows::<unmatched_settlement::Entity>().map(|row| row.amount_minor.get()).collect()
}

fn states(fixture: &mut Fixture, bought: &Bought) -> Vec<CertificateState> {
    let mut states = Vec::new();
    for certificate in &bought.certificates {
        let (container, license, license_return, reference, settlement) = (None, None, None, None, None);
        let certificate = Some(*certificate);
        let query = StatusQuery { certificate, container, license, license_return, reference, settlement };
        let reply = fixture.ask(Request::StatusQuery(query));
        let Output::StatusListed(listed) = reply else { panic!("{reply:?}") };
        states.extend(listed.certificates.iter().map(|one| one.state));
    }
    states
}

#[test]
fn outcomes_of_settlement_assignment() {
    check(&[
        (
            "a purchase that waits for its payment",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(misdirected(1000));
                fixture.ask(assignment(&bought, None))
            },
            "settlement.registered",
        ),
        (
            "the same again",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(misdirected(1000));
                fixture.ask(assignment(&bought, None));
                fixture.ask(assignment(&bought, Some(usd(1000))))
            },
            "settlement.registered*",
        ),
        (
            "to a second purchase",
            |fixture| {
                let (bought, other) = (fixture.buy(1), fixture.buy(1));
                fixture.ask(misdirected(1000));
                fixture.ask(assignment(&bought, None));
                fixture.ask(assignment(&other, None))
            },
            "already_settled",
        ),
        (
            "a purchase that is already paid for",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(misdirected(1000));
                fixture.settle(&bought, "pay-2");
                fixture.ask(assignment(&bought, None))
            },
            "already_settled",
        ),
        (
            "a purchase whose payment was refunded",
            |fixture| {
                let bought = fixture.ready(1);
                fixture.ask(Request::SettlementReversal(fixture::reversal(&bought, "pay-1")));
                fixture.settle(&bought, "pay-1");
                fixture.ask(assignment(&bought, None))
            },
            "reversed",
        ),
        (
            "an amount other than the amount due",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(misdirected(999));
                fixture.ask(assignment(&bought, None))
            },
            "amount_mismatch",
        ),
        (
            "an amount that was not paid",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(misdirected(999));
                fixture.ask(assignment(&bought, Some(usd(1000))))
            },
            "amount_mismatch",
        ),
        (
            "one of several amounts, without naming it",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(misdirected(1000));
                fixture.ask(misdirected(999));
                fixture.ask(assignment(&bought, None))
            },
            "amount_mismatch",
        ),
        (
            "one of several amounts",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(misdirected(999));
                fixture.ask(misdirected(1000));
                fixture.ask(assignment(&bought, Some(usd(1000))))
            },
            "settlement.registered",
        ),
        (
            "a payment that was never reported",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(assignment(&bought, None))
            },
            "not_settled",
        ),
        (
            "a payment that was refunded",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.ask(misdirected(1000));
                fixture.ask(chargeback(None));
                fixture.ask(assignment(&bought, None))
            },
            "reversed",
        ),
        (
            "a certificate that does not exist",
            |fixture| {
                let mut bought = fixture.buy(1);
                fixture.ask(misdirected(1000));
                bought.certificates[0] = UNKNOWN;
                fixture.ask(assignment(&bought, None))
            },
            "unknown_certificate",
        ),
        (
            "one member of a container",
            |fixture| {
                let mut bought = fixture.buy(2);
                fixture.ask(misdirected(1000));
                bought.container = None;
                fixture.ask(assignment(&bought, None))
            },
            "unknown_certificate",
        ),
        (
            "points that were spent since",
            |fixture| {
                fixture.give_points("alice", 300);
                let bought = fixture.buy_with_points(1, 300);
                fixture.ask(Request::SettlementFailure(fixture::failure(&bought, "pay-1")));
                fixture.ask(purchase(1, 200));
                fixture.ask(misdirected(700));
                fixture.ask(assignment(&bought, None))
            },
            "insufficient_points",
        ),
        (
            "a refund of more than was paid",
            |fixture| {
                let (bought, other) = (fixture.ready(1), fixture.buy(1));
                let (refund, amount) = (Some(external("re-1")), Some(usd(2000)));
                let more = SettlementReversal { refund, amount, ..fixture::reversal(&bought, "pay-1") };
                fixture.ask(Request::SettlementReversal(more));
                fixture.ask(assignment(&other, Some(usd(2000))))
            },
            "already_settled",
        ),
    ]);
}

#[test]
fn an_assignment_gives_a_purchase_that_ended_unpaid_its_full_lifetime() {
    let failure = |fixture: &mut Fixture, bought: &Bought| {
        fixture.ask(Request::SettlementFailure(fixture::failure(bought, "pay-2")));
    };
    let lapsed = |fixture: &mut Fixture, _: &Bought| drop(fixture.later(25 * HOUR_MS).sweep(SweepKind::Reception));
    let expired = |fixture: &mut Fixture, _: &Bought| {
        drop(fixture.later(LIFETIME_MS + HOUR_MS).sweep(SweepKind::Certificate));
    };
    let overdue = |fixture: &mut Fixture, _: &Bought| {
        fixture.later(LIFETIME_MS + HOUR_MS);
    };
    type End<'a> = &'a dyn Fn(&mut Fixture, &Bought);
    let cases: [(&str, End<'_>, usize); 4] =
        [("declined", &failure, 2), ("lapsed", &lapsed, 2), ("expired", &expired, 2), ("overdue", &overdue, 0)];
    for (case, end, restored) in cases {
        let (mut fixture, bought) = ended(2, end);
        let reply = fixture.ask(assignment(&bought, None));
        assert_eq!(registered(&reply), (SettlementOutcome::Completed, false), "{case}");
        let events = fixture.events();
        let restored_now = events.iter().filter(|kind| **kind == "certificate.restored").count();
        assert_eq!(restored_now, restored, "{case}: restored only what was retired: {events:?}");
        assert_eq!(states(&mut fixture, &bought), [CertificateState::Settled; 2], "{case}");
        let row = row(&fixture, &bought);
        assert_eq!(row.expires_at.as_millis() - fixture.now_ms, LIFETIME_MS, "{case}");
        let pending: Vec<_> = fixture.store.rows::<pending_reception::Entity>().map(|row| row.due_at).collect();
        assert_eq!(pending, [None], "{case}: its reception has no deadline");
        assert!(unmatched(&fixture).is_empty(), "{case}");
        // The old token is valid until the recorded expiry, not until the expiry that it states.
        fixture.later(LIFETIME_MS - HOUR_MS).receive(&bought);
        assert!(fixture.license(&bought, "player").is_ok(), "{case}");
        let reissued = fixture.ask(reissue(bought.certificates[0], None));
        assert_eq!(outcome(&reissued), "certificate.reissued", "{case}");
    }
}

#[test]
fn a_purchase_that_waits_keeps_its_expiry() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    let before = row(&fixture, &bought).expires_at;
    fixture.later(HOUR_MS).ask(misdirected(1000));
    fixture.ask(assignment(&bought, None));
    assert_eq!(row(&fixture, &bought).expires_at, before);
}

#[test]
fn a_longer_expiry_is_not_shortened() {
    let (mut fixture, bought) = ended(1, |fixture, bought| {
        let later = fixture.now_ms + 10 * LIFETIME_MS;
        fixture.store.change::<certificate::Entity>(&bought.certificates[0], |row| {
            row.expires_at = licet_schema::Timestamp::from_millis(later);
        });
        fixture.ask(Request::SettlementFailure(fixture::failure(bought, "pay-1")));
    });
    let start = fixture.now_ms;
    fixture.ask(assignment(&bought, None));
    assert_eq!(row(&fixture, &bought).expires_at.as_millis(), start + 10 * LIFETIME_MS);
}

#[test]
fn only_the_assigned_payment_is_removed_from_the_unmatched_ones() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    fixture.ask(misdirected(999));
    fixture.ask(misdirected(1000));
    fixture.ask(assignment(&bought, Some(usd(1000))));
    assert_eq!(unmatched(&fixture), [999]);
    let reply = fixture.ask(assignment(&bought, None));
    assert_eq!(outcome(&reply), "already_settled", "the other amount was not assigned");
}

#[test]
fn a_refused_assignment_leaves_the_payment_and_the_purchase_as_they_are() {
    let (mut fixture, bought) = ended(1, |fixture, bought| {
        fixture.ask(Request::SettlementFailure(fixture::failure(bought, "pay-2")));
        fixture.ask(misdirected(999));
    });
    let before = unmatched(&fixture);
    assert_eq!(before.len(), 2);
    assert_eq!(outcome(&fixture.ask(assignment(&bought, Some(usd(999))))), "amount_mismatch");
    assert_eq!(unmatched(&fixture), before);
    assert_eq!(states(&mut fixture, &bought), [CertificateState::Declined]);
}

#[test]
fn an_assignment_overrides_an_earlier_failure_of_its_settlement() {
    let mut fixture = Fixture::with_song();
    let (failed, bought) = (fixture.buy(1), fixture.buy(1));
    fixture.ask(Request::SettlementFailure(fixture::failure(&failed, "pay-1")));
    assert_eq!(outcome(&fixture.settle(&bought, "pay-1")), "already_settled");
    assert_eq!(registered(&fixture.ask(assignment(&bought, None))), (SettlementOutcome::Completed, false));
    assert_eq!(states(&mut fixture, &bought), [CertificateState::Settled]);
    let again = fixture.ask(Request::SettlementFailure(fixture::failure(&bought, "pay-1")));
    assert_eq!(registered(&again), (SettlementOutcome::Completed, true), "the money was received");
}

#[test]
fn later_messages_may_name_the_original_or_the_assigned_purchase() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    fixture.ask(misdirected(1000));
    fixture.ask(assignment(&bought, None));
    let again = fixture.ask(misdirected(1000));
    assert_eq!(registered(&again), (SettlementOutcome::Completed, true), "it is the same money");
    assert_eq!(registered(&fixture.settle(&bought, "pay-1")), (SettlementOutcome::Completed, true));
    assert!(unmatched(&fixture).is_empty());
    let charged_back = fixture.ask(chargeback(None));
    assert_eq!(registered(&charged_back), (SettlementOutcome::Reversed, false));
    assert!(fixture.last.as_ref().expect("a decision").mentions.contains(&bought.certificates[0]));
    assert_eq!(states(&mut fixture, &bought), [CertificateState::Reversed]);
    let same = fixture.ask(Request::SettlementReversal(fixture::reversal(&bought, "pay-1")));
    assert_eq!(registered(&same), (SettlementOutcome::Reversed, true), "the same refund under the other name");
    assert_eq!(outcome(&fixture.ask(misdirected(1000))), "reversed");
    let won = fixture.ask(Request::SettlementReinstatement(fixture::reinstatement(&bought, "pay-1")));
    assert_eq!(registered(&won), (SettlementOutcome::Reinstated, false));
    assert!(unmatched(&fixture).is_empty(), "the won dispute explains the payment");
    assert_eq!(states(&mut fixture, &bought), [CertificateState::Reinstated]);
}

#[test]
fn a_partial_refund_that_names_the_original_purchase_counts() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    fixture.ask(misdirected(1000));
    fixture.ask(assignment(&bought, None));
    let reply = fixture.ask(chargeback(Some(300)));
    assert_eq!(registered(&reply), (SettlementOutcome::Refunded, false));
    let mentions = &fixture.last.as_ref().expect("a decision").mentions;
    assert!(mentions.contains(&bought.certificates[0]), "the history of the assigned purchase shows the refund");
    let row = fixture.store.rows::<settlement::Entity>().find(|row| row.provider_reference.as_str() == "pay-1");
    assert_eq!(row.expect("the settlement").refunded_minor.get(), 300);
}

#[test]
fn messages_that_name_the_member_that_the_provider_named_are_about_the_whole_container() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(2);
    let member = bought.certificates[0];
    let Request::SettlementCompletion(body) = completion(&bought, "pay-1", usd(2000)) else { unreachable!() };
    let (certificate, container) = (Some(member), None);
    fixture.ask(Request::SettlementCompletion(SettlementCompletion { certificate, container, ..body.clone() }));
    fixture.ask(assignment(&bought, None));
    let again = SettlementCompletion { certificate, container, ..body };
    let again = fixture.ask(Request::SettlementCompletion(again));
    assert_eq!(registered(&again), (SettlementOutcome::Completed, true));
    let failed = SettlementFailure { certificate, container, ..fixture::failure(&bought, "pay-1") };
    let failed = fixture.ask(Request::SettlementFailure(failed));
    assert_eq!(registered(&failed), (SettlementOutcome::Completed, true));
    let body = SettlementReversal { certificate, container, ..fixture::reversal(&bought, "pay-1") };
    let (refund, amount) = (Some(external("re-1")), Some(usd(300)));
    fixture.ask(Request::SettlementReversal(SettlementReversal { refund, amount, ..body.clone() }));
    assert_eq!(states(&mut fixture, &bought), [CertificateState::Settled; 2], "a part revokes nothing");
    fixture.ask(Request::SettlementReversal(body));
    assert_eq!(states(&mut fixture, &bought), [CertificateState::Reversed; 2]);
}

#[test]
fn points_are_taken_again_and_given_back_by_a_refund() {
    let mut fixture = Fixture::with_song();
    fixture.give_points("alice", 300);
    let bought = fixture.buy_with_points(1, 300);
    fixture.later(25 * HOUR_MS).sweep(SweepKind::Reception);
    assert_eq!(fixture.points_of("alice"), 300);
    fixture.ask(misdirected(700));
    fixture.ask(assignment(&bought, None));
    assert_eq!(fixture.points_of("alice"), 0);
    fixture.ask(chargeback(None));
    assert_eq!(fixture.points_of("alice"), 300);
}

#[test]
fn a_refund_that_arrived_before_its_payment_was_assigned_is_applied() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    // The amounts differ, so the refund does not return the unmatched payment, and is kept.
    assert_eq!(registered(&fixture.ask(chargeback(Some(300)))), (SettlementOutcome::Pending, false));
    fixture.ask(misdirected(1000));
    assert_eq!(registered(&fixture.ask(assignment(&bought, None))), (SettlementOutcome::Completed, false));
    let row = fixture.store.rows::<settlement::Entity>().find(|row| row.provider_reference.as_str() == "pay-1");
    assert_eq!(row.expect("the settlement").refunded_minor.get(), 300);
}

#[test]
fn a_license_of_an_assigned_purchase_is_revoked_and_its_points_are_taken_back_by_a_chargeback() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    fixture.receive(&bought);
    fixture.ask(misdirected(1000));
    fixture.ask(assignment(&bought, None));
    let token = fixture.license(&bought, "player").expect("a license");
    fixture.ask(license_receipt(&token));
    fixture.ask(license_return(&token, "alice", Privilege::Points, true));
    let earned = fixture.points_of("alice");
    assert!(earned > 0);
    fixture.ask(chargeback(None));
    assert_eq!(fixture.points_of("alice"), 0);
    let record = fixture.store.get::<licet_schema::entity::certificate_record::Entity>(&bought.certificates[0]);
    assert_eq!(record.expect("a record").ended, Some(Ending::Reversed));
}

#[test]
fn the_reserved_provider_cannot_be_assigned() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    let Request::SettlementAssignment(body) = assignment(&bought, None) else { unreachable!() };
    let reply = fixture.ask(Request::SettlementAssignment(SettlementAssignment { provider: name("licet"), ..body }));
    let Output::RequestRefused(refused) = reply else { panic!("{reply:?}") };
    assert_eq!(refused.code, Code::Forbidden);
}

#[test]
fn an_assigned_payment_grants_what_its_provider_reported() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    let Request::SettlementCompletion(body) = misdirected(1000) else { unreachable!() };
    let grants = licet_schema::vocabulary::Grants::try_from(7i64).ok();
    let reported = Request::SettlementCompletion(SettlementCompletion { grants, ..body });
    fixture.ask(reported.clone());
    fixture.ask(assignment(&bought, None));
    assert_eq!(row(&fixture, &bought).grants.get(), 7);
    assert_eq!(registered(&fixture.ask(reported)), (SettlementOutcome::Completed, true));
}

//! Cases A2 to A5: refunds that arrive early, partial refunds, payments that arrive late, and
//! disputes that are won.

use licet_schema::{
    Output, Request, Text,
    entity::unmatched_settlement,
    message::{
        CertificateReissue, CertificateState, SettlementAssignment, SettlementCompletion, SettlementFailure,
        SettlementOutcome, SettlementReinstatement, SettlementReversal, StatusQuery, UnmatchedKind,
    },
};
use uuid::Uuid;

use crate::system::{
    Bought, Processed, TestSystem, completion, external_id, license_receipt, license_request, on_both, outcome,
    receipt, reversal, usd,
};

on_both!(
    case_a02_an_early_refund_with_an_amount_is_kept_and_ends_the_purchase_when_the_payment_arrives,
    case_a03_a_payment_after_its_failure_makes_the_purchase_live_again,
    case_a03_an_operator_assigns_an_unmatched_payment_to_a_purchase_that_was_declined,
    case_a04_a_member_is_refunded_alone,
    case_a04_a_refund_of_a_part_is_recorded_and_revokes_nothing,
    case_a04_more_than_was_paid_is_never_refunded,
    case_a05_a_payment_after_its_reversal_is_kept_and_a_won_dispute_brings_the_purchase_back,
);

fn registered(processed: &Processed) -> (SettlementOutcome, Option<i64>) {
    match &processed.reply {
        Output::SettlementRegistered(body) => (body.outcome, body.refunded.map(|sum| sum.amount_minor.get())),
        other => panic!("{other:?}"),
    }
}

fn part(bought: &Bought, refund: &str, amount: i64) -> Request {
    let (refund, amount) = (Some(external_id(refund)), Some(usd(amount)));
    Request::SettlementReversal(SettlementReversal { refund, amount, ..reversal(bought) })
}

async fn licensed(system: &TestSystem, bought: &Bought, member: usize) -> String {
    let reply = system.ask(&license_request(&bought.tokens[member], "player")).await;
    let Output::LicenseIssued(issued) = reply else { panic!("{reply:?}") };
    let token = issued.license_token.expect("a token");
    assert_eq!(outcome(&system.ask(&license_receipt(&token)).await), "license.granted");
    token
}

async fn states(system: &TestSystem, bought: &Bought) -> Vec<CertificateState> {
    let mut states = Vec::new();
    for certificate in &bought.certificates {
        let query = StatusQuery {
            certificate: Some(*certificate),
            container: None,
            license: None,
            license_return: None,
            reference: None,
            settlement: None,
        };
        let reply = system.ask(&Request::StatusQuery(query)).await;
        let Output::StatusListed(listed) = reply else { panic!("{reply:?}") };
        states.extend(listed.certificates.iter().map(|one| one.state));
    }
    states
}

async fn unmatched(system: &TestSystem) -> Vec<(UnmatchedKind, i64)> {
    let rows = system.rows::<unmatched_settlement::Entity>().await;
    rows.iter().map(|row| (row.kind, row.amount_minor.get())).collect()
}

async fn case_a02_an_early_refund_with_an_amount_is_kept_and_ends_the_purchase_when_the_payment_arrives(
    mut system: TestSystem,
) {
    system.start_workers();
    system.put_song(1).await;
    let bought = system.buy("alice", 1).await;
    let kept = system.process(&part(&bought, "re-1", 1000)).await;
    assert_eq!(registered(&kept), (SettlementOutcome::Pending, None));
    let paid = system.process(&completion(&bought)).await;
    assert_eq!(registered(&paid), (SettlementOutcome::Reversed, Some(1000)));
    assert_eq!(states(&system, &bought).await, [CertificateState::Reversed]);
    assert!(unmatched(&system).await.is_empty());
    system.finish().await;
}

async fn case_a03_a_payment_after_its_failure_makes_the_purchase_live_again(mut system: TestSystem) {
    system.start_workers();
    system.put_song(1).await;
    let bought = system.buy("alice", 2).await;
    system.ask(&receipt(&bought)).await;
    let SettlementReversal { certificate, container, settlement, provider, reason, .. } = reversal(&bought);
    let failure = SettlementFailure { certificate, container, settlement, provider, reason };
    let failed = system.process(&Request::SettlementFailure(failure.clone())).await;
    assert_eq!(registered(&failed), (SettlementOutcome::Failed, None));
    assert_eq!(states(&system, &bought).await, [CertificateState::Declined; 2]);
    let paid = system.process(&completion(&bought)).await;
    assert_eq!(registered(&paid), (SettlementOutcome::Completed, None));
    let restored = paid.kinds().into_iter().filter(|kind| *kind == "certificate.restored").count();
    assert_eq!(restored, 2, "{:?}", paid.kinds());
    assert_eq!(states(&system, &bought).await, [CertificateState::Settled; 2]);
    let failed = system.process(&Request::SettlementFailure(failure)).await;
    assert_eq!(
        registered(&failed),
        (SettlementOutcome::Completed, None),
        "a failure after the payment changes nothing"
    );
    licensed(&system, &bought, 1).await;
    system.finish().await;
}

async fn case_a03_an_operator_assigns_an_unmatched_payment_to_a_purchase_that_was_declined(mut system: TestSystem) {
    system.start_workers();
    system.put_song(2).await;
    let bought = system.buy("alice", 2).await;
    system.ask(&receipt(&bought)).await;
    let SettlementReversal { certificate, container, settlement, provider, reason, .. } = reversal(&bought);
    let failure = SettlementFailure { certificate, container, settlement, provider: provider.clone(), reason };
    system.process(&Request::SettlementFailure(failure)).await;
    let Request::SettlementCompletion(body) = completion(&bought) else { unreachable!() };
    let settlement = external_id("misdirected");
    let (certificate, container) = (Some(Uuid::from_u128(99)), None);
    let misdirected = Request::SettlementCompletion(SettlementCompletion {
        certificate,
        container,
        settlement: settlement.clone(),
        ..body
    });
    let refused = system.process(&misdirected).await;
    assert_eq!((outcome(&refused.reply), refused.kinds()), ("unknown_certificate", vec!["settlement.unmatched"]));
    let (certificate, container) = (None, bought.container);
    let assignment = SettlementAssignment { certificate, container, settlement, provider, amount: None };
    let assigned = system.process(&Request::SettlementAssignment(assignment.clone())).await;
    assert_eq!(registered(&assigned), (SettlementOutcome::Completed, None));
    let restored = assigned.kinds().into_iter().filter(|kind| *kind == "certificate.restored").count();
    assert_eq!(restored, 2, "{:?}", assigned.kinds());
    assert_eq!(states(&system, &bought).await, [CertificateState::Settled; 2]);
    assert!(unmatched(&system).await.is_empty());
    licensed(&system, &bought, 1).await;
    // The provider reports the same payment again, and then a chargeback. It knows only the
    // purchase that it named.
    assert_eq!(registered(&system.process(&misdirected).await), (SettlementOutcome::Completed, None));
    let SettlementAssignment { settlement, provider, .. } = assignment.clone();
    let charged_back = Request::SettlementReversal(SettlementReversal {
        certificate: Some(Uuid::from_u128(99)),
        container: None,
        settlement,
        provider,
        ..reversal(&bought)
    });
    let reversed = system.process(&charged_back).await;
    assert_eq!(registered(&reversed), (SettlementOutcome::Reversed, Some(2000)));
    assert_eq!(states(&system, &bought).await, [CertificateState::Reversed; 2]);
    let again = system.process(&Request::SettlementAssignment(assignment)).await;
    assert_eq!(outcome(&again.reply), "reversed");
    system.finish().await;
}

async fn case_a04_a_member_is_refunded_alone(mut system: TestSystem) {
    system.start_workers();
    system.put_song(2).await;
    let bought = system.ready("alice", 3).await;
    licensed(&system, &bought, 0).await;
    let member = Request::SettlementReversal(SettlementReversal {
        certificate: Some(bought.certificates[0]),
        container: None,
        ..reversal(&bought)
    });
    let refunded = system.process(&member).await;
    assert_eq!(registered(&refunded), (SettlementOutcome::Reversed, Some(1000)));
    assert!(refunded.kinds().contains(&"license.revoked"), "{:?}", refunded.kinds());
    assert_eq!(
        states(&system, &bought).await,
        [CertificateState::Reversed, CertificateState::Settled, CertificateState::Settled]
    );
    assert_eq!(outcome(&system.ask(&license_request(&bought.tokens[0], "player")).await), "reversed");
    licensed(&system, &bought, 1).await;
    assert_eq!(
        registered(&system.process(&part(&bought, "re-2", 2000)).await),
        (SettlementOutcome::Reversed, Some(3000))
    );
    assert_eq!(states(&system, &bought).await, [CertificateState::Reversed; 3]);
    system.finish().await;
}

async fn case_a04_a_refund_of_a_part_is_recorded_and_revokes_nothing(mut system: TestSystem) {
    system.start_workers();
    system.put_song(1).await;
    let bought = system.ready("alice", 3).await;
    let refunded = system.process(&part(&bought, "re-1", 1000)).await;
    assert_eq!(registered(&refunded), (SettlementOutcome::Refunded, Some(1000)));
    assert_eq!(refunded.kinds(), ["settlement.registered"]);
    assert_eq!(states(&system, &bought).await, [CertificateState::Settled; 3]);
    let again = system.process(&part(&bought, "re-1", 1000)).await;
    assert_eq!((registered(&again).1, again.kinds().len()), (Some(1000), 0), "it is counted once");
    licensed(&system, &bought, 0).await;
    system.finish().await;
}

async fn case_a04_more_than_was_paid_is_never_refunded(mut system: TestSystem) {
    system.start_workers();
    system.put_song(1).await;
    let bought = system.ready("alice", 1).await;
    system.process(&part(&bought, "re-1", 400)).await;
    let refused = system.process(&part(&bought, "re-2", 601)).await;
    assert_eq!(outcome(&refused.reply), "amount_mismatch");
    assert_eq!(refused.kinds(), ["settlement.unmatched"]);
    assert_eq!(unmatched(&system).await, [(UnmatchedKind::Refund, 601)]);
    assert_eq!(states(&system, &bought).await, [CertificateState::Settled]);
    system.finish().await;
}

async fn case_a05_a_payment_after_its_reversal_is_kept_and_a_won_dispute_brings_the_purchase_back(
    mut system: TestSystem,
) {
    system.start_workers();
    system.put_song(2).await;
    let bought = system.ready("alice", 1).await;
    licensed(&system, &bought, 0).await;
    let reversed = system.process(&Request::SettlementReversal(reversal(&bought))).await;
    assert_eq!(registered(&reversed), (SettlementOutcome::Reversed, Some(1000)));
    let again = system.process(&completion(&bought)).await;
    assert_eq!(outcome(&again.reply), "reversed");
    assert_eq!(again.kinds(), ["settlement.unmatched"]);
    assert_eq!(unmatched(&system).await, [(UnmatchedKind::Payment, 1000)]);
    let SettlementReversal { certificate, container, settlement, provider, refund, .. } = reversal(&bought);
    let reason = Text::try_from("dispute won").expect("a text");
    let won = SettlementReinstatement { certificate, container, settlement, provider, refund, reason: reason.clone() };
    let won = system.process(&Request::SettlementReinstatement(won)).await;
    assert_eq!(registered(&won), (SettlementOutcome::Reinstated, Some(0)));
    assert!(unmatched(&system).await.is_empty(), "the won dispute explains the payment");
    assert_eq!(states(&system, &bought).await, [CertificateState::Reinstated]);
    let reissue = CertificateReissue { certificate: bought.certificates[0], reason, granted: None };
    let reply = system.ask(&Request::CertificateReissue(reissue)).await;
    let Output::CertificateReissued(back) = reply else { panic!("{reply:?}") };
    assert_eq!((back.generation.get(), back.remaining.get()), (2, 2), "no license was returned");
    assert_eq!(states(&system, &bought).await, [CertificateState::Settled]);
    system.finish().await;
}

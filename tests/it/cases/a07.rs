//! Case A7: one order is sent twice under different message ids.

use std::sync::Arc;

use futures_util::future::join_all;
use licet_common::config::Terms;
use licet_schema::{
    Output, Request,
    entity::certificate_record,
    message::{PurchaseRequest, SettlementFailure, SweepDue, SweepKind},
};
use uuid::Uuid;

use crate::system::{Bought, TestSystem, completion, external_id, message, name, on_both, outcome, purchase, receipt};

on_both!(
    case_a07_by_default_a_reference_is_only_repeated,
    case_a07_the_second_purchase_with_a_unique_reference_is_refused_with_the_id_of_the_first,
    case_a07_a_unique_reference_can_be_used_again_after_its_purchase_ended_unpaid,
    case_a07_two_workers_that_decide_at_once_accept_a_unique_reference_only_once,
);

/// The number of references that two workers receive at once.
const REFERENCES: usize = 40;

/// A purchase of `alice` with this reference.
fn order(reference: &str) -> Request {
    let Request::PurchaseRequest(body) = purchase("alice", 1) else { unreachable!() };
    Request::PurchaseRequest(PurchaseRequest { reference: Some(external_id(reference)), ..body })
}

fn require_unique_references(system: &mut TestSystem) {
    system.resources.terms = Arc::new(Terms { unique_reference: true, ..Terms::default() });
}

async fn case_a07_by_default_a_reference_is_only_repeated(mut system: TestSystem) {
    system.put_song_with_workers().await;
    for _ in 0..2 {
        let reply = system.ask(&order("order-7")).await;
        assert!(matches!(&reply, Output::CertificateIssued(body) if body.reference == Some(external_id("order-7"))));
    }
    system.finish().await;
}

async fn case_a07_the_second_purchase_with_a_unique_reference_is_refused_with_the_id_of_the_first(
    mut system: TestSystem,
) {
    require_unique_references(&mut system);
    system.put_song_with_workers().await;
    let first = Bought::of(system.ask(&order("order-7")).await);
    let id = first.certificates[0].to_string();
    // Before the receipt, before the payment, and after it.
    for step in [None, Some(receipt(&first)), Some(completion(&first))] {
        if let Some(step) = step {
            system.ask(&step).await;
        }
        let second = system.process(&order("order-7")).await;
        let Output::RequestRefused(refused) = &second.reply else { panic!("{:?}", second.reply) };
        assert_eq!(refused.code.as_str(), "reference_used");
        assert!(refused.detail.contains(&id), "the detail names the first purchase: {}", refused.detail);
        assert!(second.events.is_empty());
    }
    assert_eq!(outcome(&system.ask(&order("order-8")).await), "certificate.issued", "another reference");
    assert_eq!(system.rows::<certificate_record::Entity>().await.len(), 2);
    system.finish().await;
}

async fn case_a07_a_unique_reference_can_be_used_again_after_its_purchase_ended_unpaid(mut system: TestSystem) {
    require_unique_references(&mut system);
    system.put_song_with_workers().await;
    let declined = Bought::of(system.ask(&order("order-7")).await);
    let failure = Request::SettlementFailure(SettlementFailure {
        certificate: declined.certificates.first().copied(),
        container: None,
        settlement: external_id("pay-7"),
        provider: name("bank"),
        reason: "declined".try_into().expect("a text"),
    });
    assert_eq!(outcome(&system.ask(&failure).await), "settlement.registered");
    let lapsed = Bought::of(system.ask(&order("order-7")).await);
    assert_eq!(outcome(&system.ask(&order("order-7")).await), "reference_used");

    system.resources.clock.advance_ms(25 * 3_600_000);
    let overdue = SweepDue { kind: SweepKind::Reception, before: system.resources.clock.now() };
    let id = Uuid::now_v7();
    system.publish(message(id, &Request::SweepDue(overdue), None)).await;
    let kinds: Vec<_> = system.events_of(id).await.iter().map(Output::kind).collect();
    assert_eq!(kinds, ["certificate.retired"], "{:?} lapses", lapsed.certificates);
    let third = Bought::of(system.ask(&order("order-7")).await);
    assert_eq!(outcome(&system.ask(&completion(&third)).await), "settlement.registered");
    assert_eq!(outcome(&system.ask(&order("order-7")).await), "reference_used");
    system.finish().await;
}

async fn case_a07_two_workers_that_decide_at_once_accept_a_unique_reference_only_once(mut system: TestSystem) {
    require_unique_references(&mut system);
    system.put_song_with_workers().await;
    // SQLite has only one writer, so only one copy can decide at a time there.
    system.start_workers();
    let twice = |number| [order(&format!("order-{number}")), order(&format!("order-{number}"))];
    let orders: Vec<_> = (0..REFERENCES).flat_map(twice).collect();
    let replies = join_all(orders.iter().map(|order| system.ask(order))).await;
    for (number, pair) in replies.chunks(2).enumerate() {
        let mut outcomes: Vec<_> = pair.iter().map(outcome).collect();
        outcomes.sort_unstable();
        assert_eq!(outcomes, ["certificate.issued", "reference_used"], "order-{number}");
    }
    assert_eq!(system.rows::<certificate_record::Entity>().await.len(), REFERENCES);
    system.finish().await;
}

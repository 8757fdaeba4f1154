//! Case A7: one order is sent twice under different message ids.

use std::sync::Arc;

use futures_util::future::join_all;
use licet_common::config::Terms;
use licet_schema::{
    Count, Output, Request,
    entity::{Keyed, certificate_record, reference},
    message::{PurchaseRequest, SettlementFailure, SweepDue, SweepKind},
};
use sea_orm::{EntityTrait, IntoActiveModel, TransactionTrait};
use uuid::Uuid;

use crate::system::{Bought, TestSystem, completion, external_id, message, name, on_both, outcome, purchase, receipt};

on_both!(
    case_a07_by_default_a_reference_is_only_repeated,
    case_a07_the_second_purchase_with_a_unique_reference_is_refused_with_the_id_of_the_first,
    case_a07_a_unique_reference_can_be_used_again_after_its_purchase_ended_unpaid,
    case_a07_a_unique_reference_stays_used_if_a_late_payment_revives_its_first_purchase,
    case_a07_two_workers_that_decide_at_once_accept_a_unique_reference_only_once,
    case_a07_a_worker_whose_unique_reference_another_transaction_uses_first_decides_again,
);

/// The number of references that two workers receive at once.
const REFERENCES: usize = 40;

/// A purchase of `alice` with this reference.
fn order(reference: &str) -> Request {
    let Request::PurchaseRequest(body) = purchase("alice", 1) else { unreachable!() };
    Request::PurchaseRequest(PurchaseRequest { reference: Some(external_id(reference)), ..body })
}

/// A report that a payment for this purchase failed.
fn failure(bought: &Bought) -> Request {
    Request::SettlementFailure(SettlementFailure {
        certificate: bought.certificates.first().copied(),
        container: None,
        settlement: external_id(&format!("failed-{}", bought.certificates[0])),
        provider: name("bank"),
        reason: "declined".try_into().expect("a text"),
    })
}

/// Asserts that a purchase with this reference is refused, and that the refusal names the
/// `expected` purchase.
async fn refused(system: &TestSystem, reference: &str, expected: &Bought) {
    let Output::RequestRefused(refused) = system.ask(&order(reference)).await else { panic!("it was used twice") };
    assert_eq!(refused.code.as_str(), "reference_used");
    assert!(refused.detail.contains(&expected.certificates[0].to_string()), "{}", refused.detail);
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
    assert_eq!(outcome(&system.ask(&failure(&declined)).await), "settlement.registered");
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

async fn case_a07_a_unique_reference_stays_used_if_a_late_payment_revives_its_first_purchase(mut system: TestSystem) {
    require_unique_references(&mut system);
    system.put_song_with_workers().await;
    let first = Bought::of(system.ask(&order("order-7")).await);
    assert_eq!(outcome(&system.ask(&failure(&first)).await), "settlement.registered");
    let second = Bought::of(system.ask(&order("order-7")).await);
    refused(&system, "order-7", &second).await;
    let paid = system.process(&completion(&first)).await;
    assert_eq!(paid.kinds(), ["settlement.registered", "certificate.restored"]);
    refused(&system, "order-7", &first).await;
    assert_eq!(outcome(&system.ask(&failure(&second)).await), "settlement.registered");
    refused(&system, "order-7", &first).await;
    assert_eq!(system.rows::<certificate_record::Entity>().await.len(), 2);
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

async fn case_a07_a_worker_whose_unique_reference_another_transaction_uses_first_decides_again(mut system: TestSystem) {
    require_unique_references(&mut system);
    system.put_song_with_workers().await;
    let first = Bought::of(system.ask(&order("order-7")).await);
    let declined = Bought::of(system.ask(&order("order-8")).await);
    assert_eq!(outcome(&system.ask(&failure(&declined)).await), "settlement.registered");
    let template = system.rows::<reference::Entity>().await.remove(0);
    // A reference that was never used, and one whose only purchase ended unpaid.
    for (reference, earlier) in [("order-9", Count::ZERO), ("order-8", Count::ONE)] {
        let used = reference::Model { reference: external_id(reference), earlier, ..template.clone() };
        let key = reference::Entity::key(&used);
        let pool = system.resources.store.pool();
        let other = pool.begin().await.expect("a transaction");
        let insert = reference::Entity::insert(used.into_active_model());
        insert.exec_without_returning(&other).await.expect("a row");

        let request = order(reference);
        let mut asked = Box::pin(system.ask(&request));
        tokio::select! {
            biased;
            reply = &mut asked => panic!("{reference}: the worker did not wait for the other transaction: {reply:?}"),
            () = system.until_a_transaction_waits() => {}
        }
        other.commit().await.expect("the row is committed");
        let Output::RequestRefused(refused) = asked.await else { panic!("{reference} was used twice") };
        assert_eq!(refused.code.as_str(), "reference_used", "{reference}");
        assert!(refused.detail.contains(&first.certificates[0].to_string()), "{}", refused.detail);
        // The auditor would report the row, because its purchase has another reference.
        reference::Entity::delete_by_id(key).exec(&pool).await.expect("the row is deleted");
    }
    system.finish().await;
}

//! Sweeps, queries, permissions of senders, and declined payments.

use std::{collections::BTreeMap, sync::Arc};

use licet_client::Charges;
use licet_common::{config::Senders, runtime::outputs_of};
use licet_schema::{
    Output, Request, Timestamp,
    entity::journal,
    message::{CertificateRetired, Ending, HoldingsQuery, StatusQuery, SweepDue, SweepKind},
    topology,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::system::{
    TestSystem, license_receipt, license_request, message, name, on_both, outcome, purchase, raw, receipt, song,
};

on_both!(
    two_sweep_workers_end_each_overdue_certificate_once_in_bounded_batches,
    queries_are_not_journaled_and_a_repeated_query_is_answered_from_current_rows,
    a_sender_without_permission_is_refused_and_nothing_is_journaled,
    a_declined_payment_ends_the_purchase,
);

const HOUR_MS: i64 = 3_600_000;

async fn two_sweep_workers_end_each_overdue_certificate_once_in_bounded_batches(mut system: TestSystem) {
    system.start_workers().start_workers();
    system.put_song(1).await;
    let bought = futures_util::future::join_all((0..150).map(|_| system.buy("alice", 1))).await;
    let (_, mut retired) = system.listen(&[(topology::EVENTS, "certificate.retired")]).await;
    system.resources.clock.advance_ms(25 * HOUR_MS);
    let due = |before| Request::SweepDue(SweepDue { kind: SweepKind::Reception, before });
    let before = system.resources.clock.now();
    let id = Uuid::new_v4();
    // Two sweep workers publish the same tick under the same id.
    system.publish_all(&[message(id, &due(before), None), message(id, &due(before), None)]).await;
    let mut ended: BTreeMap<Uuid, u32> = BTreeMap::new();
    while ended.len() < bought.len() {
        let (event, _) = retired.event().await;
        let Output::CertificateRetired(CertificateRetired { certificate, reason: Ending::Lapsed }) = event else {
            panic!("{event:?}")
        };
        *ended.entry(certificate).or_default() += 1;
    }
    system.stop_workers().await;
    let sweeps = |rows: Vec<journal::Model>| -> Vec<usize> {
        let sweeps = rows.into_iter().filter(|row| row.kind == "sweep.due");
        let retired = |row: journal::Model| {
            let outputs = outputs_of(&row).expect("readable outputs");
            outputs.iter().filter(|output| output.kind == "certificate.retired").count()
        };
        sweeps.map(retired).collect()
    };
    let batches = sweeps(system.journal().await);
    assert_eq!(batches.iter().sum::<usize>(), 150, "each certificate is ended once: {batches:?}");
    // Usually there are batches of 64, 64 and 22. If both workers decide the same message at the
    // same time, the one that commits first may have found some rows locked by the other.
    assert!(batches.iter().all(|ended| (1..=64).contains(ended)), "the batches are bounded: {batches:?}");

    system.start_workers();
    let later = Timestamp::from_millis(before.as_millis() + 1);
    system.publish(message(Uuid::new_v4(), &due(later), None)).await;
    // When the queue is empty, a worker has received the message. It finishes the message before it
    // stops.
    while system.resources.transport.depth("licet.sweep").await.expect("the queue") > 0 {
        tokio::task::yield_now().await;
    }
    system.stop_workers().await;
    let again = sweeps(system.journal().await);
    assert_eq!(again.len(), batches.len(), "a sweep that finds nothing is not journaled");
    assert_eq!(bought.iter().filter(|one| ended.contains_key(&one.certificates[0])).count(), 150);
    system.finish().await;
}

async fn queries_are_not_journaled_and_a_repeated_query_is_answered_from_current_rows(mut system: TestSystem) {
    system.start_workers();
    system.put_song(2).await;
    let bought = system.ready("alice", 1).await;
    let Output::LicenseIssued(issued) = system.ask(&license_request(&bought.tokens[0], "player")).await else {
        panic!("no license")
    };
    let holdings = Request::HoldingsQuery(HoldingsQuery { user: name("alice"), after: None, limit: None });
    let status = Request::StatusQuery(StatusQuery {
        certificate: Some(bought.certificates[0]),
        container: None,
        license: None,
        license_return: None,
        reference: None,
        settlement: None,
    });
    let rows = system.journal().await.len();
    let id = Uuid::new_v4();
    let first = system.client.ask_as(id, &holdings).await.expect("a reply");
    let Output::HoldingsListed(first) = first else { panic!("{first:?}") };
    assert_eq!(first.licenses[0].attributes.state.as_str(), "outstanding");
    assert!(
        matches!(system.ask(&status).await, Output::StatusListed(listed) if listed.certificates[0].granted.get() == 0)
    );
    assert_eq!(system.journal().await.len(), rows, "a query is not journaled");

    system.ask(&license_receipt(&issued.license_token.expect("a token"))).await;
    let again = system.client.ask_as(id, &holdings).await.expect("a reply");
    let Output::HoldingsListed(again) = again else { panic!("{again:?}") };
    assert_eq!(again.licenses[0].attributes.state.as_str(), "granted", "the same id is answered again");
    assert!(
        matches!(system.ask(&status).await, Output::StatusListed(listed) if listed.certificates[0].granted.get() == 1)
    );
    system.finish().await;
}

async fn a_sender_without_permission_is_refused_and_nothing_is_journaled(mut system: TestSystem) {
    let table = BTreeMap::from([("guest".to_owned(), vec!["content.*".to_owned()])]);
    system.resources.senders = Arc::new(Senders::new(Some(table)).expect("known message types"));
    system.start_workers();
    let (queue, mut replies) = system.listen(&[]).await;
    let put = Request::ContentPut(song(1));
    for (request, user, expected) in
        [(&put, Some("guest"), "content.registered"), (&purchase("alice", 1), Some("guest"), "forbidden")]
    {
        let body = request.encode().expect("JSON");
        let mut sent = raw(Uuid::new_v4(), request.kind(), body, Some(&queue));
        sent.properties.user_id = user.map(str::to_owned);
        system.publish(sent).await;
        let reply = replies.next().await;
        let kind = reply.properties.kind.expect("a type");
        assert_eq!(outcome(&Output::decode(&kind, &reply.body).expect("a reply")), expected);
    }
    let rows = system.journal().await;
    assert_eq!(rows.len(), 1, "a forbidden message is not journaled");
    assert_eq!(rows[0].sender.as_deref(), Some("guest"));
    assert_eq!(
        system.resources.transport.depth("licet.dead.purchase").await.expect("the queue"),
        0,
        "a forbidden message is not dead-lettered"
    );
    system.finish().await;
}

async fn a_declined_payment_ends_the_purchase(mut system: TestSystem) {
    system.start_workers();
    system.put_song(1).await;
    let (_, mut retired) = system.listen(&[(topology::EVENTS, "certificate.retired")]).await;
    let bought = system.buy("alice", 2).await;
    system.ask(&receipt(&bought)).await;
    let stop = CancellationToken::new();
    let (transport, client, stopped) = (system.resources.transport.clone(), system.client.clone(), stop.clone());
    let provider =
        tokio::spawn(async move { licet_client::provide(&transport, &client, Charges::Fail, &stopped).await });
    for _ in 0..2 {
        let (event, _) = retired.event().await;
        assert!(matches!(event, Output::CertificateRetired(CertificateRetired { reason: Ending::Declined, .. })));
    }
    assert_eq!(outcome(&system.ask(&license_request(&bought.tokens[0], "player")).await), "declined");
    stop.cancel();
    provider.await.expect("the provider stops");
    system.finish().await;
}

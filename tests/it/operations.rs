//! What keeps a Licet going: sweeps, queries, senders, declined payments.

use std::{collections::BTreeMap, sync::Arc};

use licet_client::Charges;
use licet_common::config::Senders;
use licet_schema::{
    Format, Output, Request, Timestamp,
    entity::journal,
    message::{CertificateRetired, Ending, HoldingsQuery, StatusQuery, SweepDue, SweepKind},
    topology,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::world::{
    World, license_receipt, license_request, message, name, on_both, purchase, raw, receipt, song, verdict,
};

on_both!(
    two_sweepers_end_each_overdue_certificate_once_in_bounded_portions,
    queries_leave_no_trace_and_are_answered_anew,
    whoever_is_not_among_the_senders_is_refused_and_leaves_nothing,
    a_declined_payment_ends_the_purchase,
);

const HOUR_MS: i64 = 3_600_000;

async fn two_sweepers_end_each_overdue_certificate_once_in_bounded_portions(mut world: World) {
    world.start_workers().start_workers();
    world.put_song(1).await;
    let bought = futures_util::future::join_all((0..150).map(|_| world.buy("alice", 1))).await;
    let (_, mut retired) = world.listen(&[(topology::EVENTS, "certificate.retired")]).await;
    world.machine.clock.advance_ms(25 * HOUR_MS);
    let due = |before| Request::SweepDue(SweepDue { kind: SweepKind::Reception, before });
    let before = world.machine.clock.now();
    let id = Uuid::new_v4();
    // What two clocks say at the same tick: the same under the same id.
    world.publish_all(&[message(id, &due(before), None), message(id, &due(before), None)]).await;
    let mut ended: BTreeMap<Uuid, u32> = BTreeMap::new();
    while ended.len() < bought.len() {
        let event = retired.next().await;
        let event = Output::decode("certificate.retired", Format::Json, &event.body).expect("an event");
        let Output::CertificateRetired(CertificateRetired { certificate, reason: Ending::Lapsed }) = event else {
            panic!("{event:?}")
        };
        *ended.entry(certificate).or_default() += 1;
    }
    world.stop_workers().await;
    let sweeps = |rows: Vec<journal::Model>| rows.iter().filter(|row| row.kind == "sweep.due").count();
    assert_eq!(sweeps(world.journal().await), 3, "64 and 64 and 22, each journaled once");

    world.start_workers();
    let later = Timestamp::from_millis(before.as_millis() + 1);
    world.publish(message(Uuid::new_v4(), &due(later), None)).await;
    // Whoever is answered after it shows that it was handled.
    while world.machine.transport.depth("licet.sweep").await.expect("the queue") > 0 {
        tokio::task::yield_now().await;
    }
    world.stop_workers().await;
    assert_eq!(sweeps(world.journal().await), 3, "a sweep that finds nothing leaves no row");
    assert_eq!(bought.iter().filter(|one| ended.contains_key(&one.certificates[0])).count(), 150);
    world.finish().await;
}

async fn queries_leave_no_trace_and_are_answered_anew(mut world: World) {
    world.start_workers();
    world.put_song(2).await;
    let bought = world.ready("alice", 1).await;
    let Output::LicenseIssued(issued) = world.ask(&license_request(&bought.tokens[0], "player")).await else {
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
    let rows = world.journal().await.len();
    let id = Uuid::new_v4();
    let first = world.client.ask_as(id, &holdings).await.expect("an answer");
    let Output::HoldingsListed(first) = first else { panic!("{first:?}") };
    assert_eq!(first.licenses[0].attributes.state.as_str(), "outstanding");
    assert!(
        matches!(world.ask(&status).await, Output::StatusListed(listed) if listed.certificates[0].granted.get() == 0)
    );
    assert_eq!(world.journal().await.len(), rows, "a query leaves no row");

    world.ask(&license_receipt(&issued.license_token.expect("a token"))).await;
    let again = world.client.ask_as(id, &holdings).await.expect("an answer");
    let Output::HoldingsListed(again) = again else { panic!("{again:?}") };
    assert_eq!(again.licenses[0].attributes.state.as_str(), "granted", "the same id is answered anew");
    assert!(
        matches!(world.ask(&status).await, Output::StatusListed(listed) if listed.certificates[0].granted.get() == 1)
    );
    world.finish().await;
}

async fn whoever_is_not_among_the_senders_is_refused_and_leaves_nothing(mut world: World) {
    let table = BTreeMap::from([("guest".to_owned(), vec!["content.*".to_owned()])]);
    world.machine.senders = Arc::new(Senders::new(Some(table)).expect("types that there are"));
    world.start_workers();
    let (queue, mut replies) = world.listen(&[]).await;
    let put = Request::ContentPut(song(1));
    for (request, user, answer) in
        [(&put, Some("guest"), "content.registered"), (&purchase("alice", 1), Some("guest"), "forbidden")]
    {
        let body = request.encode(Format::Json).expect("JSON");
        let mut asked = raw(Uuid::new_v4(), request.kind(), body, Some(&queue));
        asked.properties.user_id = user.map(str::to_owned);
        world.publish(asked).await;
        let reply = replies.next().await;
        let kind = reply.properties.kind.expect("a type");
        assert_eq!(verdict(&Output::decode(&kind, Format::Json, &reply.body).expect("a reply")), answer);
    }
    let rows = world.journal().await;
    assert_eq!(rows.len(), 1, "what is forbidden leaves no row");
    assert_eq!(rows[0].sender.as_deref(), Some("guest"));
    assert_eq!(world.machine.transport.depth("licet.dead.purchase").await.expect("the queue"), 0, "and no dead letter");
    world.finish().await;
}

async fn a_declined_payment_ends_the_purchase(mut world: World) {
    world.start_workers();
    world.put_song(1).await;
    let (_, mut retired) = world.listen(&[(topology::EVENTS, "certificate.retired")]).await;
    let bought = world.buy("alice", 2).await;
    world.ask(&receipt(&bought)).await;
    let stop = CancellationToken::new();
    let (transport, client, told) = (world.machine.transport.clone(), world.client.clone(), stop.clone());
    let provider = tokio::spawn(async move { licet_client::provide(&transport, &client, Charges::Fail, &told).await });
    for _ in 0..2 {
        let event = retired.next().await;
        let event = Output::decode("certificate.retired", Format::Json, &event.body).expect("an event");
        assert!(matches!(event, Output::CertificateRetired(CertificateRetired { reason: Ending::Declined, .. })));
    }
    assert_eq!(verdict(&world.ask(&license_request(&bought.tokens[0], "player")).await), "declined");
    stop.cancel();
    provider.await.expect("the provider stops");
    world.finish().await;
}

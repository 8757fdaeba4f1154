//! Case A13: a receipt that is due after the certificate expires.

use licet_schema::{
    Output, Request, Seconds,
    entity::{certificate, pending_reception},
    message::ContentPut,
};

use crate::system::{Bought, TestSystem, on_both, outcome, purchase, receipt, song};

on_both!(case_a13_the_receipt_is_never_due_after_the_certificate_expires);

async fn case_a13_the_receipt_is_never_due_after_the_certificate_expires(mut system: TestSystem) {
    system.start_workers();
    let certificate_ttl_s = Seconds::try_from(60i64).expect("a time");
    let day = Seconds::try_from(86_400i64).ok();
    for receipt_ttl_s in [None, day] {
        let put = Request::ContentPut(ContentPut { certificate_ttl_s, receipt_ttl_s, ..song(1) });
        assert_eq!(outcome(&system.ask(&put).await), "content.registered");
        let reply = system.ask(&purchase("alice", 2)).await;
        let Output::CertificateIssued(issued) = &reply else { panic!("{reply:?}") };
        let now = system.resources.clock.now().as_millis();
        assert_eq!((issued.receipt_due_at.as_millis() - now, issued.expires_at.as_millis() - now), (60_000, 60_000));
        let container = issued.container.expect("a container");
        let pending = system.row::<pending_reception::Entity>(container).await.expect("a pending reception");
        assert_eq!(pending.due_at, Some(issued.receipt_due_at));
        let live = system.rows::<certificate::Entity>().await;
        assert!(live.iter().all(|row| row.receipt_due_at <= row.expires_at));

        let bought = Bought::of(reply);
        system.resources.clock.advance_ms(60_001);
        assert_eq!(outcome(&system.ask(&receipt(&bought)).await), "lapsed");
    }
    system.finish().await;
}

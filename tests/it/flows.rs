//! Complete lifecycles, from `content.put` to a returned license.

use licet_client::{Charges, Verified, verify};
use licet_common::signing::Keyring;
use licet_schema::{
    Count, Output, Request,
    message::{CertificatePresented, Instruction, LicenseDeletion},
    topology,
};
use tokio_util::sync::CancellationToken;

use crate::system::{
    Bought, TestSystem, completion, license_receipt, license_request, license_return, on_both, outcome, purchase,
    receipt,
};

on_both!(
    a_single_certificate_completes_its_whole_lifecycle,
    a_container_completes_its_whole_lifecycle,
    the_trial_provider_settles_the_payments_that_it_is_instructed_to_charge,
    events_contain_no_tokens,
    four_copies_of_every_worker_serve_many_users_at_once,
    points_pay_for_a_purchase,
    a_return_is_opened_and_completed_or_lapses,
);

async fn a_single_certificate_completes_its_whole_lifecycle(mut system: TestSystem) {
    system.start_workers();
    system.put_song(1).await;
    let bought = system.buy("alice", 1).await;
    let jwks = Keyring::from_jwks(&system.keyring().jwks()).expect("published keys");
    assert!(
        matches!(verify(&bought.tokens[0], &jwks), Ok(Verified::Certificate(claims)) if claims.jti == bought.certificates[0])
    );

    let check = Request::CertificateCheck(CertificatePresented {
        certificate_token: bought.tokens.first().cloned(),
        container_token: None,
    });
    assert!(matches!(system.ask(&check).await, Output::CertificateChecked(checked) if !checked.altered));
    assert_eq!(outcome(&system.ask(&license_request(&bought.tokens[0], "player")).await), "not_received");
    let Output::CertificateAccepted(accepted) = system.ask(&receipt(&bought)).await else { panic!("not accepted") };
    assert_eq!(accepted.settlement, Instruction::Instructed);
    assert_eq!(outcome(&system.ask(&license_request(&bought.tokens[0], "player")).await), "not_settled");
    assert_eq!(outcome(&system.ask(&completion(&bought)).await), "settlement.registered");

    let Output::LicenseIssued(issued) = system.ask(&license_request(&bought.tokens[0], "player")).await else {
        panic!("not issued")
    };
    let license = issued.license_token.expect("a reply has its token");
    assert!(
        matches!(verify(&license, &jwks), Ok(Verified::License(claims)) if claims.certificate == bought.certificates[0])
    );
    let Output::LicenseGranted(granted) = system.ask(&license_receipt(&license)).await else { panic!("not granted") };
    assert_eq!((granted.granted.get(), granted.remaining.get()), (1, 0));
    assert_eq!(outcome(&system.ask(&license_request(&bought.tokens[0], "other")).await), "exhausted");

    let Output::LicenseReturned(returned) = system.ask(&license_return(&license, "alice", true)).await else {
        panic!("not returned")
    };
    assert_eq!(returned.privilege.points.map(Count::get), Some(40));
    assert_eq!(outcome(&system.ask(&license_return(&license, "alice", true)).await), "already_returned");
    system.finish().await;
}

async fn a_container_completes_its_whole_lifecycle(mut system: TestSystem) {
    system.start_workers();
    system.put_song(2).await;
    let bought = system.ready("bob", 3).await;
    assert!(bought.container.is_some());
    for (index, token) in bought.tokens.iter().enumerate() {
        for terminal in ["hall", "kitchen"] {
            let Output::LicenseIssued(issued) = system.ask(&license_request(token, terminal)).await else {
                panic!("certificate {index} issued no license for the {terminal}")
            };
            let license = issued.license_token.expect("a reply has its token");
            assert_eq!(outcome(&system.ask(&license_receipt(&license)).await), "license.granted");
        }
        assert_eq!(outcome(&system.ask(&license_request(token, "attic")).await), "exhausted");
    }
    system.finish().await;
}

async fn the_trial_provider_settles_the_payments_that_it_is_instructed_to_charge(mut system: TestSystem) {
    system.start_workers();
    system.put_song(1).await;
    let (_, mut settled) = system.listen(&[(topology::EVENTS, "settlement.registered")]).await;
    let bought = system.buy("alice", 2).await;
    // The instruction waits in its queue until the provider starts.
    system.ask(&receipt(&bought)).await;
    let stop = CancellationToken::new();
    let (transport, client, stopped) = (system.resources.transport.clone(), system.client.clone(), stop.clone());
    let provider =
        tokio::spawn(async move { licet_client::provide(&transport, &client, Charges::Succeed, &stopped).await });
    let (event, _) = settled.event().await;
    assert!(matches!(event, Output::SettlementRegistered(registered) if registered.container == bought.container));
    stop.cancel();
    provider.await.expect("the provider stops");
    system.finish().await;
}

async fn events_contain_no_tokens(mut system: TestSystem) {
    system.start_workers();
    system.put_song(1).await;
    let (_, mut events) = system.listen(&[(topology::EVENTS, "#")]).await;
    let bought = system.ready("alice", 2).await;
    let Output::LicenseIssued(issued) = system.ask(&license_request(&bought.tokens[0], "player")).await else {
        panic!()
    };
    system.ask(&license_receipt(&issued.license_token.expect("a token"))).await;
    let mut kinds = Vec::new();
    while !kinds.iter().any(|kind| kind == "certificate.retired") {
        let event = events.next().await;
        let text = String::from_utf8(event.body.to_vec()).expect("JSON");
        assert!(!text.contains("eyJ"), "a token in an event: {text}");
        assert_eq!(event.properties.app_id.as_deref(), Some("licet"));
        assert_eq!(event.properties.kind.as_deref(), Some(event.routing_key.as_str()));
        assert_eq!(event.properties.headers.get("licet-cause"), event.properties.correlation_id.as_ref());
        kinds.push(event.routing_key);
    }
    let expected = [
        "certificate.issued",
        "certificate.accepted",
        "settlement.instructed",
        "settlement.registered",
        "license.issued",
        "license.granted",
        "certificate.retired",
    ];
    assert_eq!(kinds, expected);
    system.finish().await;
}

async fn four_copies_of_every_worker_serve_many_users_at_once(mut system: TestSystem) {
    for _ in 0..4 {
        system.start_workers();
    }
    system.put_song(2).await;
    let lifecycles = (0..60).map(|user| {
        let system = &system;
        async move {
            let user = format!("user-{}", user % 7);
            let bought = system.ready(&user, 1 + user.len() % 3).await;
            for token in &bought.tokens {
                let Output::LicenseIssued(issued) = system.ask(&license_request(token, "player")).await else {
                    panic!("no license")
                };
                let license = issued.license_token.expect("a token");
                assert_eq!(outcome(&system.ask(&license_receipt(&license)).await), "license.granted");
                assert_eq!(outcome(&system.ask(&license_return(&license, &user, true)).await), "license.returned");
            }
        }
    });
    futures_util::future::join_all(lifecycles).await;
    system.finish().await;
}

async fn points_pay_for_a_purchase(mut system: TestSystem) {
    system.start_workers();
    system.put_song(30).await;
    let bought = system.ready("alice", 1).await;
    for terminal in 0..25 {
        let Output::LicenseIssued(issued) =
            system.ask(&license_request(&bought.tokens[0], &format!("player-{terminal}"))).await
        else {
            panic!("no license")
        };
        let license = issued.license_token.expect("a token");
        system.ask(&license_receipt(&license)).await;
        assert_eq!(outcome(&system.ask(&license_return(&license, "alice", true)).await), "license.returned");
    }
    let spend = |points: i64| {
        let Request::PurchaseRequest(mut request) = purchase("alice", 1) else { unreachable!() };
        request.points = Count::try_from(points).ok();
        Request::PurchaseRequest(request)
    };
    let free = Bought::of(system.ask(&spend(1000)).await);
    assert_eq!(outcome(&system.ask(&spend(1)).await), "insufficient_points");
    let Output::CertificateAccepted(accepted) = system.ask(&receipt(&free)).await else { panic!("not accepted") };
    assert_eq!((accepted.settlement, accepted.amount.amount_minor), (Instruction::NotNeeded, Count::ZERO));
    assert_eq!(outcome(&system.ask(&license_request(&free.tokens[0], "player")).await), "license.issued");
    system.finish().await;
}

async fn a_return_is_opened_and_completed_or_lapses(mut system: TestSystem) {
    system.start_workers();
    system.put_song(2).await;
    let bought = system.ready("alice", 1).await;
    let mut opened = Vec::new();
    for terminal in ["first", "second"] {
        let Output::LicenseIssued(issued) = system.ask(&license_request(&bought.tokens[0], terminal)).await else {
            panic!()
        };
        let license = issued.license_token.expect("a token");
        system.ask(&license_receipt(&license)).await;
        assert_eq!(outcome(&system.ask(&license_return(&license, "mallory", false)).await), "not_holder");
        let Output::ReturnOpened(open) = system.ask(&license_return(&license, "alice", false)).await else { panic!() };
        opened.push(Request::LicenseDeletion(LicenseDeletion { license_return: open.license_return }));
    }
    assert_eq!(outcome(&system.ask(&opened[0]).await), "license.returned");
    assert!(matches!(system.ask(&opened[0]).await, Output::LicenseReturned(again) if again.repeated));
    system.resources.clock.advance_ms(25 * 3_600_000);
    assert_eq!(outcome(&system.ask(&opened[1]).await), "lapsed");
    system.finish().await;
}

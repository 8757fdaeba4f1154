//! The whole life, from `content.put` to a returned license, on both pairs of services.

use licet_client::{Charges, Patience, Verified, verify};
use licet_common::signing::Keyring;
use licet_schema::{
    Format, Output, Request,
    message::{CertificatePresented, Instruction, LicenseDeletion},
    topology,
};
use tokio_util::sync::CancellationToken;

use crate::world::{
    Bought, World, completion, license_receipt, license_request, license_return, on_both, purchase, receipt, verdict,
};

on_both!(
    one_certificate_lives_its_whole_life,
    a_container_lives_its_whole_life,
    the_trial_provider_settles_what_is_instructed,
    postcard_bodies_are_answered_in_postcard,
    events_carry_no_tokens,
    many_users_at_once_on_four_copies_of_every_worker,
    points_pay_for_a_purchase,
    a_return_is_opened_and_completed_or_lapses,
);

async fn one_certificate_lives_its_whole_life(mut world: World) {
    world.start_workers();
    world.put_song(1).await;
    let bought = world.buy("alice", 1).await;
    let jwks = Keyring::from_jwks(&world.keyring().jwks()).expect("published keys");
    assert!(
        matches!(verify(&bought.tokens[0], &jwks), Ok(Verified::Certificate(claims)) if claims.jti == bought.certificates[0])
    );

    let check = Request::CertificateCheck(CertificatePresented {
        certificate_token: bought.tokens.first().cloned(),
        container_token: None,
    });
    assert!(matches!(world.ask(&check).await, Output::CertificateChecked(checked) if !checked.altered));
    assert_eq!(verdict(&world.ask(&license_request(&bought.tokens[0], "player")).await), "not_received");
    let Output::CertificateAccepted(accepted) = world.ask(&receipt(&bought)).await else { panic!("not accepted") };
    assert_eq!(accepted.settlement, Instruction::Instructed);
    assert_eq!(verdict(&world.ask(&license_request(&bought.tokens[0], "player")).await), "not_settled");
    assert_eq!(verdict(&world.ask(&completion(&bought)).await), "settlement.registered");

    let Output::LicenseIssued(issued) = world.ask(&license_request(&bought.tokens[0], "player")).await else {
        panic!("not issued")
    };
    let license = issued.license_token.expect("a reply has its token");
    assert!(
        matches!(verify(&license, &jwks), Ok(Verified::License(claims)) if claims.certificate == bought.certificates[0])
    );
    let Output::LicenseGranted(granted) = world.ask(&license_receipt(&license)).await else { panic!("not granted") };
    assert_eq!((granted.granted.get(), granted.remaining.get()), (1, 0));
    assert_eq!(verdict(&world.ask(&license_request(&bought.tokens[0], "other")).await), "exhausted");

    let Output::LicenseReturned(returned) = world.ask(&license_return(&license, "alice", true)).await else {
        panic!("not returned")
    };
    assert_eq!(returned.privilege.points.map(|points| points.get()), Some(40));
    assert_eq!(verdict(&world.ask(&license_return(&license, "alice", true)).await), "already_returned");
    world.finish().await;
}

async fn a_container_lives_its_whole_life(mut world: World) {
    world.start_workers();
    world.put_song(2).await;
    let bought = world.ready("bob", 3).await;
    assert!(bought.container.is_some());
    for (index, token) in bought.tokens.iter().enumerate() {
        for terminal in ["hall", "kitchen"] {
            let Output::LicenseIssued(issued) = world.ask(&license_request(token, terminal)).await else {
                panic!("certificate {index} issued nothing for the {terminal}")
            };
            let license = issued.license_token.expect("a reply has its token");
            assert_eq!(verdict(&world.ask(&license_receipt(&license)).await), "license.granted");
        }
        assert_eq!(verdict(&world.ask(&license_request(token, "attic")).await), "exhausted");
    }
    world.finish().await;
}

async fn the_trial_provider_settles_what_is_instructed(mut world: World) {
    world.start_workers();
    world.put_song(1).await;
    let (_, mut settled) = world.listen(&[(topology::EVENTS, "settlement.registered")]).await;
    let bought = world.buy("alice", 2).await;
    world.ask(&receipt(&bought)).await;
    // The instruction was given before anybody listened: it waits.
    let stop = CancellationToken::new();
    let (transport, client, told) = (world.machine.transport.clone(), world.client.clone(), stop.clone());
    let provider =
        tokio::spawn(async move { licet_client::provide(&transport, &client, Charges::Succeed, &told).await });
    let event = settled.next().await;
    let event = Output::decode("settlement.registered", Format::Json, &event.body).expect("an event");
    assert!(matches!(event, Output::SettlementRegistered(registered) if registered.container == bought.container));
    stop.cancel();
    provider.await.expect("the provider stops");
    world.finish().await;
}

async fn postcard_bodies_are_answered_in_postcard(mut world: World) {
    world.start_workers();
    world.put_song(1).await;
    let (_, mut events) = world.listen(&[(topology::EVENTS, "certificate.issued")]).await;
    let client = licet_client::Client::connect(&world.machine.transport, Format::Postcard, Patience::default()).await;
    let bought = Bought::of(client.expect("the broker answers").ask(&purchase("carol", 2)).await.expect("an answer"));
    assert_eq!(bought.tokens.len(), 2);
    assert_eq!(events.next().await.properties.content_type.as_deref(), Some("application/json"), "an event is JSON");
    world.finish().await;
}

async fn events_carry_no_tokens(mut world: World) {
    world.start_workers();
    world.put_song(1).await;
    let (_, mut events) = world.listen(&[(topology::EVENTS, "#")]).await;
    let bought = world.ready("alice", 2).await;
    let Output::LicenseIssued(issued) = world.ask(&license_request(&bought.tokens[0], "player")).await else {
        panic!()
    };
    world.ask(&license_receipt(&issued.license_token.expect("a token"))).await;
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
    world.finish().await;
}

async fn many_users_at_once_on_four_copies_of_every_worker(mut world: World) {
    for _ in 0..4 {
        world.start_workers();
    }
    world.put_song(2).await;
    let lives = (0..60).map(|user| {
        let world = &world;
        async move {
            let user = format!("user-{}", user % 7);
            let bought = world.ready(&user, 1 + user.len() % 3).await;
            for token in &bought.tokens {
                let Output::LicenseIssued(issued) = world.ask(&license_request(token, "player")).await else {
                    panic!("no license")
                };
                let license = issued.license_token.expect("a token");
                assert_eq!(verdict(&world.ask(&license_receipt(&license)).await), "license.granted");
                assert_eq!(verdict(&world.ask(&license_return(&license, &user, true)).await), "license.returned");
            }
        }
    });
    futures_util::future::join_all(lives).await;
    world.finish().await;
}

async fn points_pay_for_a_purchase(mut world: World) {
    world.start_workers();
    world.put_song(30).await;
    let bought = world.ready("alice", 1).await;
    for terminal in 0..25 {
        let Output::LicenseIssued(issued) =
            world.ask(&license_request(&bought.tokens[0], &format!("player-{terminal}"))).await
        else {
            panic!("no license")
        };
        let license = issued.license_token.expect("a token");
        world.ask(&license_receipt(&license)).await;
        assert_eq!(verdict(&world.ask(&license_return(&license, "alice", true)).await), "license.returned");
    }
    let spend = |points: i64| {
        let Request::PurchaseRequest(mut request) = purchase("alice", 1) else { unreachable!() };
        request.points = licet_schema::Count::try_from(points).ok();
        Request::PurchaseRequest(request)
    };
    let free = Bought::of(world.ask(&spend(1000)).await);
    assert_eq!(verdict(&world.ask(&spend(1)).await), "insufficient_points");
    let Output::CertificateAccepted(accepted) = world.ask(&receipt(&free)).await else { panic!("not accepted") };
    assert_eq!((accepted.settlement, accepted.amount.amount_minor.get()), (Instruction::NotNeeded, 0));
    assert_eq!(verdict(&world.ask(&license_request(&free.tokens[0], "player")).await), "license.issued");
    world.finish().await;
}

async fn a_return_is_opened_and_completed_or_lapses(mut world: World) {
    world.start_workers();
    world.put_song(2).await;
    let bought = world.ready("alice", 1).await;
    let mut opened = Vec::new();
    for terminal in ["first", "second"] {
        let Output::LicenseIssued(issued) = world.ask(&license_request(&bought.tokens[0], terminal)).await else {
            panic!()
        };
        let license = issued.license_token.expect("a token");
        world.ask(&license_receipt(&license)).await;
        assert_eq!(verdict(&world.ask(&license_return(&license, "mallory", false)).await), "not_holder");
        let Output::ReturnOpened(open) = world.ask(&license_return(&license, "alice", false)).await else { panic!() };
        opened.push(Request::LicenseDeletion(LicenseDeletion { license_return: open.license_return }));
    }
    assert_eq!(verdict(&world.ask(&opened[0]).await), "license.returned");
    assert!(matches!(world.ask(&opened[0]).await, Output::LicenseReturned(again) if again.repeated));
    world.machine.clock.advance_ms(25 * 3_600_000);
    assert_eq!(verdict(&world.ask(&opened[1]).await), "lapsed");
    world.finish().await;
}

//! The contract with other systems: properties and bodies of messages, queues, tokens.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use licet_common::transport::{Outgoing, Properties};
use licet_schema::{Request, topology};
use proptest::prelude::*;
use serde_json::json;

use crate::system::{TIMEOUT, TestSystem, license_request, on_both, outcome, raw};

on_both!(
    replies_and_events_have_the_properties_of_the_contract,
    a_browsed_message_that_is_not_acknowledged_keeps_its_place,
    only_messages_to_licet_name_their_publisher,
);

async fn replies_and_events_have_the_properties_of_the_contract(mut system: TestSystem) {
    system.start_workers();
    let (queue, mut replies) = system.listen(&[]).await;
    let (_, mut events) = system.listen(&[("licet.events", "content.registered")]).await;
    let id = uuid::Uuid::new_v4();
    let body = json!({
        "content": "song", "version": 1, "title": "A song", "price": {"amount_minor": 1177, "currency": "USD"},
        "grants": 1, "certificate_ttl_s": 60, "return_policy": {}, "media": null
    });
    let mut put = raw(id, "content.put", body.to_string().into_bytes(), Some(&queue));
    put.properties.correlation_id = Some("correlation of the caller".into());
    put.properties.kind = None;
    put.properties.content_type = None;
    system.publish(put).await;
    let (reply, event) = (replies.next().await, events.next().await);
    let named = |name: &str| Some(uuid::Uuid::new_v5(&id, name.as_bytes()).to_string());
    assert_eq!(reply.properties.message_id, named("reply:content.registered"));
    assert_eq!(event.properties.message_id, named("event:content.registered:song@1"));
    assert_eq!(reply.properties.correlation_id.as_deref(), Some("correlation of the caller"));
    assert_eq!(event.properties.correlation_id.as_deref(), Some("correlation of the caller"));
    for delivery in [&reply, &event] {
        assert_eq!(delivery.properties.kind.as_deref(), Some("content.registered"));
        assert_eq!(delivery.properties.content_type.as_deref(), Some("application/json"));
        assert_eq!(delivery.properties.app_id.as_deref(), Some("licet"));
        assert_eq!(delivery.properties.headers.get("licet-cause"), Some(&id.to_string()));
        assert_eq!(delivery.properties.timestamp, Some(1_700_000_000));
        let body: serde_json::Value = serde_json::from_slice(&delivery.body).expect("JSON");
        assert_eq!(body, json!({"content": "song", "version": 1}));
    }
    system.finish().await;
}

async fn a_browsed_message_that_is_not_acknowledged_keeps_its_place(system: TestSystem) {
    let queue = topology::dead_queue("catalog");
    let numbered = |number: u32| Outgoing {
        exchange: topology::DEFAULT.into(),
        routing_key: queue.clone(),
        mandatory: true,
        properties: Properties { message_id: Some(number.to_string()), ..Properties::default() },
        body: Vec::new().into(),
    };
    system.publish_all(&(0..200).map(numbered).collect::<Vec<_>>()).await;
    let transport = &system.resources.transport;
    let mut browser = transport.browse(&queue).await.expect("the broker answers");
    for number in 0..150 {
        let letter = browser.next().await.expect("the connection stays open").expect("a letter");
        assert_eq!(letter.properties.message_id, Some(number.to_string()));
        if number == 10 || number == 149 {
            browser.ack(letter.tag).await.expect("the connection stays open");
        }
    }
    browser.close().await;
    assert_eq!(transport.depth(&queue).await.expect("the broker answers"), 198);
    for pass in 1..=2 {
        let mut browser = transport.browse(&queue).await.expect("the broker answers");
        for number in (0..200).filter(|number| ![10, 149].contains(number)) {
            let letter = browser.next().await.expect("the connection stays open").expect("a letter");
            assert_eq!(letter.properties.message_id, Some(number.to_string()), "in pass {pass}");
            // RabbitMQ 4.3 reports only whether a message was delivered before, not how often.
            let browsed = pass - 1 + u32::from(number < 150);
            let counted = browsed.min(1)..=browsed;
            assert!(counted.contains(&letter.redeliveries), "browsing counts as at most one delivery");
        }
        assert!(
            browser.next().await.expect("the connection stays open").is_none(),
            "the end is reported without waiting"
        );
        browser.close().await;
    }
}

async fn only_messages_to_licet_name_their_publisher(system: TestSystem) {
    let message = |exchange: &str, key: &str| Outgoing {
        exchange: exchange.into(),
        routing_key: key.into(),
        mandatory: true,
        properties: Properties::default(),
        body: Vec::new().into(),
    };
    let (temporary, mut events) = system.listen(&[(topology::EVENTS, "#")]).await;
    let user = system.resources.transport.user().map(str::to_owned);
    let dead = topology::dead_queue("catalog");
    for (exchange, key, queue) in [
        (topology::IN, "content.put", "licet.catalog"),
        (topology::RETRY, "licet.purchase", "licet.purchase"),
        // The broker moves the message from the wait queue and keeps its `user_id`.
        ("licet.wait.1s", "licet.license", "licet.license"),
        (topology::DEFAULT, &dead, &dead),
    ] {
        system.publish(message(exchange, key)).await;
        let mut consumer = system.resources.transport.consume(queue, 1).await.expect("the queue");
        let delivery = tokio::time::timeout(TIMEOUT, consumer.receive(1, 1)).await.expect("in time");
        assert_eq!(delivery.expect("the connection stays open")[0].properties.user_id, user, "{exchange} {key}");
    }
    system.publish(message(topology::DEFAULT, topology::INSTRUCTED)).await;
    let instruction = system.messages_of(topology::INSTRUCTED).await.next().await;
    assert_eq!(instruction.properties.user_id, None, "Licet does not read instructions");
    system.publish(message(topology::EVENTS, "license.granted")).await;
    assert_eq!(events.next().await.properties.user_id, None);
    system.publish(message(topology::DEFAULT, &temporary)).await;
    assert_eq!(events.next().await.properties.user_id, None, "a reply does not name its publisher");
}

/// One valid body of each request type, as an upstream system writes it.
fn bodies() -> BTreeMap<&'static str, serde_json::Value> {
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let money = json!({"amount_minor": 1177, "currency": "USD"});
    BTreeMap::from([
        (
            "content.put",
            json!({
                "content": "song", "version": 1, "title": "A song", "price": money, "grants": 3,
                "certificate_ttl_s": 86400, "receipt_ttl_s": 3600, "successor": {"content": "song", "version": 2},
                "return_policy": {"points": 4, "upgrade": true, "buyback": money, "collection": false},
                "media": {"uri": "file:///song.flac", "sha256": "ab".repeat(32), "bytes": 12}
            }),
        ),
        ("purchase.request", json!({"user": "alice", "items": [{"content": "song"}], "reference": "order-7"})),
        ("certificate.check", json!({"certificate_token": "a.b.c"})),
        ("certificate.receipt", json!({"container_token": "a.b.c"})),
        (
            "settlement.completion",
            json!({"certificate": id, "settlement": "pay-1", "provider": "bank", "amount": money, "grants": 2}),
        ),
        ("license.request", json!({"certificate_token": "a.b.c", "terminal": "hall"})),
        ("license.receipt", json!({"license_token": "a.b.c"})),
        ("license.return", json!({"license_token": "a.b.c", "user": "alice", "privilege": "points", "deleted": true})),
        ("license.deletion", json!({"license_return": id})),
        (
            "settlement.failure",
            json!({"container": id, "settlement": "pay-1", "provider": "bank", "reason": "card expired"}),
        ),
        (
            "settlement.reversal",
            json!({
                "certificate": id, "settlement": "pay-1", "provider": "bank", "refund": "re-1", "amount": money,
                "reason": "chargeback"
            }),
        ),
        (
            "settlement.reinstatement",
            json!({
                "certificate": id, "settlement": "pay-1", "provider": "bank", "refund": "re-1", "reason": "dispute won"
            }),
        ),
        (
            "settlement.assignment",
            json!({"certificate": id, "settlement": "pay-1", "provider": "bank", "amount": money}),
        ),
        ("payout.completion", json!({"license_return": id, "payout": "out-1", "provider": "bank", "amount": money})),
        (
            "payout.failure",
            json!({"license_return": id, "payout": "out-1", "provider": "bank", "reason": "account closed"}),
        ),
        ("certificate.reissue", json!({"certificate": id, "reason": "terminal lost", "granted": 0})),
        ("holdings.query", json!({"user": "alice", "after": id, "limit": 10})),
        ("status.query", json!({"reference": "order-7"})),
        ("sweep.due", json!({"kind": "certificate", "before": "2026-11-22T10:00:00Z"})),
    ])
}

#[test]
fn every_request_survives_a_round_trip_and_is_refused_if_it_is_cut_or_extended() {
    for kind in Request::KINDS {
        let body = bodies().remove(kind).unwrap_or_else(|| panic!("no example of {kind}"));
        let request = Request::read(kind, body.to_string().as_bytes()).expect("a good body");
        let written = request.encode().expect("JSON");
        let json: serde_json::Value = serde_json::from_slice(&written).expect("JSON");
        assert_eq!(json, body, "{kind}: absent fields stay absent");
        assert_eq!(Request::read(kind, &written).expect("the same"), request, "{kind}");
        for end in 0..written.len() {
            assert!(Request::decode(kind, &written[..end]).is_err(), "{kind} cut at {end}");
        }
        for longer in [b"0".as_slice(), b"\0", b"{}", &written] {
            assert!(Request::decode(kind, &[&written, longer].concat()).is_err(), "{kind} followed by {longer:?}");
        }
    }
}

#[tokio::test]
async fn a_token_can_be_verified_with_only_the_jwks_and_any_ed25519_library() {
    let mut system = TestSystem::embedded().await;
    system.start_workers();
    system.put_song(1).await;
    let token = system.buy("alice", 1).await.tokens.remove(0);
    let jwks = serde_json::to_value(system.keyring().jwks()).expect("JSON");
    let parts: Vec<_> = token.split('.').collect();
    let header: serde_json::Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[0]).expect("base64url")).expect("JSON");
    let key = jwks["keys"].as_array().expect("keys").iter().find(|key| key["kid"] == header["kid"]).expect("its key");
    assert_eq!((&header["alg"], &header["typ"]), (&json!("EdDSA"), &json!("licet-certificate+jwt")));
    assert_eq!((&key["kty"], &key["crv"]), (&json!("OKP"), &json!("Ed25519")));
    let x = URL_SAFE_NO_PAD.decode(key["x"].as_str().expect("x")).expect("base64url");
    let public = ed25519_dalek::VerifyingKey::from_bytes(&x.try_into().expect("32 bytes")).expect("a point");
    let signature =
        ed25519_dalek::Signature::from_slice(&URL_SAFE_NO_PAD.decode(parts[2]).expect("base64url")).expect("64 bytes");
    let signed = format!("{}.{}", parts[0], parts[1]);
    public.verify_strict(signed.as_bytes(), &signature).expect("a valid signature (RFC 8032)");
    assert_eq!(outcome(&system.ask(&license_request(&token, "player")).await), "not_received");
    system.finish().await;
}

proptest! {
    #[test]
    fn no_byte_string_makes_a_decoder_panic_or_has_two_meanings(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for kind in Request::KINDS {
            if let Ok(request) = Request::decode(kind, &bytes) {
                let again = request.encode().expect("a body that was read can be written");
                prop_assert_eq!(Request::decode(kind, &again).expect("a body that was written can be read"), request);
            }
        }
    }
}

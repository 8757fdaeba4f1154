//! What outside clients rely on.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use licet_common::transport::{Outgoing, Properties};
use licet_schema::{Format, Output, Request, topology};
use proptest::prelude::*;
use serde_json::json;

use crate::world::{PATIENCE, World, license_request, on_both, raw};

on_both!(
    replies_and_events_have_the_properties_of_the_contract,
    what_is_looked_at_and_left_stays_in_its_place,
    our_own_queues_are_told_who_published_and_nobody_else_is,
);

async fn replies_and_events_have_the_properties_of_the_contract(mut world: World) {
    world.start_workers();
    let (queue, mut replies) = world.listen(&[]).await;
    let (_, mut events) = world.listen(&[("licet.events", "content.registered")]).await;
    let id = uuid::Uuid::new_v4();
    let body = json!({
        "content": "song", "version": 1, "title": "A song", "price": {"amount_minor": 1177, "currency": "USD"},
        "grants": 1, "certificate_ttl_s": 60, "return_policy": {}, "media": null
    });
    let mut put = raw(id, "content.put", body.to_string().into_bytes(), Some(&queue));
    put.properties.correlation_id = Some("the caller's own".into());
    put.properties.kind = None;
    put.properties.content_type = None;
    world.publish(put).await;
    let (reply, event) = (replies.next().await, events.next().await);
    let named = |name: &str| Some(uuid::Uuid::new_v5(&id, name.as_bytes()).to_string());
    assert_eq!(reply.properties.message_id, named("reply:content.registered"));
    assert_eq!(event.properties.message_id, named("event:content.registered:song@1"));
    assert_eq!(reply.properties.correlation_id.as_deref(), Some("the caller's own"));
    assert_eq!(event.properties.correlation_id.as_deref(), Some("the caller's own"));
    for delivery in [&reply, &event] {
        assert_eq!(delivery.properties.kind.as_deref(), Some("content.registered"));
        assert_eq!(delivery.properties.content_type.as_deref(), Some("application/json"));
        assert_eq!(delivery.properties.app_id.as_deref(), Some("licet"));
        assert_eq!(delivery.properties.headers.get("licet-cause"), Some(&id.to_string()));
        assert_eq!(delivery.properties.timestamp, Some(1_700_000_000));
        let body: serde_json::Value = serde_json::from_slice(&delivery.body).expect("JSON");
        assert_eq!(body, json!({"content": "song", "version": 1}));
    }
    world.finish().await;
}

async fn what_is_looked_at_and_left_stays_in_its_place(world: World) {
    let queue = topology::dead_queue("catalog");
    let numbered = |number: u32| Outgoing {
        exchange: topology::DEFAULT.into(),
        routing_key: queue.clone(),
        mandatory: true,
        properties: Properties { message_id: Some(number.to_string()), ..Properties::default() },
        body: Vec::new().into(),
    };
    world.publish_all(&(0..200).map(numbered).collect::<Vec<_>>()).await;
    let transport = &world.machine.transport;
    let mut browser = transport.browse(&queue).await.expect("the broker answers");
    for number in 0..150 {
        let letter = browser.next().await.expect("the broker stays").expect("a letter");
        assert_eq!(letter.properties.message_id, Some(number.to_string()));
        if number == 10 || number == 149 {
            browser.ack(letter.tag).await.expect("the broker stays");
        }
    }
    browser.close().await;
    assert_eq!(transport.depth(&queue).await.expect("the broker answers"), 198);
    for look in 1..=2 {
        let mut browser = transport.browse(&queue).await.expect("the broker answers");
        for number in (0..200).filter(|number| ![10, 149].contains(number)) {
            let letter = browser.next().await.expect("the broker stays").expect("a letter");
            assert_eq!(letter.properties.message_id, Some(number.to_string()), "at look {look}");
            // RabbitMQ 4.3 says only that it was delivered before, not how often.
            let looked_at = look - 1 + u32::from(number < 150);
            let counted = looked_at.min(1)..=looked_at;
            assert!(counted.contains(&letter.redeliveries), "each look is at most one delivery");
        }
        assert!(browser.next().await.expect("the broker stays").is_none(), "the end is told without waiting");
        browser.close().await;
    }
}

async fn our_own_queues_are_told_who_published_and_nobody_else_is(world: World) {
    let message = |exchange: &str, key: &str| Outgoing {
        exchange: exchange.into(),
        routing_key: key.into(),
        mandatory: true,
        properties: Properties::default(),
        body: Vec::new().into(),
    };
    let (heard, mut events) = world.listen(&[(topology::EVENTS, "#")]).await;
    let user = world.machine.transport.user().map(str::to_owned);
    let dead = topology::dead_queue("catalog");
    for (exchange, key, queue) in [
        (topology::IN, "content.put", "licet.catalog"),
        (topology::RETRY, "licet.purchase", "licet.purchase"),
        // What has waited is moved by the broker, and keeps the name.
        ("licet.wait.1s", "licet.license", "licet.license"),
        (topology::DEFAULT, &dead, &dead),
    ] {
        world.publish(message(exchange, key)).await;
        let mut consumer = world.machine.transport.consume(queue, 1).await.expect("the queue");
        let delivery = tokio::time::timeout(PATIENCE, consumer.receive(1, 1)).await.expect("in time");
        assert_eq!(delivery.expect("the broker stays")[0].properties.user_id, user, "{exchange} {key}");
    }
    world.publish(message(topology::EVENTS, "license.granted")).await;
    assert_eq!(events.next().await.properties.user_id, None);
    world.publish(message(topology::DEFAULT, &heard)).await;
    assert_eq!(events.next().await.properties.user_id, None, "nor is a reply's reader");
}

/// Postcard bodies are frozen: other programs hold these bytes.
#[test]
fn the_bytes_of_postcard_version_1_are_frozen() {
    let json = json!({
        "user": "alice", "items": [{"content": "song"}, {"content": "film", "version": 3}], "points": 5
    });
    let request = Request::decode("purchase.request", Format::Json, json.to_string().as_bytes()).expect("a purchase");
    let bytes = request.encode(Format::Postcard).expect("postcard");
    let expected = b"\x01\x05alice\x02\x04song\x00\x04film\x01\x03\x01\x05\x00";
    assert_eq!(bytes, expected);
    assert_eq!(Request::decode("purchase.request", Format::Postcard, expected).expect("the same"), request);

    let json = json!({
        "certificate": "00000000-0000-0000-0000-000000000007", "settlement": "pay-1", "provider": "bank",
        "amount": {"amount_minor": 1177, "currency": "USD"}
    });
    let request =
        Request::decode("settlement.completion", Format::Json, json.to_string().as_bytes()).expect("a settlement");
    let mut expected = vec![1, 1, 16];
    expected.extend([0; 15]);
    expected.extend(b"\x07\x00\x05pay-1\x04bank\x99\x09\x03USD\x00");
    assert_eq!(request.encode(Format::Postcard).expect("postcard"), expected);

    let json = json!({"license": "00000000-0000-0000-0000-000000000007", "remaining": 2});
    let reply = Output::decode("license.issued", Format::Json, json.to_string().as_bytes()).expect("a reply");
    let mut expected = vec![1, 16];
    expected.extend([0; 15]);
    expected.extend(b"\x07\x00\x02");
    assert_eq!(reply.encode(Format::Postcard).expect("postcard"), expected);
}

/// One good body of each request type, as an upstream would write it.
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
            json!({"certificate": id, "settlement": "pay-1", "provider": "bank", "reason": "chargeback"}),
        ),
        ("payout.completion", json!({"license_return": id, "payout": "out-1", "provider": "bank", "amount": money})),
        ("certificate.reissue", json!({"certificate": id, "reason": "terminal lost", "granted": 0})),
        ("holdings.query", json!({"user": "alice", "after": id, "limit": 10})),
        ("status.query", json!({"reference": "order-7"})),
        ("sweep.due", json!({"kind": "certificate", "before": "2026-11-22T10:00:00Z"})),
    ])
}

#[test]
fn every_request_type_means_the_same_in_json_and_in_postcard() {
    for kind in Request::KINDS {
        let body = bodies().remove(kind).unwrap_or_else(|| panic!("no example of {kind}"));
        let request = Request::decode(kind, Format::Json, body.to_string().as_bytes()).expect("a good body");
        let json: serde_json::Value =
            serde_json::from_slice(&request.encode(Format::Json).expect("JSON")).expect("JSON");
        assert_eq!(json, body, "{kind}: what is absent stays absent");
        let postcard = request.encode(Format::Postcard).expect("postcard");
        assert_eq!(Request::decode(kind, Format::Postcard, &postcard).expect("the same"), request, "{kind}");
        for end in 0..postcard.len() {
            assert!(Request::decode(kind, Format::Postcard, &postcard[..end]).is_err(), "{kind} cut at {end}");
        }
        let longer = [postcard.as_slice(), &[0]].concat();
        assert!(Request::decode(kind, Format::Postcard, &longer).is_err(), "{kind} with a byte more");
    }
}

#[tokio::test]
async fn a_stock_verifier_needs_nothing_but_the_jwks() {
    let mut world = World::embedded().await;
    world.start_workers();
    world.put_song(1).await;
    let token = world.buy("alice", 1).await.tokens.remove(0);
    let jwks = serde_json::to_value(world.keyring().jwks()).expect("JSON");
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
    public.verify_strict(signed.as_bytes(), &signature).expect("RFC 8032 verifies it");
    assert_eq!(crate::world::verdict(&world.ask(&license_request(&token, "player")).await), "not_received");
    world.finish().await;
}

proptest! {
    #[test]
    fn no_byte_string_panics_a_decoder_or_means_two_things(bytes in prop::collection::vec(any::<u8>(), 0..300), version in 0u8..3) {
        for kind in Request::KINDS {
            for body in [bytes.clone(), [vec![version], bytes.clone()].concat()] {
                for format in [Format::Json, Format::Postcard] {
                    if let Ok(request) = Request::decode(kind, format, &body) {
                        let again = request.encode(format).expect("what was read can be written");
                        prop_assert_eq!(Request::decode(kind, format, &again).expect("and read"), request);
                    }
                }
            }
        }
    }
}

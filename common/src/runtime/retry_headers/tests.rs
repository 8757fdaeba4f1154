//! Tests of the headers of copies and of the publishers that are trusted.

use bytes::Bytes;

use super::*;
use crate::transport::Death;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn arrived(exchange: &str, key: &str, user: Option<&str>, headers: &[(&str, &str)]) -> Delivery {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let properties = Properties { user_id: user.map(str::to_owned), headers, ..Properties::default() };
    let (exchange, routing_key) = (exchange.to_owned(), key.to_owned());
    Delivery { tag: 1, exchange, routing_key, redeliveries: 0, properties, death: None, body: Bytes::new() }
}

/// The copy as it arrives, published by `user`.
fn published(copy: Outgoing, exchange: &str, user: Option<&str>) -> Delivery {
    let properties = Properties { user_id: user.map(str::to_owned), ..copy.properties };
    let Outgoing { routing_key, body, .. } = copy;
    Delivery { tag: 1, exchange: exchange.into(), routing_key, redeliveries: 0, properties, death: None, body }
}

/// The trust of workers that publish as `licet` and let `desk` name other users as senders.
fn trust() -> Trust {
    let table = [("desk".to_owned(), vec![topology::RETRY.to_owned()])];
    let senders = Senders::new(Some(table.into())).expect("a table");
    Trust::new(Some("licet"), Arc::new(senders))
}

fn failure(reason: &str, at_ms: i64) -> Failure {
    Failure { reason: reason.into(), at: Timestamp::from_millis(NOW.as_millis() + at_ms) }
}

#[test]
fn a_copy_carries_nobodys_word_for_ours_and_fits_in_a_frame() {
    let bulk = "x".repeat(100_000);
    let delivery = arrived(
        topology::IN,
        "content.put",
        Some("shop"),
        &[
            ("traceparent", "00-ab-cd-01"),
            (topology::HEADER_SENDER, "admin"),
            (topology::HEADER_ATTEMPT, "3"),
            ("x-death", "often"),
            ("CC", "elsewhere"),
            ("bulk", &bulk),
        ],
    );
    let origin = Origin::of_work(&delivery, &trust());
    let letter = dead_letter("catalog", &delivery, &origin, &failure(&"why ".repeat(10_000), 0));
    assert_eq!(letter.properties.user_id, None);
    let headers = &letter.properties.headers;
    assert_eq!((headers[topology::HEADER_SENDER].as_str(), headers[topology::HEADER_ATTEMPT].as_str()), ("shop", "1"));
    assert!(headers.contains_key("traceparent"));
    assert!(["x-death", "CC", "bulk"].iter().all(|name| !headers.contains_key(*name)), "{headers:?}");
    assert!(headers.values().all(|value| value.len() < 1000));

    // Many tiny headers need more bytes than their names and values.
    let names: Vec<_> = (0..10_000).map(|number| number.to_string()).collect();
    let tiny: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    let delivery = arrived(topology::IN, "content.put", Some("shop"), &tiny);
    let letter = dead_letter("catalog", &delivery, &Origin::of_work(&delivery, &trust()), &failure("why", 0));
    let encoded: usize = letter.properties.headers.iter().map(|(name, value)| name.len() + value.len() + 6).sum();
    assert!(encoded < 12 << 10, "{encoded} bytes of headers");
}

#[test]
fn a_message_keeps_its_sender_and_its_first_failure_over_every_attempt() {
    let trust = trust();
    let mut delivery = arrived(topology::IN, "content.put", Some("shop"), &[]);
    for (attempts, wait) in topology::WAITS.iter().enumerate() {
        let origin = Origin::of_work(&delivery, &trust);
        assert_eq!((origin.attempts, origin.sender.as_deref()), (attempts, Some("shop")));
        let again = delayed("catalog", &delivery, &origin, &failure(&format!("failure {attempts}"), 1), wait);
        delivery = published(again, topology::RETRY, Some("licet"));
    }
    let origin = Origin::of_work(&delivery, &trust);
    let letter = dead_letter("catalog", &delivery, &origin, &failure("failure 4", 2));
    assert_eq!(letter.properties.headers[topology::HEADER_REASON], "failure 4");
    assert_eq!(letter.properties.headers[topology::HEADER_FAILED_AT], failure("", 2).at.to_string());
    let read = Origin::of_letter(&published(letter, topology::DEFAULT, Some("licet")), &trust);
    let first_failure = Some(failure("failure 0", 1));
    let expected =
        Origin { kind: "content.put".into(), sender: Some("shop".into()), claim: None, attempts: 5, first_failure };
    assert_eq!(read, Ok(expected));
}

#[test]
fn only_our_own_user_and_who_may_speak_for_others_is_trusted() {
    let claimed = [(topology::HEADER_SENDER, "bank"), (topology::HEADER_ROUTING_KEY, "content.put")];
    let certificate = Trust { own: None, ..trust() };
    for (trust, user, sender, trusted) in [
        (&trust(), Some("licet"), Some("bank"), true),
        (&trust(), Some("desk"), Some("bank"), true),
        (&trust(), Some("mallory"), Some("mallory"), false),
        (&trust(), None, None, false),
        (&certificate, None, Some("bank"), true),
        (&certificate, Some("mallory"), Some("mallory"), false),
    ] {
        let origin = Origin::of_work(&arrived(topology::RETRY, "licet.catalog", user, &claimed), trust);
        assert_eq!((origin.sender.as_deref(), origin.claim.is_none()), (sender, trusted), "{user:?}");
        let origin = Origin::of_work(&arrived(topology::IN, "content.put", user, &claimed), trust);
        assert_eq!(origin.sender.as_deref(), user, "on licet.in, headers are ignored");
    }
}

#[test]
fn a_claim_that_nobody_trusted_is_kept_and_judged_again() {
    let claimed = [(topology::HEADER_SENDER, "bank"), (topology::HEADER_ROUTING_KEY, "content.put")];
    let delivery = arrived(topology::RETRY, "licet.catalog", Some("clerk"), &claimed);
    let origin = Origin::of_work(&delivery, &trust());
    let letter = dead_letter("catalog", &delivery, &origin, &failure("not trusted", 0));
    let letter = published(letter, topology::DEFAULT, Some("licet"));
    let read = Origin::of_letter(&letter, &trust()).expect("a trusted letter");
    assert_eq!((read.sender.as_deref(), read.attempts), (Some("clerk"), 1));
    assert_eq!(read.claim, Some(Claim { by: Some("clerk".into()), sender: Some("bank".into()) }));
    // Once `[senders]` trusts the publisher, the bank is the sender of the same letter.
    let table = [("clerk".to_owned(), vec![topology::RETRY.to_owned()])];
    let extended = Trust { senders: Arc::new(Senders::new(Some(table.into())).expect("a table")), ..trust() };
    let read = Origin::of_letter(&letter, &extended).expect("a trusted letter");
    assert_eq!((read.sender.as_deref(), read.claim), (Some("bank"), None));
    let untrusted =
        Delivery { properties: Properties { user_id: Some("mallory".into()), ..letter.properties }, ..letter };
    assert_eq!(Origin::of_letter(&untrusted, &extended), Err(Untrusted(Some("mallory".into()))));
}

#[test]
fn a_message_that_the_broker_dead_lettered_is_read_as_its_worker_would_have_read_it() {
    let forged = [(topology::HEADER_SENDER, "bank"), (topology::HEADER_REASON, "none")];
    let died = |exchange: &str, key: &str, user| Delivery {
        death: Some(Death {
            reason: "delivery_limit".into(),
            exchange: exchange.into(),
            routing_key: key.into(),
            at_s: None,
        }),
        ..arrived(topology::DEFAULT, "licet.dead.catalog", Some(user), &forged)
    };
    let sender = |letter| Origin::of_letter(&letter, &trust()).expect("the broker dead-lettered it").sender;
    assert_eq!(sender(died(topology::IN, "content.put", "mallory")).as_deref(), Some("mallory"));
    assert_eq!(sender(died(topology::IN, "content.put", "licet")).as_deref(), Some("licet"));
    assert_eq!(sender(died(topology::RETRY, "licet.catalog", "licet")).as_deref(), Some("bank"));
    assert_eq!(sender(died(topology::RETRY, "licet.catalog", "mallory")).as_deref(), Some("mallory"));
}

#[test]
fn a_replay_is_the_message_as_it_was_for_another_series_of_attempts() {
    let trust = trust();
    let mut delivery = arrived(topology::IN, "content.put", Some("shop"), &[("traceparent", "00-ab-cd-01")]);
    delivery.properties.message_id = Some("an id".into());
    let origin = Origin::of_work(&delivery, &trust);
    let letter = dead_letter("catalog", &delivery, &origin, &failure("why", 0));
    let letter = published(letter, topology::DEFAULT, Some("licet"));
    let origin = Origin::of_letter(&letter, &trust).expect("a trusted letter");
    let replay = replayed("catalog", &letter, &origin);
    assert_eq!((replay.exchange.as_str(), replay.routing_key.as_str()), (topology::RETRY, "licet.catalog"));
    assert!(replay.mandatory && replay.properties.message_id.as_deref() == Some("an id"));
    let again = Origin::of_work(&published(replay, topology::RETRY, Some("desk")), &trust);
    assert_eq!((again.kind.as_str(), again.sender.as_deref(), again.attempts), ("content.put", Some("shop"), 0));
}

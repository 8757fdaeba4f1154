//! Messages that cannot be read, and message ids that were used before.

use std::{collections::BTreeMap, sync::Arc};

use licet_common::{
    config::Senders,
    transport::{Outgoing, Properties},
};
use licet_schema::{Code, Output, Request, entity::certificate_record, topology};
use uuid::Uuid;

use crate::system::{TestSystem, message, on_both, outcome, purchase, raw, song};

on_both!(
    every_unreadable_message_is_dead_lettered_with_a_reason_and_the_worker_continues,
    a_sender_without_permission_leaves_nothing_whatever_it_sends,
    json_is_the_only_accepted_content_type,
    case_b09_content_types_of_json_are_accepted_and_make_no_difference_in_a_retry,
    case_b15_two_callers_who_send_the_same_request_at_once_both_get_the_reply,
    reusing_a_message_id_with_another_payload_is_a_conflict,
    a_repeated_message_is_answered_with_the_same_bytes,
    an_id_that_occurs_twice_in_a_batch_is_decided_once,
    a_duplicate_does_not_affect_other_messages_of_its_batch,
    a_corrected_message_can_reuse_the_id_of_a_dead_letter,
    a_reply_that_cannot_be_sent_is_dropped_and_the_worker_continues,
);

/// Purchase requests that cannot be read, each with part of the reason in its dead letter.
fn unreadable(queue: &str) -> Vec<(Outgoing, &'static str)> {
    let good = || message(Uuid::new_v4(), &purchase("alice", 1), Some(queue));
    let body = |text: &str| Outgoing { body: text.as_bytes().to_vec().into(), ..good() };
    let with = |change: fn(&mut Properties)| {
        let mut changed = good();
        change(&mut changed.properties);
        changed
    };
    vec![
        (body(""), "malformed"),
        (body("{"), "malformed"),
        (body("\u{0}\u{1}"), "malformed"),
        (Outgoing { body: vec![0xff, 0xfe, 0xfd].into(), ..good() }, "malformed"),
        (body("[]"), "malformed"),
        (body(r#"{"user":"a","items":[]} {}"#), "malformed"),
        (body(r#"{"user":"a","items":[],"colour":"red"}"#), "unknown field"),
        (body(&format!(r#"{{"{}":1}}"#, "x".repeat(200_000))), "unknown field"),
        (body(r#"{"user":"a","items":[]}"#), "1 to 100 items"),
        (body(r#"["a",[]]"#), "invalid type: sequence"),
        (body(r#"{"user":"a","user":"b","items":[]}"#), "duplicate field"),
        (body(r#"{"user":" a","items":[]}"#), "blank"),
        (body(r#"{"user":"a","items":[{"content":"song","version":0}]}"#), "version"),
        (body(r#"{"user":"a","items":[],"points":9007199254740992}"#), "malformed"),
        (with(|properties| properties.message_id = None), "message_id"),
        (with(|properties| properties.message_id = Some("17".into())), "message_id"),
        (with(|properties| properties.message_id = Some(Uuid::nil().to_string())), "message_id"),
        (with(|properties| properties.kind = Some("content.put".into())), "must be the same"),
        (with(|properties| properties.content_type = Some("text/plain".into())), "text/plain"),
        (with(|properties| properties.reply_to = Some("licet.purchase".into())), "reply_to"),
    ]
}

async fn every_unreadable_message_is_dead_lettered_with_a_reason_and_the_worker_continues(mut system: TestSystem) {
    system.put_song_with_workers().await;
    let (queue, mut replies) = system.listen(&[]).await;
    let mut dead = system.dead_letters("purchase").await;
    for (message, expected) in unreadable(&queue) {
        let answerable = message.properties.reply_to.as_deref() == Some(queue.as_str());
        let sent = message.body.clone();
        system.publish(message).await;
        let letter = dead.next().await;
        let reason = letter.properties.headers.get(topology::HEADER_REASON).cloned().unwrap_or_default();
        assert!(reason.contains(expected), "expected {expected:?} in the reason {reason:?}");
        assert_eq!(letter.body, sent, "the dead letter contains the body of the message");
        if answerable {
            let reply = replies.next().await;
            assert_eq!(reply.properties.kind.as_deref(), Some("request.refused"), "{reason}");
        }
    }
    let good = Uuid::new_v4();
    system.publish(message(good, &purchase("alice", 1), Some(&queue))).await;
    let reply = replies.next().await;
    assert_eq!(reply.properties.kind.as_deref(), Some("certificate.issued"), "the worker continues");
    let purchases = system.journal().await.into_iter().filter(|row| row.kind == "purchase.request").count();
    assert_eq!(purchases, 1, "a message that cannot be read has no journal row");
    system.finish().await;
}

/// Otherwise anyone who may write to `licet.in` could fill the dead-letter queue with garbage.
async fn a_sender_without_permission_leaves_nothing_whatever_it_sends(mut system: TestSystem) {
    let table = BTreeMap::from([("nobody".to_owned(), vec!["purchase.request".to_owned()])]);
    system.resources.senders = Arc::new(Senders::new(Some(table)).expect("a known message type"));
    system.start_workers();
    let (queue, mut replies) = system.listen(&[]).await;
    let mut messages: Vec<_> = unreadable(&queue).into_iter().map(|(message, _)| message).collect();
    let good = || message(Uuid::new_v4(), &purchase("alice", 1), Some(&queue));
    // The test's RabbitMQ refuses larger messages itself.
    if system.database_url.is_none() {
        messages.push(Outgoing { body: vec![b'x'; topology::MESSAGE_BYTES_MAX + 1].into(), ..good() });
    }
    let sent = messages.len();
    for message in messages {
        system.publish(message).await;
    }
    // A dead letter that an operator replays is not lost, even if its sender is no longer permitted.
    let mut replayed = Outgoing { body: "{".into(), ..good() };
    (replayed.exchange, replayed.routing_key) = (topology::RETRY.into(), topology::work_queue("purchase"));
    replayed.properties.reply_to = None;
    for (header, value) in [(topology::HEADER_ROUTING_KEY, "purchase.request"), (topology::HEADER_SENDER, "guest")] {
        replayed.properties.headers.insert(header.into(), value.into());
    }
    system.publish(replayed).await;
    let last = Uuid::new_v4();
    system.publish(message(last, &purchase("alice", 1), Some(&queue))).await;
    let mut answered = 0;
    loop {
        let reply = replies.next().await;
        let refusal = Output::decode(reply.properties.kind.as_deref().unwrap_or_default(), &reply.body);
        let Ok(Output::RequestRefused(refusal)) = refusal else { panic!("{refusal:?}") };
        assert_eq!(refusal.code, Code::Forbidden, "the body is not read: {}", refusal.detail);
        answered += 1;
        if reply.properties.correlation_id == Some(last.to_string()) {
            break;
        }
    }
    assert_eq!(answered, sent, "all are answered, except the one whose reply_to is reserved");
    assert!(system.journal().await.is_empty(), "nothing is journaled");
    // Stopping waits until everything is acknowledged or moved.
    system.stop_workers().await;
    for (queue, expected) in [(topology::work_queue("purchase"), 0), (topology::dead_queue("purchase"), 1)] {
        let depth = system.resources.transport.depth(&queue).await.expect("the queue");
        assert_eq!(depth, expected, "{queue}");
    }
    system.finish().await;
}

/// In particular, postcard is refused, because no message body is encoded in it.
async fn json_is_the_only_accepted_content_type(mut system: TestSystem) {
    system.put_song_with_workers().await;
    let (queue, mut replies) = system.listen(&[]).await;
    let mut dead = system.dead_letters("purchase").await;
    for content_type in ["application/vnd.licet.postcard", "text/json", ""] {
        let id = Uuid::new_v4();
        let mut request = message(id, &purchase("alice", 1), Some(&queue));
        request.properties.content_type = Some(content_type.into());
        system.publish(request).await;
        let reply = replies.next().await;
        let refusal = Output::decode(reply.properties.kind.as_deref().unwrap_or_default(), &reply.body);
        let Ok(Output::RequestRefused(refusal)) = refusal else { panic!("{content_type:?}: {refusal:?}") };
        assert_eq!(refusal.code, Code::Malformed);
        assert!(refusal.detail.contains(&format!("{content_type:?}")), "{}", refusal.detail);
        let letter = dead.next().await;
        assert_eq!(letter.properties.message_id, Some(id.to_string()));
        assert!(letter.properties.headers[topology::HEADER_REASON].contains("content type"));
    }
    system.finish().await;
}

/// Client libraries write the content type in several ways, and one may leave it out in a retry.
async fn case_b09_content_types_of_json_are_accepted_and_make_no_difference_in_a_retry(mut system: TestSystem) {
    system.put_song_with_workers().await;
    let (queue, mut replies) = system.listen(&[]).await;
    let id = Uuid::now_v7();
    let mut bodies = Vec::new();
    for content_type in [
        Some("application/json; charset=utf-8"),
        Some("Application/JSON"),
        None,
        Some("application/json;charset=UTF-8"),
    ] {
        let mut request = message(id, &purchase("alice", 1), Some(&queue));
        request.properties.content_type = content_type.map(str::to_owned);
        system.publish(request).await;
        let reply = replies.next().await;
        assert_eq!(reply.properties.kind.as_deref(), Some("certificate.issued"), "{content_type:?}");
        bodies.push(reply.body);
    }
    assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]), "each retry gets the same reply");
    assert_eq!(system.journal().await.iter().filter(|row| row.id == id).count(), 1);
    system.finish().await;
}

async fn case_b15_two_callers_who_send_the_same_request_at_once_both_get_the_reply(mut system: TestSystem) {
    system.put_song_with_workers().await;
    let (id, request) = (Uuid::now_v7(), purchase("alice", 1));
    let (one, other) = tokio::join!(system.client.ask_as(id, &request), system.client.ask_as(id, &request));
    let (one, other) = (one.expect("a reply"), other.expect("a reply"));
    assert_eq!(outcome(&one), "certificate.issued");
    assert_eq!(one, other);
    // A caller that gives up does not affect the other caller.
    let id = Uuid::now_v7();
    let gives_up = tokio::time::timeout(std::time::Duration::ZERO, system.client.ask_as(id, &request));
    let (stays, gave_up) = tokio::join!(system.client.ask_as(id, &request), gives_up);
    assert_eq!(outcome(&stays.expect("a reply")), "certificate.issued");
    assert!(gave_up.is_err());
    let id = Uuid::now_v7();
    let another = purchase("bob", 1);
    let (one, other) = tokio::join!(system.client.ask_as(id, &request), system.client.ask_as(id, &another));
    assert_eq!(outcome(&one.expect("a reply")), "certificate.issued");
    let error = other.expect_err("the id is in use").to_string();
    assert!(error.contains("give each request its own id"), "{error}");
    system.finish().await;
}

async fn reusing_a_message_id_with_another_payload_is_a_conflict(mut system: TestSystem) {
    system.put_song_with_workers().await;
    let id = Uuid::new_v4();
    let first = system.client.ask_as(id, &purchase("alice", 1)).await.expect("a reply");
    assert_eq!(outcome(&first), "certificate.issued");
    for other in [purchase("alice", 2), purchase("mallory", 1)] {
        assert_eq!(outcome(&system.client.ask_as(id, &other).await.expect("a reply")), "conflict");
    }
    let put = Request::ContentPut(song(9));
    assert_eq!(
        outcome(&system.client.ask_as(id, &put).await.expect("a reply")),
        "conflict",
        "a message of another type conflicts, too"
    );
    let again = system.client.ask_as(id, &purchase("alice", 1)).await.expect("a reply");
    assert_eq!(again, first, "the id still belongs to the first message");
    assert_eq!(system.journal().await.iter().filter(|row| row.id == id).count(), 1);
    system.finish().await;
}

async fn a_repeated_message_is_answered_with_the_same_bytes(mut system: TestSystem) {
    system.put_song_with_workers().await;
    let (queue, mut replies) = system.listen(&[]).await;
    let (_, mut events) = system.listen(&[(topology::EVENTS, "certificate.issued")]).await;
    let id = Uuid::new_v4();
    let mut seen = Vec::new();
    for _ in 0..3 {
        system.publish(message(id, &purchase("alice", 2), Some(&queue))).await;
        let (reply, event) = (replies.next().await, events.next().await);
        seen.push((reply.properties, reply.body, event.properties, event.body));
        // If the outputs were computed again, their times would be later.
        system.resources.clock.advance_ms(60_000);
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:#?}");
    system.finish().await;
}

async fn an_id_that_occurs_twice_in_a_batch_is_decided_once(mut system: TestSystem) {
    // No worker runs yet, so these messages form one batch.
    let (queue, mut replies) = system.listen(&[]).await;
    let (id, put) = (Uuid::new_v4(), message(Uuid::new_v4(), &Request::ContentPut(song(1)), Some(&queue)));
    let other = Request::ContentPut(song(2));
    let batch = [
        put,
        message(id, &Request::ContentPut(song(1)), Some(&queue)),
        message(id, &other, Some(&queue)),
        message(id, &Request::ContentPut(song(1)), Some(&queue)),
    ];
    system.publish_all(&batch).await;
    system.start_workers();
    let mut kinds = Vec::new();
    for _ in 0..4 {
        let reply = replies.next().await;
        let output = Output::decode(reply.properties.kind.as_deref().unwrap_or_default(), &reply.body);
        kinds.push(outcome(&output.expect("a reply")));
    }
    assert_eq!(kinds, ["content.registered", "content.registered", "conflict", "content.registered"]);
    assert_eq!(system.journal().await.len(), 2);
    system.finish().await;
}

async fn a_duplicate_does_not_affect_other_messages_of_its_batch(mut system: TestSystem) {
    system.put_song_with_workers().await;
    let (queue, mut replies) = system.listen(&[]).await;
    let ask = |user| message(Uuid::new_v4(), &purchase(user, 1), Some(&queue));
    let known = ask("alice");
    system.publish(known.clone()).await;
    let first = replies.next().await;
    system.stop_workers().await;
    // No worker runs now, so these messages form one batch. It is the first batch of a worker that
    // has not received a duplicate yet.
    let impostor = Outgoing { body: ask("mallory").body, ..known.clone() };
    let batch = [ask("bob"), ask("carol"), known.clone(), impostor, ask("dave")];
    system.publish_all(&batch).await;
    system.start_workers();
    let mut received = Vec::new();
    for _ in 0..batch.len() {
        let reply = replies.next().await;
        received.push((reply.properties.correlation_id.clone(), reply.properties.kind.clone(), reply.body));
    }
    let (old, new): (Vec<_>, Vec<_>) = received.into_iter().partition(|(id, ..)| *id == known.properties.message_id);
    let [again, conflict] = old.as_slice() else { panic!("there are not two replies to the known id: {old:?}") };
    assert_eq!(again.2, first.body, "the first reply is sent again");
    assert!(String::from_utf8_lossy(&conflict.2).contains("conflict"), "{conflict:?}");
    assert!(new.iter().all(|(_, kind, _)| kind.as_deref() == Some("certificate.issued")), "{new:?}");
    let records = system.rows::<certificate_record::Entity>().await;
    let mut buyers: Vec<_> = records.iter().map(|row| row.user.as_str()).collect();
    buyers.sort_unstable();
    assert_eq!(buyers, ["alice", "bob", "carol", "dave"], "each user bought once");
    system.finish().await;
}

async fn a_corrected_message_can_reuse_the_id_of_a_dead_letter(mut system: TestSystem) {
    system.put_song_with_workers().await;
    let id = Uuid::new_v4();
    let mut dead = system.dead_letters("purchase").await;
    system.publish(raw(id, "purchase.request", b"{}".to_vec(), None)).await;
    assert_eq!(dead.next().await.properties.message_id, Some(id.to_string()));
    let reply = system.client.ask_as(id, &purchase("alice", 1)).await.expect("a reply");
    assert_eq!(outcome(&reply), "certificate.issued");
    system.finish().await;
}

async fn a_reply_that_cannot_be_sent_is_dropped_and_the_worker_continues(mut system: TestSystem) {
    system.put_song_with_workers().await;
    // For the second address, RabbitMQ closes the connection of the publisher.
    for nowhere in ["nobody.listens.here", "amq.rabbitmq.reply-to.g1h2AA==.bogus"] {
        let id = Uuid::new_v4();
        let (_, mut events) = system.listen(&[(topology::EVENTS, "certificate.issued")]).await;
        system.publish(message(id, &purchase("alice", 1), Some(nowhere))).await;
        assert_eq!(events.next().await.properties.headers.get(topology::HEADER_CAUSE), Some(&id.to_string()));
        let again = system.client.ask_as(id, &purchase("alice", 1)).await.expect("a reply");
        assert_eq!(outcome(&again), "certificate.issued", "the reply can be requested again");
    }
    system.finish().await;
}

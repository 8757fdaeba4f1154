//! What cannot be read, and what was said before.

use licet_common::transport::{Outgoing, Properties};
use licet_schema::{Format, Output, Request, entity, topology};
use uuid::Uuid;

use crate::world::{World, message, on_both, purchase, raw, song, verdict};

on_both!(
    malformed_bytes_of_every_kind_are_dead_lettered_with_a_reason_and_the_worker_goes_on,
    a_used_message_id_with_another_payload_is_a_conflict,
    the_same_message_again_earns_the_same_bytes,
    one_id_twice_in_one_batch_is_decided_once,
    a_message_that_is_known_harms_none_of_those_that_come_with_it,
    a_corrected_retry_may_use_the_id_of_a_dead_letter,
    a_reply_that_cannot_be_sent_is_dropped_and_the_worker_goes_on,
);

/// Changes to a good purchase request, each with what its dead letter must say.
fn spoilt(queue: &str) -> Vec<(Outgoing, &'static str)> {
    let good = || message(Uuid::new_v4(), &purchase("alice", 1), Some(queue));
    let body = |text: &str| Outgoing { body: text.as_bytes().to_vec().into(), ..good() };
    let with = |change: fn(&mut Properties)| {
        let mut spoilt = good();
        change(&mut spoilt.properties);
        spoilt
    };
    let postcard = |bytes: &[u8]| {
        let mut spoilt = with(|properties| properties.content_type = Some("application/vnd.licet.postcard".into()));
        spoilt.body = bytes.to_vec().into();
        spoilt
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
        (postcard(&[]), "empty"),
        (postcard(&[9, 1, 2, 3]), "unsupported_version"),
        (postcard(&[1, 0xff, 0xff, 0xff]), "malformed"),
        (with(|properties| properties.message_id = None), "message_id"),
        (with(|properties| properties.message_id = Some("17".into())), "message_id"),
        (with(|properties| properties.message_id = Some(Uuid::nil().to_string())), "message_id"),
        (with(|properties| properties.kind = Some("content.put".into())), "must be the same"),
        (with(|properties| properties.content_type = Some("text/plain".into())), "text/plain"),
        (with(|properties| properties.reply_to = Some("licet.purchase".into())), "reply_to"),
    ]
}

async fn malformed_bytes_of_every_kind_are_dead_lettered_with_a_reason_and_the_worker_goes_on(mut world: World) {
    world.put_song_with_workers().await;
    let (queue, mut replies) = world.listen(&[]).await;
    let mut dead = world.dead_letters("purchase").await;
    for (spoilt, expected) in spoilt(&queue) {
        let answerable = spoilt.properties.reply_to.as_deref() == Some(queue.as_str());
        let sent = spoilt.body.clone();
        world.publish(spoilt).await;
        let letter = dead.next().await;
        let reason = letter.properties.headers.get(topology::HEADER_REASON).cloned().unwrap_or_default();
        assert!(reason.contains(expected), "expected {expected:?} in the reason {reason:?}");
        assert_eq!(letter.body, sent, "the dead letter is the message as it came");
        if answerable {
            let reply = replies.next().await;
            assert_eq!(reply.properties.kind.as_deref(), Some("request.refused"), "{reason}");
        }
    }
    let good = Uuid::new_v4();
    world.publish(message(good, &purchase("alice", 1), Some(&queue))).await;
    let reply = replies.next().await;
    assert_eq!(reply.properties.kind.as_deref(), Some("certificate.issued"), "the worker goes on");
    let purchases = world.journal().await.into_iter().filter(|row| row.kind == "purchase.request").count();
    assert_eq!(purchases, 1, "what cannot be read leaves no journal row");
    world.finish().await;
}

async fn a_used_message_id_with_another_payload_is_a_conflict(mut world: World) {
    world.put_song_with_workers().await;
    let id = Uuid::new_v4();
    let first = world.client.ask_as(id, &purchase("alice", 1)).await.expect("an answer");
    assert_eq!(verdict(&first), "certificate.issued");
    for other in [purchase("alice", 2), purchase("mallory", 1)] {
        assert_eq!(verdict(&world.client.ask_as(id, &other).await.expect("an answer")), "conflict");
    }
    let put = Request::ContentPut(song(9));
    assert_eq!(verdict(&world.client.ask_as(id, &put).await.expect("an answer")), "conflict", "another type");
    let again = world.client.ask_as(id, &purchase("alice", 1)).await.expect("an answer");
    assert_eq!(again, first, "the id still stands for the first");
    assert_eq!(world.journal().await.iter().filter(|row| row.id == id).count(), 1);
    world.finish().await;
}

async fn the_same_message_again_earns_the_same_bytes(mut world: World) {
    world.put_song_with_workers().await;
    let (queue, mut replies) = world.listen(&[]).await;
    let (_, mut events) = world.listen(&[(topology::EVENTS, "certificate.issued")]).await;
    let id = Uuid::new_v4();
    let mut seen = Vec::new();
    for _ in 0..3 {
        world.publish(message(id, &purchase("alice", 2), Some(&queue))).await;
        let (reply, event) = (replies.next().await, events.next().await);
        seen.push((reply.properties, reply.body, event.properties, event.body));
        // Anything that were computed anew would now be later.
        world.machine.clock.advance_ms(60_000);
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:#?}");
    world.finish().await;
}

async fn one_id_twice_in_one_batch_is_decided_once(mut world: World) {
    // No worker runs yet, so that all of these are one batch.
    let (queue, mut replies) = world.listen(&[]).await;
    let (id, put) = (Uuid::new_v4(), message(Uuid::new_v4(), &Request::ContentPut(song(1)), Some(&queue)));
    let other = Request::ContentPut(song(2));
    let batch = [
        put,
        message(id, &Request::ContentPut(song(1)), Some(&queue)),
        message(id, &other, Some(&queue)),
        message(id, &Request::ContentPut(song(1)), Some(&queue)),
    ];
    world.publish_all(&batch).await;
    world.start_workers();
    let mut kinds = Vec::new();
    for _ in 0..4 {
        let reply = replies.next().await;
        let output = Output::decode(reply.properties.kind.as_deref().unwrap_or_default(), Format::Json, &reply.body);
        kinds.push(verdict(&output.expect("a reply")));
    }
    assert_eq!(kinds, ["content.registered", "content.registered", "conflict", "content.registered"]);
    assert_eq!(world.journal().await.len(), 2);
    world.finish().await;
}

async fn a_message_that_is_known_harms_none_of_those_that_come_with_it(mut world: World) {
    world.put_song_with_workers().await;
    let (queue, mut replies) = world.listen(&[]).await;
    let ask = |user| message(Uuid::new_v4(), &purchase(user, 1), Some(&queue));
    let known = ask("alice");
    world.publish(known.clone()).await;
    let first = replies.next().await;
    world.stop_workers().await;
    // No worker runs, so that all of these are one batch, and the first of a worker that has met no repeat yet.
    let impostor = Outgoing { body: ask("mallory").body, ..known.clone() };
    let batch = [ask("bob"), ask("carol"), known.clone(), impostor, ask("dave")];
    world.publish_all(&batch).await;
    world.start_workers();
    let mut told = Vec::new();
    for _ in 0..batch.len() {
        let reply = replies.next().await;
        told.push((reply.properties.correlation_id.clone(), reply.properties.kind.clone(), reply.body));
    }
    let (old, new): (Vec<_>, Vec<_>) = told.into_iter().partition(|(id, ..)| *id == known.properties.message_id);
    let [again, clash] = old.as_slice() else { panic!("two answers to the known id: {old:?}") };
    assert_eq!(again.2, first.body, "the answer that was given before");
    assert!(String::from_utf8_lossy(&clash.2).contains("conflict"), "{clash:?}");
    assert!(new.iter().all(|(_, kind, _)| kind.as_deref() == Some("certificate.issued")), "{new:?}");
    let mut buyers: Vec<_> = world.rows::<entity::purchase::Entity>().await.into_iter().map(|row| row.user).collect();
    buyers.sort_unstable();
    assert_eq!(buyers, ["alice", "bob", "carol", "dave"], "each bought once");
    world.finish().await;
}

async fn a_corrected_retry_may_use_the_id_of_a_dead_letter(mut world: World) {
    world.put_song_with_workers().await;
    let id = Uuid::new_v4();
    let mut dead = world.dead_letters("purchase").await;
    world.publish(raw(id, "purchase.request", b"{}".to_vec(), None)).await;
    assert_eq!(dead.next().await.properties.message_id, Some(id.to_string()));
    let answer = world.client.ask_as(id, &purchase("alice", 1)).await.expect("an answer");
    assert_eq!(verdict(&answer), "certificate.issued");
    world.finish().await;
}

async fn a_reply_that_cannot_be_sent_is_dropped_and_the_worker_goes_on(mut world: World) {
    world.put_song_with_workers().await;
    // The second is what RabbitMQ closes the publisher's connection for.
    for nowhere in ["nobody.listens.here", "amq.rabbitmq.reply-to.g1h2AA==.bogus"] {
        let id = Uuid::new_v4();
        let (_, mut events) = world.listen(&[(topology::EVENTS, "certificate.issued")]).await;
        world.publish(message(id, &purchase("alice", 1), Some(nowhere))).await;
        assert_eq!(events.next().await.properties.headers.get(topology::HEADER_CAUSE), Some(&id.to_string()));
        let again = world.client.ask_as(id, &purchase("alice", 1)).await.expect("an answer");
        assert_eq!(verdict(&again), "certificate.issued", "it can be asked for again");
    }
    world.finish().await;
}

impl World {
    pub(crate) async fn put_song_with_workers(&mut self) {
        self.start_workers();
        self.put_song(1).await;
    }
}

//! The loop itself, with workers made for the purpose.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use licet_common::{
    decision::{Context, Decision, Tables},
    runtime::{Machine, Worker, run},
    signing::Keyring,
    store::{StoreError, Transaction},
};
use licet_schema::{Output, Refusal, Request, message::ContentPut, message::ContentRegistered, topology};
use licet_workers::registry;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::world::{PATIENCE, World, message, on_both, song};

on_both!(
    one_bad_message_takes_only_itself_down,
    a_message_that_brings_its_decoder_down_is_a_dead_letter_and_nothing_more,
    a_failing_message_is_tried_again_later_and_then_succeeds,
    a_batch_that_others_are_in_the_way_of_begins_again,
    a_worker_that_is_told_to_stop_finishes_what_it_has,
);

/// Runs a worker until `seen` has come about, then drops it where it stands, as a crash would.
pub(crate) async fn start_and_abandon<T>(machine: &Machine, worker: &str, seen: impl Future<Output = T>) -> T {
    let running = registry::start(worker, machine.clone(), CancellationToken::new()).expect("a worker of that name");
    let running = tokio::spawn(running);
    let seen = seen.await;
    running.abort();
    assert!(running.await.expect_err("it was still running").is_cancelled());
    seen
}

/// A catalog worker that does to contents what their names say.
struct Contrary {
    attempts: Arc<AtomicU32>,
}

impl Worker for Contrary {
    type Input = ContentPut;

    fn name(&self) -> &'static str {
        "catalog"
    }

    fn read(&self, _: &Keyring, request: Request) -> Result<ContentPut, Refusal> {
        let Request::ContentPut(put) = request else { panic!("only contents come here") };
        assert_ne!(put.content.as_str(), "unreadable", "this content cannot be read");
        Ok(put)
    }

    async fn load(&self, _: &Transaction, inputs: &[&ContentPut]) -> Result<Tables, StoreError> {
        if inputs.iter().any(|put| put.content.as_str() == "contended")
            && self.attempts.fetch_add(1, Ordering::SeqCst) < 3
        {
            return Err(StoreError::Contended("somebody else was first".into()));
        }
        if inputs.iter().any(|put| put.content.as_str() == "unloadable")
            && self.attempts.fetch_add(1, Ordering::SeqCst) < 1
        {
            return Err(StoreError::Refused("it cannot be loaded".into()));
        }
        Ok(Tables::default())
    }

    fn decide(&self, _: &Context<'_>, _: &mut Tables, put: &ContentPut) -> Result<Decision, Refusal> {
        assert_ne!(put.content.as_str(), "poison", "this content is poison");
        let registered = ContentRegistered { content: put.content.clone(), version: put.version };
        Ok(Decision::new(Output::ContentRegistered(registered)))
    }
}

fn put(name: &str) -> Request {
    Request::ContentPut(ContentPut { content: crate::world::name(name), ..song(1) })
}

fn start(world: &World) -> (Arc<AtomicU32>, CancellationToken, tokio::task::JoinHandle<()>) {
    let (attempts, stop) = (Arc::new(AtomicU32::new(0)), CancellationToken::new());
    let worker = Contrary { attempts: attempts.clone() };
    let running = tokio::spawn(run(worker, world.machine.clone(), stop.clone()));
    (attempts, stop, running)
}

async fn one_bad_message_takes_only_itself_down(world: World) {
    let (queue, mut replies) = world.listen(&[]).await;
    let mut names: Vec<_> = (0..20).map(|number| format!("content-{number}")).collect();
    names.insert(13, "poison".into());
    let batch: Vec<_> = names.iter().map(|name| message(Uuid::new_v4(), &put(name), Some(&queue))).collect();
    world.publish_all(&batch).await;
    let (_, stop, running) = start(&world);
    for _ in 0..20 {
        assert_eq!(replies.next().await.properties.kind.as_deref(), Some("content.registered"));
    }
    assert_eq!(world.journal().await.len(), 20, "the bad one is not decided");
    stop.cancel();
    running.await.expect("the worker outlives the panic of a rule");
    let depth = world.machine.transport.depth(&topology::WAITS[0].queue()).await.expect("the wait queue");
    assert_eq!(depth, 1, "the bad one waits for another attempt");
}

async fn a_message_that_brings_its_decoder_down_is_a_dead_letter_and_nothing_more(world: World) {
    let (queue, mut replies) = world.listen(&[]).await;
    let mut dead = world.dead_letters("catalog").await;
    let batch: Vec<_> = ["before", "unreadable", "after"]
        .iter()
        .map(|name| message(Uuid::new_v4(), &put(name), Some(&queue)))
        .collect();
    world.publish_all(&batch).await;
    let (_, stop, running) = start(&world);
    for _ in 0..2 {
        assert_eq!(replies.next().await.properties.kind.as_deref(), Some("content.registered"));
    }
    let letter = dead.next().await;
    assert_eq!(letter.properties.message_id, batch[1].properties.message_id);
    assert!(letter.properties.headers[topology::HEADER_REASON].contains("its decoder panicked"));
    stop.cancel();
    running.await.expect("the worker outlives it");
}

async fn a_failing_message_is_tried_again_later_and_then_succeeds(world: World) {
    let (_, stop, running) = start(&world);
    let answer = world.ask(&put("unloadable")).await;
    assert!(matches!(answer, Output::ContentRegistered(_)), "{answer:?}");
    stop.cancel();
    running.await.expect("the worker stops");
}

async fn a_batch_that_others_are_in_the_way_of_begins_again(world: World) {
    let (attempts, stop, running) = start(&world);
    let answer = world.ask(&put("contended")).await;
    assert!(matches!(answer, Output::ContentRegistered(_)), "{answer:?}");
    assert_eq!(attempts.load(Ordering::SeqCst), 4);
    stop.cancel();
    running.await.expect("the worker stops");
}

async fn a_worker_that_is_told_to_stop_finishes_what_it_has(world: World) {
    let (queue, mut replies) = world.listen(&[]).await;
    let batch: Vec<_> =
        (0..300).map(|number| message(Uuid::new_v4(), &put(&format!("content-{number}")), Some(&queue))).collect();
    world.publish_all(&batch).await;
    let (_, stop, running) = start(&world);
    replies.next().await;
    stop.cancel();
    tokio::time::timeout(PATIENCE, running).await.expect("it stops in time").expect("it stops cleanly");
    let decided = world.journal().await.len();
    let work = topology::work_queue("catalog");
    let waiting = world.machine.transport.depth(&work).await.expect("the queue");
    assert_eq!(decided + usize::try_from(waiting).expect("a small number"), 300, "nothing lost, nothing twice");
    // What it did not finish was never given back: no delivery was counted against its message.
    let mut rest = world.machine.transport.consume(&work, 1000).await.expect("the queue");
    if waiting > 0 {
        let left =
            tokio::time::timeout(Duration::from_secs(10), rest.receive(1000, usize::MAX)).await.expect("in time");
        assert!(left.expect("deliveries").iter().all(|delivery| delivery.redeliveries == 0));
    }
}

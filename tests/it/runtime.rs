//! The loop that runs every worker, tested with a faulty worker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use licet_common::{
    decision::{Context, Decision, RuleError},
    rows::{Defect, RowSet, TableVisitor},
    runtime::{Resources, Worker, run},
    signing::Keyring,
    store::{Source, StoreError},
};
use licet_schema::{
    Output, Refusal, Request, Timestamp,
    message::{ContentPut, ContentRegistered, StatusListed, SweepDue, SweepKind},
    topology,
};
use licet_workers::registry;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::system::{TIMEOUT, TestSystem, message, name, on_both, song};

on_both!(
    a_message_that_cannot_be_decided_does_not_affect_the_others_in_its_batch,
    a_message_that_makes_its_decoder_panic_is_dead_lettered_without_affecting_others,
    a_failed_message_is_retried_later_and_then_succeeds,
    a_batch_that_conflicts_with_another_transaction_is_decided_again,
    a_stopped_worker_finishes_the_messages_that_it_has_received,
);

/// Runs a worker until `done` completes, then drops the worker at an arbitrary point to simulate a
/// crash.
pub(crate) async fn start_and_abandon<T>(resources: &Resources, worker: &str, done: impl Future<Output = T>) -> T {
    let worker = registry::find(worker).expect("a worker with this name");
    let running = tokio::spawn(worker.run(resources.clone(), CancellationToken::new()));
    let result = done.await;
    running.abort();
    assert!(running.await.expect_err("the worker was still running").is_cancelled());
    result
}

/// A catalog worker whose failure depends on the name of the content.
struct FaultyCatalog {
    attempts: Arc<AtomicU32>,
}

/// The worker reads and writes no tables.
#[derive(Default)]
struct NoTables;

impl RowSet for NoTables {
    fn visit(&self, _: &mut impl TableVisitor) {}
}

impl Worker for FaultyCatalog {
    const NAME: &'static str = "catalog";
    const HANDLES: &'static [&'static str] = &["content.put"];

    type Input = ContentPut;
    type Rows = NoTables;

    fn read(&self, _: &Keyring, request: Request) -> Result<ContentPut, Refusal> {
        let Request::ContentPut(put) = request else { panic!("this queue contains only content.put") };
        assert_ne!(put.content.as_str(), "unreadable", "this content cannot be read");
        Ok(put)
    }

    async fn load<S: Source>(&self, _: &S, inputs: &[&ContentPut]) -> Result<NoTables, StoreError> {
        let has = |name| inputs.iter().any(|put| put.content.as_str() == name);
        if has("contended") && self.attempts.fetch_add(1, Ordering::SeqCst) < 3 {
            return Err(StoreError::contended("another transaction was first"));
        }
        if has("unloadable") && self.attempts.fetch_add(1, Ordering::SeqCst) < 1 {
            return Err(StoreError::rejected("the rows cannot be loaded"));
        }
        Ok(NoTables)
    }

    fn decide(&self, _: &Context<'_>, _: &mut NoTables, put: &ContentPut) -> Result<Decision, RuleError> {
        assert_ne!(put.content.as_str(), "panic", "this content causes a panic");
        if put.content.as_str() == "defect" {
            return Err(Defect::violated("this content is a defect", &put.content).into());
        }
        let registered = ContentRegistered { content: put.content.clone(), version: put.version };
        let decision = Decision::new(Output::ContentRegistered(registered));
        if put.content.as_str() == "unwritable" {
            // RFC 3339 cannot express this time.
            let due = SweepDue { kind: SweepKind::Return, before: Timestamp::from_millis(i64::MAX) };
            return Ok(decision.with_event(Output::SweepDue(due)));
        }
        if put.content.as_str() == "subjectless" {
            // The id of an event is derived from its subject, and an empty list has no subject.
            return Ok(
                decision.with_event(Output::StatusListed(StatusListed { certificates: Vec::new(), license: None }))
            );
        }
        Ok(decision)
    }
}

fn put(content: &str) -> Request {
    Request::ContentPut(ContentPut { content: name(content), ..song(1) })
}

fn start(system: &TestSystem) -> (Arc<AtomicU32>, CancellationToken, tokio::task::JoinHandle<()>) {
    let (attempts, stop) = (Arc::new(AtomicU32::new(0)), CancellationToken::new());
    let worker = FaultyCatalog { attempts: attempts.clone() };
    let running = tokio::spawn(run(worker, system.resources.clone(), stop.clone()));
    (attempts, stop, running)
}

async fn a_message_that_cannot_be_decided_does_not_affect_the_others_in_its_batch(system: TestSystem) {
    let (queue, mut replies) = system.listen(&[]).await;
    let mut names: Vec<_> = (0..20).map(|number| format!("content-{number}")).collect();
    names.insert(5, "defect".into());
    names.insert(13, "panic".into());
    names.insert(17, "unwritable".into());
    names.insert(19, "subjectless".into());
    let batch: Vec<_> = names.iter().map(|name| message(Uuid::new_v4(), &put(name), Some(&queue))).collect();
    system.publish_all(&batch).await;
    let (_, stop, running) = start(&system);
    for _ in 0..20 {
        assert_eq!(replies.next().await.properties.kind.as_deref(), Some("content.registered"));
    }
    assert_eq!(system.journal().await.len(), 20, "the faulty messages are not decided");
    stop.cancel();
    running.await.expect("the panic of a rule does not end the worker");
    let depth = system.resources.transport.depth(&topology::WAITS[0].queue()).await.expect("the wait queue");
    assert_eq!(depth, 4, "the faulty messages wait for another attempt");
}

async fn a_message_that_makes_its_decoder_panic_is_dead_lettered_without_affecting_others(system: TestSystem) {
    let (queue, mut replies) = system.listen(&[]).await;
    let mut dead = system.dead_letters("catalog").await;
    let batch: Vec<_> = ["before", "unreadable", "after"]
        .iter()
        .map(|name| message(Uuid::new_v4(), &put(name), Some(&queue)))
        .collect();
    system.publish_all(&batch).await;
    let (_, stop, running) = start(&system);
    for _ in 0..2 {
        assert_eq!(replies.next().await.properties.kind.as_deref(), Some("content.registered"));
    }
    let letter = dead.next().await;
    assert_eq!(letter.properties.message_id, batch[1].properties.message_id);
    assert!(letter.properties.headers[topology::HEADER_REASON].contains("its decoder panicked"));
    stop.cancel();
    running.await.expect("the panic of a decoder does not end the worker");
}

async fn a_failed_message_is_retried_later_and_then_succeeds(system: TestSystem) {
    let (attempts, stop, running) = start(&system);
    let reply = system.ask(&put("unloadable")).await;
    assert!(matches!(reply, Output::ContentRegistered(_)), "{reply:?}");
    assert!(attempts.load(Ordering::SeqCst) > 1);
    stop.cancel();
    running.await.expect("the worker stops");
}

async fn a_batch_that_conflicts_with_another_transaction_is_decided_again(system: TestSystem) {
    let (attempts, stop, running) = start(&system);
    let reply = system.ask(&put("contended")).await;
    assert!(matches!(reply, Output::ContentRegistered(_)), "{reply:?}");
    assert_eq!(attempts.load(Ordering::SeqCst), 4);
    stop.cancel();
    running.await.expect("the worker stops");
}

async fn a_stopped_worker_finishes_the_messages_that_it_has_received(system: TestSystem) {
    let (queue, mut replies) = system.listen(&[]).await;
    let batch: Vec<_> =
        (0..300).map(|number| message(Uuid::new_v4(), &put(&format!("content-{number}")), Some(&queue))).collect();
    system.publish_all(&batch).await;
    let (_, stop, running) = start(&system);
    replies.next().await;
    stop.cancel();
    tokio::time::timeout(TIMEOUT, running).await.expect("the worker stops in time").expect("it does not panic");
    let decided = system.journal().await.len();
    let work = topology::work_queue("catalog");
    let waiting = system.resources.transport.depth(&work).await.expect("the queue");
    assert_eq!(decided + usize::try_from(waiting).expect("a small number"), 300, "no message is lost or duplicated");
    // The worker did not return the other messages to the queue, so no delivery was counted for
    // them.
    let mut rest = system.resources.transport.consume(&work, 1000).await.expect("the queue");
    if waiting > 0 {
        let left =
            tokio::time::timeout(Duration::from_secs(10), rest.receive(1000, usize::MAX)).await.expect("in time");
        assert!(left.expect("deliveries").iter().all(|delivery| delivery.redeliveries == 0));
    }
}

//! Case A10: workers with different keys folders.

use std::{
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use licet_common::{
    signing::{Keyring, folder},
    signing_keys::{self, SigningKeyError},
};
use licet_schema::{Output, Timestamp, topology};
use uuid::Uuid;

use crate::{
    processes::{Process, log_of},
    programs::{fails, run},
    system::{TIMEOUT, TestSystem, amqp_url, on_both, outcome, receipt},
};

on_both!(
    case_a10_a_message_with_an_untrusted_key_succeeds_under_its_id_after_the_key_was_added,
    case_a10_of_two_workers_that_start_at_once_with_different_keys_only_one_starts,
);

impl TestSystem {
    /// Stops the workers and starts them with this keyring.
    async fn restart_workers_with(&mut self, keyring: &Arc<Keyring>) {
        self.stop_workers().await;
        self.resources.keyring = keyring.clone();
        self.start_workers();
    }
}

async fn case_a10_a_message_with_an_untrusted_key_succeeds_under_its_id_after_the_key_was_added(
    mut system: TestSystem,
) {
    system.put_song_with_workers().await;
    let bought = system.buy("alice", 1).await;
    let own = system.resources.keyring.clone();
    let other = Arc::new(folder::create(&system.folder.path().join("other_keys")).expect("a new key"));
    let (id, receipt) = (Uuid::now_v7(), receipt(&bought));

    system.restart_workers_with(&other).await;
    let mut detail = String::new();
    for attempt in 1..=2 {
        let refused = system.client.ask_as(id, &receipt).await.expect("a reply");
        assert_eq!(outcome(&refused), "untrusted_key", "attempt {attempt}");
        let Output::RequestRefused(refused) = refused else { unreachable!() };
        detail = refused.detail;
    }
    assert!(detail.contains(own.signing_kid().expect("a signing key")), "the refusal names the key: {detail}");
    assert!(system.journal().await.iter().all(|row| row.id != id), "the refusal is not journaled");
    let dead = system.resources.transport.depth(&topology::dead_queue("reception")).await.expect("the queue");
    assert_eq!(dead, 0, "the message is answered and not a dead letter");

    system.restart_workers_with(&own).await;
    let accepted = system.client.ask_as(id, &receipt).await.expect("a reply");
    assert_eq!(outcome(&accepted), "certificate.accepted");

    // A decided message keeps its reply, even if the key is removed again.
    system.restart_workers_with(&other).await;
    assert_eq!(system.client.ask_as(id, &receipt).await.expect("a reply"), accepted);
    system.finish().await;
}

async fn case_a10_of_two_workers_that_start_at_once_with_different_keys_only_one_starts(system: TestSystem) {
    let (store, now) = (&system.resources.store, Timestamp::from_millis(1_700_000_000_000));
    let keyring = |number: u8| Keyring::new(ed25519_dalek::SigningKey::from_bytes(&[number; 32]), []);
    let (first, second) = (keyring(1), keyring(2));
    let started = tokio::join!(signing_keys::check(store, &first, now), signing_keys::check(store, &second, now));
    let (refused, winner) = match started {
        (Ok(()), Err(refused)) => (refused, &first),
        (Err(refused), Ok(())) => (refused, &second),
        both => panic!("{both:?}"),
    };
    let expected = winner.signing_kid().expect("a signing key");
    assert!(matches!(&refused, SigningKeyError::Missing { kid } if kid == expected), "{refused}");
    signing_keys::check(store, winner, now).await.expect("the worker starts again");
    system.finish().await;
}

/// Writes the signing key of one folder into another folder, as a further trusted key.
fn copy_key(from: &Path, to: &Path, kid: &str) {
    let file = format!("{kid}.pem");
    std::fs::copy(from.join(&file), to.join(&file)).expect("the key is copied");
}

fn new_keys(folder: &Path) -> String {
    let keyring = folder::create(folder).expect("a new key");
    keyring.signing_kid().expect("a signing key").to_owned()
}

/// Needs worker programs, which refuse SQLite.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn case_a10_a_worker_whose_keys_folder_lacks_a_key_that_signs_refuses_to_start_and_names_it() {
    let system = TestSystem::services().await;
    let at = system.folder.path();
    let (keys, other) = (at.join("keys"), at.join("other_keys"));
    let own_kid = system.keyring().signing_kid().expect("a signing key").to_owned();
    let other_kid = new_keys(&other);
    // The first worker records the key of the folder `keys`.
    start_and_stop(&system, "licet-purchase", &keys).await;
    refuses_to_start(&system, &other, &own_kid);

    // A rotation: every folder gets the new key, and then the new key signs.
    copy_key(&other, &keys, &other_kid);
    start_and_stop(&system, "licet-reception", &keys).await;
    std::fs::write(keys.join("signing"), &other_kid).expect("the new key signs");
    start_and_stop(&system, "licet-purchase", &keys).await;
    let old_only = at.join("old_keys");
    std::fs::DirBuilder::new().mode(0o700).create(&old_only).expect("a folder");
    copy_key(&keys, &old_only, &own_kid);
    std::fs::write(old_only.join("signing"), &own_kid).expect("a file");
    refuses_to_start(&system, &old_only, &other_kid);
    refuses_to_start(&system, &other, &own_kid);

    // The old key is lost, or must no longer be trusted.
    let database = system.database_url.as_deref().expect("PostgreSQL");
    let retire = |kid: &str| run("licet", &["keys", "retire", kid], &[("LICET_DATABASE_URL", database)], at);
    fails(&retire("unknown"), 2, &own_kid);
    fails(&retire("-of_a_key_that_begins_with_a_hyphen"), 2, &own_kid);
    assert!(retire(&own_kid).status.success());
    start_and_stop(&system, "licet-reception", &other).await;
    std::fs::write(keys.join("signing"), &own_kid).expect("the retired key signs");
    refuses_to_start(&system, &keys, "was retired");
    system.finish().await;
}

/// Starts a worker program with this keys folder. Returns it and its log.
fn start(system: &TestSystem, program: &str, keys: &Path) -> (Process, PathBuf) {
    let log = log_of(system, program);
    std::fs::write(&log, "").expect("a log file");
    let settings = [
        ("LICET_AMQP_URL", amqp_url()),
        ("LICET_DATABASE_URL", system.database_url.clone().expect("PostgreSQL")),
        ("LICET_KEYS", keys.to_str().expect("UTF-8").to_owned()),
    ];
    (Process::with(program, &log, &settings), log)
}

/// Starts a worker program with this keys folder, waits until it consumes, and stops it.
async fn start_and_stop(system: &TestSystem, program: &str, keys: &Path) {
    let (worker, log) = start(system, program, keys);
    await_line(&log, "consuming").await;
    assert_eq!(worker.terminate(), Some(0));
}

/// Checks that the reception worker ends at once with this keys folder, and logs one line that
/// contains this text.
#[track_caller]
fn refuses_to_start(system: &TestSystem, keys: &Path, expected: &str) {
    let (worker, log) = start(system, "licet-reception", keys);
    let code = worker.wait();
    let lines = std::fs::read_to_string(log).expect("its log");
    assert_eq!((code, lines.lines().count()), (Some(2), 1), "{lines}");
    assert!(lines.contains(expected), "expected {expected:?} in {lines}");
}

/// Waits until a log contains this text.
pub(super) async fn await_line(log: &Path, text: &str) {
    let waiting = async {
        while !std::fs::read_to_string(log).expect("a log").contains(text) {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(TIMEOUT, waiting).await;
    waited.unwrap_or_else(|_| panic!("{text:?} is not in {:?}", std::fs::read_to_string(log)));
}

//! The programs as a person meets them: sentences, exit codes, start and stop.

use std::{
    path::Path,
    process::{Command, Output},
    time::Instant,
};

use licet_schema::{Request, topology};

use crate::{
    processes::{Process, log_of},
    world::{World, program, song},
};

/// Runs a program with these settings alone.
pub(crate) fn run(name: &str, arguments: &[&str], settings: &[(&str, &str)], folder: &Path) -> Output {
    let mut command = Command::new(program(name));
    for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("LICET_")) {
        command.env_remove(key);
    }
    command.args(arguments).envs(settings.iter().copied()).current_dir(folder).output().expect("the program runs")
}

/// The exit code, and one sentence on standard error that says this.
#[track_caller]
pub(crate) fn fails(output: &Output, code: i32, sentence: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(error.contains(sentence), "expected {sentence:?} in {error:?}");
    assert_eq!(error.trim().lines().count(), 1, "one sentence: {error}");
    assert!(!error.contains("panicked"), "{error}");
}

const AMQP: (&str, &str) = ("LICET_AMQP_URL", "amqp://127.0.0.1:1");
const NOWHERE: (&str, &str) = ("LICET_DATABASE_URL", "postgres://licet:secret@127.0.0.1:1/licet");

#[test]
fn a_worker_that_cannot_start_says_why_in_one_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    fails(&run("licet-purchase", &[], &[], at), 2, "LICET_AMQP_URL");
    fails(&run("licet-purchase", &[], &[AMQP], at), 2, "LICET_DATABASE_URL");
    fails(&run("licet-purchase", &[], &[("LICET_AMQP_URL", "memory:"), NOWHERE], at), 2, "memory:");
    fails(&run("licet-purchase", &[], &[("LICET_AMQP_URL", "http://x"), NOWHERE], at), 2, "amqp://");
    fails(&run("licet-purchase", &[], &[AMQP, ("LICET_DATABASE_URL", "sqlite:x.db")], at), 2, "licet serve");
    fails(&run("licet-purchase", &[], &[AMQP, NOWHERE], at), 2, "licet keys new");
    fails(&run("licet-purchase", &[], &[AMQP, NOWHERE, ("LICET_BATCH_MAX", "0")], at), 2, "LICET_BATCH_MAX");
    fails(&run("licet-purchase", &[], &[AMQP, NOWHERE, ("LICET_LOG", "in fo=:")], at), 2, "LICET_LOG");
    std::fs::write(at.join("licet.toml"), "batchmax = 7\n").expect("a file");
    let output = run("licet-purchase", &[], &[AMQP, NOWHERE], at);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("batchmax"));
    std::fs::remove_file(at.join("licet.toml")).expect("the file goes");

    assert!(run("licet", &["keys", "new"], &[], at).status.success());
    let output = run("licet-purchase", &[], &[AMQP, NOWHERE], at);
    fails(&output, 1, "127.0.0.1:1/licet cannot be reached");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("secret"), "no password in a log");
    assert_eq!(run("licet-purchase", &["--colour"], &[], at).status.code(), Some(2), "wrong usage");
}

#[test]
fn one_process_with_sqlite_says_what_is_missing_step_by_step() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let settings = [AMQP, ("LICET_DATABASE_URL", "sqlite:licet.db")];
    assert!(run("licet", &["keys", "new"], &settings, at).status.success());
    fails(&run("licet", &["keys", "new"], &settings, at), 2, "already has the signing key");
    fails(&run("licet", &["serve"], &settings, at), 1, "licet migrate");
    assert!(run("licet", &["migrate"], &settings, at).status.success());
    assert!(run("licet", &["migrate"], &settings, at).status.success(), "again does no harm");
    fails(&run("licet", &["serve"], &settings, at), 1, "broker at 127.0.0.1:1");
    fails(&run("licet", &["serve", "kitchen"], &settings, at), 2, "kitchen");
    assert!(run("licet", &["audit"], &settings, at).status.success());
    fails(&run("licet", &["show", "nobody"], &settings, at), 1, "nothing is known");

    let lock = std::fs::File::options().write(true).open(at.join("licet.db.lock")).expect("the lock file");
    lock.try_lock().expect("nobody holds it");
    fails(&run("licet", &["audit"], &settings, at), 1, "in use by another process");
}

#[test]
fn the_demonstration_plays_audits_and_tells() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run("licet", &["demo", "--purchases", "40", "--json"], &[], folder.path());
    assert!(output.status.success(), "{output:?}");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(told["purchases"], 40);
    assert!(told["containers"].as_u64() > Some(10) && told["returned"].as_u64() > Some(3), "{told}");
    assert_eq!(told["audit"]["violations"], serde_json::json!([]));
    assert_eq!(told["stages"]["lifecycle"]["count"], told["lifecycles"]);
    let output = run("licet", &["demo", "--purchases", "40"], &[], folder.path());
    let text = String::from_utf8(output.stdout).expect("text");
    for expected in ["lifecycles/s", "p99", "license.returned", "The auditor is content"] {
        assert!(text.contains(expected), "expected {expected:?} in {text}");
    }
}

#[test]
fn a_token_is_verified_offline_against_the_exported_keys() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    assert!(run("licet", &["keys", "new"], &[], at).status.success());
    let exported = run("licet", &["keys", "export"], &[], at);
    std::fs::write(at.join("jwks.json"), &exported.stdout).expect("a file");
    let keyring = licet_common::signing::folder::load(&at.join("keys")).expect("the new keys");
    let claims = licet_common::signing::LicenseClaims {
        iss: "licet".into(),
        jti: uuid::Uuid::from_u128(5),
        sub: crate::world::name("alice"),
        certificate: uuid::Uuid::from_u128(6),
        content: crate::world::name("song"),
        version: licet_schema::Version::try_from(1i64).expect("a version"),
        terminal: None,
        iat: 1,
    };
    let token =
        licet_common::signing::Draft::license(&claims).and_then(|draft| draft.sign(&keyring)).expect("a token").token;
    let verified = run("licet", &["verify", &token, "--jwks", "jwks.json", "--json"], &[], at);
    assert!(verified.status.success());
    let told: serde_json::Value = serde_json::from_slice(&verified.stdout).expect("one JSON object");
    assert_eq!((&told["kind"], &told["claims"]["sub"]), (&"license".into(), &"alice".into()));
    fails(&run("licet", &["verify", &token[..token.len() - 4], "--jwks", "jwks.json"], &[], at), 1, "altered");
    fails(&run("licet", &["verify", "hello", "--jwks", "jwks.json"], &[], at), 1, "three parts");
    fails(&run("licet", &["verify", &token, "--jwks", "nothing.json"], &[], at), 2, "nothing.json");
}

#[test]
fn policies_are_printed_for_rabbitmqctl_and_as_definitions() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines = run("licet", &["topology", "policies"], &[], folder.path());
    let lines = String::from_utf8(lines.stdout).expect("text");
    assert_eq!(lines.lines().count(), topology::POLICIES.len());
    assert!(lines.lines().all(|line| line.starts_with("rabbitmqctl set_policy ")));
    let definitions = run("licet", &["topology", "policies", "--json"], &[], folder.path());
    let definitions: serde_json::Value = serde_json::from_slice(&definitions.stdout).expect("JSON");
    assert_eq!(definitions["policies"].as_array().map(Vec::len), Some(topology::POLICIES.len()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_worker_starts_within_a_second_idles_small_logs_little_and_stops_cleanly() {
    let world = World::services().await;
    let log = log_of(&world, "licet-catalog");
    std::fs::write(&log, "").expect("a log file");
    program("licet-catalog");
    let began = Instant::now();
    let worker = Process::start(&world, "licet-catalog");
    while !std::fs::read_to_string(&log).expect("its log").contains("consuming") {
        assert!(began.elapsed().as_secs() < 20, "it never consumed: {:?}", std::fs::read_to_string(&log));
        tokio::task::yield_now().await;
    }
    let elapsed = began.elapsed();
    assert!(elapsed.as_millis() < 1000, "it took {elapsed:?} to start");
    for version in 1..=50i64 {
        let version = licet_schema::Version::try_from(version).expect("a version");
        world.ask(&Request::ContentPut(licet_schema::message::ContentPut { version, ..song(1) })).await;
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.id())).expect("it runs");
    let resident =
        status.lines().find(|line| line.starts_with("RssAnon")).and_then(|line| line.split_whitespace().nth(1));
    let resident_kib: u64 = resident.and_then(|kib| kib.parse().ok()).expect("a size");
    println!("started in {elapsed:?}, {resident_kib} KiB of its own");
    assert!(resident_kib < 20_000_000 / 1024, "{resident_kib} KiB of its own");
    assert_eq!(worker.terminate(), Some(0));
    let lines = std::fs::read_to_string(&log).expect("its log");
    assert!(lines.lines().next().is_some_and(|line| line.contains("no table [senders]")), "it says so: {lines}");
    assert_eq!(lines.lines().count(), 3, "besides, one line when it consumes, one when it stops: {lines}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_broker_or_a_database_that_is_not_prepared_is_named_with_its_remedy() {
    let world = World::services().await;
    let keys = world.folder.path().join("keys");
    let amqp = crate::world::amqp_url();
    let unprepared = crate::world::new_database().await;
    let settings = |database| {
        [
            ("LICET_AMQP_URL", amqp.as_str()),
            ("LICET_KEYS", keys.to_str().expect("UTF-8")),
            ("LICET_DATABASE_URL", database),
        ]
    };
    let at = world.folder.path();
    fails(&run("licet-license", &[], &settings(&unprepared), at), 1, "licet migrate");
    let prepared = settings(world.database_url.as_deref().expect("PostgreSQL"));
    crate::world::empty_broker().await;
    fails(&run("licet-license", &[], &prepared, at), 1, "licet topology apply");
    assert_eq!(run("licet", &["topology", "check"], &prepared, at).status.code(), Some(1));
    assert!(run("licet", &["topology", "apply"], &prepared, at).status.success());
    assert!(run("licet", &["topology", "apply"], &prepared, at).status.success(), "again does no harm");
    assert!(run("licet", &["topology", "check"], &prepared, at).status.success());
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn an_operator_reissues_certificates_and_works_off_unmatched_money() {
    let mut world = World::services().await;
    world.start_workers();
    world.put_song(1).await;
    let (amqp, keys) = (crate::world::amqp_url(), world.folder.path().join("keys"));
    let database = world.database_url.clone().expect("a PostgreSQL database");
    let settings = [
        ("LICET_AMQP_URL", amqp.as_str()),
        ("LICET_KEYS", keys.to_str().expect("UTF-8")),
        ("LICET_DATABASE_URL", database.as_str()),
    ];
    let licet = |arguments: &[&str]| run("licet", arguments, &settings, world.folder.path());
    let listed = || {
        let output = licet(&["unmatched", "list", "--json"]);
        let list: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        list["unmatched"].as_array().expect("a list").clone()
    };

    let (first, second) = (world.ready("alice", 1).await, world.buy("alice", 1).await);
    world.ask(&crate::world::receipt(&second)).await;
    // Paid twice, under two ids: the second has no match.
    let Request::SettlementCompletion(mut again) = crate::world::completion(&first) else { unreachable!() };
    for id in ["pay-twice", "pay-thrice"] {
        again.settlement = licet_schema::ExternalId::try_from(id).expect("an id");
        let answer = world.ask(&Request::SettlementCompletion(again.clone())).await;
        assert_eq!(crate::world::verdict(&answer), "already_settled");
    }
    let kept = listed();
    assert_eq!(kept.len(), 2);
    let id = |index: usize| kept[index]["id"].as_str().expect("an id").to_owned();
    let taken = first.certificates[0].to_string();
    fails(&licet(&["unmatched", "assign", &id(0), "--certificate", &taken]), 1, "already_settled");
    let waiting = second.certificates[0].to_string();
    assert!(licet(&["unmatched", "assign", &id(0), "--certificate", &waiting]).status.success());
    let license = world.ask(&crate::world::license_request(&second.tokens[0], "player")).await;
    assert_eq!(crate::world::verdict(&license), "license.issued", "it is paid for now");
    assert!(licet(&["unmatched", "refund", &id(1)]).status.success());
    assert!(listed().is_empty());
    fails(&licet(&["unmatched", "refund", &id(1)]), 1, "licet unmatched list");

    let output = licet(&["reissue", &taken, "--reason", "terminal lost", "--json"]);
    let reissued: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&reissued["generation"], &reissued["remaining"]), (&serde_json::json!(2), &serde_json::json!(1)));
    let old = world.ask(&crate::world::license_request(&first.tokens[0], "player")).await;
    assert_eq!(crate::world::verdict(&old), "superseded");
    world.finish().await;
}

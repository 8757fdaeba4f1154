//! The programs as users run them: error messages, exit codes, startup and shutdown.

use std::{
    path::Path,
    process::{Command, Output},
    time::Instant,
};

use licet_common::signing::{Draft, LicenseClaims, folder};
use licet_schema::{Request, message::ContentPut};
use licet_workers::registry;
use uuid::Uuid;

use crate::{
    processes::{Process, log_of},
    system::{
        TestSystem, amqp_url, completion, empty_broker, external_id, license_request, name, new_database, outcome,
        program, receipt, song, version,
    },
};

/// Runs a program with only these settings.
pub(crate) fn run(name: &str, arguments: &[&str], settings: &[(&str, &str)], folder: &Path) -> Output {
    let mut command = Command::new(program(name));
    for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("LICET_")) {
        command.env_remove(key);
    }
    // The management API of the test broker, unless the settings name another one.
    if let Some(url) = std::env::var_os("LICET_TEST_MANAGEMENT_URL") {
        command.env("LICET_MANAGEMENT_URL", url);
    }
    command.args(arguments).envs(settings.iter().copied()).current_dir(folder).output().expect("the program runs")
}

/// Checks the exit code, and that standard error is one line that contains this text.
#[track_caller]
pub(crate) fn fails(output: &Output, code: i32, expected: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(error.contains(expected), "expected {expected:?} in {error:?}");
    assert_eq!(error.trim().lines().count(), 1, "one line: {error}");
    assert!(!error.contains("panicked"), "{error}");
}

const AMQP: (&str, &str) = ("LICET_AMQP_URL", "amqp://127.0.0.1:1");
const DATABASE: (&str, &str) = ("LICET_DATABASE_URL", "postgres://licet:secret@127.0.0.1:1/licet");

#[test]
fn a_worker_that_cannot_start_prints_the_reason_in_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    fails(&run("licet-purchase", &[], &[], at), 2, "LICET_AMQP_URL");
    fails(&run("licet-purchase", &[], &[AMQP], at), 2, "LICET_DATABASE_URL");
    fails(&run("licet-purchase", &[], &[("LICET_AMQP_URL", "memory:"), DATABASE], at), 2, "memory:");
    fails(&run("licet-purchase", &[], &[("LICET_AMQP_URL", "http://x"), DATABASE], at), 2, "amqp://");
    fails(&run("licet-purchase", &[], &[AMQP, ("LICET_DATABASE_URL", "sqlite:x.db")], at), 2, "licet serve");
    fails(&run("licet-purchase", &[], &[AMQP, DATABASE], at), 2, "licet keys new");
    fails(&run("licet-purchase", &[], &[AMQP, DATABASE, ("LICET_BATCH_MAX", "0")], at), 2, "LICET_BATCH_MAX");
    fails(&run("licet-purchase", &[], &[AMQP, DATABASE, ("LICET_LOG", "in fo=:")], at), 2, "LICET_LOG");
    std::fs::write(at.join("licet.toml"), "batchmax = 7\n").expect("a file");
    let output = run("licet-purchase", &[], &[AMQP, DATABASE], at);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("batchmax"));
    std::fs::remove_file(at.join("licet.toml")).expect("the file is removed");

    assert!(run("licet", &["keys", "new"], &[], at).status.success());
    let output = run("licet-purchase", &[], &[AMQP, DATABASE], at);
    fails(&output, 1, "127.0.0.1:1/licet cannot be reached");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("secret"), "an error message contains no password");
    assert_eq!(run("licet-purchase", &["--colour"], &[], at).status.code(), Some(2), "wrong usage");
}

#[test]
fn an_error_names_each_missing_installation_step_with_sqlite() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let settings = [AMQP, ("LICET_DATABASE_URL", "sqlite:licet.db")];
    assert!(run("licet", &["keys", "new"], &settings, at).status.success());
    fails(&run("licet", &["keys", "new"], &settings, at), 2, "already has the signing key");
    fails(&run("licet", &["serve"], &settings, at), 1, "licet migrate");
    assert!(run("licet", &["migrate"], &settings, at).status.success());
    assert!(run("licet", &["migrate"], &settings, at).status.success(), "a second run changes nothing");
    fails(&run("licet", &["serve"], &settings, at), 1, "broker at 127.0.0.1:1");
    fails(&run("licet", &["serve", "kitchen"], &settings, at), 2, "kitchen");
    assert!(run("licet", &["audit"], &settings, at).status.success());
    fails(&run("licet", &["show", "nobody"], &settings, at), 1, "no purchase matches");

    let lock = std::fs::File::options().write(true).open(at.join("licet.db.lock")).expect("the lock file");
    lock.try_lock().expect("the lock is free");
    fails(&run("licet", &["audit"], &settings, at), 1, "in use by another process");
}

#[test]
fn the_demo_sells_licenses_audits_the_database_and_prints_a_report() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run("licet", &["demo", "--purchases", "40", "--json"], &[], folder.path());
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(report["purchases"], 40);
    assert!(report["containers"].as_u64() > Some(10) && report["returned"].as_u64() > Some(3), "{report}");
    assert_eq!(report["audit"]["violations"], serde_json::json!([]));
    assert_eq!(report["stages"]["lifecycle"]["count"], report["lifecycles"]);
    let output = run("licet", &["demo", "--purchases", "40"], &[], folder.path());
    let text = String::from_utf8(output.stdout).expect("text");
    for expected in ["lifecycles/s", "p99", "license.return", "The audit passed"] {
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
    let keyring = folder::load(&at.join("keys")).expect("the new keys");
    let claims = LicenseClaims {
        iss: "licet".into(),
        jti: Uuid::from_u128(5),
        sub: name("alice"),
        certificate: Uuid::from_u128(6),
        content: name("song"),
        version: version(1),
        terminal: None,
        iat: 1,
    };
    let token = Draft::new(&claims).and_then(|draft| draft.sign(&keyring)).expect("a token").token;
    let verified = run("licet", &["verify", &token, "--jwks", "jwks.json", "--json"], &[], at);
    assert!(verified.status.success());
    let report: serde_json::Value = serde_json::from_slice(&verified.stdout).expect("one JSON object");
    assert_eq!((&report["kind"], &report["claims"]["sub"]), (&"license".into(), &"alice".into()));
    let text = String::from_utf8(run("licet", &["verify", &token, "--jwks", "jwks.json"], &[], at).stdout);
    let last = text.expect("text").lines().last().map(str::to_owned).unwrap_or_default();
    assert!(last.contains("does not tell whether the license was returned or revoked: ask `status.query`"), "{last}");
    fails(&run("licet", &["verify", &token[..token.len() - 4], "--jwks", "jwks.json"], &[], at), 1, "altered");
    fails(&run("licet", &["verify", "hello", "--jwks", "jwks.json"], &[], at), 1, "three parts");
    fails(&run("licet", &["verify", &token, "--jwks", "nothing.json"], &[], at), 2, "nothing.json");
}

#[test]
fn policies_are_printed_as_rabbitmqctl_commands_and_as_definitions() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines = run("licet", &["topology", "policies"], &[], folder.path());
    let lines = String::from_utf8(lines.stdout).expect("text");
    assert_eq!(lines.lines().count(), registry::policies().len());
    assert!(lines.lines().all(|line| line.starts_with("rabbitmqctl set_policy ")));
    let definitions = run("licet", &["topology", "policies", "--json"], &[], folder.path());
    let definitions: serde_json::Value = serde_json::from_slice(&definitions.stdout).expect("JSON");
    assert_eq!(definitions["policies"].as_array().map(Vec::len), Some(registry::policies().len()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_worker_starts_within_a_second_uses_little_memory_logs_little_and_stops_cleanly() {
    let system = TestSystem::services().await;
    let log = log_of(&system, "licet-catalog");
    std::fs::write(&log, "").expect("a log file");
    program("licet-catalog");
    let began = Instant::now();
    let worker = Process::start(&system, "licet-catalog");
    while !std::fs::read_to_string(&log).expect("its log").contains("consuming") {
        assert!(began.elapsed().as_secs() < 20, "the worker does not consume: {:?}", std::fs::read_to_string(&log));
        tokio::task::yield_now().await;
    }
    let elapsed = began.elapsed();
    assert!(elapsed.as_millis() < 1000, "it took {elapsed:?} to start");
    for number in 1..=50i64 {
        system.ask(&Request::ContentPut(ContentPut { version: version(number), ..song(1) })).await;
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.id())).expect("the process runs");
    let resident =
        status.lines().find(|line| line.starts_with("RssAnon")).and_then(|line| line.split_whitespace().nth(1));
    let resident_kib: u64 = resident.and_then(|kib| kib.parse().ok()).expect("a size");
    println!("started in {elapsed:?}, {resident_kib} KiB of private memory");
    assert!(resident_kib < 20_000_000 / 1024, "{resident_kib} KiB of private memory");
    assert_eq!(worker.terminate(), Some(0));
    let lines = std::fs::read_to_string(&log).expect("its log");
    assert!(
        lines.lines().next().is_some_and(|line| line.contains("no table [senders]")),
        "the first line says that senders are not restricted: {lines}"
    );
    assert_eq!(lines.lines().count(), 3, "the worker logs one line when it consumes and one when it stops: {lines}");
    system.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn the_error_for_an_unprepared_broker_or_database_names_the_command_that_prepares_it() {
    let system = TestSystem::services().await;
    let keys = system.folder.path().join("keys");
    let amqp = amqp_url();
    let unprepared = new_database().await;
    let settings = |database| {
        [
            ("LICET_AMQP_URL", amqp.as_str()),
            ("LICET_KEYS", keys.to_str().expect("UTF-8")),
            ("LICET_DATABASE_URL", database),
        ]
    };
    let at = system.folder.path();
    fails(&run("licet-license", &[], &settings(&unprepared), at), 1, "licet migrate");
    let prepared = settings(system.database_url.as_deref().expect("PostgreSQL"));
    empty_broker().await;
    fails(&run("licet-license", &[], &prepared, at), 1, "licet topology apply");
    assert_eq!(run("licet", &["topology", "check"], &prepared, at).status.code(), Some(1));
    assert!(run("licet", &["topology", "apply"], &prepared, at).status.success());
    assert!(run("licet", &["topology", "apply"], &prepared, at).status.success(), "a second run changes nothing");
    assert!(run("licet", &["topology", "check"], &prepared, at).status.success());
    system.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn an_operator_can_reissue_certificates_and_resolve_unmatched_money() {
    let mut system = TestSystem::services().await;
    system.start_workers();
    system.put_song(1).await;
    let (amqp, keys) = (amqp_url(), system.folder.path().join("keys"));
    let database = system.database_url.clone().expect("a PostgreSQL database");
    let settings = [
        ("LICET_AMQP_URL", amqp.as_str()),
        ("LICET_KEYS", keys.to_str().expect("UTF-8")),
        ("LICET_DATABASE_URL", database.as_str()),
    ];
    let licet = |arguments: &[&str]| run("licet", arguments, &settings, system.folder.path());
    let listed = || {
        let output = licet(&["unmatched", "list", "--json"]);
        let list: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        list["unmatched"].as_array().expect("a list").clone()
    };

    let (first, second) = (system.ready("alice", 1).await, system.buy("alice", 1).await);
    system.ask(&receipt(&second)).await;
    // Two more payments for the first purchase, which match no purchase.
    let Request::SettlementCompletion(mut again) = completion(&first) else { unreachable!() };
    for id in ["pay-twice", "pay-thrice"] {
        again.settlement = external_id(id);
        let reply = system.ask(&Request::SettlementCompletion(again.clone())).await;
        assert_eq!(outcome(&reply), "already_settled");
    }
    let unmatched = listed();
    assert_eq!(unmatched.len(), 2);
    let id = |index: usize| unmatched[index]["id"].as_str().expect("an id").to_owned();
    let settled = first.certificates[0].to_string();
    fails(&licet(&["unmatched", "assign", &id(0), "--certificate", &settled]), 1, "already_settled");
    let waiting = second.certificates[0].to_string();
    assert!(licet(&["unmatched", "assign", &id(0), "--certificate", &waiting]).status.success());
    let license = system.ask(&license_request(&second.tokens[0], "player")).await;
    assert_eq!(outcome(&license), "license.issued", "the certificate is paid for");
    assert!(licet(&["unmatched", "refund", &id(1)]).status.success());
    assert!(listed().is_empty());
    fails(&licet(&["unmatched", "refund", &id(1)]), 1, "licet unmatched list");

    let output = licet(&["reissue", &settled, "--reason", "terminal lost", "--json"]);
    let reissued: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&reissued["generation"], &reissued["remaining"]), (&serde_json::json!(2), &serde_json::json!(1)));
    let old = system.ask(&license_request(&first.tokens[0], "player")).await;
    assert_eq!(outcome(&old), "superseded");
    system.finish().await;
}

//! Cases B7 and B12: output that is lost, and the sample of the README with a clock that differs.

use std::{
    fs::File,
    process::{Command, Stdio},
};

use licet_common::store::{Store, TOOL_TIMEOUT};
use sea_orm::ConnectionTrait;

use super::a10::await_line;
use crate::{
    processes::Process,
    programs::run,
    system::{amqp_url, empty_broker, exclusive, new_database, program},
};

/// The first Python program in the README.
fn sample() -> String {
    let readme = include_str!("../../../README.md");
    let (_, rest) = readme.split_once("```python\n").expect("a Python program in the README");
    rest.split_once("```").expect("its end").0.to_owned()
}

/// Makes PyJWT believe that it is 30 s earlier.
const SLOW_CLOCK: &str = "
import datetime, jwt.api_jwt
class Slow(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.now(tz) - datetime.timedelta(seconds=30)
jwt.api_jwt.datetime = Slow
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn case_b12_the_sample_of_the_readme_accepts_a_new_token_if_the_clock_of_the_verifier_is_slow() {
    let _exclusive = exclusive().await;
    empty_broker().await;
    let (folder, database, amqp) = (tempfile::tempdir().expect("a folder"), new_database().await, amqp_url());
    let settings = [("LICET_AMQP_URL", amqp.as_str()), ("LICET_DATABASE_URL", database.as_str())];
    let licet = |arguments: &[&str]| {
        let output = run("licet", arguments, &settings, folder.path());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    for command in [&["keys", "new"][..], &["migrate"], &["topology", "apply"]] {
        licet(command);
    }
    std::fs::write(folder.path().join("jwks.json"), licet(&["keys", "export"])).expect("a file");
    let log = folder.path().join("serve.log");
    let owned = settings.map(|(key, value)| (key, value.to_owned()));
    let _serve = Process::with_arguments("licet", &["serve"], &log, &owned);
    await_line(&log, "worker=\"query\"").await;
    let _provider = Process::with_arguments("licet", &["provider"], &folder.path().join("provider.log"), &owned);
    for clock in ["", SLOW_CLOCK] {
        let output = Command::new("/usr/bin/python3")
            .args(["-c", &format!("{clock}{}", sample()), &amqp])
            .current_dir(folder.path())
            .output()
            .expect("python3 runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("accepted, payment instructed"), "{text}");
        let token = text.lines().last().expect("the token");
        licet(&["verify", token, "--jwks", "jwks.json"]);
    }
}

/// The exit code and the errors of a command whose output goes to this file.
fn with_output(arguments: &[&str], database_url: &str, output: Stdio) -> (Option<i32>, String) {
    let mut command = Command::new(program("licet"));
    command.args(arguments).env("LICET_DATABASE_URL", database_url).stdout(output).stderr(Stdio::piped());
    let output = command.spawn().expect("the program runs").wait_with_output().expect("it ends");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A standard output whose reader is gone.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

#[tokio::test]
async fn case_b07_the_verdict_decides_the_exit_code_of_an_audit_whatever_happens_to_its_output() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite:{}", folder.path().join("licet.db").display());
    let full = || Stdio::from(File::options().write(true).open("/dev/full").expect("a device that is full"));
    let store = Store::create(&url.clone().into(), 1, TOOL_TIMEOUT).await.expect("a new file");
    store.migrate().await.expect("the tables are created");
    drop(store);
    let failed = "the output could not be written";
    for arguments in [&["audit"][..], &["audit", "--json"], &["show", "alice"], &["config", "check"]] {
        let (code, errors) = with_output(arguments, &url, full());
        assert_eq!(code, Some(1), "{arguments:?}: {errors}");
        assert!(errors.contains(failed) || arguments[0] == "show", "{arguments:?}: {errors}");
    }
    let (code, errors) = with_output(&["audit"], &url, closed_pipe());
    assert_eq!((code, errors.as_str()), (Some(0), ""), "a closed pipe is not an error");

    let store = Store::open(&url.clone().into(), 1).await.expect("the file");
    let points = "INSERT INTO account (name, balance) VALUES ('alice', 7)";
    store.pool().execute_unprepared(points).await.expect("a row that no message has written");
    drop(store);
    for output in [Stdio::null(), full(), closed_pipe()] {
        let (code, errors) = with_output(&["audit"], &url, output);
        assert_eq!(code, Some(1), "the audit fails: {errors}");
    }
}

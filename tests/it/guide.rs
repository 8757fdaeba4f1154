//! The commands of docs/operations.md that prepare the servers, carried out as they are written
//! there.

use std::{process::Command, time::Instant};

use licet_workers::registry;

use crate::{
    nodes::{postgres::Postgres, rabbit::Rabbit},
    processes::Process,
    programs::{fails, run},
    system::{TIMEOUT, exclusive},
};

const GUIDE: &str = include_str!("../../docs/operations.md");
/// The role that owns the tables. The superuser of the test server has the name that the guide
/// uses.
const OWNER: &str = "owner";
const DATABASE: &str = "guide";
const PURCHASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../cli/data/cdnow_sample.txt");

/// The section of the guide with this title.
fn section(title: &str) -> &'static str {
    let start = GUIDE.find(&format!("## {title}\n")).unwrap_or_else(|| panic!("a section {title}"));
    let text = &GUIDE[start + title.len() + 4..];
    &text[..text.find("\n## ").unwrap_or(text.len())]
}

/// The arguments of each `rabbitmqctl` command in a text, as a shell reads them.
fn broker_commands(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("rabbitmqctl "));
    let arguments = |line| {
        let script = format!("printf '%s\\n' {line}");
        let output = Command::new("sh").args(["-c", &script]).output().expect("a shell");
        String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
    };
    lines.map(arguments).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn the_users_and_roles_of_the_operations_guide_suffice_for_workers_and_operators() {
    let _exclusive = exclusive().await;
    let (rabbit, postgres) = tokio::task::block_in_place(|| (Rabbit::with_management(), Postgres::start()));
    let install = section("Install");
    let commands = broker_commands(install);
    assert_eq!(commands.len(), 6, "{commands:?}");
    for arguments in commands {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        tokio::task::block_in_place(|| rabbit.ctl(&arguments));
    }
    postgres.execute("postgres", &format!("CREATE ROLE {OWNER} LOGIN PASSWORD 'secret'")).await;
    let create = format!("CREATE DATABASE {DATABASE} OWNER {OWNER} ENCODING 'UTF8' TEMPLATE template0");
    postgres.execute("postgres", &create).await;

    let folder = tempfile::tempdir().expect("a folder");
    let settings = |broker: &str, role: &str| {
        vec![
            ("LICET_AMQP_URL", format!("amqp://{broker}:secret@127.0.0.1:{}/%2f", rabbit.port)),
            ("LICET_MANAGEMENT_URL", format!("http://licet:secret@127.0.0.1:{}", rabbit.management_port)),
            ("LICET_DATABASE_URL", format!("postgres://{role}:secret@127.0.0.1:{}/{DATABASE}", postgres.port)),
        ]
    };
    let (operator, worker) = (settings("licet", OWNER), settings("licet_worker", "licet_worker"));
    let succeeds = |settings: &[(&str, String)], arguments: &[&str]| {
        let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let output = tokio::task::block_in_place(|| run("licet", arguments, &settings, folder.path()));
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "licet {arguments:?}: {text}");
        text
    };
    for arguments in [&["keys", "new"][..], &["migrate"], &["topology", "apply"], &["topology", "check"]] {
        succeeds(&operator, arguments);
    }
    let limits = broker_commands(&succeeds(&operator, &["topology", "policies"]));
    assert!(!limits.is_empty());
    for arguments in limits {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        tokio::task::block_in_place(|| rabbit.ctl(&arguments));
    }
    let roles = install.split("```sql\n").nth(1).and_then(|text| text.split("```").next()).expect("statements");
    postgres.execute(DATABASE, &roles.replace("FOR ROLE licet ", &format!("FOR ROLE {OWNER} "))).await;

    let start = |name: &str, arguments: &[&str], settings: &[(&str, String)]| {
        Process::with_arguments(name, arguments, &folder.path().join(format!("{name}.log")), settings)
    };
    let mut programs: Vec<_> = registry::names().map(|name| start(&format!("licet-{name}"), &[], &worker)).collect();
    programs.push(start("licet", &["provider"], &operator));
    let report = succeeds(&operator, &["replay", PURCHASES, "--purchases", "20", "--no-provider"]);
    assert!(report.contains("20 purchases"), "{report}");
    for settings in [&operator, &worker] {
        for arguments in [&["audit"][..], &["unmatched", "list"], &["payouts", "list"], &["dead", "list"]] {
            succeeds(settings, arguments);
        }
    }
    // The workers' user may not create the queue in which `licet replay` receives its replies.
    let settings: Vec<_> = worker.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let refused = tokio::task::block_in_place(|| run("licet", &["replay", PURCHASES], &settings, folder.path()));
    fails(&refused, 1, "Check the permissions of the user in LICET_AMQP_URL");
    // RabbitMQ updates its statistics every few seconds, so a consumer may be listed late.
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let checked = tokio::task::block_in_place(|| run("licet", &["check"], &settings, folder.path()));
        if checked.status.success() {
            break;
        }
        let problems = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(Instant::now() < deadline, "{problems}");
    }
}

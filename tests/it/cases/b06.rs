//! Cases B6, B8, B10, B11 and B16: addresses of the broker and the database, and the environment.

use std::{
    net::{Ipv6Addr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Output},
};

use crate::{
    programs::{fails, run},
    system::{amqp_url, empty_broker, exclusive, program},
};

fn licet(arguments: &[&str], settings: &[(&str, &str)], folder: &Path) -> Output {
    run("licet", arguments, settings, folder)
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// The port of the test broker, and its user and password as they are in its URL.
fn broker() -> (u16, String) {
    let url = amqp_url();
    let (user, rest) = url.strip_prefix("amqp://").and_then(|rest| rest.split_once('@')).expect("an AMQP URL");
    let port = rest.split(['/', ':']).nth(1).and_then(|port| port.parse().ok()).expect("a port");
    (port, user.to_owned())
}

/// Forwards connections to a port of this machine over IPv6 to the same port over IPv4.
fn forward_from_ipv6(port: u16) {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).expect("the machine has an IPv6 loopback address");
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(("127.0.0.1", port)).expect("the broker answers");
            let pairs = [(client.try_clone(), server.try_clone()), (Ok(server), Ok(client))];
            for (from, to) in pairs {
                let (mut from, mut to) = (from.expect("a socket"), to.expect("a socket"));
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
}

#[tokio::test]
#[ignore = "needs RabbitMQ: run tests/run.sh"]
async fn case_b06_a_broker_is_reached_at_its_ipv6_address_and_never_at_another_host() {
    let _exclusive = exclusive().await;
    empty_broker().await;
    let (folder, (port, user)) = (folder(), broker());
    forward_from_ipv6(port);
    let here = format!("amqp://{user}@[::1]:{port}/%2f");
    let elsewhere = format!("amqp://{user}@[2001:db8::1]:{port}/%2f");
    let output = licet(&["topology", "apply", "--amqp", &elsewhere], &[], folder.path());
    fails(&output, 1, &format!("[2001:db8::1]:{port}"));
    let local = [("LICET_AMQP_URL", amqp_url())];
    let local: Vec<_> = local.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let output = licet(&["topology", "check"], &local, folder.path());
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("missing: exchange licet.in"),
        "nothing was declared here"
    );
    let output = licet(&["topology", "apply", "--amqp", &here], &[], folder.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = licet(&["topology", "check"], &local, folder.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn case_b08_no_part_of_an_address_but_host_port_and_name_appears_in_an_error() {
    let folder = folder();
    let addresses = [
        "postgres://user:hunter2@127.0.0.1:1/licet",
        "postgres://127.0.0.1:1/licet?password=hunter2",
        "postgres://user:hun/ter2@127.0.0.1:1/licet",
        "postgres://user:hun?ter2@127.0.0.1:1/licet",
        "postgres://user:hun#ter2@127.0.0.1:1/licet",
        "postgres://user:1/ter2@127.0.0.1:1/licet",
        "postgres://user:1#ter2@127.0.0.1:1/licet",
        "postgres://user:hun@ter2@127.0.0.1:1/licet",
        "postgres://user:hunter2@127.0.0.1:port/licet",
        "postgres://user:hunter2@127.0.0.1:1/licet?sslmode=hunter2",
        "mysql://user:hunter2@127.0.0.1:1/licet",
    ];
    for address in addresses {
        for address in [address.to_owned(), address.replace("postgres", "amqp").replace("licet?", "x?")] {
            let is_broker = address.starts_with("amqp");
            let command: &[&str] = if is_broker { &["topology", "check"] } else { &["audit"] };
            let variable = if is_broker { "LICET_AMQP_URL" } else { "LICET_DATABASE_URL" };
            let output = licet(command, &[(variable, &address)], folder.path());
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{address}");
            assert!(!error.contains("hun") && !error.contains("ter2"), "{address}: {error}");
            assert_eq!(error.trim().lines().count(), 1, "{error}");
            let output = licet(&["config", "check"], &[(variable, &address)], folder.path());
            let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(!text.contains("hun") && !text.contains("ter2"), "{address}: {text}");
        }
    }
}

#[test]
fn case_b10_an_empty_variable_counts_as_not_set_and_no_color_switches_colours_off() {
    let folder = folder();
    let settings = [("LICET_BATCH_MAX", ""), ("LICET_DATABASE_URL", ""), ("LICET_LOG", "")];
    let output = licet(&["config", "check"], &settings, folder.path());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.lines().any(|line| line.starts_with("batch_max") && line.ends_with("256  [default]")), "{text}");

    assert!(licet(&["keys", "new"], &[], folder.path()).status.success());
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path().join("keys"), open).expect("the permissions of an own folder");
    // `script` runs a command on a terminal of its own.
    let on_terminal = |variables: &[(&str, &str)]| {
        let mut command = Command::new("script");
        let export = format!("{} keys export", program("licet").display());
        command.args(["--quiet", "--return", "--command", &export, "/dev/null"]).current_dir(folder.path());
        command.env_remove("NO_COLOR").envs(variables.iter().copied());
        let output = command.output().expect("script runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("other users can open the keys folder"), "{text}");
        text
    };
    assert!(on_terminal(&[]).contains('\u{1b}'), "a terminal shows colours");
    assert!(on_terminal(&[("NO_COLOR", "")]).contains('\u{1b}'), "an empty variable counts as not set");
    assert!(!on_terminal(&[("NO_COLOR", "1")]).contains('\u{1b}'));
}

#[test]
fn case_b11_an_empty_virtual_host_is_named_and_policies_are_for_the_virtual_host_of_the_address() {
    let folder = folder();
    let empty = [("LICET_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")];
    fails(&licet(&["topology", "check"], &empty, folder.path()), 2, "names the empty virtual host");
    fails(&run("licet", &["topology", "policies"], &empty, folder.path()), 2, "write /%2f for the virtual host /");
    let policies = |settings: &[(&str, &str)], arguments: &[&str]| {
        let output = licet(&[&["topology", "policies"], arguments].concat(), settings, folder.path());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let orders = [("LICET_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/orders")];
    assert!(policies(&orders, &["--json"]).contains(r#""vhost":"orders""#));
    assert!(policies(&orders, &[]).lines().all(|line| line.starts_with("rabbitmqctl set_policy -p 'orders' ")));
    assert!(policies(&[], &["--json"]).contains(r#""vhost":"/""#));
    assert!(policies(&[], &[]).lines().all(|line| line.starts_with("rabbitmqctl set_policy --apply-to ")));
}

#[tokio::test]
#[ignore = "needs RabbitMQ: run tests/run.sh"]
async fn case_b11_a_virtual_host_or_a_password_that_the_broker_refuses_is_said_to_be_refused() {
    let (folder, (port, user)) = (folder(), broker());
    for (address, said) in [
        (format!("amqp://{user}@127.0.0.1:{port}/elsewhere"), "vhost elsewhere not found"),
        (format!("amqp://nobody:wrong@127.0.0.1:{port}/%2f"), "ACCESS_REFUSED"),
    ] {
        let output = licet(&["topology", "apply"], &[("LICET_AMQP_URL", &address)], folder.path());
        fails(&output, 1, "refused: ");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains(said) && error.contains("Check the user, the password and the virtual host"), "{error}");
    }
}

#[test]
fn case_b16_an_sqlite_address_names_a_file_and_a_command_that_fails_leaves_nothing_behind() {
    let folder = folder();
    let at = folder.path();
    let files = || {
        let mut names: Vec<_> =
            std::fs::read_dir(at).expect("the folder").flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        names
    };
    let migrate = |url: &str| licet(&["migrate"], &[("LICET_DATABASE_URL", url)], at);
    for url in ["sqlite::memory:", "sqlite:", "sqlite://", "sqlite:l.db?mode=memory"] {
        fails(&migrate(url), 2, "names no file");
        fails(&licet(&["audit"], &[("LICET_DATABASE_URL", url)], at), 2, "names no file");
    }
    fails(&migrate("sqlite:l.db?mode=ro"), 2, "mode=rwc");
    fails(&migrate("sqlite:l.db?mode=rw"), 1, "there is no file l.db");
    fails(&migrate("sqlite:no/such/folder.db"), 1, "no/such/folder.db");
    fails(&migrate("sqlite:/"), 1, "cannot be reached");
    for command in ["audit", "serve", "show"] {
        let arguments: &[&str] = if command == "show" { &["show", "alice"] } else { &[command] };
        let settings =
            [("LICET_DATABASE_URL", "sqlite:l.db"), ("LICET_AMQP_URL", "amqp://127.0.0.1:1"), ("LICET_KEYS", "none")];
        let output = licet(arguments, &settings, at);
        assert!(!output.status.success(), "{command}");
    }
    assert_eq!(files(), [""; 0], "nothing stays behind");

    std::fs::create_dir(at.join("a")).expect("a folder");
    for (url, file) in
        [("sqlite:a%2Fb.db", "a/b.db"), ("sqlite:l.db?mode=rwc", "l.db"), ("sqlite://50%25%3F.db", "50%?.db")]
    {
        let output = migrate(url);
        assert!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(at.join(file).is_file(), "{url}: {:?}", files());
        assert!(licet(&["audit"], &[("LICET_DATABASE_URL", url)], at).status.success(), "{url}");
    }
    assert!(migrate("sqlite:l.db?mode=rw").status.success());
}

#[test]
fn the_configuration_is_printed_with_its_sources_and_without_passwords() {
    let folder = folder();
    std::fs::write(folder.path().join("licet.toml"), "batch_max = 7\n").expect("a file");
    let settings = [("LICET_DATABASE_URL", "postgres://licet:hunter2@db/licet"), ("LICET_ISSUER", "shop")];
    let output = licet(&["config", "check", "--log", "warn"], &settings, folder.path());
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success());
    for (key, value) in [
        ("database_url", "postgres: db:5432/licet  [LICET_DATABASE_URL]"),
        ("issuer", "shop  [LICET_ISSUER]"),
        ("batch_max ", "7  [./licet.toml]"),
        ("log", "warn  [--log]"),
        ("amqp_url ", "(not set)  [default]"),
    ] {
        assert!(text.lines().any(|line| line.starts_with(key) && line.ends_with(value)), "{key}: {text}");
    }
    assert!(!text.contains("hunter2"), "{text}");
    let output = licet(&["config", "check"], &[("LICET_BATCH_MAX", "0")], folder.path());
    fails(&output, 2, "LICET_BATCH_MAX");
}

#[test]
fn a_url_in_a_file_is_used_and_a_file_that_everyone_can_read_is_a_warning() {
    let folder = folder();
    let file = folder.path().join("url");
    std::fs::write(&file, "sqlite:l.db\n").expect("a file");
    let mode = |mode: u32| std::os::unix::fs::PermissionsExt::from_mode(mode);
    for (permissions, warned) in [(0o644, true), (0o600, false)] {
        std::fs::set_permissions(&file, mode(permissions)).expect("the permissions of an own file");
        let output = licet(&["migrate"], &[("LICET_DATABASE_URL_FILE", "url")], folder.path());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{error}");
        assert_eq!(error.contains("every user can read this file with a password"), warned, "{error}");
    }
    assert!(folder.path().join("l.db").is_file());
}

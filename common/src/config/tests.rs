use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use clap::{Args, Command, CommandFactory, FromArgMatches, Parser};

use super::{
    definitions::{DefaultValue, Group, Kind, SETTINGS, Setting},
    groups::{ALL, BROKER, DATABASE, ENGINE, LOG},
    *,
};

fn folder(file: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join(FILE), file).expect("a file in it");
    folder
}

/// Settings from these flags and variables, without the environment of the process.
fn settings(groups: Groups, flags: &[&str], variables: &[(&str, &str)]) -> Settings {
    let command = Command::new("licet").args(Settings::args(groups));
    let matches = command.try_get_matches_from([&["licet"], flags].concat()).expect("known flags");
    Settings::from_arguments(groups, &matches, |name| {
        variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| value.into())
    })
}

/// The configuration from all layers.
fn resolve(file: &str, variables: &[(&str, &str)], flags: &[&str]) -> Result<Config, ConfigError> {
    settings(ALL, flags, variables).resolve(folder(file).path())
}

#[track_caller]
fn error_of(file: &str, variables: &[(&str, &str)], flags: &[&str]) -> String {
    let error = resolve(file, variables, flags).expect_err("a mistake").to_string();
    assert_eq!(error.lines().count(), 1, "one line: {error}");
    error
}

/// A setting in the syntax of the file.
fn in_file(setting: &Setting, value: &str) -> String {
    let Setting { key, kind, .. } = setting;
    if matches!(kind, Kind::Number { .. } | Kind::Boolean) {
        format!("{key} = {value}\n")
    } else {
        format!("{key} = {value:?}\n")
    }
}

mod layers {
    use super::*;

    #[test]
    fn a_flag_overrides_the_environment_which_overrides_the_file_which_overrides_the_default() {
        let file = "batch_max = 7\nissuer = \"file\"\nreturn_ttl_s = 8\n";
        let variables = [("LICET_ISSUER", "variable"), ("LICET_RETURN_TTL_S", "9")];
        let config = resolve(file, &variables, &["--issuer", "flag"]).expect("a valid configuration");
        assert_eq!(config.terms.issuer, "flag");
        assert_eq!(config.terms.return_ttl.get(), 9);
        assert_eq!(config.limits.batch_max, 7);
        assert_eq!(config.terms.points_currency.as_str(), "USD");
    }

    /// The key of a setting, a value that differs from its default, and its value in a [`Config`].
    type Sample = (&'static str, &'static str, fn(&Config) -> String);

    fn file_of(secret: &Option<Secret>) -> String {
        match secret {
            Some(Secret::File { path, .. }) => path.display().to_string(),
            other => panic!("not a file: {other:?}"),
        }
    }

    fn samples() -> Vec<Sample> {
        vec![
            ("amqp_url", "amqps://a/b", |config| config.amqp_url().expect("it is set").expose_secret().into()),
            ("amqp_url_file", "/run/a", |config| file_of(&config.amqp_url)),
            ("database_url_file", "/run/b", |config| file_of(&config.database_url)),
            ("management_url", "https://a", |config| {
                config.management_url().expect("valid").expect("it is set").expose_secret().into()
            }),
            ("database_url", "sqlite:x.db", |config| config.database_url().expect("it is set").expose_secret().into()),
            ("database_timeout_s", "31", |config| config.limits.database_timeout().as_secs().to_string()),
            ("keys", "elsewhere", |config| config.keys.display().to_string()),
            ("issuer", "shop", |config| config.terms.issuer.clone()),
            ("points_currency", "JPY", |config| config.terms.points_currency.to_string()),
            ("receipt_ttl_s", "32", |config| config.terms.receipt_ttl.to_string()),
            ("return_ttl_s", "33", |config| config.terms.return_ttl.to_string()),
            ("unique_reference", "true", |config| config.terms.unique_reference.to_string()),
            ("batch_max", "34", |config| config.limits.batch_max.to_string()),
            ("batch_max_bytes", "35", |config| config.limits.batch_max_bytes.to_string()),
            ("reply_timeout_ms", "36", |config| config.limits.reply_timeout_ms.to_string()),
            ("shutdown_timeout_s", "37", |config| config.limits.shutdown_timeout_s.to_string()),
            ("sweep_interval_s", "38", |config| config.limits.sweep_interval_s.to_string()),
            ("log", "debug", |config| config.log.clone().expect("it is set")),
        ]
    }

    #[test]
    fn every_setting_can_be_set_in_the_file_by_a_variable_and_by_a_flag() {
        assert_eq!(samples().len(), SETTINGS.len(), "a sample of every setting");
        for (key, value, read) in samples() {
            let setting = Setting::named(key);
            let (variable, flag) = (setting.variable(), format!("--{}={value}", setting.flag));
            for config in [
                resolve(&in_file(setting, value), &[], &[]),
                resolve("", &[(&variable, value)], &[]),
                resolve("", &[], &[&flag]),
            ] {
                assert_eq!(read(&config.expect("a valid configuration")), value, "{key}");
            }
        }
    }

    #[test]
    fn the_names_of_variables_and_flags_are_those_of_the_key_except_for_urls() {
        for Setting { key, flag, .. } in SETTINGS {
            match *key {
                "amqp_url" => assert_eq!(*flag, "amqp"),
                "amqp_url_file" => assert_eq!(*flag, "amqp-file"),
                "database_url" => assert_eq!(*flag, "database"),
                "database_url_file" => assert_eq!(*flag, "database-file"),
                "management_url" => assert_eq!(*flag, "management"),
                key => assert_eq!(*flag, key.replace('_', "-")),
            }
        }
        assert_eq!(Setting::named("reply_timeout_ms").variable(), "LICET_REPLY_TIMEOUT_MS");
    }

    #[test]
    fn without_any_layer_the_defaults_apply() {
        let config = Settings::default().resolve(Path::new("/nonexistent")).expect("the defaults");
        assert_eq!((config.limits, &config.terms), (Limits::default(), &Terms::default()));
        let Limits { batch_max, batch_max_bytes, reply_timeout_ms, .. } = config.limits;
        assert_eq!((batch_max, batch_max_bytes, reply_timeout_ms), (256, 4 << 20, 10_000));
        let Limits { database_timeout_s, shutdown_timeout_s, sweep_interval_s, .. } = config.limits;
        assert_eq!((database_timeout_s, shutdown_timeout_s, sweep_interval_s), (30, 25, 10));
        let Terms { issuer, points_currency, receipt_ttl, return_ttl, unique_reference } = config.terms;
        assert!(!unique_reference);
        assert_eq!((issuer.as_str(), points_currency.as_str()), ("licet", "USD"));
        assert_eq!((receipt_ttl.get(), return_ttl.get()), (86_400, 86_400));
        assert_eq!((config.keys, config.log), (PathBuf::from("keys"), None));
        assert!(config.senders.is_open());
    }

    #[test]
    fn variables_of_other_groups_are_ignored_and_the_file_is_checked_as_a_whole() {
        let variables = [("LICET_ISSUER", ""), ("LICET_BATCH_MAX", "0"), ("LICET_LOG", "debug")];
        let config = settings(LOG, &[], &variables).resolve(folder("batch_max = 9\n").path()).expect("valid");
        assert_eq!((config.limits.batch_max, config.log.as_deref()), (9, Some("debug")));
        assert_eq!(config.terms, Terms::default());
        let error = settings(LOG, &[], &[]).resolve(folder("batch_max = 0\n").path());
        assert!(error.is_err_and(|error| error.to_string().contains("batch_max")));
    }

    #[test]
    fn a_folder_need_not_be_unicode_and_other_values_must() {
        let (folder, bytes) = (folder(""), OsString::from_vec(b"k\xff".to_vec()));
        let given = |variable: &'static str| {
            let matches = Command::new("licet").args(Settings::args(ALL)).get_matches_from(["licet"]);
            let environment = |name: &str| (name == variable).then(|| bytes.clone());
            Settings::from_arguments(ALL, &matches, environment).resolve(folder.path())
        };
        assert_eq!(given("LICET_KEYS").expect("any path").keys, PathBuf::from(&bytes));
        for variable in ["LICET_AMQP_URL", "LICET_ISSUER", "LICET_BATCH_MAX", "LICET_LOG", "LICET_POINTS_CURRENCY"] {
            let error = given(variable).expect_err("not UTF-8").to_string();
            assert!(error.contains(variable) && error.contains("UTF-8"), "{error}");
        }
    }
}

mod mistakes {
    use std::error::Error;

    use super::*;

    #[test]
    fn an_error_names_the_key() {
        for (file, key) in [
            ("receipt_ttl_s = 0", "receipt_ttl_s"),
            ("batch_max = 0", "batch_max"),
            ("database_timeout_s = 0", "database_timeout_s"),
            ("points_currency = \"usd\"", "points_currency"),
            ("batchmax = 3", "batchmax"),
            ("issuer = \"\"", "issuer"),
            ("batch_max_bytes = 0", "batch_max_bytes"),
            ("reply_timeout_ms = 9223372036854775807", "reply_timeout_ms"),
            ("shutdown_timeout_s = 9223372036854775807", "shutdown_timeout_s"),
            ("sweep_interval_s = -1", "sweep_interval_s"),
            ("log = \"in fo=:\"", "log"),
            ("batch_max = \"7\"", "batch_max"),
            ("unique_reference = \"true\"", "unique_reference"),
            ("unique_reference = 1", "unique_reference"),
            ("batch_max = 1.5", "batch_max"),
            ("issuer = 7", "issuer"),
            ("keys = [\"keys\"]", "keys"),
            ("senders = true", "senders"),
            ("senders = { bank = \"settlement.*\" }", "senders"),
            ("senders = { bank = [7] }", "senders"),
        ] {
            let error = error_of(file, &[], &[]);
            assert!(error.contains(key) && error.contains(FILE), "{file}: {error}");
        }
    }

    #[test]
    fn an_error_names_the_layer_the_value_and_what_is_expected() {
        let error = error_of("", &[("LICET_BATCH_MAX", "many")], &[]);
        assert_eq!(
            error,
            "batch_max, set by LICET_BATCH_MAX, is \"many\"; it must be a whole number of messages from 1 to 1024"
        );
        let error = error_of("", &[("LICET_POINTS_CURRENCY", "EUR")], &["--points-currency", "euro"]);
        assert_eq!(
            error,
            "points_currency, set by --points-currency, is \"euro\"; it must be three capital letters (ISO 4217)"
        );
        let error = error_of("receipt_ttl_s = true", &[], &["--receipt-ttl-s", "7"]);
        assert!(error.contains("is of type boolean; it must be a whole number of seconds"), "{error}");
        let error = error_of("", &[("LICET_UNIQUE_REFERENCE", "yes")], &[]);
        assert_eq!(error, "unique_reference, set by LICET_UNIQUE_REFERENCE, is \"yes\"; it must be true or false");
        let error = error_of("batchmax = 3", &[], &[]);
        assert!(error.contains("batch_max, ") && error.ends_with("senders"), "the keys that exist: {error}");
    }

    #[test]
    fn an_error_in_the_syntax_of_the_file_names_its_line_and_has_a_source() {
        let error = resolve("issuer = \"shop\"\nlog info\n", &[], &[]).expect_err("not TOML");
        assert!(error.to_string().contains("licet.toml, line 2: "), "{error}");
        assert!(error.source().is_some());
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join(FILE)).expect("a folder in place of the file");
        let error = Settings::default().resolve(folder.path()).expect_err("not a file");
        assert!(error.to_string().contains("licet.toml cannot be read: "), "{error}");
        assert!(error.source().is_some());
    }

    #[test]
    fn the_bounds_of_every_range_are_allowed_and_nothing_beyond_them() {
        for setting in SETTINGS {
            let Kind::Number { range, .. } = &setting.kind else { continue };
            let variable = setting.variable();
            let given = |number: i128| {
                let (text, flag) = (number.to_string(), format!("--{}={number}", setting.flag));
                [
                    resolve(&in_file(setting, &text), &[], &[]),
                    resolve("", &[(&variable, &text)], &[]),
                    resolve("", &[], &[&flag]),
                ]
            };
            let (least, most) = (i128::from(*range.start()), i128::from(*range.end()));
            for number in [least, most] {
                assert!(given(number).iter().all(Result::is_ok), "{} = {number}", setting.key);
            }
            for number in [least - 1, most + 1, i128::from(i64::MAX), i128::from(i64::MIN)] {
                for result in given(number) {
                    let error = result.expect_err("out of range").to_string();
                    assert!(error.contains(setting.key) && error.contains(&most.to_string()), "{error}");
                }
            }
        }
    }

    #[test]
    fn every_default_is_allowed() {
        for setting in SETTINGS {
            if let DefaultValue::Value(value) = setting.default {
                assert!(setting.kind.allows(value.as_ref()), "{} = {value}", setting.key);
            }
        }
    }

    #[test]
    fn urls_appear_neither_in_debug_output_nor_in_errors() {
        let secret = "amqp://licet:hunter2@broker/%2f";
        let given = settings(ALL, &["--amqp", secret], &[("LICET_DATABASE_URL", secret)]);
        assert!(!format!("{given:?}").contains("hunter2"), "{given:?}");
        let config = given.resolve(Path::new("/nonexistent")).expect("valid");
        assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
        let wrong_url = config.database_url().expect_err("not a database");
        assert!(!format!("{wrong_url} {wrong_url:?}").contains("hunter2"), "{wrong_url:?}");
        for file in [
            format!("amqp_url = \"{secret}"),
            format!("amqp_url = {secret}"),
            format!("amqp_url = [\"{secret}\"]"),
            format!("amqp_url = \"{secret}\"\namqp_url = \"{secret}\""),
            format!("amqpurl = \"{secret}\""),
            format!("batch_max = \"{secret}\""),
        ] {
            let error = resolve(&file, &[], &[]).expect_err("a mistake");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{file}: {error:?}");
        }
    }
}

mod urls {
    use super::*;

    #[test]
    fn a_worker_accepts_neither_sqlite_nor_the_in_process_transport() {
        let config = resolve("amqp_url = \"memory:\"\ndatabase_url = \"sqlite:x.db\"\n", &[], &[]).expect("valid");
        let error = config.amqp_url().expect_err("no broker").to_string();
        assert!(error.contains("memory:") && error.contains("amqp://"), "{error}");
        let error = config.shared_database_url().expect_err("not shared").to_string();
        assert!(error.contains("licet serve") && error.contains("postgres://"), "{error}");
        assert!(config.database_url().is_ok());
    }

    #[test]
    fn a_url_that_is_not_set_or_of_another_kind_is_an_error_with_an_example() {
        let unset = Settings::default().resolve(Path::new("/nonexistent")).expect("valid");
        let other = resolve("amqp_url = \"http://x\"\ndatabase_url = \"mysql://x\"\n", &[], &[]).expect("valid");
        for config in [unset, other] {
            let error = config.amqp_url().expect_err("no broker").to_string();
            assert!(error.contains("LICET_AMQP_URL") && error.contains("amqp://guest"), "{error}");
            let error = config.database_url().expect_err("no database").to_string();
            assert!(error.contains("LICET_DATABASE_URL") && error.contains("postgres://licet"), "{error}");
            assert!(config.shared_database_url().is_err());
        }
    }
}

mod files {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    fn secret_file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), text).expect("a file");
        file
    }

    #[test]
    fn a_url_is_read_from_a_file_without_its_trailing_newline() {
        for (text, url) in
            [("amqp://a/b\n", "amqp://a/b"), ("amqp://a/b\r\n", "amqp://a/b"), ("amqp://a/b", "amqp://a/b")]
        {
            let file = secret_file(text);
            let path = file.path().to_str().expect("a path");
            for config in [
                resolve(&format!("amqp_url_file = {path:?}\n"), &[], &[]),
                resolve("", &[("LICET_AMQP_URL_FILE", path)], &[]),
                resolve("", &[], &["--amqp-file", path]),
            ] {
                let config = config.expect("valid");
                assert_eq!(config.amqp_url().expect("a URL").expose_secret(), url);
            }
        }
    }

    #[test]
    fn of_a_value_and_a_file_the_layer_decides_that_overrides_the_other() {
        let file = secret_file("amqp://in-file/b");
        let path = file.path().to_str().expect("a path");
        let variable = [("LICET_AMQP_URL_FILE", path)];
        let url = |config: Result<Config, ConfigError>| {
            config.expect("valid").amqp_url().expect("a URL").expose_secret().to_owned()
        };
        assert_eq!(url(resolve("amqp_url = \"amqp://x/b\"\n", &variable, &[])), "amqp://in-file/b");
        assert_eq!(url(resolve("", &variable, &["--amqp", "amqp://flag/b"])), "amqp://flag/b");
        let error = error_of("", &[("LICET_AMQP_URL", "amqp://x/b"), variable[0]], &[]);
        assert!(error.contains("amqp_url and amqp_url_file are both set by the environment"), "{error}");
    }

    #[test]
    fn a_file_with_a_secret_that_cannot_be_read_is_named_with_the_setting_that_names_it() {
        let config = resolve("", &[("LICET_DATABASE_URL_FILE", "/nonexistent/url")], &[]).expect("valid");
        let error = config.database_url().expect_err("no file").to_string();
        assert!(error.contains("database_url_file") && error.contains("/nonexistent/url"), "{error}");
        assert!(config.amqp_url().expect_err("not set").to_string().contains("LICET_AMQP_URL"));
    }

    #[test]
    fn an_empty_variable_counts_as_not_set_and_an_empty_flag_does_not() {
        let config = resolve("batch_max = 7\n", &[("LICET_BATCH_MAX", ""), ("LICET_ISSUER", "")], &[]).expect("valid");
        assert_eq!((config.limits.batch_max, config.terms.issuer.as_str()), (7, "licet"));
        assert!(error_of("", &[], &["--issuer", ""]).contains("issuer, set by --issuer"));
    }

    #[test]
    fn a_flag_or_a_variable_names_another_configuration_file_which_must_exist() {
        let other = secret_file("batch_max = 9\n");
        let path = other.path().to_str().expect("a path");
        for (variables, flags) in
            [(vec![("LICET_CONFIG", path)], vec![]), (vec![("LICET_CONFIG", "/x")], vec!["--config", path])]
        {
            let config = resolve("batch_max = 7\n", &variables, &flags).expect("valid");
            assert_eq!(config.limits.batch_max, 9);
        }
        assert!(error_of("", &[("LICET_CONFIG", "/nonexistent")], &[]).contains("/nonexistent cannot be read"));
    }

    /// Only root can change the owner of a file, so another user runs only a part of this test.
    #[test]
    fn the_configuration_file_of_another_user_in_the_working_folder_is_not_used() {
        let folder = folder("batch_max = 7\n");
        assert!(Settings::default().resolve(folder.path()).is_ok());
        let path = folder.path().join(FILE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("the owner may change it");
        if chown(&path, Some(12_345), None).is_err() {
            println!("this user may not give files away, so the rest of the test was not run");
            return;
        }
        let error = Settings::default().resolve(folder.path()).expect_err("another user's file").to_string();
        assert!(error.contains("belongs to another user") && error.contains("--config"), "{error}");
    }

    #[test]
    fn the_resolved_settings_have_their_sources_and_no_secrets() {
        let variables = [("LICET_AMQP_URL", "amqp://u:hunter2@broker/%2f"), ("LICET_LOG", "debug")];
        let flags =
            ["--database", "postgres://u:hunter2@db:1/licet?password=hunter2", "--management", "http://u:hunter2@m"];
        let config = resolve("batch_max = 7\n", &variables, &flags).expect("valid");
        let found: Vec<_> =
            config.resolved.iter().map(|one| format!("{}={} [{}]", one.key, one.value, one.origin)).collect();
        for expected in [
            "amqp_url=amqp: broker:5672 [LICET_AMQP_URL]",
            "database_url=postgres: db:1/licet [--database]",
            "management_url=http: m:80 [--management]",
            "log=debug [LICET_LOG]",
            "issuer=licet [default]",
        ] {
            assert!(found.iter().any(|one| one == expected), "{expected}: {found:#?}");
        }
        assert!(
            found.iter().any(|one| one.starts_with("batch_max=7 [/") && one.ends_with("licet.toml]")),
            "{found:#?}"
        );
        assert_eq!(found.len(), SETTINGS.len());
        assert!(!found.concat().contains("hunter2"), "{found:#?}");
        let config =
            resolve("amqp_url = \"amqp://x/b\"\n", &[("LICET_AMQP_URL_FILE", "/run/url")], &[]).expect("valid");
        let url = config.resolved.iter().find(|one| one.key == "amqp_url").expect("it is listed");
        assert_eq!((url.value.as_str(), url.origin.to_string().as_str()), ("(in /run/url)", "LICET_AMQP_URL_FILE"));
    }
}

mod sending {
    use super::*;

    #[test]
    fn users_may_send_what_the_table_lists_and_other_users_may_send_nothing() {
        let file = "[senders]\nbank = [\"settlement.*\"]\nshop = [\"purchase.request\"]\nroot = [\"*\"]\n\
                    operator = [\"licet.retry\"]\n\
                    clerk = [\"settlement.*\", \"settlement.assignment\"]\n";
        let senders = resolve(file, &[], &[]).expect("valid").senders;
        assert!(!senders.is_open());
        for (user, kind, may) in [
            (Some("bank"), "settlement.reversal", true),
            (Some("bank"), "payout.completion", false),
            (Some("shop"), "purchase.request", true),
            (Some("shop"), "settlement.completion", false),
            (Some("root"), "content.put", true),
            (Some("mallory"), "content.put", false),
            (None, "content.put", false),
            (Some("operator"), "content.put", false),
            (Some("bank"), "settlement.assignment", false),
            (Some("root"), "settlement.assignment", false),
            (Some("clerk"), "settlement.assignment", true),
        ] {
            assert_eq!(senders.permit(user, kind), may, "{user:?} sends {kind}");
        }
    }

    #[test]
    fn only_users_with_the_entry_licet_retry_may_send_for_others() {
        let table = [("bank", "settlement.*"), ("root", "*"), ("operator", "licet.retry")];
        let table = table.map(|(user, entry)| (user.to_owned(), vec![entry.to_owned()]));
        let senders = Senders::new(Some(table.into())).expect("valid entries");
        let may = ["bank", "root", "operator", "mallory"].map(|user| senders.may_send_for_others(user));
        assert_eq!(may, [false, false, true, false]);
        assert!(!Senders::default().may_send_for_others("root"));
    }

    #[test]
    fn without_a_table_every_user_may_send_every_type() {
        let senders = Senders::default();
        assert!(senders.is_open() && senders.permit(None, "content.put") && senders.permit(Some("x"), "sweep.due"));
        let nobody = Senders::new(Some(BTreeMap::new())).expect("an empty table");
        assert!(!nobody.is_open() && !nobody.permit(None, "content.put"));
    }

    #[test]
    fn an_entry_that_matches_no_message_type_is_an_error() {
        for typo in ["purchase.reqest", "purchase*", "payments.*", "", "licet.*"] {
            let table = BTreeMap::from([("shop".to_owned(), vec![typo.to_owned()])]);
            let error = Senders::new(Some(table)).expect_err("no such type").to_string();
            assert!(error.contains("senders.shop") && error.contains(&format!("{typo:?}")), "{error}");
        }
    }
}

mod help {
    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(subcommand)]
        command: Subcommand,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Subcommand {
        /// Has subcommands of its own
        Topology {
            #[command(flatten)]
            settings: CommandSettings<BROKER>,
            #[command(subcommand)]
            command: Topology,
        },
        /// Has none
        Audit(Audit),
    }

    #[derive(Debug, clap::Subcommand)]
    enum Topology {
        Apply,
    }

    #[derive(Debug, Args)]
    struct Audit {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: CommandSettings<{ DATABASE | ENGINE | LOG }>,
    }

    fn help_of(path: &[&str]) -> String {
        let arguments = [&["program"], path, &["--help"]].concat();
        Program::try_parse_from(arguments).expect_err("the help").to_string()
    }

    #[test]
    fn the_help_of_a_command_lists_only_the_settings_of_its_groups() {
        for (path, groups) in [
            (&["topology"][..], BROKER),
            (&["topology", "apply"], BROKER),
            (&["audit"], DATABASE | ENGINE | LOG),
            (&[], 0),
        ] {
            let help = help_of(path);
            let expected: BTreeSet<_> = Setting::of(groups).map(|setting| setting.flag).collect();
            for Setting { flag, .. } in SETTINGS {
                assert_eq!(help.contains(&format!("--{flag} <")), expected.contains(flag), "--{flag} in {help}");
            }
            assert_eq!(help.contains("\nSettings:\n"), groups != 0, "{help}");
        }
        let help = help_of(&["audit"]);
        let (options, settings) = help.split_once("\nSettings:\n").expect("a heading");
        assert!(options.contains("--json") && !settings.contains("--json"), "{help}");
    }

    #[test]
    fn the_help_shows_default_range_and_variable_and_no_values_of_variables() {
        let help = help_of(&["audit"]);
        let of =
            |flag: &str| help.split_once(flag).and_then(|(_, rest)| rest.split("\n      --").next()).expect("the flag");
        let timeout = of("--database-timeout-s <SECONDS>").trim_end();
        assert!(timeout.ends_with(" [default: 30] [range: 1 to 86400] [env: LICET_DATABASE_TIMEOUT_S]"), "{timeout}");
        assert!(of("--database <URL>").contains("[format: postgres://…"), "{help}");
        assert!(of("--log <FILTER>").contains("[default: info for programs that run until"), "{help}");
    }

    #[test]
    fn flags_may_follow_the_command_and_its_subcommand() {
        for arguments in [
            ["program", "topology", "apply", "--amqp", "amqp://x"],
            ["program", "topology", "--amqp", "amqp://x", "apply"],
        ] {
            let program = Program::try_parse_from(arguments).expect("valid arguments");
            let Subcommand::Topology { settings, command: Topology::Apply } = program.command else {
                panic!("another command")
            };
            let config = Settings::from(settings).resolve(Path::new("/nonexistent")).expect("valid");
            assert_eq!(config.amqp_url().expect("it is set").expose_secret(), "amqp://x");
        }
        assert!(Program::try_parse_from(["program", "audit", "--amqp", "amqp://x"]).is_err(), "not its group");
    }

    #[test]
    fn clap_accepts_the_arguments_of_every_group() {
        Program::command().debug_assert();
        let command = CommandSettings::<{ ENGINE | ALL }>::augment_args(Command::new("licet"));
        assert_eq!(command.get_arguments().count(), SETTINGS.len() + 1, "and the configuration file");
        command.clone().debug_assert();
        let mut settings = CommandSettings::<ALL>::default();
        let matches = command.get_matches_from(["licet", "--issuer", "shop"]);
        settings.update_from_arg_matches(&matches).expect("valid arguments");
        assert!(format!("{settings:?}").contains("issuer"));
    }

    #[test]
    fn every_setting_has_unique_names_and_a_description_of_one_sentence() {
        let (mut keys, mut flags) = (BTreeSet::new(), BTreeSet::new());
        for Setting { key, flag, description, .. } in SETTINGS {
            assert!(description.starts_with(char::is_uppercase) && description.ends_with('.'), "{key}: {description}");
            assert!(!description.contains(". ") && description.len() > 20, "{key}: {description}");
            assert!(keys.insert(key) && flags.insert(flag), "{key} is defined twice");
        }
    }

    #[test]
    fn every_group_has_a_setting_and_a_bit_of_its_own() {
        let count = |groups| Setting::of(groups).count();
        let bits = [BROKER, groups::MANAGEMENT, DATABASE, groups::KEYS, groups::TERMS, ENGINE, groups::SWEEP, LOG];
        assert_eq!(bits.map(count), [2, 1, 2, 1, 5, 5, 1, 1]);
        assert_eq!((count(ALL), count(0), bits.len()), (SETTINGS.len(), 0, Group::ALL.len()));
    }
}

mod page {
    use super::*;

    #[test]
    fn the_configuration_document_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        if std::env::var_os("LICET_TEST_WRITE").is_some() {
            fs::write(&path, documentation()).expect("docs/configuration.md can be written");
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == documentation(),
            "docs/configuration.md differs from the settings in common/src/config. Regenerate it: \
             LICET_TEST_WRITE=1 cargo test -p licet-common configuration"
        );
    }

    #[test]
    fn the_document_has_one_row_for_every_setting() {
        let page = documentation();
        for setting in SETTINGS {
            let start = format!("| `{}` | `{}` | `--{}` | ", setting.key, setting.variable(), setting.flag);
            let rows: Vec<_> = page.lines().filter(|line| line.starts_with(&start)).collect();
            assert_eq!(rows.len(), 1, "{start}");
            assert_eq!(rows[0].matches(" | ").count(), 5, "{}", rows[0]);
        }
    }

    #[test]
    fn the_examples_of_the_document_are_valid() {
        let page = documentation();
        let examples: Vec<_> = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert_eq!(examples.len(), 2);
        for example in &examples {
            resolve(example, &[], &[]).expect("a valid example");
        }
        assert!(resolve(examples[1], &[], &[]).expect("valid").senders.may_send_for_others("operator"));
    }
}

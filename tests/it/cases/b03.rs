//! Cases B3 to B5: a database with another encoding, several migrations at once, and tables of
//! another release or program.

use licet_common::store::Store;
use licet_schema::migration::MIGRATIONS;
use sea_orm::{ConnectionTrait, Database};

use crate::{
    programs::{fails, run},
    system::{amqp_url, new_database, new_database_with},
};

struct Prepared {
    folder: tempfile::TempDir,
    amqp_url: String,
    url: String,
}

impl Prepared {
    /// A folder with keys, and this database.
    fn new(url: String) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let prepared = Self { folder, amqp_url: amqp_url(), url };
        assert!(prepared.run("licet", &["keys", "new"]).status.success());
        prepared
    }

    /// The same with the tables of this release.
    async fn with_tables() -> Self {
        let prepared = Self::new(new_database().await);
        assert!(prepared.run("licet", &["migrate"]).status.success());
        prepared
    }

    fn run(&self, program: &str, arguments: &[&str]) -> std::process::Output {
        let settings = [("LICET_AMQP_URL", self.amqp_url.as_str()), ("LICET_DATABASE_URL", self.url.as_str())];
        run(program, arguments, &settings, self.folder.path())
    }

    async fn execute(&self, statement: &str) {
        let connection = Database::connect(&self.url).await.expect("PostgreSQL answers");
        connection.execute_unprepared(statement).await.expect("PostgreSQL executes the statement");
        connection.close().await.expect("the connection closes");
    }

    /// Records another applied file, as a program with this version and description would.
    async fn record_file(&self, number: i64, description: &str) {
        let row = format!("({number}, '{description}', true, '\\x00', 0)");
        self.execute(&format!(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES {row}"
        ))
        .await;
    }

    async fn problems(&self) -> Vec<String> {
        let store = Store::open(&self.url.clone().into(), 1).await.expect("PostgreSQL answers");
        store.problems(true).await.expect("the database can be checked")
    }
}

#[tokio::test]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn case_b03_a_database_with_another_encoding_is_refused_by_migrate_and_at_start() {
    let prepared = Prepared::new(new_database_with("ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0").await);
    let said = "the encoding of the database is LATIN1";
    fails(&prepared.run("licet", &["migrate"]), 1, said);
    fails(&prepared.run("licet-purchase", &[]), 1, said);
    fails(&prepared.run("licet", &["audit"]), 1, said);
}

#[tokio::test]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn case_b04_five_migrations_at_once_all_succeed() {
    let prepared = Prepared::new(new_database().await);
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..5).map(|_| scope.spawn(|| prepared.run("licet", &["migrate"]))).collect();
        for run in runs {
            let output = run.join().expect("no run panics");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    });
    assert_eq!(prepared.problems().await, [""; 0]);
}

#[tokio::test]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn case_b04_a_dry_run_prints_the_statements_and_changes_nothing() {
    let prepared = Prepared::new(new_database().await);
    for _ in 0..2 {
        let output = prepared.run("licet", &["migrate", "--dry-run"]);
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).expect("text");
        assert_eq!(text.trim_end(), MIGRATIONS[0].postgresql.trim_end());
    }
    fails(&prepared.run("licet", &["audit"]), 1, "the database contains no tables of Licet");
    assert!(prepared.run("licet", &["migrate"]).status.success());
    let output = prepared.run("licet", &["migrate", "--dry-run"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("there is nothing to execute"), "{output:?}");
}

#[tokio::test]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn case_b05_the_tables_of_a_newer_release_are_used_if_they_fit_and_named_if_they_do_not() {
    let prepared = Prepared::with_tables().await;
    prepared.record_file(990_000_000, "9.9.0").await;
    prepared.execute("ALTER TABLE certificate ADD COLUMN note text; CREATE TABLE note (id uuid PRIMARY KEY)").await;
    assert_eq!(prepared.problems().await, [""; 0], "the tables were only expanded");
    let output = prepared.run("licet", &["audit"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = prepared.run("licet", &["migrate"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    prepared.execute("ALTER TABLE certificate DROP COLUMN reference").await;
    let problems = prepared.problems().await;
    assert!(problems[0].starts_with("the tables were changed for release 9.9.0"), "{problems:?}");
    assert!(problems[1].starts_with("the table certificate lacks the column reference"), "{problems:?}");
    assert_eq!(problems.len(), 2);
}

#[tokio::test]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn case_b05_the_database_of_another_program_is_named_and_never_changed() {
    let prepared = Prepared::with_tables().await;
    prepared.execute("DELETE FROM _sqlx_migrations").await;
    prepared.record_file(20_220_101, "create users").await;
    for (program, command) in [("licet", Some("migrate")), ("licet", Some("audit")), ("licet-purchase", None)] {
        let arguments: Vec<_> = command.into_iter().collect();
        fails(&prepared.run(program, &arguments), 1, "contains \"create users\", which is not a release of Licet");
    }
}

#[tokio::test]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn case_b05_a_role_without_privileges_is_told_which_ones_are_missing() {
    let prepared = Prepared::with_tables().await;
    let role = format!("role_{}", uuid::Uuid::new_v4().simple());
    prepared.execute(&format!("CREATE ROLE {role} LOGIN; GRANT SELECT ON content, journal TO {role}")).await;
    let (_, server) = prepared.url.split_once('@').expect("a role in the URL");
    let as_role = Prepared { url: format!("postgres://{role}@{server}"), ..Prepared::new(String::new()) };
    let output = as_role.run("licet-purchase", &[]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    for said in [
        format!("the role {role} lacks INSERT, UPDATE, DELETE on content, journal: run `GRANT"),
        format!("the role {role} lacks SELECT, INSERT, UPDATE, DELETE on account, certificate,"),
        format!("the role {role} lacks SELECT on _sqlx_migrations"),
        format!("the role {role} lacks USAGE on the sequence journal_position"),
    ] {
        assert!(error.contains(&said), "{error}");
    }
    assert!(!error.contains("licet migrate"), "this would not help: {error}");

    prepared.execute(&format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")).await;
    let output = as_role.run("licet", &["audit"]);
    assert!(output.status.success(), "an audit only reads: {}", String::from_utf8_lossy(&output.stderr));
    prepared.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

/// Each change is made to a database of its own, and is the only problem that is found.
#[tokio::test]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn case_b05_every_difference_of_a_table_is_described_in_a_sentence() {
    let cases = [
        ("ALTER TABLE license RENAME TO x", "the table license does not exist"),
        ("ALTER TABLE license DROP COLUMN token", "the table license lacks the column token"),
        (
            "ALTER TABLE entry ALTER COLUMN delta TYPE integer",
            "the column delta of the table entry has the type integer",
        ),
        ("ALTER TABLE content ALTER COLUMN media_uri SET NOT NULL", "media_uri of the table content must accept NULL"),
        ("ALTER TABLE license ADD COLUMN x text NOT NULL", "the table license has the column x"),
        ("ALTER TABLE license ADD CONSTRAINT x CHECK (false)", "the table license has the constraint x"),
        ("CREATE UNIQUE INDEX x ON license (certificate)", "the table license has the unique index x"),
        ("ALTER TABLE mention DROP CONSTRAINT mention_pkey", "the table mention has no primary key"),
        ("ALTER TABLE license SET UNLOGGED", "the table license is UNLOGGED"),
    ];
    for (statement, said) in cases {
        let prepared = Prepared::with_tables().await;
        assert_eq!(prepared.problems().await, [""; 0], "a new database");
        prepared.execute(statement).await;
        let problems = prepared.problems().await;
        assert!(matches!(problems.as_slice(), [one] if one.contains(said)), "{statement}: {problems:?}");
        if statement.contains("CONSTRAINT x") {
            let output = prepared.run("licet", &["audit"]);
            assert!(output.status.success(), "an audit only reads: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

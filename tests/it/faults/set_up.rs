//! Cases B1 and B2: the database is misconfigured while the workers run. No message is the cause,
//! so none is tried again or becomes a dead letter, and the workers continue by themselves.

use std::{collections::BTreeMap, time::Duration};

use licet_schema::entity;

use super::fixture::Fixture;
use crate::{
    nodes::{
        pooler::Pooler,
        postgres::{DATABASE, PASSWORD, Postgres, WORKER},
        rabbit::Rabbit,
    },
    programs::{fails, run},
    proxy::Network,
};

const STOPPED: &str = "No messages are taken until this is corrected";
const PRIVILEGES: [&str; 4] = ["SELECT", "INSERT", "UPDATE", "DELETE"];

impl Fixture {
    async fn alter(&self, statement: &str) {
        self.postgres.execute(DATABASE, statement).await;
    }

    /// Ends the connections of the workers, so that they must open new ones.
    async fn disconnect_workers(&self) {
        let text = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{WORKER}'");
        self.postgres.execute("postgres", &text).await;
    }

    /// Whether a worker has stopped and logged this reason.
    fn says(&self, what: &str) -> bool {
        self.logs().iter().any(|log| log.lines().any(|line| line.contains(what) && line.contains(STOPPED)))
    }

    /// Waits at most a second until a worker has stopped and logged this reason.
    async fn soon_says(&self, what: &str) -> bool {
        let says = async {
            while !self.says(what) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(1), says).await.is_ok()
    }

    /// Injects one fault and repairs it: `break_it` and `repair` are statements for the database of
    /// the workers. A worker must log what is wrong, in a line that contains `said`.
    async fn play(&mut self, kind: &'static str, break_it: &str, repair: &str, said: &str) {
        self.alter(break_it).await;
        self.until_said(said).await;
        self.pause(1_000, 2_000).await;
        self.alter(repair).await;
        self.record_recovery(kind, format!("a worker logged {said:?}")).await;
        self.load.wait_for_replies(60).await;
    }

    /// Ends all connections to the database. Workers then open new ones.
    async fn reconnect_to_database(&mut self) {
        self.sql.set(Network::Cut);
        self.pause(200, 400).await;
        self.sql.heal();
    }

    /// Checks that a worker program does not start on this database, and prints the reason in one
    /// line.
    fn refuses_to_start(&self, program: &str, database_url: &str, said: &str) {
        let amqp_url = Rabbit::url(self.amqp.port, 10);
        let settings = [("LICET_AMQP_URL", amqp_url.as_str()), ("LICET_DATABASE_URL", database_url)];
        fails(&run(program, &[], &settings, self.folder()), 1, said);
    }

    async fn until_said(&self, said: &str) {
        self.wait_until(said, || self.says(said)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn case_b01_a_missing_privilege_stops_the_workers_and_makes_no_message_fail() {
    let mut fixture = Fixture::single("privileges").await;
    let mut needed: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for table in entity::tables() {
        for privilege in PRIVILEGES {
            fixture.alter(&format!("REVOKE {privilege} ON {} FROM {WORKER}", table.name)).await;
            if fixture.soon_says(&format!("lacks {privilege} on {}: run", table.name)).await {
                needed.entry(privilege).or_default().push(table.name.clone());
            }
            fixture.alter(&format!("GRANT {privilege} ON {} TO {WORKER}", table.name)).await;
            fixture.load.wait_for_replies(10).await;
        }
    }
    println!("the load needed these privileges: {needed:#?}");
    let count = |privilege: &str| needed.get(privilege).map_or(0, Vec::len);
    let counts = PRIVILEGES.map(count);
    let least = [8, 7, 3, 1];
    assert!(counts.iter().zip(least).all(|(count, least)| *count >= least), "{counts:?} stopped a worker");
    let sequence = format!("SEQUENCE journal_position FROM {WORKER}");
    let granted = sequence.replace("FROM", "TO");
    let (revoke, grant) = (format!("REVOKE USAGE ON {sequence}"), format!("GRANT USAGE ON {granted}"));
    fixture.play("privilege_on_sequence_revoked", &revoke, &grant, "lacks USAGE on the sequence").await;
    let faults = counts.iter().sum::<usize>();
    fixture.record_fault("privilege_revoked", format!("{faults} revoked privileges stopped a worker"), None);
    fixture.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn case_b01_a_changed_table_stops_the_workers_and_makes_no_message_fail() {
    let mut fixture = Fixture::single("changed-tables").await;
    let rename = |from: &str, to: &str| format!("ALTER TABLE {from} RENAME TO {to}");
    let (away, back) = (rename("license", "license_old"), rename("license_old", "license"));
    fixture.play("table_renamed", &away, &back, "the table license does not exist").await;
    let rename = |from: &str, to: &str| format!("ALTER TABLE certificate RENAME COLUMN {from} TO {to}");
    let (away, back) = (rename("granted", "x"), rename("x", "granted"));
    fixture.play("column_dropped", &away, &back, "the table certificate lacks the column granted").await;
    let change = |kind: &str| format!("ALTER TABLE certificate ALTER COLUMN granted TYPE {kind}");
    let said = "the column granted of the table certificate has the type integer instead of bigint";
    fixture.play("column_type_changed", &change("integer"), &change("bigint"), said).await;
    // With these changes, the database rejects the data of every message.
    let check = "ALTER TABLE license ADD CONSTRAINT refuse CHECK (false) NOT VALID";
    let dropped = "ALTER TABLE license DROP CONSTRAINT refuse";
    fixture.play("constraint_added", check, dropped, "the table license has the constraint refuse").await;
    let add = "ALTER TABLE journal ADD COLUMN extra bigint NOT NULL DEFAULT 0; \
               ALTER TABLE journal ALTER COLUMN extra DROP DEFAULT";
    let said = "the table journal has the column extra, which this release does not know";
    fixture.play("column_added", add, "ALTER TABLE journal DROP COLUMN extra", said).await;
    let trigger = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
                   $$ BEGIN RAISE EXCEPTION 'nothing may be inserted'; END $$; \
                   CREATE TRIGGER refuse BEFORE INSERT ON journal FOR EACH ROW EXECUTE FUNCTION refuse()";
    let dropped = "DROP TRIGGER refuse ON journal";
    fixture.play("trigger_that_refuses", trigger, dropped, "nothing may be inserted").await;
    fixture.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn case_b01_a_database_that_refuses_connections_or_writes_makes_no_message_fail() {
    let mut fixture = Fixture::single("wrong-set-up").await;
    let kinds = [
        (
            "default_transaction_read_only",
            format!("ALTER ROLE {WORKER} SET default_transaction_read_only = on"),
            format!("ALTER ROLE {WORKER} RESET default_transaction_read_only"),
            "the database accepts no writes",
        ),
        (
            "connect_revoked",
            format!("REVOKE CONNECT ON DATABASE {DATABASE} FROM PUBLIC"),
            format!("GRANT CONNECT ON DATABASE {DATABASE} TO PUBLIC"),
            "permission denied for database",
        ),
        (
            "password_changed",
            format!("ALTER ROLE {WORKER} PASSWORD 'changed'"),
            format!("ALTER ROLE {WORKER} PASSWORD '{PASSWORD}'"),
            "password authentication failed",
        ),
        (
            "connections_forbidden",
            format!("ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS false"),
            format!("ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS true"),
            "is not currently accepting connections",
        ),
        (
            "database_renamed",
            format!("ALTER DATABASE {DATABASE} RENAME TO another"),
            format!("ALTER DATABASE another RENAME TO {DATABASE}"),
            "does not exist",
        ),
    ];
    for (kind, break_it, repair, said) in kinds {
        // A database can be renamed only if it has no connections.
        for _ in 0..if kind == "database_renamed" { 100 } else { 1 } {
            fixture.disconnect_workers().await;
            if fixture.postgres.try_execute("postgres", &break_it).await.is_ok() {
                break;
            }
        }
        fixture.disconnect_workers().await;
        fixture.until_said(said).await;
        fixture.pause(1_000, 2_000).await;
        fixture.postgres.execute("postgres", &repair).await;
        fixture.disconnect_workers().await;
        fixture.record_recovery(kind, format!("a worker logged {said:?}")).await;
        fixture.load.wait_for_replies(60).await;
    }
    fixture.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn case_b01_a_full_tablespace_makes_no_message_fail() {
    let mut fixture = Fixture::single("full-tablespace").await;
    let small = tokio::task::block_in_place(|| fixture.postgres.small_file_system(64));
    let create = format!("CREATE TABLESPACE small LOCATION '{}'", small.inside.display());
    fixture.postgres.execute("postgres", &create).await;
    fixture.alter("ALTER TABLE journal SET TABLESPACE small").await;
    fixture.load.wait_for_replies(60).await;
    small.fill();
    fixture.until_said("Its disk or tablespace is full: free space").await;
    fixture.pause(2_000, 4_000).await;
    small.empty();
    fixture.record_recovery("tablespace_full", "a worker logged that the tablespace is full").await;
    fixture.load.wait_for_replies(60).await;
    fixture.alter("ALTER TABLE journal SET TABLESPACE pg_default").await;
    fixture.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "starts RabbitMQ and PostgreSQL of its own: run tests/run.sh"]
async fn case_b02_a_connection_pooler_in_transaction_mode_is_refused_and_makes_no_message_fail() {
    const SAID: &str = "A connection pooler that changes the connection between transactions cannot be used";
    let mut fixture = Fixture::single("pooler").await;
    for (kind, drops_settings) in [("pooler_that_drops_settings", true), ("pooler_that_refuses_settings", false)] {
        let (port, server_port) = (fixture.pooler_port, fixture.postgres.port);
        let pooler = tokio::task::block_in_place(|| Pooler::start(port, server_port, drops_settings));
        fixture.reconnect_to_database().await;
        fixture.until_said(SAID).await;
        let url = Postgres::worker_url(pooler.port);
        for program in ["licet-purchase", "licet-query"] {
            fixture.refuses_to_start(program, &url, SAID);
        }
        fixture.pause(2_000, 3_000).await;
        drop(pooler);
        fixture.reconnect_to_database().await;
        fixture.record_recovery(kind, "every worker refused the pooler").await;
        fixture.load.wait_for_replies(60).await;
    }
    fixture.finish().await;
}

//! Licet on a large database, between runs on an empty database on the same server.
//!
//! Set-based statements fill the large database. They insert live certificates that are received
//! and paid for, with their permanent records and settlements, and journal rows with the sizes of a
//! real lifecycle.

use std::time::{Duration, Instant};

use clap::Args;
use licet_common::{config::Config, program::Failure, store::Store};
use sea_orm::{ConnectionTrait, QueryResult, Statement};

use super::{
    Common,
    answering::Answers,
    database::ScratchDatabase,
    environment::Environment,
    figures::{Ratio, Report, Run, Target, median},
    full::machine,
    load::{STAGES, drive},
    note,
    workers::{Kind, Layout},
};

/// The options.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// The number of live certificates
    #[arg(long, default_value_t = 10_000_000, value_name = "N")]
    certificates: u64,
    /// The number of journal rows
    #[arg(long, default_value_t = 20_000_000, value_name = "N")]
    journal: u64,
    /// Keep the large database under this name, or use the one that an earlier run kept
    #[arg(long, value_name = "NAME", value_parser = name)]
    keep: Option<String>,
}

/// The timeout for a statement that fills the large database.
const FILL_TIMEOUT: Duration = Duration::from_secs(86_400);

/// The number of rows that one statement inserts.
const CHUNK_ROWS: u64 = 500_000;

/// The tables that are filled.
const TABLES: [&str; 4] = ["certificate", "certificate_record", "settlement", "journal"];

fn name(text: &str) -> Result<String, String> {
    let valid = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if valid { Ok(text.to_owned()) } else { Err("use lower-case letters and underscores".into()) }
}

/// The names of [`TABLES`] as an SQL list.
fn table_list() -> String {
    TABLES.map(|table| format!("'{table}'")).join(", ")
}

/// Measures rounds of the large database, each between two runs on the empty database.
///
/// # Errors
/// The large database cannot be created, or a run does not complete.
pub(super) async fn growth(config: &Config, arguments: &Arguments) -> Result<Report, Failure> {
    let environment = Environment::prepare(config).await?;
    let large = environment.database(arguments.keep.as_deref()).await?;
    let measured = match ensure_filled(config, &large, arguments).await {
        Ok(()) => measure_with_empty(&environment, &large, &arguments.common).await,
        Err(failure) => Err(failure),
    };
    if arguments.keep.is_none() {
        large.remove().await?;
    }
    measured
}

/// Fills the large database if it is new. Otherwise checks that it was filled with these numbers of
/// rows.
async fn ensure_filled(config: &Config, large: &ScratchDatabase, arguments: &Arguments) -> Result<(), Failure> {
    let label = format!("{} certificates, {} journal rows", arguments.certificates, arguments.journal);
    if !large.is_new {
        return large.is_labelled(&label).await;
    }
    let store = Store::open_within(&large.url, 2, FILL_TIMEOUT).await?;
    fill(&store, arguments, &Answers::of_a_lifecycle(config).await?).await?;
    large.label(&label).await
}

async fn measure_with_empty(
    environment: &Environment,
    large: &ScratchDatabase,
    common: &Common,
) -> Result<Report, Failure> {
    let empty = environment.database(None).await?;
    let measured = measure(environment, &empty, large, common).await;
    empty.remove().await?;
    measured
}

async fn measure(
    environment: &Environment,
    empty: &ScratchDatabase,
    large: &ScratchDatabase,
    common: &Common,
) -> Result<Report, Failure> {
    let (mut runs, mut ratios) = (Vec::new(), Vec::new());
    let mut before = run(environment, empty, common, 1, "empty").await?;
    runs.push(before.clone());
    for round in 1..=common.rounds {
        let filled = run(environment, large, common, round, "large").await?;
        let after = run(environment, empty, common, round, "empty").await?;
        ratios.push(filled.lifecycles_per_s / median(&[before.lifecycles_per_s, after.lifecycles_per_s]));
        before = after.clone();
        runs.extend([filled, after]);
    }
    let store = Store::open(&large.url, 1).await?;
    let mut machine = machine(&store).await?;
    machine.extend(sizes(&store).await?);
    let ratios = vec![Ratio::new("large / empty, lifecycles/s", ratios, Some(Target::AtLeast(0.85)))];
    Ok(Report { mode: "growth", options: common.clone(), machine, runs, ratios })
}

async fn run(
    environment: &Environment,
    database: &ScratchDatabase,
    common: &Common,
    round: u16,
    what: &'static str,
) -> Result<Run, Failure> {
    note(common, format_args!("round {round}: {what}"));
    let workers = environment.start(Kind::Full, database, &Layout::default()).await?;
    let measured = drive(&environment.transport, common.peak(), &environment.meter(&workers)).await?;
    let mut run = Run::of(round, what, "peak", &measured);
    run.resident_mb = workers.resident_mb();
    workers.stop().await?;
    Ok(run)
}

/// The sizes of the tables.
async fn sizes(store: &Store) -> Result<Vec<(String, String)>, Failure> {
    let text = format!(
        "SELECT relname::text, format('%s rows, %s with its indexes', reltuples::bigint, \
         pg_size_pretty(pg_total_relation_size(oid))) FROM pg_class WHERE relname IN ({})",
        table_list()
    );
    let rows = query(store, text).await?;
    let size = |row: &QueryResult| Some((row.try_get_by_index(0).ok()?, row.try_get_by_index(1).ok()?));
    Ok(rows.iter().filter_map(size).map(|(name, size): (String, String)| (format!("table {name}"), size)).collect())
}

/// Fills the tables, and then vacuums and analyzes them, as autovacuum does in production.
async fn fill(store: &Store, arguments: &Arguments, answers: &Answers) -> Result<(), Failure> {
    let began = Instant::now();
    let progress =
        |what: &str| note(&arguments.common, format_args!("{what} ({:.0} s)", began.elapsed().as_secs_f64()));
    let indexes = drop_indexes(store).await?;
    let certificates = fill_table(store, arguments.certificates, |first, last| {
        ["certificate_record", "certificate", "settlement"].map(|table| of_certificates(table, first, last)).join("; ")
    });
    let rows = journal_rows(answers)?;
    let journal = fill_table(store, arguments.journal, |first, last| of_journal(&rows, first, last, arguments));
    let (certificates, journal) = tokio::join!(certificates, journal);
    certificates.and(journal)?;
    progress("rows inserted");
    let (first, second) = indexes.split_at(indexes.len() / 2);
    let (first, second) = tokio::join!(each(store, first), each(store, second));
    first.and(second)?;
    progress("indexes created");
    execute(store, "VACUUM (FREEZE, ANALYZE)").await?;
    execute(store, "CHECKPOINT").await?;
    progress("vacuumed");
    Ok(())
}

/// Drops the indexes of the tables. Returns the statements that create them again.
async fn drop_indexes(store: &Store) -> Result<Vec<String>, Failure> {
    let tables = table_list();
    let text = format!(
        "SELECT c.conname::text, c.conrelid::regclass::text, pg_get_constraintdef(c.oid), NULL FROM pg_constraint c \
         WHERE c.contype = 'p' AND c.conrelid::regclass::text IN ({tables}) \
         UNION ALL SELECT i.indexname::text, i.tablename::text, NULL, i.indexdef FROM pg_indexes i \
         WHERE i.schemaname = 'public' AND i.tablename IN ({tables}) \
         AND i.indexname NOT IN (SELECT conname FROM pg_constraint) ORDER BY 2, 1"
    );
    let mut creating = Vec::new();
    for row in query(store, text).await? {
        let text = |index| row.try_get_by_index::<Option<String>>(index).ok().flatten();
        let (Some(name), Some(table)) = (text(0), text(1)) else { continue };
        match (text(2), text(3)) {
            (Some(constraint), _) => {
                execute(store, &format!("ALTER TABLE {table} DROP CONSTRAINT \"{name}\"")).await?;
                creating.push(format!("ALTER TABLE {table} ADD CONSTRAINT \"{name}\" {constraint}"));
            }
            (None, Some(index)) => {
                execute(store, &format!("DROP INDEX \"{name}\"")).await?;
                creating.push(index);
            }
            _ => {}
        }
    }
    Ok(creating)
}

async fn fill_table(store: &Store, rows: u64, statements: impl Fn(u64, u64) -> String) -> Result<(), Failure> {
    let mut first = 1;
    while first <= rows {
        let last = rows.min(first + CHUNK_ROWS - 1);
        execute(store, &statements(first, last)).await?;
        first = last + 1;
    }
    Ok(())
}

async fn each(store: &Store, statements: &[String]) -> Result<(), Failure> {
    for statement in statements {
        execute(store, statement).await?;
    }
    Ok(())
}

async fn query(store: &Store, text: String) -> Result<Vec<QueryResult>, Failure> {
    store.pool().query_all(Statement::from_string(store.backend(), text)).await.map_err(Failure::work)
}

async fn execute(store: &Store, text: &str) -> Result<(), Failure> {
    let done = store.pool().execute_unprepared(text).await;
    done.map(|_| ()).map_err(|error| Failure::Work(format!("{error}: {}", &text[..text.len().min(200)])))
}

/// An SQL expression for a UUIDv7 that is derived from a number. There are 10 ids for each
/// millisecond since the start of 2025.
fn id(label: char, number: &str) -> String {
    format!(
        "(lpad(to_hex(1735689600000 + {number} / 10), 12, '0') || '7' || substr(md5('{label}' || {number}), 1, 3) || \
         '8' || substr(md5('{label}' || {number}), 4, 15))::uuid"
    )
}

/// The statement that inserts rows of live certificates, which are received and paid for and have
/// no license.
fn of_certificates(table: &str, first: u64, last: u64) -> String {
    let (id, at) = (self::id('c', "n"), "1735689600000 + n / 10");
    let user = "'customer-' || n % 1000000";
    let columns = match table {
        "certificate_record" => format!(
            "(id, \"user\", content, version, revision, amount_minor, currency, points, reference, purchased_at, \
             generation, granted, reinstated) SELECT {id}, {user}, 'bench', 1, 1, 1000, 'USD', 0, 'order-' || n, {at}, \
             1, 0, false"
        ),
        "certificate" => format!(
            "(id, \"user\", content, version, revision, amount_minor, currency, points, reference, generation, \
             token_digest, issued_at, receipt_due_at, expires_at, received_at, settlement, provider, settled_at, \
             grants, granted, outstanding) SELECT {id}, {user}, 'bench', 1, 1, 1000, 'USD', 0, 'order-' || n, 1, \
             sha256(n::text::bytea), {at}, {at} + 86400000, {at} + 315360000000, {at} + 5000, 'charge-' || {id}, \
             'bench', {at} + 9000, 1, 0, 0"
        ),
        _ => format!(
            "(provider, provider_reference, outcome, certificate, amount_minor, currency, grants, refunded_minor, \
             registered_at, cause) \
             SELECT 'bench', 'charge-' || {id}, 'completed', {id}, 1000, 'USD', 1, 0, {at} + 9000, {cause}",
            cause = self::id('m', "n")
        ),
    };
    format!("INSERT INTO {table} {columns} FROM generate_series({first}::bigint, {last}::bigint) AS n")
}

/// The type of each message of a lifecycle without a return, and the size of its outputs.
fn journal_rows(answers: &Answers) -> Result<Vec<(&'static str, usize)>, Failure> {
    STAGES[..5].iter().map(|kind| Ok((*kind, answers.journal_bytes(kind)?))).collect()
}

/// The statement that inserts journal rows.
fn of_journal(rows: &[(&str, usize)], first: u64, last: u64, arguments: &Arguments) -> String {
    let kinds: Vec<_> = rows.iter().map(|(kind, _)| format!("'{kind}'")).collect();
    let lengths: Vec<_> = rows.iter().map(|(_, bytes)| bytes.to_string()).collect();
    let message = if arguments.common.random_ids { "md5('m' || n)::uuid".to_owned() } else { id('m', "n") };
    // Rows of the same certificate are neighbors in the table.
    let subject = id('c', &format!("(n * {} / {})", arguments.certificates, arguments.journal));
    format!(
        "INSERT INTO journal (id, kind, sender, digest, subject, decided_at, position, outputs) \
         SELECT {message}, (ARRAY[{}])[(1 + n % 5)::int], 'guest', sha256(n::text::bytea), {subject}, \
         1735689600000 + n / 10, n, convert_to(repeat('o', (ARRAY[{}])[(1 + n % 5)::int]), 'UTF8') \
         FROM generate_series({first}::bigint, {last}::bigint) AS n",
        kinds.join(", "),
        lengths.join(", ")
    )
}

//! Licet on a large database, in turn with an empty one of the same server.
//!
//! The large one is made by statements over whole sets: live certificates that are received and paid
//! for, with their permanent rows and settlements, and journal rows as long as a real lifecycle's.

use std::time::{Duration, Instant};

use clap::Args;
use licet_common::{config::Config, store::Store};
use licet_workers::program::Failure;
use sea_orm::ConnectionTrait;

use super::{
    Common,
    answering::Answers,
    figures::{Mark, Ratio, Report, Run, median},
    full::machine,
    load::{STAGES, drive},
    note,
    stand::{Kind, Layout, Scratch, Site},
};

/// What can be chosen.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// How many live certificates
    #[arg(long, default_value_t = 10_000_000, value_name = "N")]
    certificates: u64,
    /// How many journal rows
    #[arg(long, default_value_t = 20_000_000, value_name = "N")]
    journal: u64,
    /// Keep the large database under this name, or use the one that was kept
    #[arg(long, value_name = "NAME", value_parser = name)]
    keep: Option<String>,
}

/// How long one statement of the making may take.
const FILL_TIMEOUT: Duration = Duration::from_secs(86_400);

/// So many rows are made by one statement.
const PORTION: u64 = 500_000;

fn name(text: &str) -> Result<String, String> {
    let fit = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if fit { Ok(text.to_owned()) } else { Err("small letters and underscores".into()) }
}

/// Measures rounds of empty, large and empty.
///
/// # Errors
/// The large database cannot be made, or a run does not come to its end.
pub(super) async fn growth(config: &Config, arguments: &Arguments) -> Result<Report, Failure> {
    let site = Site::prepare(config).await?;
    let large = site.database(arguments.keep.as_deref()).await?;
    let measured = match make(config, &large, arguments).await {
        Ok(()) => beside_an_empty_one(&site, &large, &arguments.common).await,
        Err(failure) => Err(failure),
    };
    if arguments.keep.is_none() {
        large.remove().await?;
    }
    measured
}

/// Makes sure that the large database is one.
async fn make(config: &Config, large: &Scratch, arguments: &Arguments) -> Result<(), Failure> {
    let label = format!("{} certificates, {} journal rows", arguments.certificates, arguments.journal);
    if !large.is_new {
        return large.is_labelled(&label).await;
    }
    let store = Store::open_within(&large.url, 2, FILL_TIMEOUT).await?;
    fill(&store, arguments, &Answers::of_a_lifecycle(config).await?).await?;
    large.label(&label).await
}

async fn beside_an_empty_one(site: &Site, large: &Scratch, common: &Common) -> Result<Report, Failure> {
    let empty = site.database(None).await?;
    let measured = measure(site, &empty, large, common).await;
    empty.remove().await?;
    measured
}

async fn measure(site: &Site, empty: &Scratch, large: &Scratch, common: &Common) -> Result<Report, Failure> {
    let (mut runs, mut ratios) = (Vec::new(), Vec::new());
    let mut before = run(site, empty, common, 1, "empty").await?;
    runs.push(before.clone());
    for round in 1..=common.rounds {
        let grown = run(site, large, common, round, "large").await?;
        let after = run(site, empty, common, round, "empty").await?;
        ratios.push(grown.lifecycles_per_s / median(&[before.lifecycles_per_s, after.lifecycles_per_s]));
        before = after.clone();
        runs.extend([grown, after]);
    }
    let store = Store::open(&large.url, 1).await?;
    let mut machine = machine(&store).await?;
    machine.extend(sizes(&store).await?);
    let ratios = vec![Ratio::new("large / empty, lifecycles/s", ratios, Some(Mark::AtLeast(0.85)))];
    Ok(Report { mode: "growth", options: common.clone(), machine, runs, ratios })
}

async fn run(site: &Site, database: &Scratch, common: &Common, round: u16, what: &'static str) -> Result<Run, Failure> {
    note(common, format_args!("round {round}: {what}"));
    let stand = site.start(Kind::Full, database, &Layout::default()).await?;
    let measured = drive(&site.transport, common.peak(), &site.meter(&stand)).await?;
    let mut run = Run::of(round, what, "peak", &measured);
    run.resident_mb = stand.resident_mb();
    stand.stop().await?;
    Ok(run)
}

/// How large the tables are.
async fn sizes(store: &Store) -> Result<Vec<(String, String)>, Failure> {
    let text = "SELECT relname::text, format('%s rows, %s with its indexes', reltuples::bigint, \
                pg_size_pretty(pg_total_relation_size(oid))) FROM pg_class \
                WHERE relname IN ('certificate', 'purchase', 'settlement', 'journal')";
    let rows = store.reader().query_all(sea_orm::Statement::from_string(store.backend(), text)).await;
    let rows = rows.map_err(|error| Failure::Work(error.to_string()))?;
    let size = |row: &sea_orm::QueryResult| Some((row.try_get_by_index(0).ok()?, row.try_get_by_index(1).ok()?));
    Ok(rows.iter().filter_map(size).map(|(name, size): (String, String)| (format!("table {name}"), size)).collect())
}

/// Fills the tables, and brings them into the order that a server's own upkeep would.
async fn fill(store: &Store, arguments: &Arguments, answers: &Answers) -> Result<(), Failure> {
    let began = Instant::now();
    let said = |what: &str| note(&arguments.common, format_args!("{what} ({:.0} s)", began.elapsed().as_secs_f64()));
    let indexes = without_indexes(store).await?;
    let certificates = fill_table(store, arguments.certificates, |first, last| {
        ["purchase", "certificate", "settlement"].map(|table| of_certificates(table, first, last)).join("; ")
    });
    let rows = journal_rows(answers);
    let journal = fill_table(store, arguments.journal, |first, last| of_journal(&rows, first, last, arguments));
    let (certificates, journal) = tokio::join!(certificates, journal);
    certificates.and(journal)?;
    said("rows are there");
    let (first, second) = indexes.split_at(indexes.len() / 2);
    let (first, second) = tokio::join!(each(store, first), each(store, second));
    first.and(second)?;
    said("indexes are there");
    execute(store, "VACUUM (FREEZE, ANALYZE)").await?;
    execute(store, "CHECKPOINT").await?;
    said("vacuumed");
    Ok(())
}

/// Takes the indexes of the large tables away: statements that bring them back.
async fn without_indexes(store: &Store) -> Result<Vec<String>, Failure> {
    let text = "SELECT c.conname::text, c.conrelid::regclass::text, pg_get_constraintdef(c.oid), NULL FROM pg_constraint c \
                WHERE c.contype = 'p' AND c.conrelid::regclass::text IN ('certificate', 'purchase', 'settlement', 'journal') \
                UNION ALL SELECT i.indexname::text, i.tablename::text, NULL, i.indexdef FROM pg_indexes i \
                WHERE i.schemaname = 'public' AND i.tablename IN ('certificate', 'purchase', 'settlement', 'journal') \
                AND i.indexname NOT IN (SELECT conname FROM pg_constraint) ORDER BY 2, 1";
    let rows = store.reader().query_all(sea_orm::Statement::from_string(store.backend(), text)).await;
    let mut again = Vec::new();
    for row in rows.map_err(|error| Failure::Work(error.to_string()))? {
        let text = |index| row.try_get_by_index::<Option<String>>(index).ok().flatten();
        let (Some(name), Some(table)) = (text(0), text(1)) else { continue };
        match (text(2), text(3)) {
            (Some(constraint), _) => {
                execute(store, &format!("ALTER TABLE {table} DROP CONSTRAINT \"{name}\"")).await?;
                again.push(format!("ALTER TABLE {table} ADD CONSTRAINT \"{name}\" {constraint}"));
            }
            (None, Some(index)) => {
                execute(store, &format!("DROP INDEX \"{name}\"")).await?;
                again.push(index);
            }
            _ => {}
        }
    }
    Ok(again)
}

async fn fill_table(store: &Store, rows: u64, statements: impl Fn(u64, u64) -> String) -> Result<(), Failure> {
    let mut first = 1;
    while first <= rows {
        let last = rows.min(first + PORTION - 1);
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

async fn execute(store: &Store, text: &str) -> Result<(), Failure> {
    let done = store.reader().execute_unprepared(text).await;
    done.map(|_| ()).map_err(|error| Failure::Work(format!("{error}: {}", &text[..text.len().min(200)])))
}

/// An id in the order of time, made of a number: 10 of them in each millisecond since 2025.
fn id(label: char, number: &str) -> String {
    format!(
        "(lpad(to_hex(1735689600000 + {number} / 10), 12, '0') || '7' || substr(md5('{label}' || {number}), 1, 3) || \
         '8' || substr(md5('{label}' || {number}), 4, 15))::uuid"
    )
}

/// Rows of live certificates: bought for a year, received and paid for, no license yet.
fn of_certificates(table: &str, first: u64, last: u64) -> String {
    let (id, at) = (self::id('c', "n"), "1735689600000 + n / 10");
    let user = "'customer-' || n % 1000000";
    let columns = match table {
        "purchase" => format!(
            "(id, \"user\", content, version, revision, amount_minor, currency, points, reference, purchased_at, \
             generation, granted) SELECT {id}, {user}, 'bench', 1, 1, 1000, 'USD', 0, 'order-' || n, {at}, 1, 0"
        ),
        "certificate" => format!(
            "(id, \"user\", content, version, revision, amount_minor, currency, points, reference, generation, \
             token_digest, issued_at, receipt_due_at, expires_at, received_at, settlement, provider, settled_at, \
             grants, granted, outstanding) SELECT {id}, {user}, 'bench', 1, 1, 1000, 'USD', 0, 'order-' || n, 1, \
             sha256(n::text::bytea), {at}, {at} + 86400000, {at} + 315360000000, {at} + 5000, 'charge-' || {id}, \
             'bench', {at} + 9000, 1, 0, 0"
        ),
        _ => format!(
            "(provider, settlement, outcome, certificate, amount_minor, currency, grants, registered_at, cause) \
             SELECT 'bench', 'charge-' || {id}, 'completed', {id}, 1000, 'USD', 1, {at} + 9000, {cause}",
            cause = self::id('m', "n")
        ),
    };
    format!("INSERT INTO {table} {columns} FROM generate_series({first}::bigint, {last}::bigint) AS n")
}

/// Type and length of the outputs of each message of a lifecycle.
fn journal_rows(answers: &Answers) -> Vec<(&'static str, usize)> {
    STAGES[..5].iter().map(|kind| (*kind, answers.journal_bytes(kind))).collect()
}

fn of_journal(rows: &[(&str, usize)], first: u64, last: u64, arguments: &Arguments) -> String {
    let kinds: Vec<_> = rows.iter().map(|(kind, _)| format!("'{kind}'")).collect();
    let lengths: Vec<_> = rows.iter().map(|(_, bytes)| bytes.to_string()).collect();
    let message = if arguments.common.random_ids { "md5('m' || n)::uuid".to_owned() } else { id('m', "n") };
    // Rows of one certificate lie beside each other.
    let subject = id('c', &format!("(n * {} / {})", arguments.certificates, arguments.journal));
    format!(
        "INSERT INTO journal (id, kind, sender, digest, subject, decided_at, outputs) \
         SELECT {message}, (ARRAY[{}])[(1 + n % 5)::int], 'guest', sha256(n::text::bytea), {subject}, \
         1735689600000 + n / 10, convert_to(repeat('o', (ARRAY[{}])[(1 + n % 5)::int]), 'UTF8') \
         FROM generate_series({first}::bigint, {last}::bigint) AS n",
        kinds.join(", "),
        lengths.join(", ")
    )
}

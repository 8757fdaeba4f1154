//! Invariant 6: every row is as a message wrote it.
//!
//! With each batch, the journal stores how the fingerprints of the written rows changed
//! ([`licet_common::fingerprint`]). For each row, these differences must add up to its current
//! fingerprint. The comparison finds every added, deleted or changed row, even if the changed
//! column is in no reply and no event. It depends neither on the order of the journal rows nor on
//! clocks.
//!
//! The sums of all rows would not fit into memory, so rows share a limited number of buckets. Only
//! if a bucket does not add up to zero are the journal and the tables read once more, to find the
//! rows.
//!
//! The tables are those that workers write, and the journal itself. No message writes signing keys.

use std::{
    collections::{BTreeMap, BTreeSet},
    marker::PhantomData,
};

use futures_util::future::BoxFuture;
use licet_common::{
    fingerprint::{ABSENT, fingerprint, tag},
    rows::{RowSet, Rows, TableVisitor},
    runtime::changes_of,
    store::Transaction,
};
use licet_schema::entity::{Keyed, journal, mention};
use licet_workers::domain::Tables;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseBackend, EntityTrait, IdenStatic, Iterable, ModelTrait, PrimaryKeyToColumn,
    QueryFilter, QueryOrder, QuerySelect, Statement, Value,
};
use uuid::Uuid;

use super::{AuditError, PLACES, Violation};

/// The number of buckets. Each needs 8 bytes.
const BUCKETS: usize = 1 << 16;
/// The maximum number of differing buckets whose rows are searched for.
const SEARCHED_MAX: usize = 64;
/// The number of rows that are read at a time.
const ROWS_PER_PAGE: usize = 2048;

/// The bucket of the rows with this tag.
fn bucket(tag: u32) -> usize {
    tag as usize % BUCKETS
}

/// For each bucket, the fingerprints of its rows minus the changes in the journal.
pub(super) struct Fingerprints(Vec<u64>);

impl Fingerprints {
    pub(super) fn new() -> Self {
        Self(vec![0; BUCKETS])
    }

    fn add(&mut self, tag: u32, fingerprint: u64) {
        let sum = &mut self.0[bucket(tag)];
        *sum = sum.wrapping_add(fingerprint);
    }

    /// Counts a journal row: its own fingerprint, and the changes that it stores.
    ///
    /// # Errors
    /// The changes cannot be read.
    pub(super) fn count(&mut self, row: &journal::Model) -> Result<(), AuditError> {
        self.add(tag::<journal::Entity>(&row.id), fingerprint::<journal::Entity>(row));
        for change in changes_of(row)?.iter().flat_map(|table| &table.rows) {
            self.add(u32::from_le_bytes(change.tag), u64::from_le_bytes(change.difference).wrapping_neg());
        }
        Ok(())
    }

    /// Compares the tables with the journal. The journal rows that belong to purchases must have
    /// been counted before.
    ///
    /// # Errors
    /// The database is unavailable, or the changes in a journal row cannot be read.
    pub(super) async fn compare(mut self, view: &Transaction) -> Result<Vec<Violation>, AuditError> {
        let mut after = None;
        loop {
            let page = journal_page(view, after, true).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            page.iter().try_for_each(|row| self.count(row))?;
        }
        for table in tables() {
            table.scan(view, &mut |row| self.add(row.tag, row.fingerprint)).await?;
        }
        let wrong = self.0.iter().enumerate().filter(|(_, sum)| **sum != 0);
        let wrong: BTreeSet<_> = wrong.map(|(bucket, _)| bucket).take(SEARCHED_MAX).collect();
        if wrong.is_empty() { Ok(Vec::new()) } else { search(view, &wrong).await }
    }
}

/// The rows of one table that have the same tag: nearly always one row.
#[derive(Default)]
struct Tagged {
    /// The sum of their fingerprints, according to the journal.
    expected: u64,
    /// The sum of their fingerprints in the table.
    found: u64,
    /// Their keys.
    keys: Vec<String>,
    /// The position and the id of the journal row with their last change.
    last: Option<(i64, Uuid)>,
}

/// Finds the rows in these buckets that differ from the journal.
async fn search(view: &Transaction, buckets: &BTreeSet<usize>) -> Result<Vec<Violation>, AuditError> {
    let mut rows: BTreeMap<(String, u32), Tagged> = BTreeMap::new();
    let mut after = None;
    loop {
        let page = journal_page(view, after, false).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        for row in &page {
            for table in changes_of(row)? {
                for change in &table.rows {
                    let tag = u32::from_le_bytes(change.tag);
                    if buckets.contains(&bucket(tag)) {
                        let tagged = rows.entry((table.table.clone(), tag)).or_default();
                        tagged.expected = tagged.expected.wrapping_add(u64::from_le_bytes(change.difference));
                        tagged.last = tagged.last.max(Some((row.position, row.id)));
                    }
                }
            }
        }
    }
    let all = tables().into_iter().chain([of::<journal::Entity>()]);
    for table in all {
        let name = table.name();
        let mut each = |row: Scanned<'_>| {
            if buckets.contains(&bucket(row.tag)) {
                let tagged = rows.entry((name.clone(), row.tag)).or_default();
                tagged.found = tagged.found.wrapping_add(row.fingerprint);
                if tagged.keys.len() < PLACES {
                    tagged.keys.push((row.key)());
                }
            }
        };
        table.scan(view, &mut each).await?;
    }
    Ok(violations(rows))
}

fn violations(rows: BTreeMap<(String, u32), Tagged>) -> Vec<Violation> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for ((table, _), row) in rows.into_iter().filter(|(_, row)| row.expected != row.found) {
        let last = row.last.map_or_else(Uuid::nil, |(_, id)| id);
        let (what, places) = match (row.expected, row.found) {
            (ABSENT, _) => (format!("a row of {table} that no message wrote"), row.keys),
            (_, ABSENT) => {
                let what = format!("a missing row of {table}, which this message or another of its batch wrote last");
                (what, vec![last.to_string()])
            }
            _ => (format!("a row of {table} that differs from what messages wrote"), row.keys),
        };
        let all = found.entry(what).or_default();
        all.extend(places);
        all.truncate(PLACES);
    }
    found.into_iter().map(|(what, places)| Violation { invariant: 6, what, places }).collect()
}

/// The next journal rows in the order of their ids: all, or only those that belong to no purchase.
async fn journal_page(
    view: &Transaction,
    after: Option<Uuid>,
    without_subject: bool,
) -> Result<Vec<journal::Model>, AuditError> {
    use journal::Column::{Id, Subject};
    let mut query = journal::Entity::find();
    if without_subject {
        query = query.filter(Subject.is_null());
    }
    if let Some(id) = after {
        query = query.filter(Id.gt(id));
    }
    Ok(query.order_by_asc(Id).limit(ROWS_PER_PAGE as u64).all(view).await?)
}

/// A row that a scan has read.
struct Scanned<'a> {
    tag: u32,
    fingerprint: u64,
    /// The row's key, for people.
    key: &'a dyn Fn() -> String,
}

/// A table, independent of its entity.
trait AnyTable: Send + Sync {
    fn name(&self) -> String;
    /// Passes every row to `each`.
    fn scan<'a>(
        &'a self,
        view: &'a Transaction,
        each: &'a mut (dyn FnMut(Scanned<'_>) + Send),
    ) -> BoxFuture<'a, Result<(), AuditError>>;
}

struct TableOf<E>(PhantomData<E>);

/// The table of an entity.
fn of<E: Keyed>() -> Box<dyn AnyTable>
where
    E::Model: ModelTrait<Entity = E>,
{
    Box::new(TableOf::<E>(PhantomData))
}

impl<E: Keyed> AnyTable for TableOf<E>
where
    E::Model: ModelTrait<Entity = E>,
{
    fn name(&self) -> String {
        E::default().table_name().to_owned()
    }

    fn scan<'a>(
        &'a self,
        view: &'a Transaction,
        each: &'a mut (dyn FnMut(Scanned<'_>) + Send),
    ) -> BoxFuture<'a, Result<(), AuditError>> {
        Box::pin(async move {
            let mut after: Option<E::Key> = None;
            loop {
                let page = page_after::<E>(view, after.as_ref()).await?;
                for row in &page {
                    let key = E::key(row);
                    let text = || key_text(&E::key_values(&key));
                    each(Scanned { tag: tag::<E>(&key), fingerprint: fingerprint::<E>(row), key: &text });
                }
                match page.last() {
                    Some(last) if page.len() == ROWS_PER_PAGE => after = Some(E::key(last)),
                    _ => return Ok(()),
                }
            }
        })
    }
}

/// The next rows of a table in the order of their keys.
async fn page_after<E: Keyed>(view: &Transaction, after: Option<&E::Key>) -> Result<Vec<E::Model>, AuditError> {
    let backend = view.get_database_backend();
    let columns: Vec<_> = E::PrimaryKey::iter().map(|key| format!("\"{}\"", key.into_column().as_str())).collect();
    let key = columns.join(", ");
    let values = after.map(E::key_values).unwrap_or_default();
    let slot = |index: usize| if backend == DatabaseBackend::Postgres { format!("${index}") } else { "?".to_owned() };
    let slots = (1..=values.len()).map(slot).collect::<Vec<_>>().join(", ");
    let condition = if values.is_empty() { String::new() } else { format!("WHERE ({key}) > ({slots})") };
    let table = E::default().table_name().to_owned();
    let text = format!("SELECT * FROM \"{table}\" {condition} ORDER BY {key} LIMIT {ROWS_PER_PAGE}");
    Ok(E::find().from_raw_sql(Statement::from_sql_and_values(backend, text, values)).all(view).await?)
}

fn key_text(values: &[Value]) -> String {
    let text = |value: &Value| match value {
        Value::Uuid(Some(id)) => id.to_string(),
        Value::String(Some(text)) => (**text).clone(),
        Value::BigInt(Some(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    values.iter().map(text).collect::<Vec<_>>().join(":")
}

/// The tables that workers write, and the mentions of the journal.
fn tables() -> Vec<Box<dyn AnyTable>> {
    struct Collected(Vec<Box<dyn AnyTable>>);
    impl TableVisitor for Collected {
        fn table<E: Keyed>(&mut self, _: &Rows<E>)
        where
            E::Model: ModelTrait<Entity = E>,
        {
            self.0.push(of::<E>());
        }
    }
    let mut collected = Collected(vec![of::<mention::Entity>()]);
    Tables::default().visit(&mut collected);
    collected.0
}

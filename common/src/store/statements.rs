//! Statements over sets of rows, derived from sea-orm's entities.
//!
//! The text of a statement must not depend on the size of the set. Otherwise, prepared statements
//! could not be reused. On PostgreSQL, a statement has one array for each column (`unnest`). On
//! SQLite, where a statement costs no round trip, the set is split into chunks of a few fixed
//! sizes.

use std::{
    any::TypeId,
    collections::HashMap,
    fmt::{Display, Write},
    sync::{LazyLock, Mutex, PoisonError},
};

use licet_schema::entity::Keyed;
use sea_orm::{
    ColumnTrait, ColumnType, ConnectionTrait, DatabaseBackend, EntityTrait, FromQueryResult, IdenStatic, Iterable,
    PrimaryKeyToColumn, QueryResult, Statement, Value, sea_query::ArrayType,
};

use super::{Lock, Page, StoreError};

/// The sizes of the chunks for SQLite, in rows.
const CHUNKS: [usize; 4] = [CHUNK_MAX, 64, 8, 1];
/// The largest chunk, in rows.
pub(super) const CHUNK_MAX: usize = 256;

/// Reads the rows of `E` whose `columns` have the values of one of `keys`. Each key has one value
/// for each column.
///
/// # Errors
/// The database is unavailable or rejects the statement.
pub async fn select<E: Keyed>(
    connection: &impl ConnectionTrait,
    columns: &[E::Column],
    keys: Vec<Vec<Value>>,
    lock: Lock,
) -> Result<Vec<E::Model>, StoreError> {
    let statements = selects::<E>(connection.get_database_backend(), columns, keys, lock);
    decoded::<E>(query(connection, statements).await?)
}

/// The statements that read the rows of `E` by `keys`.
fn selects<E: Keyed>(
    backend: DatabaseBackend,
    columns: &[E::Column],
    keys: Vec<Vec<Value>>,
    lock: Lock,
) -> Vec<Statement> {
    if keys.is_empty() {
        return Vec::new();
    }
    let table = Table::of::<E>();
    let names = list(columns, |column| quoted(column.as_str()));
    let head = format!("SELECT {} FROM \"{}\" WHERE ({names}) IN", table.all, table.name);
    let tail = match lock {
        Lock::None => String::new(),
        Lock::ForUpdate => format!(" ORDER BY {} FOR UPDATE", table.key),
        Lock::SkipLocked => format!(" ORDER BY {} FOR UPDATE SKIP LOCKED", table.key),
    };
    match backend {
        DatabaseBackend::Postgres => {
            let slots = slots(0, columns.len());
            let text = format!("{head} (SELECT * FROM unnest({slots})){tail}");
            let arrays = arrays(columns.iter().map(kind_of::<E>).collect(), keys);
            vec![Statement::from_sql_and_values(backend, text, arrays)]
        }
        _ => {
            let statement = |chunk: Vec<Vec<Value>>| {
                let text = format!("{head} (VALUES {})", rows_of_slots(chunk.len(), columns.len()));
                Statement::from_sql_and_values(backend, text, chunk.into_iter().flatten())
            };
            chunks(keys, true).into_iter().map(statement).collect()
        }
    }
}

/// Reads the rows of a page.
///
/// # Errors
/// The database is unavailable or rejects the statement.
pub(super) async fn page<E: EntityTrait>(
    connection: &impl ConnectionTrait,
    page: Page<E>,
) -> Result<Vec<E::Model>, StoreError> {
    let table = Table::of::<E>();
    let postgres = connection.get_database_backend() == DatabaseBackend::Postgres;
    let slot = |index: usize| if postgres { format!("${}", index + 1) } else { "?".to_owned() };
    let mut conditions = Vec::new();
    let mut values = Vec::new();
    for (column, comparison, value) in page.filter {
        conditions.push(format!("\"{}\" {} {}", column.as_str(), comparison.operator(), slot(values.len())));
        values.push(value);
    }
    if let Some((column, comparison, constant)) = page.constant {
        conditions.push(format!("\"{}\" {} '{constant}'", column.as_str(), comparison.operator()));
    }
    let (columns, name, order) = (&table.all, &table.name, page.order.as_str());
    let (conditions, direction) = (conditions.join(" AND "), if page.descending { " DESC" } else { "" });
    let limit = slot(values.len());
    values.push(i64::try_from(page.limit).unwrap_or(i64::MAX).into());
    let text =
        format!("SELECT {columns} FROM \"{name}\" WHERE {conditions} ORDER BY \"{order}\"{direction} LIMIT {limit}");
    let statement = Statement::from_sql_and_values(connection.get_database_backend(), text, values);
    decoded::<E>(query(connection, vec![statement]).await?)
}

/// The rows that these statements return. The function is not generic over the entity, so that it
/// is compiled only once.
async fn query(connection: &impl ConnectionTrait, statements: Vec<Statement>) -> Result<Vec<QueryResult>, StoreError> {
    let mut rows = Vec::new();
    for statement in statements {
        let mut found = connection.query_all(statement).await?;
        match rows.is_empty() {
            true => rows = found,
            false => rows.append(&mut found),
        }
    }
    Ok(rows)
}

fn decoded<E: EntityTrait>(rows: Vec<QueryResult>) -> Result<Vec<E::Model>, StoreError> {
    let decode = |row: &QueryResult| E::Model::from_query_result(row, "").map_err(StoreError::from);
    rows.iter().map(decode).collect()
}

/// The description of a table from which statements are built.
pub(super) struct Table {
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
    /// The names of all columns, separated by commas.
    pub(super) all: String,
    /// The names of the columns of the primary key, separated by commas.
    pub(super) key: String,
}

pub(super) struct Column {
    /// The quoted name.
    pub(super) name: String,
    pub(super) kind: ArrayType,
    pub(super) key: bool,
    nullable: bool,
}

impl Table {
    /// The description of an entity's table. It is derived once and never freed.
    pub(super) fn of<E: EntityTrait>() -> &'static Self {
        static TABLES: LazyLock<Mutex<HashMap<TypeId, &'static Table>>> = LazyLock::new(Mutex::default);
        let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
        tables.entry(TypeId::of::<E>()).or_insert_with(|| Box::leak(Box::new(Self::make::<E>())))
    }

    fn make<E: EntityTrait>() -> Self {
        let keys: Vec<_> = E::PrimaryKey::iter().map(|key| key.into_column().as_str().to_owned()).collect();
        let column = |column: E::Column| Column {
            name: quoted(column.as_str()),
            kind: kind_of::<E>(&column),
            key: keys.iter().any(|key| key == column.as_str()),
            nullable: column.def().is_null(),
        };
        let columns: Vec<_> = E::Column::iter().map(column).collect();
        let all = list(&columns, |column| &column.name);
        let key = list(columns.iter().filter(|column| column.key), |column| &column.name);
        Self { name: E::default().table_name().to_owned(), columns, all, key }
    }

    /// The condition that a row has the same primary key as one of `other`.
    pub(super) fn same_key(&self, other: &str) -> String {
        let keys = self.columns.iter().filter(|column| column.key);
        let pairs: Vec<_> = keys.map(|column| format!("\"{}\".{1} = {other}.{1}", self.name, column.name)).collect();
        pairs.join(" AND ")
    }
}

impl Column {
    /// The expression that reads this column from the arrays.
    ///
    /// sea-query cannot bind NULL inside an array. The nil UUID, the smallest integer and the empty
    /// text never occur as values, so they represent NULL in arrays. `NULLIF` converts them back to
    /// NULL.
    pub(super) fn picked(&self) -> String {
        let name = &self.name;
        if !self.nullable {
            return format!("a.{name}");
        }
        match self.kind {
            ArrayType::Uuid => format!("NULLIF(a.{name}, '00000000-0000-0000-0000-000000000000'::uuid)"),
            ArrayType::BigInt => format!("NULLIF(a.{name}, '{}'::bigint)", i64::MIN),
            _ => format!("NULLIF(a.{name}, '')"),
        }
    }
}

fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

fn kind_of<E: EntityTrait>(column: &E::Column) -> ArrayType {
    match column.def().get_column_type() {
        ColumnType::Uuid => ArrayType::Uuid,
        ColumnType::BigInteger => ArrayType::BigInt,
        ColumnType::Boolean => ArrayType::Bool,
        ColumnType::Blob => ArrayType::Bytes,
        ColumnType::Text => ArrayType::String,
        other => {
            unreachable!("{} has a column of type {other:?}, which arrays do not support", E::default().table_name())
        }
    }
}

/// Converts one list of values for each row into one array for each column.
pub(super) fn arrays(kinds: Vec<ArrayType>, rows: Vec<Vec<Value>>) -> Vec<Value> {
    let mut columns: Vec<Vec<Value>> = kinds.iter().map(|_| Vec::with_capacity(rows.len())).collect();
    for row in rows {
        for (column, value) in columns.iter_mut().zip(row) {
            column.push(value);
        }
    }
    kinds.iter().zip(columns).map(|(kind, values)| array(kind, values)).collect()
}

/// The array of one column's values.
pub(super) fn array(kind: &ArrayType, values: Vec<Value>) -> Value {
    Value::Array(kind.clone(), Some(Box::new(values.into_iter().map(without_null).collect())))
}

/// The value that represents NULL inside an array (see [`Column::picked`]).
fn without_null(value: Value) -> Value {
    match value {
        Value::Uuid(None) => uuid::Uuid::nil().into(),
        Value::BigInt(None) => i64::MIN.into(),
        Value::String(None) => "".into(),
        Value::Bytes(None) => Vec::<u8>::new().into(),
        other => other,
    }
}

/// Splits `rows` into chunks of the fixed sizes. If `padded`, the last chunk is filled up by
/// repeating a row, which is harmless for keys to look up.
pub(super) fn chunks(rows: Vec<Vec<Value>>, padded: bool) -> Vec<Vec<Vec<Value>>> {
    let mut chunks = Vec::new();
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        let left = rows.len();
        let size = if padded {
            CHUNKS.into_iter().rev().find(|size| *size >= left).unwrap_or(CHUNKS[0])
        } else {
            CHUNKS.into_iter().find(|size| *size <= left).unwrap_or(1)
        };
        let mut chunk: Vec<_> = rows.by_ref().take(size).collect();
        while let (true, Some(last)) = (chunk.len() < size, chunk.last().cloned()) {
            chunk.push(last);
        }
        chunks.push(chunk);
    }
    chunks
}

/// The placeholders for `rows` rows of `columns` values each.
pub(super) fn rows_of_slots(rows: usize, columns: usize) -> String {
    let row = format!("({})", list(0..columns, |_| "?"));
    list(0..rows, |_| &row)
}

/// `count` placeholders, numbered from `taken + 1`.
pub(super) fn slots(taken: usize, count: usize) -> String {
    list(taken + 1..=taken + count, |index| format!("${index}"))
}

/// Joins the texts of `items` with commas.
pub(super) fn list<T, D: Display>(items: impl IntoIterator<Item = T>, text: impl Fn(T) -> D) -> String {
    let mut list = String::new();
    for (index, item) in items.into_iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let _ = write!(list, "{comma}{}", text(item));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_have_fixed_sizes_and_contain_every_row() {
        for count in [1, 2, 8, 9, 63, 64, 65, 200, 256, 300] {
            let rows: Vec<Vec<Value>> = (0..count).map(|number: i64| vec![number.into()]).collect();
            let exact = chunks(rows.clone(), false);
            assert!(exact.iter().all(|chunk| CHUNKS.contains(&chunk.len())));
            assert_eq!(exact.concat(), rows);
            let padded = chunks(rows.clone(), true);
            assert!(padded.iter().all(|chunk| CHUNKS.contains(&chunk.len())));
            assert!(rows.iter().all(|row| padded.concat().contains(row)));
        }
    }
}

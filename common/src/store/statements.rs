//! Sets of rows, read with one statement each, derived from sea-orm's entities.
//!
//! The text of a statement must not depend on the size of the set, or no prepared statement would
//! ever be used twice. PostgreSQL takes one array for each column (`unnest`); SQLite, where a
//! statement costs no round trip, takes the set in portions of a few fixed sizes.

use std::{
    any::TypeId,
    collections::HashMap,
    fmt::{Display, Write},
    sync::{LazyLock, Mutex, PoisonError},
};

use licet_schema::entity::Keyed;
use sea_orm::{
    ColumnTrait, ColumnType, ConnectionTrait, DatabaseBackend, EntityTrait, IdenStatic, Iterable, PrimaryKeyToColumn,
    Statement, Value, sea_query::ArrayType,
};

use super::StoreError;

/// The portions in which SQLite takes a set.
const PORTIONS: [usize; 4] = [PORTION_MAX, 64, 8, 1];
pub(super) const PORTION_MAX: usize = 256;

/// What is done with rows after they were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Nothing.
    None,
    /// They are locked, in key order, until the transaction ends. SQLite has one writer anyway.
    ForUpdate,
    /// The same, but those that others have locked are left out instead of waited for.
    Free,
}

/// The rows of `E` whose `columns` are among `keys`, each a value for each column.
///
/// # Errors
/// The database's.
pub async fn select<E: Keyed>(
    connection: &impl ConnectionTrait,
    columns: &[E::Column],
    keys: Vec<Vec<Value>>,
    lock: Lock,
) -> Result<Vec<E::Model>, StoreError> {
    let mut found = Vec::new();
    if keys.is_empty() {
        return Ok(found);
    }
    let table = Table::of::<E>();
    let names = list(columns, |column| quoted(column.as_str()));
    let head = format!("SELECT {} FROM \"{}\" WHERE ({names}) IN", table.all, table.name);
    let tail = match lock {
        Lock::None => String::new(),
        Lock::ForUpdate => format!(" ORDER BY {} FOR UPDATE", table.key),
        Lock::Free => format!(" ORDER BY {} FOR UPDATE SKIP LOCKED", table.key),
    };
    match connection.get_database_backend() {
        DatabaseBackend::Postgres => {
            let slots = slots(0, columns.len());
            let text = format!("{head} (SELECT * FROM unnest({slots})){tail}");
            let arrays = arrays(columns.iter().map(kind_of::<E>).collect(), keys);
            found = query::<E>(connection, text, arrays).await?;
        }
        _ => {
            for portion in portions(keys, true) {
                let text = format!("{head} (VALUES {})", rows_of_slots(portion.len(), columns.len()));
                found.extend(query::<E>(connection, text, portion.into_iter().flatten().collect()).await?);
            }
        }
    }
    Ok(found)
}

/// The first rows of `E` whose `column` is below `bound`, lowest first, `most` of them. `condition`
/// is SQL for a partial index to be found by, or empty.
///
/// # Errors
/// The database's.
pub async fn below<E: EntityTrait>(
    connection: &impl ConnectionTrait,
    column: E::Column,
    condition: &str,
    bound: i64,
    most: u64,
) -> Result<Vec<E::Model>, StoreError> {
    let table = Table::of::<E>();
    let [low, high] = match connection.get_database_backend() {
        DatabaseBackend::Postgres => ["$1", "$2"],
        _ => ["?", "?"],
    };
    let (columns, name, column) = (&table.all, &table.name, column.as_str());
    let and = if condition.is_empty() { "" } else { " AND " };
    let text = format!(
        "SELECT {columns} FROM \"{name}\" WHERE \"{column}\" < {low}{and}{condition} ORDER BY \"{column}\" LIMIT {high}"
    );
    query::<E>(connection, text, vec![bound.into(), i64::try_from(most).unwrap_or(i64::MAX).into()]).await
}

async fn query<E: EntityTrait>(
    connection: &impl ConnectionTrait,
    text: String,
    values: Vec<Value>,
) -> Result<Vec<E::Model>, StoreError> {
    let statement = Statement::from_sql_and_values(connection.get_database_backend(), text, values);
    Ok(E::find().from_raw_sql(statement).all(connection).await?)
}

/// A table, as statements need it.
pub(super) struct Table {
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
    /// The names of all of them.
    pub(super) all: String,
    /// The names of those of the primary key.
    pub(super) key: String,
}

pub(super) struct Column {
    /// In quotation marks.
    pub(super) name: String,
    pub(super) kind: ArrayType,
    pub(super) key: bool,
    nullable: bool,
}

impl Table {
    /// Made once for each entity, and kept.
    pub(super) fn of<E: EntityTrait>() -> &'static Self {
        static MADE: LazyLock<Mutex<HashMap<TypeId, &'static Table>>> = LazyLock::new(Mutex::default);
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        made.entry(TypeId::of::<E>()).or_insert_with(|| Box::leak(Box::new(Self::make::<E>())))
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

    pub(super) fn same_key(&self, other: &str) -> String {
        let keys = self.columns.iter().filter(|column| column.key);
        let pairs: Vec<_> = keys.map(|column| format!("\"{}\".{1} = {other}.{1}", self.name, column.name)).collect();
        pairs.join(" AND ")
    }
}

impl Column {
    /// sea-query cannot bind a NULL inside an array, so for a nullable column a value that none of
    /// ours ever has stands for it, and becomes NULL again here.
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
        other => unreachable!("{} has a column of type {other:?}, which sets cannot carry", E::default().table_name()),
    }
}

/// One array for each column, from one list of values for each row.
pub(super) fn arrays(kinds: Vec<ArrayType>, rows: Vec<Vec<Value>>) -> Vec<Value> {
    let mut columns: Vec<Vec<Value>> = kinds.iter().map(|_| Vec::with_capacity(rows.len())).collect();
    for row in rows {
        for (column, value) in columns.iter_mut().zip(row) {
            column.push(value);
        }
    }
    kinds.iter().zip(columns).map(|(kind, values)| array(kind, values)).collect()
}

/// The values of one column.
pub(super) fn array(kind: &ArrayType, values: Vec<Value>) -> Value {
    Value::Array(kind.clone(), Some(Box::new(values.into_iter().map(stand_in).collect())))
}

fn stand_in(value: Value) -> Value {
    match value {
        Value::Uuid(None) => uuid::Uuid::nil().into(),
        Value::BigInt(None) => i64::MIN.into(),
        Value::String(None) => "".into(),
        other => other,
    }
}

/// `rows` in portions of the fixed sizes. If `padded`, the last is filled up by repeating a row,
/// which does no harm where the rows are keys to look for.
pub(super) fn portions(rows: Vec<Vec<Value>>, padded: bool) -> Vec<Vec<Vec<Value>>> {
    let mut portions = Vec::new();
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        let left = rows.len();
        let size = if padded {
            PORTIONS.into_iter().rev().find(|size| *size >= left).unwrap_or(PORTIONS[0])
        } else {
            PORTIONS.into_iter().find(|size| *size <= left).unwrap_or(1)
        };
        let mut portion: Vec<_> = rows.by_ref().take(size).collect();
        while let (true, Some(last)) = (portion.len() < size, portion.last().cloned()) {
            portion.push(last);
        }
        portions.push(portion);
    }
    portions
}

pub(super) fn rows_of_slots(rows: usize, columns: usize) -> String {
    let row = format!("({})", list(0..columns, |_| "?"));
    list(0..rows, |_| &row)
}

/// Places for so many values, after those that have one.
pub(super) fn slots(taken: usize, count: usize) -> String {
    list(taken + 1..=taken + count, |index| format!("${index}"))
}

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
    fn portions_have_fixed_sizes_and_lose_nothing() {
        for count in [1, 2, 8, 9, 63, 64, 65, 200, 256, 300] {
            let rows: Vec<Vec<Value>> = (0..count).map(|number: i64| vec![number.into()]).collect();
            let exact = portions(rows.clone(), false);
            assert!(exact.iter().all(|portion| PORTIONS.contains(&portion.len())));
            assert_eq!(exact.concat(), rows);
            let padded = portions(rows.clone(), true);
            assert!(padded.iter().all(|portion| PORTIONS.contains(&portion.len())));
            assert!(rows.iter().all(|row| padded.concat().contains(row)));
        }
    }
}

//! Compares the database with what this release needs, and describes each difference in a sentence
//! that says what to do.
//!
//! A program makes this comparison when it starts. A worker makes it again after an error, before
//! it takes messages again, and before an error counts as a failed attempt of a message. Therefore,
//! a table that was changed by hand stops the workers, and no message becomes a dead letter.
//!
//! Deliberately absent: the contents of the tables, which the auditor checks.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use licet_schema::{
    entity::{self, SEQUENCES},
    migration::MIGRATIONS,
};
use sea_orm::{ColumnType, ConnectionTrait, DatabaseBackend, DatabaseConnection};

use super::{
    OpenError, Store, StoreError, cause,
    migrate::{self, TABLE, applied},
    server_check::{query, server_problems, text_at},
};

impl Store {
    /// Everything in the setup of the database that keeps this release from working, one sentence
    /// each. `writes` states whether the program also writes. Does not write.
    ///
    /// # Errors
    /// The database is unavailable.
    pub fn problems(&self, writes: bool) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        Box::pin(async move { problems(&self.pool(), writes).await })
    }

    /// Checks that the database has no [`Store::problems`], and compares the clock: a difference
    /// from the clock of the database is logged as an error. Does not write.
    ///
    /// # Errors
    /// There is a problem, or the database is unavailable.
    pub fn check(&self, writes: bool) -> BoxFuture<'_, Result<(), OpenError>> {
        let address =
            self.address.as_ref().map_or_else(|| "LICET_DATABASE_URL".to_owned(), |found| found.shown.clone());
        let unreachable =
            move |error: StoreError| OpenError::Unreachable { address: address.clone(), source: cause(error) };
        Box::pin(async move {
            let problems = match self.problems(writes).await {
                Err(StoreError::Misconfigured { why, .. }) => vec![why],
                other => other.map_err(&unreachable)?,
            };
            if !problems.is_empty() {
                return Err(OpenError::NotPrepared { problems });
            }
            self.check_clock().await.map_err(unreachable)
        })
    }
}

/// An error if there are problems.
pub(super) fn require_none(problems: &[String]) -> Result<(), StoreError> {
    if problems.is_empty() { Ok(()) } else { Err(StoreError::misconfigured(problems)) }
}

/// See [`Store::problems`].
pub(super) async fn problems(pool: &DatabaseConnection, writes: bool) -> Result<Vec<String>, StoreError> {
    let mut problems = server_problems(pool, writes).await?;
    if !problems.is_empty() {
        return Ok(problems);
    }
    problems.extend(privilege_problems(pool, writes).await?);
    if !problems.is_empty() {
        return Ok(problems);
    }
    let Some(applied) = applied(pool).await? else {
        return Ok(vec![
            "the database contains no tables of Licet: check LICET_DATABASE_URL, or run `licet migrate`".into(),
        ]);
    };
    if let Some(foreign) = migrate::foreign(&applied) {
        return Ok(vec![foreign]);
    }
    let pending: Vec<_> = migrate::pending(&applied).map(|migration| migration.name()).collect();
    if !pending.is_empty() {
        return Ok(vec![format!(
            "the tables are those of an earlier release than {}: run `licet migrate`",
            pending.join(" and ")
        )]);
    }
    let mut differences = table_problems(pool, writes).await?;
    if writes {
        differences.extend(constraint_problems(pool).await?);
    }
    if let (Some(newer), false) = (migrate::newer(&applied), differences.is_empty()) {
        problems.push(format!(
            "the tables were changed for release {}, which no longer supports this release ({}): start the programs \
             of that release",
            newer.release,
            env!("CARGO_PKG_VERSION")
        ));
    }
    problems.extend(differences);
    Ok(problems)
}

/// The missing privileges, and other properties of tables that hide rows or lose them.
async fn privilege_problems(pool: &DatabaseConnection, writes: bool) -> Result<Vec<String>, StoreError> {
    if pool.get_database_backend() != DatabaseBackend::Postgres {
        return Ok(Vec::new());
    }
    let names: Vec<_> = entity::tables().into_iter().map(|table| table.name).chain([TABLE.to_owned()]).collect();
    let text = format!(
        "SELECT c.relname::text, c.relpersistence = 'u', row_security_active(c.oid), \
         has_table_privilege(c.oid, 'SELECT'), has_table_privilege(c.oid, 'INSERT'), \
         has_table_privilege(c.oid, 'UPDATE'), has_table_privilege(c.oid, 'DELETE'), current_user::text, \
         EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid) \
         FROM pg_class c WHERE c.oid IN ({}) ORDER BY c.relname",
        names.iter().map(|name| format!("to_regclass('{name}')")).collect::<Vec<_>>().join(", ")
    );
    let mut lacking: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut problems, mut role) = (Vec::new(), String::new());
    for row in query(pool, &text).await? {
        let table = text_at(&row, 0)?;
        role = text_at(&row, 7)?;
        if writes && row.try_get_by_index(1)? {
            problems.push(format!(
                "the table {table} is UNLOGGED, so its rows are lost if the server crashes: run `ALTER TABLE {table} SET \
                 LOGGED`"
            ));
        }
        if row.try_get_by_index(2)? {
            problems.push(format!(
                "row security hides rows of the table {table} from the role {role}: run `ALTER TABLE {table} DISABLE \
                 ROW LEVEL SECURITY`"
            ));
        }
        if writes && !row.try_get_by_index::<bool>(8)? {
            problems.push(format!(
                "the table {table} has no primary key, so nothing keeps a row from existing twice: restore the key"
            ));
        }
        let needed = ["SELECT", "INSERT", "UPDATE", "DELETE"];
        let needed = if writes && table != TABLE { &needed[..] } else { &needed[..1] };
        let mut missing = Vec::new();
        for (index, privilege) in needed.iter().enumerate() {
            if !row.try_get_by_index::<bool>(3 + index)? {
                missing.push(*privilege);
            }
        }
        if !missing.is_empty() {
            lacking.entry(missing.join(", ")).or_default().push(table);
        }
    }
    for (privileges, tables) in lacking {
        let tables = tables.join(", ");
        problems.push(format!(
            "the role {role} lacks {privileges} on {tables}: run `GRANT {privileges} ON {tables} TO {role}`"
        ));
    }
    for sequence in SEQUENCES.iter().filter(|_| writes) {
        let text = format!("SELECT has_sequence_privilege(to_regclass('{sequence}'), 'USAGE'), current_user::text");
        let Some(row) = query(pool, &text).await?.pop() else { continue };
        if row.try_get_by_index::<Option<bool>>(0)? == Some(false) {
            let role = text_at(&row, 1)?;
            problems.push(format!(
                "the role {role} lacks USAGE on the sequence {sequence}: run `GRANT USAGE ON SEQUENCE {sequence} TO {role}`"
            ));
        }
    }
    Ok(problems)
}

/// A column as it is in the database.
struct Found {
    kind: String,
    nullable: bool,
    has_default: bool,
}

/// The tables and columns that differ from those of this release. A column that this release does
/// not know is a problem only for a program that writes, and only if each new row needs a value for
/// it.
async fn table_problems(pool: &DatabaseConnection, writes: bool) -> Result<Vec<String>, StoreError> {
    const REPAIR: &str = "undo the change, or restore a backup";
    let found = columns(pool).await?;
    let mut problems = Vec::new();
    for table in entity::tables() {
        let name = &table.name;
        let Some(columns) = found.get(name) else {
            problems.push(format!("the table {name} does not exist: {REPAIR}"));
            continue;
        };
        for column in &table.columns {
            let expected = type_name(pool.get_database_backend(), &column.kind);
            match columns.get(&column.name) {
                None => problems.push(format!("the table {name} lacks the column {}: {REPAIR}", column.name)),
                Some(found) if found.kind != expected => problems.push(format!(
                    "the column {} of the table {name} has the type {} instead of {expected}: {REPAIR}",
                    column.name, found.kind
                )),
                Some(found) if writes && column.nullable && !found.nullable => problems.push(format!(
                    "the column {} of the table {name} must accept NULL: run `ALTER TABLE {name} ALTER COLUMN {0} DROP \
                     NOT NULL`",
                    column.name
                )),
                Some(_) => {}
            }
        }
        let is_unknown = |found: &&String| table.columns.iter().all(|column| column.name != **found);
        for unknown in columns.keys().filter(is_unknown) {
            if writes && !columns[unknown].nullable && !columns[unknown].has_default {
                problems.push(format!(
                    "the table {name} has the column {unknown}, which this release does not know and which needs a \
                     value: give it a default, or let it accept NULL"
                ));
            }
        }
    }
    Ok(problems)
}

/// The constraints and unique indexes that this release does not know. They can reject valid rows.
async fn constraint_problems(pool: &DatabaseConnection) -> Result<Vec<String>, StoreError> {
    if pool.get_database_backend() != DatabaseBackend::Postgres {
        return Ok(Vec::new());
    }
    let tables: Vec<_> = entity::tables().iter().map(|table| format!("to_regclass('{}')", table.name)).collect();
    let tables = tables.join(", ");
    let text = format!(
        "SELECT conrelid::regclass::text, conname::text, 'CONSTRAINT' FROM pg_constraint \
         WHERE conrelid IN ({tables}) AND contype IN ('c', 'f', 'u', 'x') \
         UNION ALL SELECT i.indrelid::regclass::text, c.relname::text, 'INDEX' FROM pg_index i \
         JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid IN ({tables}) AND i.indisunique \
         AND NOT i.indisprimary AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid)"
    );
    let mut problems = Vec::new();
    for row in query(pool, &text).await? {
        let (table, name, kind) = (text_at(&row, 0)?, text_at(&row, 1)?, text_at(&row, 2)?);
        if MIGRATIONS.iter().any(|migration| migration.postgresql.split_whitespace().any(|word| word == name)) {
            continue;
        }
        let remove = match kind.as_str() {
            "INDEX" => format!("DROP INDEX {name}"),
            _ => format!("ALTER TABLE {table} DROP CONSTRAINT {name}"),
        };
        problems.push(format!(
            "the table {table} has the {} {name}, which this release does not know and which can refuse rows: run \
             `{remove}`",
            if kind == "INDEX" { "unique index" } else { "constraint" }
        ));
    }
    Ok(problems)
}

/// The columns of all tables that exist, by table and name.
async fn columns(pool: &DatabaseConnection) -> Result<BTreeMap<String, BTreeMap<String, Found>>, StoreError> {
    let names: Vec<_> = entity::tables().iter().map(|table| format!("('{}')", table.name)).collect();
    let names = names.join(", ");
    let text = match pool.get_database_backend() {
        DatabaseBackend::Postgres => format!(
            "SELECT t.name, a.attname::text, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull, \
             a.atthasdef OR a.attidentity <> '' FROM (VALUES {names}) AS t (name) \
             JOIN pg_attribute a ON a.attrelid = to_regclass(t.name) AND a.attnum > 0 AND NOT a.attisdropped"
        ),
        _ => format!(
            "SELECT t.column1, a.name, lower(a.type), NOT a.\"notnull\", a.dflt_value IS NOT NULL FROM (VALUES {names}) AS t \
             JOIN pragma_table_info(t.column1) AS a"
        ),
    };
    let mut tables: BTreeMap<String, BTreeMap<String, Found>> = BTreeMap::new();
    for row in query(pool, &text).await? {
        let column = Found {
            kind: text_at(&row, 2)?,
            nullable: row.try_get_by_index(3)?,
            has_default: row.try_get_by_index(4)?,
        };
        tables.entry(text_at(&row, 0)?).or_default().insert(text_at(&row, 1)?, column);
    }
    Ok(tables)
}

/// The name of a column's type in this kind of database.
fn type_name(backend: DatabaseBackend, kind: &ColumnType) -> &'static str {
    let postgres = backend == DatabaseBackend::Postgres;
    match kind {
        ColumnType::Uuid if postgres => "uuid",
        ColumnType::Uuid => "uuid_text",
        ColumnType::Blob if postgres => "bytea",
        ColumnType::Blob => "blob",
        ColumnType::BigInteger => "bigint",
        ColumnType::Boolean => "boolean",
        ColumnType::Text => "text",
        other => unreachable!("no table has a column of type {other:?}"),
    }
}

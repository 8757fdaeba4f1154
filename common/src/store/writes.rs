//! Changes to the rows of several tables, sent to the database together.
//!
//! On PostgreSQL all changes are parts of one `WITH` statement, because round trips cost more than
//! rows.
//!
//! Parts of one `WITH` statement do not see each other's changes. A row that takes the place of a
//! removed row in a unique index therefore needs a second statement, which is a new step
//! ([`Writes::then`]).
//!
//! On SQLite, where statements cost no round trips, each part has its own statements.

use licet_schema::entity::Keyed;
use sea_orm::{ConnectionTrait, DatabaseBackend, EntityTrait, IdenStatic, Iterable, ModelTrait, Statement, Value};

use super::{
    StoreError,
    statements::{Column, Table, array, arrays, chunks, list, rows_of_slots, slots},
};
use crate::rows::Change;

/// Changes that have not been sent yet.
#[derive(Debug)]
pub struct Writes {
    backend: DatabaseBackend,
    /// The completed steps, in their order.
    before: Vec<Step>,
    /// The current step. The parts of a step do not depend on each other.
    step: Step,
}

#[derive(Debug, Default)]
struct Step {
    parts: Vec<Part>,
    /// The number of values of all parts.
    values: usize,
}

/// One kind of change to one table, with the number of rows that it changes.
#[derive(Debug)]
struct Part {
    table: &'static str,
    rows: u64,
    statements: Vec<(String, Vec<Value>)>,
}

impl Writes {
    /// Creates an empty set of changes for this kind of database.
    pub fn new(backend: DatabaseBackend) -> Self {
        Self { backend, before: Vec::new(), step: Step::default() }
    }

    /// Starts a new step. Changes that are added from now on are written after the earlier changes.
    pub fn then(&mut self) {
        self.before.push(std::mem::take(&mut self.step));
    }

    /// Adds rows to insert. [`Writes::run`] returns [`StoreError::Contended`] if a key exists
    /// already.
    pub fn insert<E: Keyed>(&mut self, rows: &[&E::Model])
    where
        E::Model: ModelTrait<Entity = E>,
    {
        if rows.is_empty() {
            return;
        }
        self.insert_picked::<E>(rows, Column::picked);
    }

    /// Adds rows to insert on PostgreSQL. The next value of `sequence` is drawn once, when the rows
    /// are written, and added to `column` of each row.
    pub fn insert_numbered<E: Keyed>(&mut self, rows: &[&E::Model], column: E::Column, sequence: &str)
    where
        E::Model: ModelTrait<Entity = E>,
    {
        let column = format!("\"{}\"", column.as_str());
        self.insert_picked::<E>(rows, |shape| match shape.name == column {
            // The database evaluates a subquery that does not depend on the row only once.
            true => format!("a.{column} + (SELECT nextval('{sequence}'))"),
            false => shape.picked(),
        });
    }

    fn insert_picked<E: Keyed>(&mut self, rows: &[&E::Model], pick: impl Fn(&Column) -> String)
    where
        E::Model: ModelTrait<Entity = E>,
    {
        let table = Table::of::<E>();
        let columns: Vec<_> = <E as EntityTrait>::Column::iter().zip(&table.columns).collect();
        self.write::<E>(table, &columns, rows, pick, |source| {
            format!("INSERT INTO \"{}\" ({}) {source}", table.name, table.all)
        });
    }

    /// Adds rows to update. Only the columns in which at least one row differs from its stored
    /// version are written. [`Writes::run`] returns [`StoreError::Rejected`] if a row does not
    /// exist.
    pub fn update<E: Keyed>(&mut self, rows: &[Change<'_, E::Model>])
    where
        E::Model: ModelTrait<Entity = E>,
    {
        let differs = |column: E::Column| rows.iter().any(|row| row.stored.get(column) != row.now.get(column));
        let table = Table::of::<E>();
        let all = <E as EntityTrait>::Column::iter().zip(&table.columns);
        let columns: Vec<_> = all.filter(|(column, shape)| shape.key || differs(*column)).collect();
        let others = columns.iter().filter(|(_, shape)| !shape.key);
        let set = list(others, |(_, shape)| format!("{0} = u.{0}", shape.name));
        if set.is_empty() {
            return;
        }
        let (names, same) = (list(&columns, |(_, shape)| &shape.name), table.same_key("u"));
        let rows: Vec<_> = rows.iter().map(|row| row.now).collect();
        self.write::<E>(table, &columns, &rows, Column::picked, |source| {
            format!("WITH u ({names}) AS ({source}) UPDATE \"{0}\" SET {set} FROM u WHERE {same}", table.name)
        });
    }

    /// Adds rows to delete, by their keys. Each key has one value for each column of the primary
    /// key. [`Writes::run`] returns [`StoreError::Rejected`] if a row does not exist.
    pub fn delete<E: Keyed>(&mut self, keys: Vec<Vec<Value>>) {
        if keys.is_empty() {
            return;
        }
        let table = Table::of::<E>();
        let head = format!("DELETE FROM \"{}\" WHERE ({}) IN", table.name, table.key);
        let rows = keys.len() as u64;
        let statements = match self.backend {
            DatabaseBackend::Postgres => {
                let key = table.columns.iter().filter(|column| column.key);
                let kinds: Vec<_> = key.map(|column| column.kind.clone()).collect();
                let slots = slots(self.step.values, kinds.len());
                vec![(format!("{head} (SELECT * FROM unnest({slots}))"), arrays(kinds, keys))]
            }
            _ => in_chunks(keys, |slots| format!("{head} (VALUES {slots})")),
        };
        self.add(&table.name, rows, statements);
    }

    fn write<E: Keyed>(
        &mut self,
        table: &'static Table,
        columns: &[(E::Column, &Column)],
        rows: &[&E::Model],
        pick: impl Fn(&Column) -> String,
        statement: impl Fn(&str) -> String,
    ) where
        E::Model: ModelTrait<Entity = E>,
    {
        let statements = match self.backend {
            DatabaseBackend::Postgres => {
                let picked = list(columns, |(_, shape)| pick(shape));
                let names = list(columns, |(_, shape)| &shape.name);
                let slots = slots(self.step.values, columns.len());
                let source = format!("SELECT {picked} FROM unnest({slots}) AS a ({names})");
                let all = |column: E::Column| rows.iter().map(|row| row.get(column)).collect();
                let values = columns.iter().map(|(column, shape)| array(&shape.kind, all(*column)));
                vec![(statement(&source), values.collect())]
            }
            _ => {
                let values = |row: &&E::Model| columns.iter().map(|(column, _)| row.get(*column)).collect();
                in_chunks(rows.iter().map(values).collect(), |slots| statement(&format!("VALUES {slots}")))
            }
        };
        self.add(&table.name, rows.len() as u64, statements);
    }

    fn add(&mut self, table: &'static str, rows: u64, statements: Vec<(String, Vec<Value>)>) {
        self.step.values += statements.iter().map(|(_, values)| values.len()).sum::<usize>();
        self.step.parts.push(Part { table, rows, statements });
    }

    /// Sends the changes to the database.
    ///
    /// # Errors
    /// [`StoreError::Contended`] if an inserted key exists already, [`StoreError::Rejected`] if a
    /// row to update or delete does not exist, or another error of the database.
    pub async fn run(self, connection: &impl ConnectionTrait) -> Result<(), StoreError> {
        for step in self.before.into_iter().chain([self.step]) {
            match self.backend {
                DatabaseBackend::Postgres => run_together(connection, step).await?,
                _ => run_in_turn(connection, step).await?,
            }
        }
        Ok(())
    }
}

/// Sends a step as one statement. PostgreSQL chooses the order in which it executes the parts.
async fn run_together(connection: &impl ConnectionTrait, step: Step) -> Result<(), StoreError> {
    if step.parts.is_empty() {
        return Ok(());
    }
    let texts = step.parts.iter().flat_map(|part| &part.statements).map(|(text, _)| text);
    let parts = list(texts.enumerate(), |(index, text)| format!("w{index} AS ({text} RETURNING 1)"));
    let counts = list(0..step.parts.len(), |index| format!("(SELECT count(*) FROM w{index})"));
    let text = format!("WITH {parts} SELECT {counts}");
    let expected: Vec<_> = step.parts.iter().map(|part| (part.table, part.rows)).collect();
    let values = step.parts.into_iter().flat_map(|part| part.statements).flat_map(|(_, values)| values);
    let statement = Statement::from_sql_and_values(connection.get_database_backend(), text, values.collect::<Vec<_>>());
    let counts = connection.query_one(statement).await?;
    for (index, (table, rows)) in expected.into_iter().enumerate() {
        let written = counts.as_ref().map_or(Ok(0), |counts| counts.try_get_by_index::<i64>(index))?;
        check_count(table, rows, written.unsigned_abs())?;
    }
    Ok(())
}

/// Sends a step as separate statements.
async fn run_in_turn(connection: &impl ConnectionTrait, step: Step) -> Result<(), StoreError> {
    for part in step.parts {
        let mut written = 0;
        for (text, values) in part.statements {
            let statement = Statement::from_sql_and_values(connection.get_database_backend(), text, values);
            written += connection.execute(statement).await?.rows_affected();
        }
        check_count(part.table, part.rows, written)?;
    }
    Ok(())
}

/// One statement for each chunk of `rows`.
fn in_chunks(rows: Vec<Vec<Value>>, text: impl Fn(&str) -> String) -> Vec<(String, Vec<Value>)> {
    let statement = |chunk: Vec<Vec<Value>>| {
        let width = chunk.first().map_or(0, Vec::len);
        (text(&rows_of_slots(chunk.len(), width)), chunk.into_iter().flatten().collect())
    };
    chunks(rows, false).into_iter().map(statement).collect()
}

/// Checks the number of rows that a part has written. If the number is lower than expected, a lock
/// was missing.
fn check_count(table: &str, expected: u64, written: u64) -> Result<(), StoreError> {
    if expected == written {
        return Ok(());
    }
    Err(StoreError::rejected(format!("{written} of {expected} rows of {table} were written: the others do not exist")))
}

//! Changes to rows of several tables, told to the database at once.
//!
//! PostgreSQL takes one statement with a part for each table and kind of change, since what a batch costs
//! is round trips more than rows. Its parts do not see each other; what must come after something else
//! is a step of its own. SQLite, where a statement costs no round trip, takes one after the other.

use licet_schema::entity::Keyed;
use sea_orm::{ConnectionTrait, DatabaseBackend, EntityTrait, Iterable, ModelTrait, Statement, Value};

use super::{
    StoreError,
    rows::{Column, Table, array, arrays, list, portions, rows_of_slots, slots},
};
use crate::decision::Change;

/// Changes that were not told yet.
#[derive(Debug)]
pub struct Writes {
    backend: DatabaseBackend,
    /// What comes before `step`, in its order.
    before: Vec<Step>,
    /// Its parts do not depend on each other.
    step: Step,
}

#[derive(Debug, Default)]
struct Step {
    parts: Vec<Part>,
    /// How many values its parts have together.
    values: usize,
}

/// One kind of change to one table.
#[derive(Debug)]
struct Part {
    table: &'static str,
    rows: u64,
    statements: Vec<(String, Vec<Value>)>,
}

impl Writes {
    /// None yet, for this kind of database.
    pub fn new(backend: DatabaseBackend) -> Self {
        Self { backend, before: Vec::new(), step: Step::default() }
    }

    /// What is added from here on comes after what was added before.
    pub fn then(&mut self) {
        self.before.push(std::mem::take(&mut self.step));
    }

    /// Adds rows. The database says [`StoreError::Contended`] if a key is there already.
    pub fn insert<E: Keyed>(&mut self, rows: &[&E::Model])
    where
        E::Model: ModelTrait<Entity = E>,
    {
        if rows.is_empty() {
            return;
        }
        let table = Table::of::<E>();
        let columns: Vec<_> = <E as EntityTrait>::Column::iter().zip(&table.columns).collect();
        self.write::<E>(table, &columns, rows, |source| {
            format!("INSERT INTO \"{}\" ({}) {source}", table.name, table.all)
        });
    }

    /// Writes what changed: a column in which one of the rows differs, for all of them, and no other.
    /// Where nothing differs, nothing is told. [`StoreError::Refused`] if one of what is told is not there:
    /// then a lock was left out.
    pub fn update<E: Keyed>(&mut self, rows: &[Change<'_, E::Model>])
    where
        E::Model: ModelTrait<Entity = E>,
    {
        let differs =
            |column: E::Column| rows.iter().any(|row| row.was.is_none_or(|was| was.get(column) != row.now.get(column)));
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
        self.write::<E>(table, &columns, &rows, |source| {
            format!("WITH u ({names}) AS ({source}) UPDATE \"{0}\" SET {set} FROM u WHERE {same}", table.name)
        });
    }

    /// Deletes the rows of these keys, each a value for each column of the primary key.
    /// [`StoreError::Refused`] if one of them is not there: then a lock was left out.
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
            _ => in_portions(keys, |slots| format!("{head} (VALUES {slots})")),
        };
        self.add(&table.name, rows, statements);
    }

    fn write<E: Keyed>(
        &mut self,
        table: &'static Table,
        columns: &[(E::Column, &Column)],
        rows: &[&E::Model],
        statement: impl Fn(&str) -> String,
    ) where
        E::Model: ModelTrait<Entity = E>,
    {
        let statements = match self.backend {
            DatabaseBackend::Postgres => {
                let picked = list(columns, |(_, shape)| shape.picked());
                let names = list(columns, |(_, shape)| &shape.name);
                let slots = slots(self.step.values, columns.len());
                let source = format!("SELECT {picked} FROM unnest({slots}) AS a ({names})");
                let all = |column: E::Column| rows.iter().map(|row| row.get(column)).collect();
                let values = columns.iter().map(|(column, shape)| array(&shape.kind, all(*column)));
                vec![(statement(&source), values.collect())]
            }
            _ => {
                let values = |row: &&E::Model| columns.iter().map(|(column, _)| row.get(*column)).collect();
                in_portions(rows.iter().map(values).collect(), |slots| statement(&format!("VALUES {slots}")))
            }
        };
        self.add(&table.name, rows.len() as u64, statements);
    }

    fn add(&mut self, table: &'static str, rows: u64, statements: Vec<(String, Vec<Value>)>) {
        self.step.values += statements.iter().map(|(_, values)| values.len()).sum::<usize>();
        self.step.parts.push(Part { table, rows, statements });
    }

    /// Tells the database.
    ///
    /// # Errors
    /// The database's; [`StoreError::Contended`] if a key that is added is there already;
    /// [`StoreError::Refused`] if a row that is changed or deleted is not.
    pub async fn run(self, connection: &impl ConnectionTrait) -> Result<(), StoreError> {
        for step in self.before.into_iter().chain([self.step]) {
            match self.backend {
                DatabaseBackend::Postgres => at_once(connection, step).await?,
                _ => one_by_one(connection, step).await?,
            }
        }
        Ok(())
    }
}

/// One statement. In which order its parts are carried out is PostgreSQL's to choose.
async fn at_once(connection: &impl ConnectionTrait, step: Step) -> Result<(), StoreError> {
    if step.parts.is_empty() {
        return Ok(());
    }
    let texts = step.parts.iter().flat_map(|part| &part.statements).map(|(text, _)| text);
    let parts = list(texts.enumerate(), |(index, text)| format!("w{index} AS ({text} RETURNING 1)"));
    let counts = list(0..step.parts.len(), |index| format!("(SELECT count(*) FROM w{index})"));
    let text = format!("WITH {parts} SELECT {counts}");
    let wanted: Vec<_> = step.parts.iter().map(|part| (part.table, part.rows)).collect();
    let values = step.parts.into_iter().flat_map(|part| part.statements).flat_map(|(_, values)| values);
    let statement = Statement::from_sql_and_values(connection.get_database_backend(), text, values.collect::<Vec<_>>());
    let counts = connection.query_one(statement).await?;
    for (index, (table, rows)) in wanted.into_iter().enumerate() {
        let written = counts.as_ref().map_or(Ok(0), |counts| counts.try_get_by_index::<i64>(index))?;
        all_there(table, rows, written.unsigned_abs())?;
    }
    Ok(())
}

async fn one_by_one(connection: &impl ConnectionTrait, step: Step) -> Result<(), StoreError> {
    for part in step.parts {
        let mut written = 0;
        for (text, values) in part.statements {
            let statement = Statement::from_sql_and_values(connection.get_database_backend(), text, values);
            written += connection.execute(statement).await?.rows_affected();
        }
        all_there(part.table, part.rows, written)?;
    }
    Ok(())
}

fn in_portions(rows: Vec<Vec<Value>>, text: impl Fn(&str) -> String) -> Vec<(String, Vec<Value>)> {
    let statement = |portion: Vec<Vec<Value>>| {
        let width = portion.first().map_or(0, Vec::len);
        (text(&rows_of_slots(portion.len(), width)), portion.into_iter().flatten().collect())
    };
    portions(rows, false).into_iter().map(statement).collect()
}

fn all_there(table: &str, wanted: u64, found: u64) -> Result<(), StoreError> {
    if wanted == found {
        return Ok(());
    }
    Err(StoreError::Refused(format!("{found} of {wanted} rows of {table} were there to be written")))
}

//! The rows of a batch: what was read, what the rules changed, and what they must not do.
//!
//! The runtime reads the rows that a batch needs, lets the rules change them one message after the
//! other, and writes what changed. Each table is a [`Rows`]; a worker's tables together are a
//! [`RowSet`].
//!
//! A rule may read only what its worker's `load` asked for. A row that was asked for and does not
//! exist is `None`. A row that was not asked for is a [`Defect`], and so is every impossible change:
//! adding a row that exists, and changing or removing one that does not.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Debug,
};

use licet_schema::entity::Keyed;
use sea_orm::{IdenStatic, Iterable, ModelTrait, PrimaryKeyToColumn, Value};
use uuid::Uuid;

/// A violated invariant of the program itself, not a fault of a message. The runtime handles it as it
/// handles a panic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// A rule read rows that `load` did not ask for.
    #[error("a rule read {table} by {lookup}, which the worker's load did not ask for")]
    NotLoaded {
        /// The table.
        table: String,
        /// The columns and values that the rule looked for.
        lookup: String,
    },
    /// A row that must exist does not.
    #[error("{table} has no row {key}, but a rule needs it")]
    RowMissing {
        /// The table.
        table: String,
        /// The row's key.
        key: String,
    },
    /// A row that must not exist does.
    #[error("{table} already has the row {key} that a rule adds")]
    RowExists {
        /// The table.
        table: String,
        /// The row's key.
        key: String,
    },
    /// The rows contradict each other, or a value left its range.
    #[error("{invariant} (at {subject})")]
    Violated {
        /// The invariant that does not hold, as a sentence without a full stop.
        invariant: &'static str,
        /// Where: an id or a name.
        subject: String,
    },
    /// A token could not be made.
    #[error(transparent)]
    Unsignable(#[from] crate::signing::DraftError),
    /// An output could not be written.
    #[error("an output of type {kind} cannot be written: {cause}")]
    Unwritable {
        /// The output's type.
        kind: String,
        /// What the encoder reported.
        cause: String,
    },
    /// An event has no subject, so that its id cannot be derived.
    #[error("an event of type {kind} has no subject")]
    NoSubject {
        /// The event's type.
        kind: String,
    },
}

impl Defect {
    /// A violated invariant at `subject`.
    pub fn violated(invariant: &'static str, subject: impl ToString) -> Self {
        Self::Violated { invariant, subject: subject.to_string() }
    }
}

/// The rows of one table that a batch works on.
#[derive(Clone, Debug)]
pub struct Rows<E: Keyed> {
    rows: BTreeMap<E::Key, Row<E::Model>>,
    /// The lookups that were made: by columns or name of a set, the values looked for.
    lookups: HashMap<String, HashSet<Vec<Part>>>,
}

#[derive(Clone, Debug)]
enum Row<M> {
    Loaded(M),
    Added(M),
    Changed {
        /// The stored row; none if its key was removed and added again.
        stored: Option<M>,
        now: M,
    },
    Removed,
}

impl<M> Row<M> {
    fn current(&self) -> Option<&M> {
        match self {
            Self::Loaded(row) | Self::Added(row) | Self::Changed { now: row, .. } => Some(row),
            Self::Removed => None,
        }
    }
}

/// A stored row that a rule changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a, M> {
    /// The row as it is stored; none if every column is to be written.
    pub stored: Option<&'a M>,
    /// The row as it is to be.
    pub now: &'a M,
}

impl<E: Keyed> Default for Rows<E> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), lookups: HashMap::new() }
    }
}

impl<E: Keyed> Rows<E> {
    /// Takes stored rows. A row that is here already stays as it is.
    pub fn take(&mut self, rows: impl IntoIterator<Item = E::Model>) {
        for row in rows {
            self.rows.entry(E::key(&row)).or_insert(Row::Loaded(row));
        }
    }

    /// Records that all rows whose `columns` have one of these `keys` are here now.
    pub fn cover(&mut self, columns: &[E::Column], keys: &[Vec<Value>]) {
        let covered = self.lookups.entry(names(columns)).or_default();
        covered.extend(keys.iter().map(|key| parts(key)));
    }

    /// Records that a set of rows that is not described by the values of columns is here now.
    pub fn cover_set(&mut self, set: &str, key: impl Into<Value>) {
        self.lookups.entry(set.to_owned()).or_default().insert(parts(&[key.into()]));
    }

    /// The row with this key, if it exists.
    ///
    /// # Errors
    /// [`Defect::NotLoaded`] if `load` did not ask for it.
    pub fn get(&self, key: &E::Key) -> Result<Option<&E::Model>, Defect> {
        match self.rows.get(key) {
            Some(row) => Ok(row.current()),
            None => self.check_covered(&primary_key::<E>(), &E::key_values(key)).map(|()| None),
        }
    }

    /// The row with this key, which must exist.
    ///
    /// # Errors
    /// [`Defect::RowMissing`], or [`Defect::NotLoaded`] if `load` did not ask for it.
    pub fn require(&self, key: &E::Key) -> Result<&E::Model, Defect> {
        self.get(key)?.ok_or_else(|| missing::<E>(key))
    }

    /// All rows whose `columns` have these `values`, in key order. `matches` is the same
    /// condition on a row.
    ///
    /// # Errors
    /// [`Defect::NotLoaded`] if `load` did not ask for them.
    pub fn all<'a, F: Fn(&E::Model) -> bool>(
        &'a self,
        columns: &[E::Column],
        values: Vec<Value>,
        matches: F,
    ) -> Result<impl Iterator<Item = &'a E::Model> + use<'a, E, F>, Defect> {
        self.check_covered(&names(columns), &values)?;
        Ok(self.iter().filter(move |row| matches(row)))
    }

    /// All rows of a set that [`Rows::cover_set`] recorded, in key order.
    ///
    /// # Errors
    /// [`Defect::NotLoaded`] if `load` did not ask for them.
    pub fn set<'a, F: Fn(&E::Model) -> bool>(
        &'a self,
        set: &str,
        key: Value,
        matches: F,
    ) -> Result<impl Iterator<Item = &'a E::Model> + use<'a, E, F>, Defect> {
        self.check_covered(set, std::slice::from_ref(&key))?;
        Ok(self.iter().filter(move |row| matches(row)))
    }

    /// All rows that exist now, in key order. It does not check what `load` asked for.
    pub fn iter(&self) -> impl Iterator<Item = &E::Model> {
        self.rows.values().filter_map(Row::current)
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`Defect::RowExists`] if there is a row with its key.
    pub fn insert(&mut self, row: E::Model) -> Result<(), Defect> {
        let key = E::key(&row);
        let slot = match self.rows.get(&key) {
            None => Row::Added(row),
            Some(Row::Removed) => Row::Changed { stored: None, now: row },
            Some(_) => return Err(Defect::RowExists { table: table::<E>(), key: format!("{key:?}") }),
        };
        self.rows.insert(key, slot);
        Ok(())
    }

    /// The row with this key, to be changed.
    ///
    /// # Errors
    /// [`Defect::RowMissing`], or [`Defect::NotLoaded`] if `load` did not ask for it.
    pub fn change(&mut self, key: &E::Key) -> Result<&mut E::Model, Defect> {
        self.require(key)?;
        let slot = self.rows.get_mut(key).ok_or_else(|| missing::<E>(key))?;
        if let Row::Loaded(row) = slot {
            let now = row.clone();
            if let Row::Loaded(stored) = std::mem::replace(slot, Row::Removed) {
                *slot = Row::Changed { stored: Some(stored), now };
            }
        }
        match slot {
            Row::Added(row) | Row::Changed { now: row, .. } => Ok(row),
            Row::Loaded(_) | Row::Removed => Err(missing::<E>(key)),
        }
    }

    /// The row with this key, if it was added in this batch.
    pub fn added_row(&mut self, key: &E::Key) -> Option<&mut E::Model> {
        match self.rows.get_mut(key) {
            Some(Row::Added(row)) => Some(row),
            _ => None,
        }
    }

    /// Removes the row with this key and returns it.
    ///
    /// # Errors
    /// [`Defect::RowMissing`], or [`Defect::NotLoaded`] if `load` did not ask for it.
    pub fn remove(&mut self, key: &E::Key) -> Result<E::Model, Defect> {
        self.require(key)?;
        match self.rows.remove(key) {
            // It was never stored, so there is nothing to delete.
            Some(Row::Added(row)) => {
                self.lookups.entry(primary_key::<E>()).or_default().insert(parts(&E::key_values(key)));
                Ok(row)
            }
            Some(Row::Loaded(row) | Row::Changed { now: row, .. }) => {
                self.rows.insert(key.clone(), Row::Removed);
                Ok(row)
            }
            Some(Row::Removed) | None => Err(missing::<E>(key)),
        }
    }

    /// Rows that are not stored yet.
    pub fn added(&self) -> Vec<&E::Model> {
        self.rows.values().filter_map(|row| if let Row::Added(row) = row { Some(row) } else { None }).collect()
    }

    /// Rows whose stored version differs.
    pub fn changed(&self) -> Vec<Change<'_, E::Model>> {
        let changed = self.rows.values().filter_map(|row| match row {
            Row::Changed { stored, now } => Some(Change { stored: stored.as_ref(), now }),
            Row::Loaded(_) | Row::Added(_) | Row::Removed => None,
        });
        changed.collect()
    }

    /// Keys of rows that are stored and no longer wanted.
    pub fn removed(&self) -> Vec<&E::Key> {
        self.rows.iter().filter_map(|(key, row)| matches!(row, Row::Removed).then_some(key)).collect()
    }

    fn check_covered(&self, what: &str, values: &[Value]) -> Result<(), Defect> {
        let parts = parts(values);
        if self.lookups.get(what).is_some_and(|covered| covered.contains(&parts)) {
            return Ok(());
        }
        Err(Defect::NotLoaded { table: table::<E>(), lookup: format!("{what} = {parts:?}") })
    }
}

/// The tables of one worker, or of all.
///
/// [`RowSet::visit`] is the one list of tables, and its order is the order in which they are written.
pub trait RowSet: Default + Send + 'static {
    /// Shows every table to `visitor`.
    fn visit(&self, visitor: &mut impl TableVisitor);
}

/// Who is shown the tables of a [`RowSet`].
pub trait TableVisitor {
    /// One table.
    fn table<E: Keyed>(&mut self, rows: &Rows<E>)
    where
        E::Model: ModelTrait<Entity = E>;
}

/// A value of a column, as a key of maps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Part {
    /// NULL.
    Null,
    /// A truth value.
    Bool(bool),
    /// A number.
    Integer(i64),
    /// Text.
    Text(String),
    /// An id.
    Id(Uuid),
    /// Bytes, and everything else by its debug form.
    Other(Vec<u8>),
}

impl From<&Value> for Part {
    fn from(value: &Value) -> Self {
        match value {
            Value::Bool(Some(value)) => Self::Bool(*value),
            Value::BigInt(Some(value)) => Self::Integer(*value),
            Value::String(Some(value)) => Self::Text((**value).clone()),
            Value::Uuid(Some(value)) => Self::Id(**value),
            Value::Bytes(Some(value)) => Self::Other((**value).clone()),
            Value::Bool(None) | Value::BigInt(None) | Value::String(None) | Value::Uuid(None) | Value::Bytes(None) => {
                Self::Null
            }
            other => Self::Other(format!("{other:?}").into_bytes()),
        }
    }
}

fn parts(values: &[Value]) -> Vec<Part> {
    values.iter().map(Part::from).collect()
}

fn names<C: IdenStatic>(columns: &[C]) -> String {
    let mut names = String::new();
    for column in columns {
        if !names.is_empty() {
            names.push_str(", ");
        }
        names.push_str(column.as_str());
    }
    names
}

fn primary_key<E: Keyed>() -> String {
    names(&E::PrimaryKey::iter().map(PrimaryKeyToColumn::into_column).collect::<Vec<_>>())
}

fn table<E: Keyed>() -> String {
    E::default().table_name().to_owned()
}

fn missing<E: Keyed>(key: &E::Key) -> Defect {
    Defect::RowMissing { table: table::<E>(), key: format!("{key:?}") }
}

#[cfg(test)]
mod tests {
    use licet_schema::entity::mention;

    use super::*;

    type Mentions = Rows<mention::Entity>;

    fn row(subject: u128, journal: u128) -> mention::Model {
        mention::Model { subject: Uuid::from_u128(subject), journal: Uuid::from_u128(journal) }
    }

    fn key(subject: u128, journal: u128) -> (Uuid, Uuid) {
        (Uuid::from_u128(subject), Uuid::from_u128(journal))
    }

    fn loaded(rows: impl IntoIterator<Item = mention::Model>) -> Mentions {
        let mut all = Mentions::default();
        all.take(rows);
        all
    }

    #[test]
    fn a_row_is_written_according_to_what_was_done_with_it() {
        let mut rows = loaded([row(1, 1), row(2, 1), row(3, 1)]);
        rows.insert(row(4, 1)).expect("it is new");
        rows.insert(row(5, 1)).expect("it is new");
        rows.change(&key(2, 1)).expect("it exists");
        rows.remove(&key(3, 1)).expect("it exists");
        rows.remove(&key(5, 1)).expect("it exists");
        assert_eq!(rows.added(), [&row(4, 1)]);
        assert_eq!(rows.changed(), [Change { stored: Some(&row(2, 1)), now: &row(2, 1) }]);
        assert_eq!(rows.removed(), [&key(3, 1)]);
        assert_eq!(rows.get(&key(3, 1)), Ok(None), "it was removed");
        assert_eq!(rows.get(&key(5, 1)), Ok(None), "it was added and removed");
        rows.insert(row(3, 1)).expect("it was removed");
        let again = Change { stored: None, now: &row(3, 1) };
        assert_eq!(rows.changed()[1..], [again], "what was removed and added again is written whole");
    }

    #[test]
    fn a_row_that_was_asked_for_and_is_absent_differs_from_one_that_nobody_asked_for() {
        let mut rows = Mentions::default();
        let columns = [mention::Column::Subject, mention::Column::Journal];
        rows.cover(&columns, &[vec![Uuid::from_u128(1).into(), Uuid::from_u128(1).into()]]);
        assert_eq!(rows.get(&key(1, 1)), Ok(None));
        let error = rows.get(&key(2, 1)).expect_err("nobody asked for it");
        assert!(matches!(&error, Defect::NotLoaded { table, .. } if table == "mention"), "{error}");
        assert!(matches!(rows.require(&key(1, 1)), Err(Defect::RowMissing { .. })));
    }

    #[test]
    fn a_lookup_by_other_columns_must_have_been_asked_for_too() {
        let mut rows = loaded([row(1, 1), row(1, 2)]);
        let by_subject = |rows: &Mentions, subject: u128| {
            let subject = Uuid::from_u128(subject);
            let found = rows.all(&[mention::Column::Subject], vec![subject.into()], |row| row.subject == subject);
            found.map(Iterator::count)
        };
        assert!(matches!(by_subject(&rows, 1), Err(Defect::NotLoaded { .. })), "the rows are here by chance");
        rows.cover(&[mention::Column::Subject], &[vec![Uuid::from_u128(1).into()]]);
        assert_eq!(by_subject(&rows, 1), Ok(2));
        assert!(matches!(by_subject(&rows, 2), Err(Defect::NotLoaded { .. })));
    }

    #[test]
    fn changes_that_cannot_be_meant_are_defects() {
        let mut rows = loaded([row(1, 1)]);
        rows.cover_set("everything", true);
        assert!(matches!(rows.insert(row(1, 1)), Err(Defect::RowExists { .. })), "it is stored");
        rows.insert(row(2, 1)).expect("it is new");
        assert!(matches!(rows.insert(row(2, 1)), Err(Defect::RowExists { .. })), "it was added before");
        rows.remove(&key(1, 1)).expect("it exists");
        assert!(matches!(rows.remove(&key(1, 1)), Err(Defect::RowMissing { .. })));
        assert!(matches!(rows.change(&key(1, 1)), Err(Defect::RowMissing { .. })));
        assert!(matches!(rows.change(&key(9, 9)), Err(Defect::NotLoaded { .. })));
        assert!(matches!(rows.remove(&key(9, 9)), Err(Defect::NotLoaded { .. })));
    }
}

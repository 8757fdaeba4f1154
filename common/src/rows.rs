//! The rows of a batch, and the changes that rules make to them.
//!
//! The runtime reads the rows that a batch needs, applies the rules to one message after the other,
//! and writes the changed rows. Each table is a [`Rows`]. The tables of a worker together form a
//! [`RowSet`].
//!
//! A rule may read only the rows that its worker's `load` requested. A requested row that does not
//! exist is `None`. Reading a row that was not requested is a [`Defect`], and so is every
//! impossible change: adding a row that already exists, or changing or removing a row that does not
//! exist.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Debug,
};

use licet_schema::entity::Keyed;
use sea_orm::{IdenStatic, Iterable, ModelTrait, PrimaryKeyToColumn, Value};
use uuid::Uuid;

/// A violated invariant of the program, as opposed to a fault in a message. The runtime handles it
/// in the same way as a panic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// A rule read rows that `load` did not request.
    #[error("a rule read {table} by {lookup}, which the worker's load did not request")]
    NotLoaded {
        /// The table.
        table: String,
        /// The columns and values that the rule looked for.
        lookup: String,
    },
    /// A required row does not exist.
    #[error("{table} has no row {key}, but a rule needs it")]
    RowMissing {
        /// The table.
        table: String,
        /// The row's key.
        key: String,
    },
    /// A rule adds a row that already exists.
    #[error("{table} already has the row {key} that a rule adds")]
    RowExists {
        /// The table.
        table: String,
        /// The row's key.
        key: String,
    },
    /// The rows contradict each other, or a value is out of range.
    #[error("{invariant} (at {subject})")]
    Violated {
        /// The invariant that does not hold, as a sentence without a full stop.
        invariant: &'static str,
        /// The id or name of the affected object.
        subject: String,
    },
    /// A token could not be created.
    #[error(transparent)]
    Unsignable(#[from] crate::signing::DraftError),
    /// An output could not be encoded.
    #[error("an output of type {kind} cannot be encoded: {cause}")]
    Unwritable {
        /// The output's type.
        kind: String,
        /// The encoder's error.
        cause: String,
    },
    /// An event has no subject, so its id cannot be derived.
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
    /// What `load` requested by columns: a few entries, which are searched without an allocation.
    lookups: Vec<Lookup<E>>,
    /// What `load` requested by the name of a set.
    sets: HashMap<&'static str, HashSet<Part>>,
}

/// The requested values of a combination of columns.
#[derive(Clone, Debug)]
struct Lookup<E: Keyed> {
    columns: Vec<E::Column>,
    values: HashSet<Vec<Part>>,
}

impl<E: Keyed> Lookup<E> {
    fn is_by(&self, mut columns: impl Iterator<Item = E::Column>) -> bool {
        let is_next = |own: &E::Column| columns.next().is_some_and(|column| column.as_str() == own.as_str());
        self.columns.iter().all(is_next) && columns.next().is_none()
    }
}

/// The stored version of a row, and what the batch did with the row.
#[derive(Clone, Debug)]
struct Row<M> {
    /// `None` if the row was added.
    stored: Option<M>,
    now: Now<M>,
}

#[derive(Clone, Debug)]
enum Now<M> {
    AsStored,
    /// Added, or changed if it is stored.
    Written(M),
    Removed,
}

impl<M> Row<M> {
    fn current(&self) -> Option<&M> {
        match &self.now {
            Now::AsStored => self.stored.as_ref(),
            Now::Written(row) => Some(row),
            Now::Removed => None,
        }
    }
}

/// A stored row that a rule changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a, M> {
    /// The stored version of the row.
    pub stored: &'a M,
    /// The row as it should be written.
    pub now: &'a M,
}

impl<E: Keyed> Default for Rows<E> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), lookups: Vec::new(), sets: HashMap::new() }
    }
}

impl<E: Keyed> Rows<E> {
    /// Adds stored rows. A row that is already loaded remains unchanged.
    pub fn take(&mut self, rows: impl IntoIterator<Item = E::Model>) {
        for row in rows {
            self.rows.entry(E::key(&row)).or_insert_with(|| Row { stored: Some(row), now: Now::AsStored });
        }
    }

    /// Records that all rows whose `columns` have one of these `keys` are loaded.
    pub fn cover(&mut self, columns: &[E::Column], keys: &[Vec<Value>]) {
        self.values_of(columns.iter().copied()).extend(keys.iter().map(|key| parts(key)));
    }

    /// Records that a set of rows is loaded. This is for sets that the values of columns cannot
    /// describe.
    pub fn cover_set(&mut self, set: &'static str, key: impl Into<Value>) {
        self.sets.entry(set).or_default().insert(Part::from(&key.into()));
    }

    /// The row with this key, if it exists.
    ///
    /// # Errors
    /// [`Defect::NotLoaded`] if `load` did not request it.
    pub fn get(&self, key: &E::Key) -> Result<Option<&E::Model>, Defect> {
        match self.rows.get(key) {
            Some(row) => Ok(row.current()),
            None => self.check_covered(primary_key::<E>(), &E::key_values(key)).map(|()| None),
        }
    }

    /// The row with this key, which must exist.
    ///
    /// # Errors
    /// [`Defect::RowMissing`], or [`Defect::NotLoaded`] if `load` did not request it.
    pub fn require(&self, key: &E::Key) -> Result<&E::Model, Defect> {
        self.get(key)?.ok_or_else(|| missing::<E>(key))
    }

    /// All rows whose `columns` have these `values`, in key order. `matches` must check the same
    /// condition for a row.
    ///
    /// # Errors
    /// [`Defect::NotLoaded`] if `load` did not request them.
    pub fn all<'a, F: Fn(&E::Model) -> bool>(
        &'a self,
        columns: &[E::Column],
        values: Vec<Value>,
        matches: F,
    ) -> Result<impl Iterator<Item = &'a E::Model> + use<'a, E, F>, Defect> {
        self.check_covered(columns.iter().copied(), &values)?;
        Ok(self.iter().filter(move |row| matches(row)))
    }

    /// All rows of a set that [`Rows::cover_set`] recorded, in key order.
    ///
    /// # Errors
    /// [`Defect::NotLoaded`] if `load` did not request them.
    pub fn set<'a, F: Fn(&E::Model) -> bool>(
        &'a self,
        set: &str,
        key: Value,
        matches: F,
    ) -> Result<impl Iterator<Item = &'a E::Model> + use<'a, E, F>, Defect> {
        let part = Part::from(&key);
        if !self.sets.get(set).is_some_and(|keys| keys.contains(&part)) {
            return Err(not_loaded::<E>(set, &[part]));
        }
        Ok(self.iter().filter(move |row| matches(row)))
    }

    /// All rows that currently exist, in key order. This method does not check what `load`
    /// requested.
    pub fn iter(&self) -> impl Iterator<Item = &E::Model> {
        self.rows.values().filter_map(Row::current)
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`Defect::RowExists`] if a row with this key exists.
    pub fn insert(&mut self, row: E::Model) -> Result<(), Defect> {
        let key = E::key(&row);
        match self.rows.get_mut(&key) {
            None => {
                self.rows.insert(key, Row { stored: None, now: Now::Written(row) });
            }
            Some(slot) if matches!(slot.now, Now::Removed) => slot.now = Now::Written(row),
            Some(_) => return Err(Defect::RowExists { table: table::<E>(), key: format!("{key:?}") }),
        }
        Ok(())
    }

    /// A mutable reference to the row with this key.
    ///
    /// # Errors
    /// [`Defect::RowMissing`], or [`Defect::NotLoaded`] if `load` did not request it.
    pub fn change(&mut self, key: &E::Key) -> Result<&mut E::Model, Defect> {
        self.require(key)?;
        let slot = self.rows.get_mut(key).ok_or_else(|| missing::<E>(key))?;
        if let (Some(stored), Now::AsStored) = (&slot.stored, &slot.now) {
            slot.now = Now::Written(stored.clone());
        }
        match &mut slot.now {
            Now::Written(row) => Ok(row),
            Now::AsStored | Now::Removed => Err(missing::<E>(key)),
        }
    }

    /// The row with this key, if it was added in this batch.
    pub fn added_row(&mut self, key: &E::Key) -> Option<&mut E::Model> {
        match self.rows.get_mut(key) {
            Some(Row { stored: None, now: Now::Written(row) }) => Some(row),
            _ => None,
        }
    }

    /// Removes the row with this key and returns it.
    ///
    /// # Errors
    /// [`Defect::RowMissing`], or [`Defect::NotLoaded`] if `load` did not request it.
    pub fn remove(&mut self, key: &E::Key) -> Result<E::Model, Defect> {
        self.require(key)?;
        let slot = self.rows.get_mut(key).ok_or_else(|| missing::<E>(key))?;
        let removed = match std::mem::replace(&mut slot.now, Now::Removed) {
            Now::AsStored => slot.stored.clone(),
            Now::Written(row) => Some(row),
            Now::Removed => None,
        };
        if slot.stored.is_none() {
            // The row was never stored, so there is nothing to delete.
            self.rows.remove(key);
            self.values_of(primary_key::<E>()).insert(parts(&E::key_values(key)));
        }
        removed.ok_or_else(|| missing::<E>(key))
    }

    /// Rows that are not stored yet.
    pub fn added(&self) -> Vec<&E::Model> {
        let added = self.rows.values().filter_map(|row| match row {
            Row { stored: None, now: Now::Written(now) } => Some(now),
            _ => None,
        });
        added.collect()
    }

    /// Rows whose stored version differs.
    pub fn changed(&self) -> Vec<Change<'_, E::Model>> {
        let changed = self.rows.values().filter_map(|row| match row {
            Row { stored: Some(stored), now: Now::Written(now) } => Some(Change { stored, now }),
            _ => None,
        });
        changed.collect()
    }

    /// The stored versions of the rows that were removed.
    pub fn removed(&self) -> Vec<&E::Model> {
        let removed = self.rows.values().filter(|row| matches!(row.now, Now::Removed));
        removed.filter_map(|row| row.stored.as_ref()).collect()
    }

    fn values_of(&mut self, columns: impl Iterator<Item = E::Column> + Clone) -> &mut HashSet<Vec<Part>> {
        let found = self.lookups.iter().position(|lookup| lookup.is_by(columns.clone()));
        let index = found.unwrap_or_else(|| {
            self.lookups.push(Lookup { columns: columns.collect(), values: HashSet::new() });
            self.lookups.len() - 1
        });
        &mut self.lookups[index].values
    }

    fn check_covered(&self, columns: impl Iterator<Item = E::Column> + Clone, values: &[Value]) -> Result<(), Defect> {
        let parts = parts(values);
        let lookup = self.lookups.iter().find(|lookup| lookup.is_by(columns.clone()));
        if lookup.is_some_and(|lookup| lookup.values.contains(&parts)) {
            return Ok(());
        }
        let names: Vec<_> = columns.map(|column| column.as_str().to_owned()).collect();
        Err(not_loaded::<E>(&names.join(", "), &parts))
    }
}

/// The tables of one worker, or of all.
///
/// [`RowSet::visit`] is the only list of the tables. It also defines the order in which they are
/// written.
pub trait RowSet: Default + Send + 'static {
    /// Passes every table to `visitor`.
    fn visit(&self, visitor: &mut impl TableVisitor);
}

/// A visitor of the tables of a [`RowSet`].
pub trait TableVisitor {
    /// Visits one table.
    fn table<E: Keyed>(&mut self, rows: &Rows<E>)
    where
        E::Model: ModelTrait<Entity = E>;
}

/// A value of a column that can be used as a map key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Part {
    /// NULL.
    Null,
    /// A Boolean.
    Bool(bool),
    /// A number.
    Integer(i64),
    /// Text.
    Text(String),
    /// An id.
    Id(Uuid),
    /// Bytes, or the debug representation of any other value.
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

fn primary_key<E: Keyed>() -> impl Iterator<Item = E::Column> + Clone {
    E::PrimaryKey::iter().map(PrimaryKeyToColumn::into_column)
}

fn not_loaded<E: Keyed>(what: &str, parts: &[Part]) -> Defect {
    Defect::NotLoaded { table: table::<E>(), lookup: format!("{what} = {parts:?}") }
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
        assert_eq!(rows.changed(), [Change { stored: &row(2, 1), now: &row(2, 1) }]);
        assert_eq!(rows.removed(), [&row(3, 1)]);
        assert_eq!(rows.get(&key(3, 1)), Ok(None), "it was removed");
        assert_eq!(rows.get(&key(5, 1)), Ok(None), "it was added and removed");
        rows.insert(row(3, 1)).expect("it was removed");
        let again = Change { stored: &row(3, 1), now: &row(3, 1) };
        assert_eq!(rows.changed()[1..], [again], "a row that was removed and added again is a changed row");
    }

    #[test]
    fn a_row_that_was_asked_for_and_is_absent_differs_from_one_that_nobody_asked_for() {
        let mut rows = Mentions::default();
        let columns = [mention::Column::Subject, mention::Column::Journal];
        rows.cover(&columns, &[vec![Uuid::from_u128(1).into(), Uuid::from_u128(1).into()]]);
        assert_eq!(rows.get(&key(1, 1)), Ok(None));
        let error = rows.get(&key(2, 1)).expect_err("the row was not requested");
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
        assert!(matches!(by_subject(&rows, 1), Err(Defect::NotLoaded { .. })), "the rows were loaded only by chance");
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

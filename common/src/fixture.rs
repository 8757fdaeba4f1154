//! An in-memory store for tests of rules.
//!
//! A worker's own `load` reads from it through [`Source`]. The rows that its rules changed are
//! written back through [`TableVisitor`], with the same checks as in the database. Compiled only
//! for tests (feature `fixture`).

use std::{
    any::{Any, TypeId},
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use licet_schema::entity::Keyed;
use sea_orm::{ModelTrait, Value};

use crate::{
    rows::{Part, Rows, TableVisitor},
    store::{Comparison, Lock, Page, Source, StoreError},
};

/// Tables in memory. A clone is an independent copy.
#[derive(Clone, Default)]
pub struct MemoryStore {
    tables: HashMap<TypeId, Arc<dyn AnyTable>>,
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore").field("tables", &self.tables.len()).finish()
    }
}

trait AnyTable: Send + Sync {
    fn as_any(&self) -> &dyn Any;
}

#[derive(Clone)]
struct Table<E: Keyed>(BTreeMap<E::Key, E::Model>);

impl<E: Keyed> AnyTable for Table<E> {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl MemoryStore {
    /// All rows of a table, in key order.
    pub fn rows<E: Keyed>(&self) -> impl Iterator<Item = &E::Model> {
        self.table_of::<E>().into_iter().flat_map(|table| table.0.values())
    }

    /// The row with this key.
    pub fn get<E: Keyed>(&self, key: &E::Key) -> Option<&E::Model> {
        self.table_of::<E>().and_then(|table| table.0.get(key))
    }

    /// Stores a row, and replaces an existing row with the same key.
    pub fn put<E: Keyed>(&mut self, row: E::Model) {
        self.edit::<E>(|table| {
            table.insert(E::key(&row), row);
        });
    }

    /// Changes a stored row.
    ///
    /// # Panics
    /// There is no row with this key.
    pub fn change<E: Keyed>(&mut self, key: &E::Key, change: impl FnOnce(&mut E::Model)) {
        self.edit::<E>(|table| change(table.get_mut(key).unwrap_or_else(|| panic!("there is no row {key:?}"))));
    }

    /// Deletes a row, if it exists.
    pub fn delete<E: Keyed>(&mut self, key: &E::Key) {
        self.edit::<E>(|table| {
            table.remove(key);
        });
    }

    fn table_of<E: Keyed>(&self) -> Option<&Table<E>> {
        self.tables.get(&TypeId::of::<E>()).and_then(|table| table.as_any().downcast_ref())
    }

    fn edit<E: Keyed>(&mut self, change: impl FnOnce(&mut BTreeMap<E::Key, E::Model>)) {
        let mut rows = self.table_of::<E>().map(|table| table.0.clone()).unwrap_or_default();
        change(&mut rows);
        self.tables.insert(TypeId::of::<E>(), Arc::new(Table::<E>(rows)));
    }
}

impl Source for MemoryStore {
    async fn select<E: Keyed>(
        &self,
        columns: &[E::Column],
        keys: Vec<Vec<Value>>,
        _: Lock,
    ) -> Result<Vec<E::Model>, StoreError> {
        let matches = |row: &&E::Model| {
            let values: Vec<_> = columns.iter().map(|column| row.get(*column)).collect();
            keys.contains(&values)
        };
        Ok(self.rows::<E>().filter(matches).cloned().collect())
    }

    async fn page<E: Keyed>(&self, page: Page<E>) -> Result<Vec<E::Model>, StoreError> {
        let constant = page.constant.into_iter().map(|(column, comparison, text)| (column, comparison, text.into()));
        let filter: Vec<(E::Column, Comparison, Value)> = page.filter.into_iter().chain(constant).collect();
        let matches = |row: &&E::Model| {
            filter.iter().all(|(column, comparison, value)| compare(&row.get(*column), *comparison, value))
        };
        let mut found: Vec<_> = self.rows::<E>().filter(matches).cloned().collect();
        found.sort_by_cached_key(|row| Part::from(&row.get(page.order)));
        if page.descending {
            found.reverse();
        }
        found.truncate(usize::try_from(page.limit).unwrap_or(usize::MAX));
        Ok(found)
    }
}

fn compare(stored: &Value, comparison: Comparison, value: &Value) -> bool {
    let (stored, value) = (Part::from(stored), Part::from(value));
    if stored == Part::Null {
        return false;
    }
    match comparison {
        Comparison::Equal => stored == value,
        Comparison::NotEqual => stored != value,
        Comparison::Less => stored < value,
        Comparison::Greater => stored > value,
    }
}

/// Writes changed rows in the same way as the runtime.
///
/// # Panics
/// A removed or changed row does not exist, or an added row already exists.
impl TableVisitor for MemoryStore {
    fn table<E: Keyed>(&mut self, rows: &Rows<E>)
    where
        E::Model: ModelTrait<Entity = E>,
    {
        let (removed, changed, added) = (rows.removed(), rows.changed(), rows.added());
        if removed.is_empty() && changed.is_empty() && added.is_empty() {
            return;
        }
        self.edit::<E>(|table| {
            for row in removed {
                assert!(table.remove(&E::key(row)).is_some(), "a removed row does not exist: {row:?}");
            }
            for change in changed {
                let previous = table.insert(E::key(change.now), change.now.clone());
                assert!(previous.is_some(), "a changed row does not exist: {:?}", change.now);
            }
            for row in added {
                let previous = table.insert(E::key(row), row.clone());
                assert!(previous.is_none(), "an added row exists already: {row:?}");
            }
        });
    }
}

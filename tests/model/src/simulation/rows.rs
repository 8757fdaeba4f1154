//! Reads all tables of a database into memory.

use futures_util::future::BoxFuture;
use licet_common::{
    fixture::MemoryStore,
    rows::{RowSet, Rows, TableVisitor},
    store::Store,
};
use licet_schema::entity::Keyed;
use licet_workers::domain::Tables;
use sea_orm::{DatabaseConnection, DbErr, EntityTrait, ModelTrait};

/// A function that stores the rows of one table.
type Put = Box<dyn FnOnce(&mut MemoryStore) + Send>;

struct TableReader {
    pool: DatabaseConnection,
    reads: Vec<BoxFuture<'static, Result<Put, DbErr>>>,
}

impl TableVisitor for TableReader {
    fn table<E: Keyed>(&mut self, _: &Rows<E>)
    where
        E::Model: ModelTrait<Entity = E>,
    {
        let pool = self.pool.clone();
        self.reads.push(Box::pin(async move {
            let rows = <E as EntityTrait>::find().all(&pool).await?;
            Ok(Box::new(move |memory: &mut MemoryStore| rows.into_iter().for_each(|row| memory.put::<E>(row))) as Put)
        }));
    }
}

/// The rows of all tables.
pub(super) async fn read_all(store: &Store) -> Result<MemoryStore, DbErr> {
    let mut reader = TableReader { pool: store.pool(), reads: Vec::new() };
    Tables::default().visit(&mut reader);
    let mut memory = MemoryStore::default();
    for read in reader.reads {
        (read.await?)(&mut memory);
    }
    Ok(memory)
}

//! How the tables come to be: sea-orm migrations, the same on PostgreSQL and on SQLite.

use sea_orm::{ConnectionTrait, EntityTrait, Schema};
use sea_orm_migration::prelude::*;

use crate::entity;

/// All migrations, oldest first.
#[derive(Debug)]
pub struct Migrations;

#[async_trait::async_trait]
impl MigratorTrait for Migrations {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(First)]
    }
}

/// The tables of the first release.
struct First;

impl MigrationName for First {
    fn name(&self) -> &str {
        "m0001_first_tables"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for First {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        create(manager, entity::content::Entity).await?;
        create(manager, entity::purchase::Entity).await?;
        create(manager, entity::certificate::Entity).await?;
        create(manager, entity::pending_reception::Entity).await?;
        create(manager, entity::license::Entity).await?;
        create(manager, entity::license_return::Entity).await?;
        create(manager, entity::collection::Entity).await?;
        create(manager, entity::privilege::Entity).await?;
        create(manager, entity::account::Entity).await?;
        create(manager, entity::entry::Entity).await?;
        create(manager, entity::settlement::Entity).await?;
        create(manager, entity::unmatched_settlement::Entity).await?;
        create(manager, entity::journal::Entity).await?;
        for index in INDEXES {
            manager.get_connection().execute_unprepared(index).await?;
        }
        Ok(())
    }

    async fn down(&self, _: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration("Licet's tables hold money and rights: drop the database by hand if you mean it".into()))
    }
}

/// What is looked up by something other than its key.
const INDEXES: &[&str] = &[
    "CREATE INDEX certificate_container ON certificate (container) WHERE container IS NOT NULL",
    "CREATE INDEX purchase_container ON purchase (container) WHERE container IS NOT NULL",
    "CREATE INDEX purchase_user ON purchase (\"user\")",
    "CREATE INDEX license_certificate ON license (certificate)",
    "CREATE INDEX license_return_license ON license_return (license)",
    "CREATE INDEX unmatched_settlement_key ON unmatched_settlement (provider, settlement)",
    "CREATE INDEX entry_account ON entry (account)",
    "CREATE INDEX journal_subject ON journal (subject) WHERE subject IS NOT NULL",
];

async fn create<E: EntityTrait>(manager: &SchemaManager<'_>, entity: E) -> Result<(), DbErr> {
    let schema = Schema::new(manager.get_database_backend());
    manager.create_table(schema.create_table_from_entity(entity)).await
}

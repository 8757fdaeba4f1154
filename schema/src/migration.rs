//! The sea-orm migrations that create and change the tables. They are the same on PostgreSQL and
//! SQLite.
//!
//! Deliberately absent: a way to revert migrations, because the tables record money and rights.

use sea_orm::{ConnectionTrait, DatabaseBackend, EntityTrait, Schema};
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

/// Creates the tables of the first release. Until that release, this migration creates the entities
/// as they currently are. Afterwards, it must not change.
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
        create(manager, entity::certificate_record::Entity).await?;
        create(manager, entity::certificate::Entity).await?;
        create(manager, entity::pending_reception::Entity).await?;
        create(manager, entity::license::Entity).await?;
        create(manager, entity::license_return::Entity).await?;
        create(manager, entity::collection::Entity).await?;
        create(manager, entity::privilege::Entity).await?;
        create(manager, entity::payout::Entity).await?;
        create(manager, entity::reference::Entity).await?;
        create(manager, entity::account::Entity).await?;
        create(manager, entity::entry::Entity).await?;
        create(manager, entity::settlement::Entity).await?;
        create(manager, entity::refund::Entity).await?;
        create(manager, entity::reinstatement::Entity).await?;
        create(manager, entity::unmatched_settlement::Entity).await?;
        create(manager, entity::journal::Entity).await?;
        create(manager, entity::mention::Entity).await?;
        create(manager, entity::signing_key::Entity).await?;
        if manager.get_database_backend() == DatabaseBackend::Postgres {
            let (sequence, step) = (entity::journal::POSITION_SEQUENCE, entity::journal::POSITIONS_PER_BATCH);
            let text = format!(
                "CREATE SEQUENCE {sequence} AS bigint INCREMENT BY {step} MINVALUE 0 START WITH 0 OWNED BY journal.position"
            );
            manager.get_connection().execute_unprepared(&text).await?;
        }
        for index in INDEXES {
            manager.get_connection().execute_unprepared(index).await?;
        }
        Ok(())
    }

    async fn down(&self, _: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration(
            "migrations cannot be reverted, because they would delete payments and rights: restore a backup instead"
                .into(),
        ))
    }
}

/// The indexes besides the primary keys.
const INDEXES: &[&str] = &[
    "CREATE INDEX certificate_container ON certificate (container) WHERE container IS NOT NULL",
    "CREATE INDEX certificate_record_container ON certificate_record (container) WHERE container IS NOT NULL",
    "CREATE INDEX certificate_record_user ON certificate_record (\"user\")",
    "CREATE INDEX certificate_record_reference ON certificate_record (reference) WHERE reference IS NOT NULL",
    "CREATE INDEX certificate_expires_at ON certificate (expires_at)",
    "CREATE INDEX pending_reception_due_at ON pending_reception (due_at) WHERE due_at IS NOT NULL",
    "CREATE INDEX license_certificate ON license (certificate)",
    "CREATE INDEX license_user ON license (\"user\", id)",
    "CREATE INDEX license_return_license ON license_return (license)",
    "CREATE INDEX license_return_certificate ON license_return (certificate)",
    "CREATE INDEX license_return_delete_by ON license_return (delete_by) WHERE state = 'opened'",
    "CREATE INDEX payout_license_return ON payout (license_return)",
    "CREATE INDEX privilege_certificate ON privilege (certificate) WHERE certificate IS NOT NULL",
    "CREATE INDEX settlement_provider_reference ON settlement (provider_reference)",
    "CREATE INDEX reinstatement_settlement ON reinstatement (provider, settlement)",
    "CREATE UNIQUE INDEX unmatched_settlement_key ON unmatched_settlement \
     (provider, settlement, kind, COALESCE(refund, ''), amount_minor, currency)",
    "CREATE INDEX entry_account ON entry (account)",
    "CREATE INDEX journal_subject ON journal (subject) WHERE subject IS NOT NULL",
];

async fn create<E: EntityTrait>(manager: &SchemaManager<'_>, entity: E) -> Result<(), DbErr> {
    let schema = Schema::new(manager.get_database_backend());
    manager.create_table(schema.create_table_from_entity(entity)).await
}

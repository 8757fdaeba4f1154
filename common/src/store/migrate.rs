//! Creates and updates the tables with the SQL files of [`licet_schema::migration`].
//!
//! Guarantees: if several programs do so at the same time, they succeed one after the other. Each
//! file takes effect completely or not at all, and only once. A file that was changed after it was
//! applied is an error.

use futures_util::future::BoxFuture;
use licet_schema::migration::{MIGRATIONS, Migration};
use sea_orm::{ConnectionTrait, DatabaseBackend, DatabaseConnection, Statement};
use sqlx::migrate::{Migration as SqlFile, MigrationType, Migrator};

use super::{Store, StoreError, server_check::server_problems};

/// The table in which sqlx records the applied files.
pub(super) const TABLE: &str = "_sqlx_migrations";

/// The reason the tables cannot be created or updated.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database is unavailable or rejects a statement.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database cannot be used, or belongs to another program.
    #[error("{}", .0.join("\n"))]
    NotPossible(Vec<String>),
    /// A file failed, or was changed after it had been applied.
    #[error("the tables were not changed: {0}")]
    File(String),
}

/// A file that was applied to the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Applied {
    number: i64,
    /// The name of the release.
    pub(super) release: String,
}

impl Store {
    /// Creates or updates the tables, and compares the clock: a difference from the clock of the
    /// database is logged as an error. Does nothing if the tables are those of this release or of a
    /// newer one.
    ///
    /// # Errors
    /// See [`MigrateError`].
    pub fn migrate(&self) -> BoxFuture<'_, Result<(), MigrateError>> {
        Box::pin(async move {
            let pool = self.pool();
            require_usable(&pool).await?;
            self.check_clock().await?;
            let migrator = migrator(self.backend());
            let done = match self.backend() {
                DatabaseBackend::Postgres => migrator.run(pool.get_postgres_connection_pool()).await,
                _ => migrator.run(pool.get_sqlite_connection_pool()).await,
            };
            done.map_err(in_words)
        })
    }

    /// The statements that [`Store::migrate`] would execute. Does not write.
    ///
    /// # Errors
    /// See [`MigrateError`].
    pub fn pending_statements(&self) -> BoxFuture<'_, Result<Vec<&'static str>, MigrateError>> {
        Box::pin(async move {
            let pool = self.pool();
            require_usable(&pool).await?;
            let applied = applied(&pool).await?.unwrap_or_default();
            Ok(pending(&applied).map(|migration| statements(migration, self.backend())).collect())
        })
    }
}

/// Checks everything that does not depend on the tables of Licet.
async fn require_usable(pool: &DatabaseConnection) -> Result<(), MigrateError> {
    let mut problems = server_problems(pool, true).await?;
    if problems.is_empty() {
        problems.extend(applied(pool).await?.as_deref().and_then(foreign));
    }
    if problems.is_empty() { Ok(()) } else { Err(MigrateError::NotPossible(problems)) }
}

fn migrator(backend: DatabaseBackend) -> Migrator {
    let files = MIGRATIONS.iter().map(|migration| {
        let text = statements(migration, backend).into();
        SqlFile::new(migration.number(), migration.name().into(), MigrationType::Simple, text, false)
    });
    // The files of a newer release are unknown to this release.
    Migrator { migrations: files.collect(), ignore_missing: true, ..Migrator::DEFAULT }
}

fn statements(migration: &Migration, backend: DatabaseBackend) -> &'static str {
    if backend == DatabaseBackend::Postgres { migration.postgresql } else { migration.sqlite }
}

fn in_words(error: sqlx::migrate::MigrateError) -> MigrateError {
    match error {
        sqlx::migrate::MigrateError::Execute(error) => StoreError::from(error).into(),
        error => MigrateError::File(error.to_string()),
    }
}

/// The files that were applied, oldest first. `None` if none ever was.
pub(super) async fn applied(pool: &DatabaseConnection) -> Result<Option<Vec<Applied>>, StoreError> {
    let exists = match pool.get_database_backend() {
        DatabaseBackend::Postgres => format!("SELECT 1 WHERE to_regclass('{TABLE}') IS NOT NULL"),
        _ => format!("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '{TABLE}'"),
    };
    let query = |text: String| Statement::from_string(pool.get_database_backend(), text);
    if pool.query_one(query(exists)).await?.is_none() {
        return Ok(None);
    }
    let rows = format!("SELECT version, description FROM {TABLE} ORDER BY version");
    let rows = pool.query_all(query(rows)).await?;
    let read = |row: &sea_orm::QueryResult| -> Result<Applied, StoreError> {
        Ok(Applied { number: row.try_get_by_index(0)?, release: row.try_get_by_index(1)? })
    };
    rows.iter().map(read).collect::<Result<_, _>>().map(Some)
}

/// The files of this release that were not applied.
pub(super) fn pending(applied: &[Applied]) -> impl Iterator<Item = &'static Migration> {
    MIGRATIONS.iter().filter(|migration| applied.iter().all(|one| one.number != migration.number()))
}

/// The newest applied file, if it belongs to a newer release.
pub(super) fn newer(applied: &[Applied]) -> Option<&Applied> {
    let own = MIGRATIONS.last().map_or(0, Migration::number);
    applied.last().filter(|newest| newest.number > own)
}

/// A sentence if another program recorded its files here.
pub(super) fn foreign(applied: &[Applied]) -> Option<String> {
    let is_release = |one: &&Applied| {
        let numbers: Vec<_> = one.release.split('.').map(str::parse::<u16>).collect();
        numbers.len() == 3 && numbers.iter().all(Result::is_ok)
    };
    let other = applied.iter().find(|one| !is_release(one))?;
    Some(format!(
        "the table {TABLE} contains {:?}, which is not a release of Licet: LICET_DATABASE_URL names the database of \
         another program; create a database for Licet alone",
        other.release
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(number: i64, release: &str) -> Applied {
        Applied { number, release: release.to_owned() }
    }

    #[test]
    fn files_are_pending_until_they_are_applied_and_files_of_newer_releases_are_known() {
        let own: Vec<_> = MIGRATIONS.iter().map(|one| applied(one.number(), &one.name())).collect();
        assert_eq!(pending(&[]).count(), MIGRATIONS.len());
        assert_eq!(pending(&own).count(), 0);
        assert_eq!(newer(&own), None);
        let newest = applied(990_000_000, "9.9.0");
        let all: Vec<_> = own.into_iter().chain([newest.clone()]).collect();
        assert_eq!(newer(&all), Some(&newest));
        assert_eq!(foreign(&all), None);
    }

    #[test]
    fn a_file_of_another_program_is_named() {
        for name in ["create users", "1.2", "1.2.3.4", "1.2.x", ""] {
            let sentence = foreign(&[applied(1, name)]).expect(name);
            assert!(sentence.contains(&format!("{name:?}")), "{sentence}");
        }
    }
}

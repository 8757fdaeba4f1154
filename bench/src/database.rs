//! The databases that a measurement creates and drops. Their names begin with `licet_bench_`. No
//! other database is changed.

use licet_common::{program::Failure, store::Store};
use sea_orm::{ConnectionTrait, Statement};
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

/// A database for a measurement.
pub(super) struct ScratchDatabase {
    name: String,
    pub(super) url: SecretString,
    /// Whether this program created the database.
    pub(super) is_new: bool,
    server: Store,
}

impl ScratchDatabase {
    /// Creates a database with a random name. If `kept` is given, opens the database
    /// `licet_bench_<kept>` instead, and creates it if it does not exist. Applies all migrations.
    ///
    /// # Errors
    /// The server is unavailable, or its user may not create databases.
    pub(super) async fn open_or_create(server_url: &SecretString, kept: Option<&str>) -> Result<Self, Failure> {
        let id = Uuid::now_v7().simple().to_string();
        let name = format!("licet_bench_{}", kept.unwrap_or(&id));
        let server = Store::open(server_url, 1).await?;
        let failed = |error| Failure::Work(format!("the database {name} cannot be created: {error}"));
        let text = format!("SELECT 1 FROM pg_database WHERE datname = '{name}'");
        let existing = server.pool().query_one(Statement::from_string(server.backend(), text)).await.map_err(failed)?;
        if existing.is_none() {
            server.pool().execute_unprepared(&format!("CREATE DATABASE {name}")).await.map_err(failed)?;
        }
        let url = sibling(server_url, &name);
        let store = Store::open(&url, 1).await?;
        store.migrate().await?;
        // The keys of the run that kept the database no longer exist.
        store.pool().execute_unprepared("DELETE FROM signing_key").await.map_err(Failure::work)?;
        Ok(Self { is_new: existing.is_none(), name, url, server })
    }

    /// Stores a comment on the database that describes how it was filled.
    ///
    /// # Errors
    /// The server is unavailable.
    pub(super) async fn label(&self, text: &str) -> Result<(), Failure> {
        let statement = format!("COMMENT ON DATABASE {} IS '{text}'", self.name);
        self.server.pool().execute_unprepared(&statement).await.map_err(Failure::work)?;
        Ok(())
    }

    /// Checks the comment on the database. A database that was not filled completely has none.
    ///
    /// # Errors
    /// The comment is missing or different.
    pub(super) async fn is_labelled(&self, text: &str) -> Result<(), Failure> {
        let statement =
            format!("SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '{}'", self.name);
        let row = self.server.pool().query_one(Statement::from_string(self.server.backend(), statement)).await;
        let label = row.ok().flatten().and_then(|row| row.try_get_by_index::<Option<String>>(0).ok().flatten());
        if label.as_deref() == Some(text) {
            return Ok(());
        }
        let name = &self.name;
        Err(Failure::Usage(format!(
            "the database {name} was not filled completely, or has other numbers of rows: drop it, or use another name"
        )))
    }

    /// Drops the database.
    ///
    /// # Errors
    /// The server is unavailable.
    pub(super) async fn remove(self) -> Result<(), Failure> {
        let statement = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        let dropped = self.server.pool().execute_unprepared(&statement).await;
        dropped.map_err(|error| Failure::Work(format!("the database {} cannot be dropped: {error}", self.name)))?;
        Ok(())
    }
}

/// The URL of another database on the same server.
fn sibling(server: &SecretString, name: &str) -> SecretString {
    let url = server.expose_secret();
    let (address, options) = url.split_once('?').map_or((url, None), |(address, options)| (address, Some(options)));
    let base = match address.split_once("://").map(|(_, rest)| rest.contains('/')) {
        Some(true) => address.rsplit_once('/').map_or(address, |(base, _)| base),
        _ => address,
    };
    let options = options.map(|options| format!("?{options}")).unwrap_or_default();
    format!("{base}/{name}{options}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_another_database_keeps_everything_else() {
        let other = |url: &str| sibling(&SecretString::from(url), "x").expose_secret().to_owned();
        assert_eq!(other("postgres://a:b@host:1/c?sslmode=require"), "postgres://a:b@host:1/x?sslmode=require");
        assert_eq!(other("postgres://host"), "postgres://host/x");
    }
}

//! Checks the server and the connection, before any table is looked at.

use sea_orm::{ConnectionTrait, DatabaseBackend, DatabaseConnection, QueryResult, Statement};

use super::{StoreError, error::POOLER};

/// The oldest version of PostgreSQL that Licet is tested with.
const POSTGRESQL_MIN: i64 = 15;

/// What is wrong with the server and the connection, one sentence each.
pub(super) async fn server_problems(pool: &DatabaseConnection, writes: bool) -> Result<Vec<String>, StoreError> {
    if pool.get_database_backend() != DatabaseBackend::Postgres {
        return Ok(Vec::new());
    }
    let text = "SELECT current_setting('server_version_num')::bigint / 10000, current_setting('server_version'), \
                current_setting('server_encoding'), current_setting('plan_cache_mode'), \
                current_setting('transaction_read_only'), pg_is_in_recovery(), current_schema()::text";
    let Some(row) = query(pool, text).await?.pop() else { return Ok(Vec::new()) };
    let [version, encoding, plans, read_only]: [String; 4] =
        [text_at(&row, 1)?, text_at(&row, 2)?, text_at(&row, 3)?, text_at(&row, 4)?];
    let mut problems = Vec::new();
    if row.try_get_by_index::<i64>(0)? < POSTGRESQL_MIN {
        problems.push(format!(
            "the database server is PostgreSQL {version}, but Licet needs {POSTGRESQL_MIN} or later: upgrade the server"
        ));
    }
    if encoding != "UTF8" {
        problems.push(format!(
            "the encoding of the database is {encoding}, which cannot store all names: create a database with \
             `CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0`, and let LICET_DATABASE_URL name it"
        ));
    }
    // Every connection begins with this setting, so something between Licet and the server dropped
    // it.
    if plans != "force_generic_plan" {
        problems.push(format!("the connection does not have the settings with which it was opened. {POOLER}"));
    }
    if writes && (read_only == "on" || row.try_get_by_index::<bool>(5)?) {
        problems.push(
            "the database accepts no writes, because it is a standby or default_transaction_read_only is set: \
             connect to the primary server, or remove the setting"
                .into(),
        );
    }
    if row.try_get_by_index::<Option<String>>(6)?.is_none() {
        problems.push(
            "the role may use no schema of its search_path: run `GRANT USAGE ON SCHEMA public TO` this role, or \
             correct its search_path"
                .into(),
        );
    }
    Ok(problems)
}

/// The rows that a query without parameters returns.
pub(super) async fn query(pool: &DatabaseConnection, text: &str) -> Result<Vec<QueryResult>, StoreError> {
    Ok(pool.query_all(Statement::from_string(pool.get_database_backend(), text)).await?)
}

/// The text in a column.
pub(super) fn text_at(row: &QueryResult, index: usize) -> Result<String, StoreError> {
    Ok(row.try_get_by_index(index)?)
}

//! The SQL files that create and change the tables, one for each release and kind of database.
//!
//! A file is frozen once its release is published. A release only adds what it needs, and removes
//! only what the release before it no longer used. Two consecutive releases can therefore work on
//! the same tables, and programs can be replaced one by one.
//!
//! Deliberately absent: files that undo a change, because the tables record money and rights.

/// The statements with which a release changes the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The release, as three numbers.
    pub release: [u16; 3],
    /// The statements for PostgreSQL.
    pub postgresql: &'static str,
    /// The statements for SQLite.
    pub sqlite: &'static str,
}

/// The migrations of all releases, oldest first.
pub const MIGRATIONS: &[Migration] = &[Migration {
    release: [0, 1, 0],
    postgresql: include_str!("../migrations/postgresql/0.1.0.sql"),
    sqlite: include_str!("../migrations/sqlite/0.1.0.sql"),
}];

impl Migration {
    /// The number under which the migration is recorded in the database. It increases with the
    /// release.
    pub fn number(&self) -> i64 {
        let [major, minor, patch] = self.release.map(i64::from);
        (major * 10_000 + minor) * 10_000 + patch
    }

    /// The name of the release, such as `0.1.0`.
    pub fn name(&self) -> String {
        let [major, minor, patch] = self.release;
        format!("{major}.{minor}.{patch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_migrations_are_in_the_order_of_their_releases() {
        assert!(MIGRATIONS.is_sorted_by_key(Migration::number));
        let release = |release| Migration { release, postgresql: "", sqlite: "" };
        assert!(release([0, 1, 9]).number() < release([0, 2, 0]).number());
        assert!(release([0, 9, 9]).number() < release([1, 0, 0]).number());
        assert_eq!(release([1, 20, 3]).name(), "1.20.3");
    }

    #[test]
    fn both_kinds_of_database_have_the_same_tables_columns_and_indexes() {
        for migration in MIGRATIONS {
            let postgresql = migration.postgresql.replace(" COLLATE \"C\"", "").replace("bytea", "blob");
            let shape = |text: &str| -> Vec<String> {
                let lines = text.lines().filter(|line| !line.starts_with("--") && !line.contains("SEQUENCE"));
                lines.map(|line| line.replace("uuid_text", "uuid")).filter(|line| !line.is_empty()).collect()
            };
            assert_eq!(shape(&postgresql), shape(migration.sqlite), "{}", migration.name());
        }
    }
}

//! The record of signing keys in the database, which all workers of an installation share.
//!
//! A worker that lacks a key would refuse valid tokens with `untrusted_key`. Therefore, each worker
//! compares its keys folder with the record when it starts, and records its own signing key. A key
//! that no worker needs any more is retired by an operator.
//!
//! Guarantees: of several workers that start at the same time with different keys, at most those
//! start whose folders contain all recorded keys.
//!
//! Deliberately absent: the keys themselves. The record contains only their thumbprints.

use futures_util::future::BoxFuture;
use licet_schema::{Timestamp, entity::signing_key};
use sea_orm::{ActiveValue::Set, ConnectionTrait, DatabaseBackend, EntityTrait, Statement};

use crate::{
    signing::Keyring,
    store::{Store, StoreError, Transaction},
};

/// Lets only one transaction at a time record a key. The number is arbitrary.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7305519260110117)";

/// The reason a worker may not use its keys folder, or a key cannot be retired.
#[derive(Debug, thiserror::Error)]
pub enum SigningKeyError {
    /// The keys folder lacks a key that workers sign with.
    #[error(
        "the keys folder (LICET_KEYS) lacks the key {kid}, with which workers on this database sign tokens: copy \
         {kid}.pem from the keys folder of another worker, or run `licet keys retire {kid}` if the key is lost or must \
         no longer be trusted"
    )]
    Missing {
        /// The thumbprint of the key.
        kid: String,
    },
    /// The signing key of the keys folder was retired.
    #[error(
        "the signing key {kid} of the keys folder (LICET_KEYS) was retired: write the thumbprint of another key into \
         the file `signing`, or create a new keys folder with `licet keys new`"
    )]
    Retired {
        /// The thumbprint of the key.
        kid: String,
    },
    /// No worker has recorded the key, or it is retired already.
    #[error("{kid} is not a recorded signing key: the keys that can be retired are {active}")]
    NotRecorded {
        /// The thumbprint that was given.
        kid: String,
        /// The thumbprints of the keys that are not retired, separated by commas.
        active: String,
    },
    /// The database is unavailable or rejects a statement.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Checks that a worker with this keyring has every recorded key, and records its signing key if it
/// is new.
///
/// # Errors
/// The keyring lacks a recorded key, its signing key was retired, or the database is unavailable.
pub fn check<'a>(store: &'a Store, keyring: &'a Keyring, now: Timestamp) -> BoxFuture<'a, Result<(), SigningKeyError>> {
    Box::pin(async move {
        let transaction = store.begin().await?;
        if agrees(&recorded(&transaction).await?, keyring)? {
            return Ok(());
        }
        if store.backend() == DatabaseBackend::Postgres {
            transaction.execute_unprepared(LOCK).await.map_err(StoreError::from)?;
        }
        // Another worker may have recorded a key before this one acquired the lock.
        if agrees(&recorded(&transaction).await?, keyring)? {
            return Ok(());
        }
        if let Some(kid) = keyring.signing_kid() {
            let row =
                signing_key::ActiveModel { kid: Set(kid.to_owned()), recorded_at: Set(now), retired_at: Set(None) };
            signing_key::Entity::insert(row).exec_without_returning(&transaction).await.map_err(StoreError::from)?;
            transaction.commit().await?;
        }
        Ok(())
    })
}

/// Checks that a worker with this keyring could start, and records nothing.
///
/// # Errors
/// The keyring lacks a recorded key, its signing key was retired, or the database is unavailable.
pub fn problem<'a>(store: &'a Store, keyring: &'a Keyring) -> BoxFuture<'a, Result<(), SigningKeyError>> {
    Box::pin(async move {
        let transaction = store.begin().await?;
        agrees(&recorded(&transaction).await?, keyring).map(|_| ())
    })
}

/// Retires a key: workers no longer need it, and none may sign with it.
///
/// # Errors
/// The key is not recorded or is retired already, or the database is unavailable.
pub fn retire<'a>(store: &'a Store, kid: &'a str, now: Timestamp) -> BoxFuture<'a, Result<(), SigningKeyError>> {
    Box::pin(async move {
        let transaction = store.begin().await?;
        let recorded = recorded(&transaction).await?;
        let active: Vec<_> = recorded.into_iter().filter(|row| row.retired_at.is_none()).map(|row| row.kid).collect();
        if !active.iter().any(|one| one == kid) {
            let active = if active.is_empty() { "none".to_owned() } else { active.join(", ") };
            return Err(SigningKeyError::NotRecorded { kid: kid.to_owned(), active });
        }
        let slots = if store.backend() == DatabaseBackend::Postgres { ["$1", "$2"] } else { ["?", "?"] };
        let text = format!("UPDATE signing_key SET retired_at = {} WHERE kid = {}", slots[0], slots[1]);
        let statement = Statement::from_sql_and_values(store.backend(), text, [now.into(), kid.into()]);
        transaction.execute(statement).await.map_err(StoreError::from)?;
        Ok(transaction.commit().await?)
    })
}

async fn recorded(transaction: &Transaction) -> Result<Vec<signing_key::Model>, StoreError> {
    Ok(signing_key::Entity::find().all(transaction).await?)
}

/// Whether the signing key of the keyring is recorded.
///
/// # Errors
/// The keyring lacks a recorded key, or its signing key was retired.
fn agrees(recorded: &[signing_key::Model], keyring: &Keyring) -> Result<bool, SigningKeyError> {
    let mut active = recorded.iter().filter(|row| row.retired_at.is_none());
    if let Some(missing) = active.find(|row| !keyring.trusts(&row.kid)) {
        return Err(SigningKeyError::Missing { kid: missing.kid.clone() });
    }
    match recorded.iter().find(|row| Some(row.kid.as_str()) == keyring.signing_kid()) {
        Some(own) if own.retired_at.is_some() => Err(SigningKeyError::Retired { kid: own.kid.clone() }),
        own => Ok(own.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::store::TOOL_TIMEOUT;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    struct Database {
        store: Store,
        _folder: tempfile::TempDir,
    }

    impl Database {
        async fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let url = format!("sqlite:{}", folder.path().join("licet.db").display());
            let store = Store::create(&url.into(), 1, TOOL_TIMEOUT).await.expect("a database");
            store.migrate().await.expect("its tables");
            Self { store, _folder: folder }
        }

        async fn check(&self, keyring: &Keyring) -> Result<(), SigningKeyError> {
            check(&self.store, keyring, NOW).await
        }

        async fn retire(&self, keyring: &Keyring) -> Result<(), SigningKeyError> {
            retire(&self.store, keyring.signing_kid().expect("a signing key"), NOW).await
        }

        async fn recorded(&self) -> usize {
            let transaction = self.store.begin().await.expect("a transaction");
            recorded(&transaction).await.expect("the rows").len()
        }
    }

    fn key(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number; 32])
    }

    /// A keyring that signs with the first key and also trusts the others.
    fn keyring(signing: u8, others: &[u8]) -> Keyring {
        Keyring::new(key(signing), others.iter().map(|other| key(*other).verifying_key()))
    }

    fn is_missing(result: &Result<(), SigningKeyError>, of: &Keyring) -> bool {
        matches!(result, Err(SigningKeyError::Missing { kid }) if Some(kid.as_str()) == of.signing_kid())
    }

    #[tokio::test]
    async fn the_first_worker_records_its_signing_key_and_a_worker_without_it_is_refused() {
        let database = Database::new().await;
        let (first, other) = (keyring(1, &[]), keyring(2, &[]));
        database.check(&first).await.expect("nothing is recorded yet");
        database.check(&first).await.expect("the same key");
        assert!(is_missing(&database.check(&other).await, &first));
        assert_eq!(database.recorded().await, 1, "a refused worker records nothing");
    }

    #[tokio::test]
    async fn a_worker_that_verifies_with_all_recorded_keys_may_sign_with_a_new_one() {
        let database = Database::new().await;
        database.check(&keyring(1, &[])).await.expect("the old key");
        database.check(&keyring(1, &[2])).await.expect("the new key is only trusted");
        assert_eq!(database.recorded().await, 1, "only keys that sign are recorded");
        database.check(&keyring(2, &[1])).await.expect("the new key signs");
        assert_eq!(database.recorded().await, 2);
        database.check(&keyring(1, &[2])).await.expect("a worker that still signs with the old key");
        assert!(is_missing(&database.check(&keyring(1, &[])).await, &keyring(2, &[])));
        assert!(is_missing(&database.check(&keyring(2, &[])).await, &keyring(1, &[])));
    }

    #[tokio::test]
    async fn a_retired_key_is_neither_required_nor_accepted_as_signing_key() {
        let database = Database::new().await;
        let (lost, new) = (keyring(1, &[]), keyring(2, &[]));
        database.check(&lost).await.expect("the first key");
        database.retire(&lost).await.expect("the key is recorded");
        database.check(&new).await.expect("the lost key is not required");
        let refused = database.check(&keyring(1, &[2])).await;
        assert!(matches!(refused, Err(SigningKeyError::Retired { .. })), "{refused:?}");
        let again = database.retire(&lost).await.expect_err("it is retired already").to_string();
        assert!(again.contains(new.signing_kid().expect("a signing key")), "{again}");
    }
}

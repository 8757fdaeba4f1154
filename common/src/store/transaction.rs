//! A database transaction. With the feature `simulation`, a fault injector decides the outcome of
//! its statements and of its commit.

use licet_schema::entity::Keyed;
use sea_orm::{
    ConnAcquireErr, ConnectionTrait, DatabaseBackend, DatabaseConnection, DatabaseTransaction, DbErr, ExecResult,
    QueryResult, Statement, Value,
};

use super::{Lock, Page, Source, StoreError, statements};
use crate::fault_injection::{Faults, Outcome, Step};

/// A transaction. It is rolled back when it is dropped without a commit.
#[derive(Debug)]
pub struct Transaction {
    inner: Inner,
    faults: Faults,
}

#[derive(Debug)]
enum Inner {
    Begun(DatabaseTransaction),
    /// A fault injector skipped the begin, so each statement takes effect on its own.
    Pretended(DatabaseConnection),
}

impl Transaction {
    pub(super) fn begun(transaction: DatabaseTransaction, faults: Faults) -> Self {
        Self { inner: Inner::Begun(transaction), faults }
    }

    pub(super) fn pretended(database: DatabaseConnection, faults: Faults) -> Self {
        Self { inner: Inner::Pretended(database), faults }
    }

    /// Commits the transaction.
    ///
    /// # Errors
    /// The database rejected the commit, or it is unavailable. In the latter case, it is unknown
    /// whether the transaction was committed.
    pub async fn commit(self) -> Result<(), StoreError> {
        let outcome = self.faults.outcome(Step::Commit).await;
        let Inner::Begun(transaction) = self.inner else { return Ok(()) };
        match outcome {
            Outcome::Proceed => Ok(transaction.commit().await?),
            Outcome::FailAfterEffect => {
                transaction.commit().await?;
                Err(connection_lost().into())
            }
            Outcome::Pretend => Ok(transaction.rollback().await?),
            Outcome::Contend => Err(StoreError::contended("injected fault")),
            Outcome::Refuse => Err(StoreError::rejected("injected fault")),
            _ => Err(connection_lost().into()),
        }
    }

    /// Decides the outcome of a statement. A fault injector may replace its text.
    async fn outcome(&self, statement: &mut Statement) -> Result<Answer, DbErr> {
        match self.faults.outcome(Step::Statement(statement)).await {
            Outcome::Proceed => Ok(Answer::Result),
            Outcome::FailAfterEffect => Ok(Answer::Lost),
            Outcome::Replace(text) => {
                statement.sql = text;
                Ok(Answer::Result)
            }
            Outcome::Refuse => Err(DbErr::Custom("injected fault".into())),
            _ => Err(connection_lost()),
        }
    }
}

/// The result that is reported for an executed statement.
enum Answer {
    /// The database's result.
    Result,
    /// A lost connection.
    Lost,
}

impl Answer {
    fn of<T>(self, result: Result<T, DbErr>) -> Result<T, DbErr> {
        match self {
            Self::Result => result,
            Self::Lost => Err(connection_lost()),
        }
    }
}

/// The error of a database that is unavailable.
pub(super) fn connection_lost() -> DbErr {
    DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed)
}

#[async_trait::async_trait]
impl ConnectionTrait for Transaction {
    fn get_database_backend(&self) -> DatabaseBackend {
        match &self.inner {
            Inner::Begun(transaction) => transaction.get_database_backend(),
            Inner::Pretended(database) => database.get_database_backend(),
        }
    }

    async fn execute(&self, mut statement: Statement) -> Result<ExecResult, DbErr> {
        let answer = self.outcome(&mut statement).await?;
        answer.of(match &self.inner {
            Inner::Begun(transaction) => transaction.execute(statement).await,
            Inner::Pretended(database) => database.execute(statement).await,
        })
    }

    async fn execute_unprepared(&self, text: &str) -> Result<ExecResult, DbErr> {
        let mut statement = Statement::from_string(self.get_database_backend(), text);
        let answer = self.outcome(&mut statement).await?;
        answer.of(match &self.inner {
            Inner::Begun(transaction) => transaction.execute_unprepared(&statement.sql).await,
            Inner::Pretended(database) => database.execute_unprepared(&statement.sql).await,
        })
    }

    async fn query_one(&self, mut statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        let answer = self.outcome(&mut statement).await?;
        answer.of(match &self.inner {
            Inner::Begun(transaction) => transaction.query_one(statement).await,
            Inner::Pretended(database) => database.query_one(statement).await,
        })
    }

    async fn query_all(&self, mut statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let answer = self.outcome(&mut statement).await?;
        answer.of(match &self.inner {
            Inner::Begun(transaction) => transaction.query_all(statement).await,
            Inner::Pretended(database) => database.query_all(statement).await,
        })
    }
}

impl Source for Transaction {
    async fn select<E: Keyed>(
        &self,
        columns: &[E::Column],
        keys: Vec<Vec<Value>>,
        lock: Lock,
    ) -> Result<Vec<E::Model>, StoreError> {
        statements::select::<E>(self, columns, keys, lock).await
    }

    async fn page<E: Keyed>(&self, page: Page<E>) -> Result<Vec<E::Model>, StoreError> {
        statements::page::<E>(self, page).await
    }
}

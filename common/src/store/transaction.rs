//! A transaction, and what its gate lets become of it.

use std::sync::Arc;

use sea_orm::{
    ConnAcquireErr, ConnectionTrait, DatabaseBackend, DatabaseConnection, DatabaseTransaction, DbErr, ExecResult,
    QueryResult, Statement,
};

use super::StoreError;
use crate::gate::{Gate, Step, Verdict};

/// A transaction that is rolled back unless it is committed.
#[derive(Debug)]
pub struct Transaction {
    inner: Inner,
    gate: Option<Arc<dyn Gate>>,
}

#[derive(Debug)]
enum Inner {
    Begun(DatabaseTransaction),
    /// It was only said to have begun: each statement stands for itself.
    Pretended(DatabaseConnection),
}

impl Transaction {
    pub(super) fn begun(transaction: DatabaseTransaction, gate: Option<Arc<dyn Gate>>) -> Self {
        Self { inner: Inner::Begun(transaction), gate }
    }

    pub(super) fn pretended(database: DatabaseConnection, gate: Option<Arc<dyn Gate>>) -> Self {
        Self { inner: Inner::Pretended(database), gate }
    }

    /// Makes everything that was done in it stand.
    ///
    /// # Errors
    /// The database is away: whether it was committed is not known. Or it says no.
    pub async fn commit(self) -> Result<(), StoreError> {
        let verdict = match &self.gate {
            Some(gate) => gate.pass(Step::Commit).await,
            None => Verdict::Happens,
        };
        let Inner::Begun(transaction) = self.inner else { return Ok(()) };
        match verdict {
            Verdict::Happens => Ok(transaction.commit().await?),
            Verdict::FailsAfter => {
                transaction.commit().await?;
                Err(away().into())
            }
            Verdict::Pretended => Ok(transaction.rollback().await?),
            Verdict::Contended => Err(StoreError::Contended("the simulation says so".into())),
            Verdict::Refused => Err(StoreError::Refused("the simulation says so".into())),
            _ => Err(away().into()),
        }
    }

    /// What becomes of a statement, and its text.
    async fn pass(&self, statement: &mut Statement) -> Result<Told, DbErr> {
        let Some(gate) = &self.gate else { return Ok(Told::AsItIs) };
        match gate.pass(Step::Statement(statement)).await {
            Verdict::Happens => Ok(Told::AsItIs),
            Verdict::FailsAfter => Ok(Told::Away),
            Verdict::Instead(text) => {
                statement.sql = text;
                Ok(Told::AsItIs)
            }
            Verdict::Refused => Err(DbErr::Custom("the simulation says so".into())),
            _ => Err(away()),
        }
    }
}

/// What is told of a statement that was executed.
enum Told {
    AsItIs,
    /// That the database went away.
    Away,
}

impl Told {
    fn of<T>(self, result: Result<T, DbErr>) -> Result<T, DbErr> {
        match self {
            Self::AsItIs => result,
            Self::Away => Err(away()),
        }
    }
}

/// What the database says when it is not there.
pub(super) fn away() -> DbErr {
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
        let told = self.pass(&mut statement).await?;
        told.of(match &self.inner {
            Inner::Begun(transaction) => transaction.execute(statement).await,
            Inner::Pretended(database) => database.execute(statement).await,
        })
    }

    async fn execute_unprepared(&self, text: &str) -> Result<ExecResult, DbErr> {
        let mut statement = Statement::from_string(self.get_database_backend(), text);
        let told = self.pass(&mut statement).await?;
        told.of(match &self.inner {
            Inner::Begun(transaction) => transaction.execute_unprepared(&statement.sql).await,
            Inner::Pretended(database) => database.execute_unprepared(&statement.sql).await,
        })
    }

    async fn query_one(&self, mut statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        let told = self.pass(&mut statement).await?;
        told.of(match &self.inner {
            Inner::Begun(transaction) => transaction.query_one(statement).await,
            Inner::Pretended(database) => database.query_one(statement).await,
        })
    }

    async fn query_all(&self, mut statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let told = self.pass(&mut statement).await?;
        told.of(match &self.inner {
            Inner::Begun(transaction) => transaction.query_all(statement).await,
            Inner::Pretended(database) => database.query_all(statement).await,
        })
    }
}

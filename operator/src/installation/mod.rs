//! Checks a running installation: the broker, the database, the clock, the keys and the workers.
//!
//! Inputs: the addresses and the keys folder that the workers use. Output: a list of problems, each
//! a sentence that says what is wrong and what to do. Nothing is changed.
//!
//! Deliberately absent: the contents of the tables, which the auditor checks.

use std::path::Path;

use futures_util::future::BoxFuture;
use licet_common::{
    address::BrokerAddress,
    clock::Clock,
    signing::folder,
    signing_keys,
    store::{Store, clock_difference},
    transport::Transport,
};
use licet_schema::topology::{Topology, WorkerQueue, work_queue};
use secrecy::SecretString;

mod broker;
mod management;

pub use broker::BrokerState;
pub use management::{Management, ManagementError};

/// An installation to check.
#[derive(Debug)]
pub struct Installation<'a> {
    /// The URL of the broker.
    pub amqp_url: &'a SecretString,
    /// The URL of the broker's management API, if it is not the default one.
    pub management_url: Option<&'a SecretString>,
    /// The URL of the database.
    pub database_url: &'a SecretString,
    /// The folder of the signing keys.
    pub keys: &'a Path,
    /// The workers that must run.
    pub workers: &'a [WorkerQueue],
    /// The exchanges, queues and bindings of these workers.
    pub topology: &'a Topology,
}

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Everything that is wrong, one sentence each.
    pub problems: Vec<String>,
    /// What could not be checked, and why.
    pub unchecked: Option<String>,
}

impl Installation<'_> {
    /// Checks the installation. A part that cannot be reached is a problem, too.
    pub fn check(&self) -> BoxFuture<'_, Findings> {
        Box::pin(async move {
            let broker = check_broker(self.amqp_url, self.management_url, self.topology).await;
            let mut found = broker.unwrap_or_else(|problem| Findings { problems: vec![problem], unchecked: None });
            found.problems.extend(self.missing_consumers().await.unwrap_or_else(|problem| vec![problem]));
            found.problems.extend(self.database_problems().await.unwrap_or_else(|problem| vec![problem]));
            found
        })
    }

    /// The work queues that no worker consumes.
    async fn missing_consumers(&self) -> Result<Vec<String>, String> {
        let transport = Transport::rabbit(self.amqp_url).map_err(|error| error.to_string())?;
        let mut problems = Vec::new();
        for worker in self.workers {
            let queue = work_queue(worker.name);
            match transport.consumers(&queue).await {
                Ok(0) => problems.push(format!("no worker consumes the queue {queue}: start licet-{}", worker.name)),
                Ok(_) => {}
                // A missing queue was reported before.
                Err(error) if error.to_string().contains("NOT_FOUND") => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(problems)
    }

    async fn database_problems(&self) -> Result<Vec<String>, String> {
        let store = Store::open(self.database_url, 1).await.map_err(|error| error.to_string())?;
        let mut problems = store.problems(true).await.map_err(|error| error.to_string())?;
        if problems.is_empty() {
            match folder::load(self.keys) {
                Ok(keyring) => problems
                    .extend(signing_keys::problem(&store, &keyring).await.err().map(|problem| problem.to_string())),
                Err(error) => problems.push(error.to_string()),
            }
        }
        let difference = clock_difference(&store.pool(), &Clock::System).await.map_err(|error| error.to_string())?;
        problems.extend(difference.map(|difference| difference.to_string()));
        Ok(problems)
    }
}

/// Checks the broker.
///
/// # Errors
/// The management API cannot be used. Contains a sentence.
pub async fn check_broker(
    amqp_url: &SecretString,
    management_url: Option<&SecretString>,
    topology: &Topology,
) -> Result<Findings, String> {
    let address = BrokerAddress::parse(amqp_url).map_err(|error| error.to_string())?;
    let management = Management::new(&address, management_url).map_err(|error| error.to_string())?;
    let state = tokio::task::spawn_blocking(move || management.state()).await;
    let state = state.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    Ok(Findings { problems: state.problems(topology), unchecked: state.unchecked() })
}

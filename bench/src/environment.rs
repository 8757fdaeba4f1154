//! The environment of a measurement: a broker that is not used for anything else, a database
//! server, and a folder for keys and logs.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use licet_client::Transport;
use licet_common::{
    config::{Config, Limits, Terms},
    program::Failure,
    signing::folder,
};
use licet_workers::registry;
use secrecy::{ExposeSecret, SecretString};
use tempfile::TempDir;

use super::{
    answering::Answers,
    content::put_content,
    cpu::Meter,
    database::ScratchDatabase,
    partitions::{self, Partitions},
    workers::{Kind, Layout, Placement, RunningWorkers, TIMEOUT, program_of},
};

/// A prepared broker and a database server.
pub(super) struct Environment {
    pub(super) transport: Transport,
    amqp_url: SecretString,
    /// The other nodes of the broker's cluster.
    other_nodes: Vec<SecretString>,
    database_server: SecretString,
    /// The working folder of the workers, which contains keys and logs.
    folder: TempDir,
    /// The file of answers for the workers of the ceiling.
    answers: PathBuf,
    terms: Terms,
    limits: Limits,
}

impl Environment {
    /// Checks that the broker is not used for anything else, applies the topology, and records the
    /// answers of a lifecycle.
    ///
    /// # Errors
    /// The broker is in use or unavailable.
    pub(super) async fn prepare(config: &Config) -> Result<Self, Failure> {
        Self::prepare_at(config, config.amqp_url()?.clone(), Vec::new()).await
    }

    /// Prepares another broker. `other_nodes` are the other nodes of its cluster.
    ///
    /// # Errors
    /// The broker is in use or unavailable.
    pub(super) async fn prepare_at(
        config: &Config,
        amqp_url: SecretString,
        other_nodes: Vec<SecretString>,
    ) -> Result<Self, Failure> {
        let database_server = config.shared_database_url()?.clone();
        let transport = Transport::rabbit(&amqp_url)?;
        check_unused(&transport).await?;
        transport.apply(&registry::topology()).await?;
        let folder = tempfile::tempdir()?;
        folder::create(&folder.path().join("keys"))?;
        let answers = folder.path().join("answers.json");
        Answers::of_a_lifecycle(config).await?.write(&answers)?;
        let (terms, limits) = (config.terms.clone(), config.limits);
        Ok(Self { transport, amqp_url, other_nodes, database_server, folder, answers, terms, limits })
    }

    /// Replaces the keys by those of another environment, so that workers of both can use one
    /// database.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub(super) fn use_keys_of(&self, other: &Self) -> Result<(), Failure> {
        let (own, others) = (self.folder.path().join("keys"), other.folder.path().join("keys"));
        for entry in fs::read_dir(&own)? {
            fs::remove_file(entry?.path())?;
        }
        for entry in fs::read_dir(others)? {
            let entry = entry?;
            fs::copy(entry.path(), own.join(entry.file_name()))?;
        }
        Ok(())
    }

    /// Creates an empty database, or opens the database that an earlier run kept under this name.
    /// If no database has this name, creates it.
    ///
    /// # Errors
    /// The server is unavailable, or its user may not create databases.
    pub(super) async fn database(&self, kept: Option<&str>) -> Result<ScratchDatabase, Failure> {
        ScratchDatabase::open_or_create(&self.database_server, kept).await
    }

    /// Starts workers, each in its own process. With the real workers, also registers the content
    /// of the load.
    ///
    /// # Errors
    /// A worker does not start.
    pub(super) async fn start(
        &self,
        kind: Kind,
        database: &ScratchDatabase,
        layout: &Layout,
    ) -> Result<RunningWorkers, Failure> {
        check_unused(&self.transport).await?;
        if let Some(partitions) = layout.partitions {
            self.declare(partitions).await?;
        }
        let placements = layout.placements(kind);
        let mut workers = RunningWorkers::default();
        for placement in &placements {
            let log = self.log(kind, &placement.queue, workers.count())?;
            workers.add(&placement.worker, self.command(kind, placement, database)?.stderr(log).spawn()?);
        }
        tokio::time::timeout(TIMEOUT, self.all_consuming(&placements))
            .await
            .map_err(|_| Failure::Work("the workers did not start in time".into()))??;
        if kind == Kind::Full {
            put_content(&self.transport).await?;
        }
        Ok(workers)
    }

    /// Declares partitioned queues, replacing those that were declared before.
    ///
    /// # Errors
    /// The broker is unavailable, or does not have the plugin.
    pub(super) async fn declare(&self, partitions: Partitions) -> Result<(), Failure> {
        partitions.declare(&self.amqp_url).await
    }

    /// Deletes all partitioned queues.
    ///
    /// # Errors
    /// The broker is unavailable.
    pub(super) async fn remove_partitions(&self) -> Result<(), Failure> {
        partitions::remove(&self.amqp_url).await
    }

    /// Waits until every worker consumes its queue.
    async fn all_consuming(&self, placements: &[Placement]) -> Result<(), Failure> {
        for Placement { queue, .. } in placements {
            let copies = placements.iter().filter(|other| other.queue == *queue).count();
            while (self.transport.consumers(queue).await? as usize) < copies {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// The command that starts a worker, with its settings as environment variables.
    fn command(&self, kind: Kind, placement: &Placement, database: &ScratchDatabase) -> Result<Command, Failure> {
        let this = std::env::current_exe()?;
        let mut command = match kind {
            Kind::Full => Command::new(program_of(&this, &placement.worker)?),
            Kind::Ceiling => {
                let mut command = Command::new(this);
                command.args(["answer", &placement.queue]).arg(&self.answers);
                command
            }
        };
        let (terms, limits) = (&self.terms, &self.limits);
        command
            .current_dir(self.folder.path())
            .env("LICET_AMQP_URL", self.amqp_url.expose_secret())
            .env("LICET_DATABASE_URL", database.url.expose_secret())
            .env("LICET_KEYS", self.folder.path().join("keys"))
            .env("LICET_LOG", "warn")
            .env("LICET_ISSUER", &terms.issuer)
            .env("LICET_POINTS_CURRENCY", terms.points_currency.as_str())
            .env("LICET_RECEIPT_TTL_S", terms.receipt_ttl.to_string())
            .env("LICET_RETURN_TTL_S", terms.return_ttl.to_string())
            .env("LICET_UNIQUE_REFERENCE", terms.unique_reference.to_string())
            .env("LICET_BATCH_MAX", limits.batch_max.to_string())
            .env("LICET_BATCH_MAX_BYTES", limits.batch_max_bytes.to_string())
            .env("LICET_REPLY_TIMEOUT_MS", limits.reply_timeout_ms.to_string())
            .env("LICET_DATABASE_TIMEOUT_S", limits.database_timeout_s.to_string())
            .env("LICET_SHUTDOWN_TIMEOUT_S", limits.shutdown_timeout_s.to_string())
            .env("LICET_SWEEP_INTERVAL_S", limits.sweep_interval_s.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Ok(command)
    }

    fn log(&self, kind: Kind, queue: &str, number: usize) -> Result<File, Failure> {
        let file = self.folder.path().join(format!("{}-{queue}-{number}.log", kind.name()));
        Ok(File::options().create(true).append(true).open(file)?)
    }

    /// A meter of the driver, of these workers, and of the servers that run on this machine.
    pub(super) fn meter(&self, workers: &RunningWorkers) -> Meter {
        let nodes = [&self.amqp_url].into_iter().chain(&self.other_nodes);
        Meter::of_driver()
            .with_servers("broker", nodes.filter_map(|url| local_port(url, 5672)))
            .with_servers("database", local_port(&self.database_server, 5432))
            .with("workers", workers.process_ids())
    }
}

/// Checks that the broker's queues have no consumers and no messages. Otherwise the workers would
/// process messages of another system with a database that is dropped afterwards.
async fn check_unused(transport: &Transport) -> Result<(), Failure> {
    let topology = registry::topology();
    let missing = transport.missing(&topology).await?;
    for queue in topology.queues.iter().filter(|queue| !missing.contains(&format!("queue {}", queue.name))) {
        if transport.consumers(&queue.name).await? > 0 || transport.depth(&queue.name).await? > 0 {
            return Err(Failure::Usage(format!(
                "the queue {} has messages or consumers: use a separate broker (LICET_AMQP_URL) or a separate virtual \
                 host for measurements",
                queue.name
            )));
        }
    }
    Ok(())
}

/// The port of a server, if it runs on this machine.
fn local_port(url: &SecretString, default: u16) -> Option<u16> {
    let url = url.expose_secret();
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?']).next().unwrap_or_default();
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (address, default),
    };
    (host == "localhost" || host.starts_with("127.") || host == "[::1]").then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_on_this_machine_has_a_local_port() {
        assert_eq!(local_port(&"amqp://a:b@127.0.0.1:1234/%2f".into(), 5672), Some(1234));
        assert_eq!(local_port(&"postgres://localhost/name".into(), 5432), Some(5432));
        assert_eq!(local_port(&"postgres://database/name".into(), 5432), None);
    }
}

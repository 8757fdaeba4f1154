//! What a measurement stands on: a broker that nobody else uses, a database of its own, and workers
//! as processes, the real ones or those that only answer.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use licet_client::{
    Transport,
    schema::topology::{self, topology},
};
use licet_common::{config::Config, signing::folder, store::Store};
use licet_workers::program::Failure;
use sea_orm::{ConnectionTrait, Statement};
use secrecy::{ExposeSecret, SecretString};
use tempfile::TempDir;
use uuid::Uuid;

use super::{
    answering::Answers,
    cpu::{Meter, resident_mb},
    goods::put_content,
    partitions::{self, Partitions},
};

/// How long workers may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The workers that a lifecycle meets, and that are stood in for.
pub(super) const MET: [&str; 5] = ["purchase", "reception", "settlement", "license", "return"];

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The real workers.
    Full,
    /// Workers that only answer.
    Ceiling,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Ceiling => "ceiling",
        }
    }
}

/// A broker and a database server, prepared.
pub(super) struct Site {
    pub(super) transport: Transport,
    amqp_url: SecretString,
    /// The other nodes of its cluster.
    others: Vec<SecretString>,
    server: SecretString,
    folder: TempDir,
    answers: PathBuf,
}

impl Site {
    /// Checks that nobody works at this broker, prepares it, and asks a Licet in this process what the
    /// answers of a lifecycle are.
    ///
    /// # Errors
    /// The broker is in use or away.
    pub(super) async fn prepare(config: &Config) -> Result<Self, Failure> {
        Self::prepare_at(config, config.amqp_url()?.clone(), Vec::new()).await
    }

    /// The same at another broker, whose `others` are the other nodes of its cluster.
    ///
    /// # Errors
    /// It is in use or away.
    pub(super) async fn prepare_at(
        config: &Config,
        amqp_url: SecretString,
        others: Vec<SecretString>,
    ) -> Result<Self, Failure> {
        let server = config.shared_database_url()?.clone();
        let transport = Transport::rabbit(&amqp_url)?;
        unused(&transport).await?;
        transport.apply(&topology()).await?;
        let folder = tempfile::tempdir()?;
        folder::create(&folder.path().join("keys"))?;
        let answers = folder.path().join("answers.json");
        Answers::of_a_lifecycle(config).await?.write(&answers)?;
        Ok(Self { transport, amqp_url, others, server, folder, answers })
    }

    /// An empty database; or the one that was kept under this name, made if it is not there. None is
    /// touched that was not made here.
    ///
    /// # Errors
    /// The server is away or does not let its user make one.
    pub(super) async fn database(&self, kept: Option<&str>) -> Result<Scratch, Failure> {
        let id = Uuid::now_v7().simple().to_string();
        let name = format!("licet_bench_{}", kept.unwrap_or(&id));
        let server = Store::open(&self.server, 1).await?;
        let refused = |error| Failure::Work(format!("the database for the measurement cannot be made: {error}"));
        let text = format!("SELECT 1 FROM pg_database WHERE datname = '{name}'");
        let there = server.reader().query_one(Statement::from_string(server.backend(), text)).await.map_err(refused)?;
        if there.is_none() {
            server.reader().execute_unprepared(&format!("CREATE DATABASE {name}")).await.map_err(refused)?;
        }
        let url = sibling(&self.server, &name);
        Store::open(&url, 1).await?.migrate().await?;
        Ok(Scratch { name, url, is_new: there.is_none(), server })
    }

    /// Starts workers, each in a process of its own, and offers what is sold.
    ///
    /// # Errors
    /// They do not start.
    pub(super) async fn start(&self, kind: Kind, database: &Scratch, layout: &Layout) -> Result<Stand, Failure> {
        unused(&self.transport).await?;
        if let Some(partitions) = layout.partitions {
            self.declare(partitions).await?;
        }
        let mut stand = Stand { workers: Vec::new() };
        let places = layout.places(kind);
        for (name, queue) in &places {
            let log = self.log(kind, queue, stand.workers.len())?;
            let child = self.command(kind, name, queue, database)?.stderr(log).spawn()?;
            stand.workers.push((name.clone(), child));
        }
        tokio::time::timeout(PATIENCE, self.attended(&places))
            .await
            .map_err(|_| Failure::Work("the workers did not start in time".into()))??;
        if kind == Kind::Full {
            put_content(&self.transport).await?;
        }
        Ok(stand)
    }

    /// Declares queues that share messages, in place of others.
    ///
    /// # Errors
    /// The broker is away, or cannot do this.
    pub(super) async fn declare(&self, partitions: Partitions) -> Result<(), Failure> {
        partitions.declare(&self.amqp_url).await
    }

    /// Takes all such queues away.
    ///
    /// # Errors
    /// The broker is away.
    pub(super) async fn remove_partitions(&self) -> Result<(), Failure> {
        partitions::remove(&self.amqp_url).await
    }

    /// Waits until each worker takes from its queue.
    async fn attended(&self, places: &[(String, String)]) -> Result<(), Failure> {
        for (_, queue) in places {
            let copies = places.iter().filter(|(_, other)| other == queue).count();
            while (self.transport.consumers(queue).await? as usize) < copies {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    fn command(&self, kind: Kind, name: &str, queue: &str, database: &Scratch) -> Result<Command, Failure> {
        let this = std::env::current_exe()?;
        let mut command = match kind {
            Kind::Full => Command::new(beside(&this, name)?),
            Kind::Ceiling => {
                let mut command = Command::new(this);
                command.args(["bench", "answer", queue]).arg(&self.answers);
                command
            }
        };
        command
            .current_dir(self.folder.path())
            .env("LICET_AMQP_URL", self.amqp_url.expose_secret())
            .env("LICET_DATABASE_URL", database.url.expose_secret())
            .env("LICET_KEYS", self.folder.path().join("keys"))
            .env("LICET_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Ok(command)
    }

    fn log(&self, kind: Kind, queue: &str, number: usize) -> Result<File, Failure> {
        let file = self.folder.path().join(format!("{}-{queue}-{number}.log", kind.name()));
        Ok(File::options().create(true).append(true).open(file)?)
    }

    /// Counts the servers, as far as they run on this machine, and these workers.
    pub(super) fn meter(&self, stand: &Stand) -> Meter {
        let brokers = [&self.amqp_url].into_iter().chain(&self.others);
        Meter::of_driver()
            .with_servers("broker", brokers.filter_map(|url| here(url, 5672)))
            .with_servers("database", here(&self.server, 5432))
            .with("workers", stand.workers.iter().map(|(_, child)| child.id()).collect())
    }
}

/// Checks that nobody works at this broker, and that nothing waits there: what it is asked or told
/// would be answered from a database that is thrown away.
async fn unused(transport: &Transport) -> Result<(), Failure> {
    let missing = transport.missing(&topology()).await?;
    for queue in topology().queues.iter().filter(|queue| !missing.contains(&format!("queue {}", queue.name))) {
        if transport.consumers(&queue.name).await? > 0 || transport.depth(&queue.name).await? > 0 {
            return Err(Failure::Usage(format!(
                "{} has messages or consumers: a measurement needs a broker (LICET_AMQP_URL) of its own, or a virtual host",
                queue.name
            )));
        }
    }
    Ok(())
}

/// How many workers take from how many queues.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// How many of each of `multiplied` share a queue.
    pub(super) copies: usize,
    /// The workers of which there are copies.
    pub(super) multiplied: Vec<String>,
    /// The queues of each worker that a lifecycle meets, instead of its work queue.
    pub(super) partitions: Option<Partitions>,
}

impl Default for Layout {
    fn default() -> Self {
        Self { copies: 1, multiplied: Vec::new(), partitions: None }
    }
}

impl Layout {
    /// A worker and its queue for each process.
    fn places(&self, kind: Kind) -> Vec<(String, String)> {
        let names: Vec<&str> = match kind {
            Kind::Full => topology::WORKERS.iter().map(|worker| worker.name).collect(),
            Kind::Ceiling => MET.to_vec(),
        };
        let place = |name: &str| {
            let copies = if self.multiplied.iter().any(|other| other == name) { self.copies } else { 1 };
            let queues = self.partitions.map_or(vec![topology::work_queue(name)], |partitions| partitions.queues(name));
            queues
                .into_iter()
                .flat_map(move |queue| vec![queue; copies])
                .map(|queue| (name.to_owned(), queue))
                .collect::<Vec<_>>()
        };
        names.into_iter().flat_map(place).collect()
    }
}

/// A database for a measurement.
pub(super) struct Scratch {
    name: String,
    pub(super) url: SecretString,
    /// Whether it was made now.
    pub(super) is_new: bool,
    server: Store,
}

impl Scratch {
    /// Writes down what is in it.
    ///
    /// # Errors
    /// The server is away.
    pub(super) async fn label(&self, text: &str) -> Result<(), Failure> {
        let labelling = format!("COMMENT ON DATABASE {} IS '{text}'", self.name);
        let labelled = self.server.reader().execute_unprepared(&labelling).await;
        labelled.map(|_| ()).map_err(|error| Failure::Work(error.to_string()))
    }

    /// Checks that this was written down: a database whose making was broken off has no such word.
    ///
    /// # Errors
    /// It says something else.
    pub(super) async fn is_labelled(&self, text: &str) -> Result<(), Failure> {
        let looking =
            format!("SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '{}'", self.name);
        let row = self.server.reader().query_one(Statement::from_string(self.server.backend(), looking)).await;
        let label = row.ok().flatten().and_then(|row| row.try_get_by_index::<Option<String>>(0).ok().flatten());
        if label.as_deref() == Some(text) {
            return Ok(());
        }
        let name = &self.name;
        Err(Failure::Usage(format!(
            "the database {name} was not made to its end, or with other sizes: drop it, or name another"
        )))
    }

    /// Throws it away.
    ///
    /// # Errors
    /// The server is away, or somebody is connected to it.
    pub(super) async fn remove(self) -> Result<(), Failure> {
        let dropping = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        let dropped = self.server.reader().execute_unprepared(&dropping).await;
        dropped.map(|_| ()).map_err(|error| Failure::Work(format!("{} cannot be dropped: {error}", self.name)))
    }
}

/// Workers that run.
pub(super) struct Stand {
    workers: Vec<(String, Child)>,
}

impl Stand {
    /// The most memory that each worker ever held, in MB.
    pub(super) fn resident_mb(&self) -> BTreeMap<String, f64> {
        let each = self.workers.iter().filter_map(|(name, child)| Some((name.clone(), resident_mb(child.id())?)));
        each.fold(BTreeMap::new(), |mut all, (name, mb)| {
            let most = all.entry(name).or_insert(0.0_f64);
            *most = most.max(mb);
            all
        })
    }

    /// Ends them all as an operator would.
    ///
    /// # Errors
    /// One of them did not end well.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        let ids: Vec<_> = self.workers.iter().map(|(_, child)| child.id().to_string()).collect();
        Command::new("kill").arg("-TERM").args(ids).status()?;
        for (name, child) in &mut self.workers {
            let began = Instant::now();
            let status = loop {
                match child.try_wait()? {
                    Some(status) => break status,
                    None if began.elapsed() > PATIENCE => {
                        return Err(Failure::Work(format!("the {name} worker did not end in time")));
                    }
                    None => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            };
            if !status.success() {
                return Err(Failure::Work(format!("the {name} worker ended with {status}")));
            }
        }
        self.workers.clear();
        Ok(())
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        for (_, child) in &mut self.workers {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The program of a worker, which is installed beside this one.
fn beside(this: &Path, worker: &str) -> Result<PathBuf, Failure> {
    let program = this.with_file_name(format!("licet-{worker}"));
    if program.exists() {
        return Ok(program);
    }
    Err(Failure::Usage(format!("{} is not there: build all programs (cargo build --release)", program.display())))
}

/// The URL of another database of the same server.
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

/// The port of a server on this machine.
fn here(url: &SecretString, usual: u16) -> Option<u16> {
    let url = url.expose_secret();
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?']).next().unwrap_or_default();
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (address, usual),
    };
    (host == "localhost" || host.starts_with("127.") || host == "[::1]").then_some(port)
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

    #[test]
    fn only_a_server_on_this_machine_has_a_port_here() {
        assert_eq!(here(&"amqp://a:b@127.0.0.1:1234/%2f".into(), 5672), Some(1234));
        assert_eq!(here(&"postgres://localhost/name".into(), 5432), Some(5432));
        assert_eq!(here(&"postgres://database/name".into(), 5432), None);
    }
}

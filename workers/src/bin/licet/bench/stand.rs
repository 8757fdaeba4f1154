//! What a measurement stands on: a broker that nobody else uses, a database of its own, and workers
//! as processes, the real ones or those that only answer.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use licet_client::{
    Client, Patience, Transport,
    schema::{
        Count, Format, Name, Output, Request, Seconds, Text, Version,
        message::{ContentPut, ReturnPolicy},
        money::{Currency, Money},
        topology::{self, topology},
        vocabulary::Grants,
    },
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
    load::unfit,
};

/// What is sold.
pub(super) const CONTENT: &str = "bench";

/// The workers that a lifecycle meets, and that are stood in for.
pub(super) const MET: [&str; 5] = ["purchase", "reception", "settlement", "license", "return"];

/// What it costs.
pub(super) fn price() -> Result<Money, Failure> {
    unfit(Money::new(1000, unfit(Currency::try_from("USD"))?))
}

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
        let (amqp_url, server) = (config.amqp_url()?.clone(), config.shared_database_url()?.clone());
        let transport = Transport::rabbit(&amqp_url)?;
        transport.apply(&topology()).await?;
        for worker in topology::WORKERS {
            let queue = topology::work_queue(worker.name);
            if transport.consumers(&queue).await? > 0 || transport.depth(&queue).await? > 0 {
                return Err(Failure::Usage(format!(
                    "{queue} has messages or workers: a measurement needs a broker (LICET_AMQP_URL) of its own, or a virtual host"
                )));
            }
        }
        let folder = tempfile::tempdir()?;
        folder::create(&folder.path().join("keys"))?;
        let answers = folder.path().join("answers.json");
        Answers::of_a_lifecycle(config).await?.write(&answers)?;
        Ok(Self { transport, amqp_url, server, folder, answers })
    }

    /// An empty database; or the one of this name, made if it is not there.
    ///
    /// # Errors
    /// The server is away or does not let its user make one.
    pub(super) async fn database(&self, kept: Option<&str>) -> Result<Scratch, Failure> {
        let name = kept.map_or_else(|| format!("licet_bench_{}", Uuid::now_v7().simple()), str::to_owned);
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
    pub(super) async fn start(&self, kind: Kind, database: &Scratch, copies: &Copies) -> Result<Stand, Failure> {
        let names: Vec<&str> = match kind {
            Kind::Full => topology::WORKERS.iter().map(|worker| worker.name).collect(),
            Kind::Ceiling => MET.to_vec(),
        };
        let mut stand = Stand { workers: Vec::new() };
        for name in names {
            for copy in 0..copies.0.get(name).copied().unwrap_or(1) {
                let child = self.command(kind, name, database)?.stderr(self.log(kind, name, copy)?).spawn()?;
                stand.workers.push((name.to_owned(), child));
            }
        }
        if kind == Kind::Full {
            put_content(&self.transport).await?;
        }
        Ok(stand)
    }

    fn command(&self, kind: Kind, name: &str, database: &Scratch) -> Result<Command, Failure> {
        let this = std::env::current_exe()?;
        let mut command = match kind {
            Kind::Full => Command::new(beside(&this, name)?),
            Kind::Ceiling => {
                let mut command = Command::new(this);
                command.args(["bench", "answer", name]).arg(&self.answers);
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

    fn log(&self, kind: Kind, name: &str, copy: usize) -> Result<File, Failure> {
        let file = self.folder.path().join(format!("{}-{name}-{copy}.log", kind.name()));
        Ok(File::options().create(true).append(true).open(file)?)
    }

    /// Counts the servers, as far as they run on this machine, and these workers.
    pub(super) fn meter(&self, stand: &Stand) -> Meter {
        Meter::of_driver()
            .with_server("broker", port(&self.amqp_url, 5672))
            .with_server("database", port(&self.server, 5432))
            .with("workers", stand.workers.iter().map(|(_, child)| child.id()).collect())
    }
}

/// How many copies of a worker, if not one.
#[derive(Clone, Debug, Default)]
pub(super) struct Copies(pub(super) BTreeMap<String, usize>);

/// A database for a measurement.
pub(super) struct Scratch {
    name: String,
    pub(super) url: SecretString,
    /// Whether it was made now.
    pub(super) is_new: bool,
    server: Store,
}

impl Scratch {
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
            let status = loop {
                match child.try_wait()? {
                    Some(status) => break status,
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

/// Offers what is sold.
///
/// # Errors
/// It is not registered.
pub(super) async fn put_content(transport: &Transport) -> Result<(), Failure> {
    let client = Client::connect(transport, Format::Json, Patience::default()).await?;
    let put = Request::ContentPut(ContentPut {
        content: unfit(Name::try_from(CONTENT))?,
        version: unfit(Version::try_from(1i64))?,
        title: unfit(Text::try_from("What a measurement sells"))?,
        price: price()?,
        grants: unfit(Grants::try_from(1i64))?,
        certificate_ttl_s: unfit(Seconds::try_from(365 * 86_400i64))?,
        receipt_ttl_s: None,
        successor: None,
        return_policy: ReturnPolicy {
            points: Some(unfit(Count::try_from(100i64))?),
            upgrade: None,
            buyback: None,
            collection: None,
        },
        media: None,
    });
    match client.ask(&put).await.map_err(|error| Failure::Work(error.to_string()))? {
        Output::ContentRegistered(_) => Ok(()),
        other => Err(Failure::Work(format!("content.put was answered with {}", other.kind()))),
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

fn port(url: &SecretString, usual: u16) -> u16 {
    let url = url.expose_secret();
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?']).next().unwrap_or_default();
    authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(usual)
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
    fn a_port_is_read_or_the_usual_one() {
        assert_eq!(port(&"amqp://a:b@host:1234/%2f".into(), 5672), 1234);
        assert_eq!(port(&"postgres://host/name".into(), 5432), 5432);
    }
}

//! `licet terminal`: a client terminal to play the whole life by hand, over `licet_client::terminal`.
//! Each command also goes on with what an earlier one had begun; after its own work is done, which may
//! be just that: a purchase that is repeated because it was cut short is not made twice.

mod told;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand, ValueEnum};
use licet_client::{
    Client, Keyring, Patience, Transport,
    schema::{
        Count, ExternalId, Format, Name, Text, Version,
        message::{self, Item, Media, PurchaseRequest},
        vocabulary::Unfit,
    },
    terminal::{Store, Terminal},
};
use licet_common::{
    config::Config,
    signing::folder::{self, FolderError},
};
use licet_workers::program::{Failure, block_on};
use uuid::Uuid;

use crate::inspect;
use told::Told;

/// `licet terminal …`
#[derive(Args)]
pub(crate) struct Arguments {
    /// What the terminal keeps
    #[arg(long, global = true, default_value = "terminal")]
    folder: PathBuf,
    /// The published keys [default: those of the keys folder]
    #[arg(long, global = true, value_name = "FILE")]
    jwks: Option<PathBuf>,
    /// The device's name
    #[arg(long, global = true, value_parser = name)]
    name: Option<Name>,
    /// Print one JSON object
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Buy certificates, keep them and acknowledge them
    Buy {
        /// Who buys
        #[arg(value_parser = name)]
        user: Name,
        /// What, each with @VERSION or in its highest version
        #[arg(required = true, value_name = "CONTENT", value_parser = item)]
        contents: Vec<Item>,
        /// How many points to spend on it
        #[arg(long, value_name = "N", value_parser = count)]
        points: Option<Count>,
        /// An order number of your own
        #[arg(long, value_name = "ID", value_parser = reference)]
        reference: Option<ExternalId>,
    },
    /// Fetch a certificate's license, or that of each certificate without one; exit code 1 if one is not here yet
    Fetch {
        /// Which certificate
        certificate: Option<Uuid>,
        #[command(flatten)]
        media: MediaArguments,
    },
    /// Give a license back: deletes it and its content
    Return {
        /// Which license
        license: Uuid,
        /// What it shall bring
        privilege: Privilege,
    },
    /// List certificates, licenses, contents and returns
    List,
}

/// The content's `media`, as it was registered: all of it or nothing.
#[derive(Args)]
struct MediaArguments {
    /// Where its content is to be had: a path, a file:// or an http(s):// address
    #[arg(long, value_name = "URI", value_parser = text, requires_all = ["certificate", "sha256", "bytes"])]
    media: Option<Text>,
    /// The content's SHA-256, in hexadecimal
    #[arg(long, value_name = "HEX", value_parser = text, requires = "media")]
    sha256: Option<Text>,
    /// The content's length
    #[arg(long, value_name = "N", value_parser = count, requires = "media")]
    bytes: Option<Count>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Privilege {
    /// Points for later purchases
    Points,
    /// A certificate for the successor
    Upgrade,
    /// Money
    Buyback,
    /// A record alone
    Collection,
}

/// Plays the terminal.
pub(crate) fn terminal(config: &Config, arguments: &Arguments) -> Result<ExitCode, Failure> {
    let open = || Store::open(&arguments.folder).map_err(failed);
    let told = if matches!(arguments.command, Command::List) {
        Told::holdings(&open()?).map_err(failed)?
    } else {
        let keyring = keyring(config, arguments)?;
        let transport = Transport::rabbit(config.amqp_url()?)?;
        let store = open()?;
        block_on(async {
            let client = Client::connect(&transport, Format::Json, Patience::default()).await?;
            let mut terminal = Terminal::new(client, keyring, store, arguments.name.clone());
            play(&mut terminal, &arguments.command).await
        })?
    };
    Ok(told.tell(arguments.json))
}

fn keyring(config: &Config, arguments: &Arguments) -> Result<Keyring, Failure> {
    if let Some(file) = &arguments.jwks {
        return inspect::read_jwks(file);
    }
    match folder::load(&config.keys) {
        Ok(keyring) => Keyring::from_jwks(&keyring.jwks()).map_err(Failure::Work),
        Err(FolderError::Empty { .. }) => Err(Failure::Usage(
            "a terminal verifies what comes: name a file of published keys with --jwks (`licet keys export` prints them)"
                .into(),
        )),
        Err(error) => Err(error.into()),
    }
}

async fn play(terminal: &mut Terminal, command: &Command) -> Result<Told, Failure> {
    let mut told = Told::default();
    match command {
        Command::Buy { user, contents, points, reference } => {
            let (user, items, reference) = (user.clone(), contents.clone(), reference.clone());
            let purchase = PurchaseRequest { user, items, points: *points, reference };
            told.bought(terminal.buy(purchase).await);
        }
        Command::Fetch { certificate: Some(certificate), media } => {
            told.fetched(*certificate, terminal.fetch(*certificate, media.media()).await);
        }
        Command::Fetch { certificate: None, .. } => {
            // Which ones there are, what was begun before may still tell.
            told.resumed(terminal.resume().await.map_err(failed)?);
            for certificate in terminal.wanted().map_err(failed)? {
                told.fetched(certificate, terminal.fetch(certificate, None).await);
            }
            return Ok(told);
        }
        Command::Return { license, privilege } => {
            told.returned(terminal.give_back(*license, (*privilege).into()).await);
        }
        Command::List => {}
    }
    if !told.has_failures() {
        told.resumed(terminal.resume().await.map_err(failed)?);
    }
    Ok(told)
}

impl MediaArguments {
    fn media(&self) -> Option<Media> {
        let (uri, sha256) = (self.media.clone()?, self.sha256.clone()?);
        Some(Media { uri, sha256, bytes: self.bytes? })
    }
}

impl From<Privilege> for message::Privilege {
    fn from(privilege: Privilege) -> Self {
        match privilege {
            Privilege::Points => Self::Points,
            Privilege::Upgrade => Self::Upgrade,
            Privilege::Buyback => Self::Buyback,
            Privilege::Collection => Self::Collection,
        }
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Work(error.to_string())
}

fn name(text: &str) -> Result<Name, Unfit> {
    Name::try_from(text)
}

fn text(text: &str) -> Result<Text, Unfit> {
    Text::try_from(text)
}

fn reference(text: &str) -> Result<ExternalId, Unfit> {
    ExternalId::try_from(text)
}

fn count(text: &str) -> Result<Count, Unfit> {
    Count::try_from(text.parse::<i64>().unwrap_or(-1))
}

/// `CONTENT` or `CONTENT@VERSION`. A content whose own name ends so is named with its version.
fn item(text: &str) -> Result<Item, Unfit> {
    let versioned = text.rsplit_once('@').and_then(|(content, number)| Some((content, number.parse::<i64>().ok()?)));
    match versioned {
        Some((content, number)) => Ok(Item { content: name(content)?, version: Some(Version::try_from(number)?) }),
        None => Ok(Item { content: name(text)?, version: None }),
    }
}
